//! A request to go back, as it stands in a lease row.

use serde::{Deserialize, Serialize};

use crate::ids::SequenceNumber;

/// Where to go back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The oldest record kept.
    TrimHorizon,
    /// The first record that arrived at or after this time, ms since the epoch.
    Timestamp(i64),
    /// This record.
    Sequence(SequenceNumber),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TrimHorizon => f.write_str("the oldest record kept"),
            Self::Timestamp(ms) => match jiff::Timestamp::from_millisecond(*ms) {
                Ok(time) => write!(f, "{time}"),
                Err(_) => write!(f, "{ms} ms"),
            },
            Self::Sequence(number) => write!(f, "record {number}"),
        }
    }
}

/// A request as it stands in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where to.
    pub to: Target,
    /// The attribute, for the condition that removes it.
    pub raw: String,
}

#[derive(Serialize, Deserialize)]
struct StoredRequest {
    /// Tells one request from the next of the same kind.
    id: String,
    to: Target,
}

impl Request {
    /// A request with a name of its own.
    pub fn new(id: &str, to: Target) -> Self {
        let stored = StoredRequest { id: id.to_owned(), to: to.clone() };
        // Plain data: serialisation has no failing path.
        Self { to, raw: serde_json::to_string(&stored).unwrap_or_default() }
    }

    /// Reads the attribute; `None` if this version does not understand it.
    pub fn parse(raw: &str) -> Option<Self> {
        let stored: StoredRequest = serde_json::from_str(raw).ok()?;
        Some(Self { to: stored.to, raw: raw.to_owned() })
    }
}
