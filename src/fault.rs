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
    pub fn is_transient(self) -> bool {
        match self {
            Self::Throttled | Self::Unavailable => true,
            Self::Denied | Self::NotFound | Self::ExpiredIterator | Self::Invalid => false,
        }
    }

    /// What a person can do about it; `None` where it passes by itself, or only the caller knows.
    pub fn remedy(self) -> Option<&'static str> {
        match self {
            Self::Denied => Some(
                "grant the permission to the worker's role (docs/RUNBOOK.md lists what it needs)",
            ),
            Self::Throttled
            | Self::Unavailable
            | Self::NotFound
            | Self::ExpiredIterator
            | Self::Invalid => None,
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

/// What is special about a failure, for those who act on more than its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Nothing.
    #[default]
    Plain,
    /// Somebody else has or does it already: a consumer of this name exists, a shard has a
    /// subscription, a table is being made.
    Occupied,
    /// No source of credentials has any.
    NoCredentials,
    /// The session token has expired.
    ExpiredCredentials,
    /// The service does not know these credentials.
    UnknownCredentials,
    /// The KMS key may not be used.
    EncryptionKey,
    /// The bucket is in another region.
    OtherRegion,
    /// A position is asked for that lies in the future, by the service's clock.
    FutureStart,
    /// A multipart upload, or a part of it, is not there any more.
    UploadGone,
}

impl Detail {
    /// What a person can do about it; `None` where the kind says it all.
    pub fn remedy(self) -> Option<&'static str> {
        match self {
            Self::NoCredentials => {
                Some("set AWS_PROFILE or AWS_ACCESS_KEY_ID, or run where a role is attached")
            }
            Self::ExpiredCredentials => Some(
                "renew the session token, or run where a role is attached, which renews its own",
            ),
            Self::UnknownCredentials => Some(
                "these credentials are not known there: check AWS_PROFILE, AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY",
            ),
            Self::EncryptionKey => {
                Some("grant the use of the KMS key to this role, in its policy and in the key's")
            }
            Self::OtherRegion => Some("set AWS_REGION to the region of the bucket"),
            Self::Plain | Self::Occupied | Self::FutureStart | Self::UploadGone => None,
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
    /// What is special about it.
    pub detail: Detail,
    /// The service's error code, or the kind of transport failure.
    pub code: String,
    /// The service's words.
    pub message: String,
    /// AWS request id.
    pub request_id: Option<String>,
}

impl CallError {
    /// What a person can do about it, if somebody must.
    pub fn remedy(&self) -> Option<&'static str> {
        self.detail.remedy().or_else(|| self.fault.remedy())
    }
}
