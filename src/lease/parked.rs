//! A gap that a shard waits at, as it stands in the row of its lease: see [`crate::lease::parking`].

use serde::{Deserialize, Serialize};

use crate::delivery::gap::Gap;
use crate::ids::WorkerId;
use crate::stream::position::Checkpoint;

/// Why a lease waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// Where the gap begins, see [`Gap`].
    pub after: String,
    /// The gap as it was found, in words.
    pub gap: String,
    /// The checkpoint it was found at.
    pub checkpoint: String,
    /// When, ms since the epoch.
    pub since_ms: i64,
    /// Which worker.
    pub by: String,
    /// The attribute, byte for byte.
    #[serde(skip)]
    pub raw: String,
}

impl Parked {
    /// Reads the attribute of a row with this checkpoint; `None` if it speaks of another one, or
    /// cannot be read: then the shard is tried again, and parks again if it must.
    pub fn parse(raw: String, checkpoint: &Checkpoint) -> Option<Self> {
        let parked: Self = serde_json::from_str(&raw).ok()?;
        (parked.checkpoint == checkpoint.to_string()).then_some(Self { raw, ..parked })
    }

    /// A gap found at `checkpoint` by a worker, `since_ms` ms since the epoch.
    pub fn new(gap: &Gap, checkpoint: &Checkpoint, by: &WorkerId, since_ms: i64) -> Self {
        let parked = Self {
            after: gap.after.clone(),
            gap: gap.to_string(),
            checkpoint: checkpoint.to_string(),
            since_ms,
            by: by.as_str().to_owned(),
            raw: String::new(),
        };
        let raw = serde_json::to_string(&parked).unwrap_or_default();
        Self { raw, ..parked }
    }
}
