//! The part of a lease row that delivery compares and sets.

use crate::delivery::intent::Intent;
use crate::stream::position::{Checkpoint, Position};

/// The pending columns of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing under way.
    None,
    /// Our intents, with the exact bytes that stand in the row.
    Ours {
        /// Ordered and contiguous, the first starts at the checkpoint.
        intents: Vec<Intent>,
        /// The bytes a compare-and-set names.
        raw: Vec<u8>,
    },
    /// A prepared checkpoint of a KCL application; replaced by our first intent.
    Foreign {
        /// `pendingCheckpoint` as it stands.
        checkpoint: Option<String>,
        /// `pendingCheckpointState` as it stands.
        raw: Option<Vec<u8>>,
    },
}

impl Pending {
    /// Our intents, oldest first.
    pub fn intents(&self) -> &[Intent] {
        match self {
            Self::Ours { intents, .. } => intents,
            Self::None | Self::Foreign { .. } => &[],
        }
    }
}

/// The part of a row that delivery compares and sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Delivered up to here.
    pub checkpoint: Checkpoint,
    /// Announced beyond it.
    pub pending: Pending,
}

impl Progress {
    /// The last position delivered or announced.
    pub fn last(&self) -> Option<&Position> {
        self.pending.intents().last().map(|i| &i.last).or(self.checkpoint.position())
    }
}
