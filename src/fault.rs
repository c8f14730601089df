//! What can go wrong with a call, and what to do about it: the one table.

/// Kinds of failure a caller acts on differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The service asks to slow down. Nothing was done.
    Throttled,
    /// No usable answer: time-out, reset, 5xx. It may or may not have been done.
    Unavailable,
    /// The caller may not do this; credentials or policy.
    Denied,
    /// The stream, table, bucket or object does not exist.
    NotFound,
    /// A shard iterator older than five minutes.
    ExpiredIterator,
    /// The request itself is wrong.
    Invalid,
}

impl Fault {
    /// Worth trying again with the same arguments.
    pub fn is_passing(self) -> bool {
        match self {
            Self::Throttled | Self::Unavailable => true,
            Self::Denied | Self::NotFound | Self::ExpiredIterator | Self::Invalid => false,
        }
    }

    /// Label of the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::ExpiredIterator => "expired_iterator",
            Self::Invalid => "invalid",
        }
    }
}

/// A failed call, told so that an operator can act on it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} failed: {code}: {message}{}", .request_id.as_ref().map(|id| format!(" (request {id})")).unwrap_or_default())]
pub struct CallError {
    /// API operation.
    pub operation: &'static str,
    /// What kind.
    pub fault: Fault,
    /// The service's error code, or the kind of transport failure.
    pub code: String,
    /// The service's words.
    pub message: String,
    /// AWS request id.
    pub request_id: Option<String>,
}
