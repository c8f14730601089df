//! Records missing because they left retention before anybody delivered them.

use crate::stream::position::{Checkpoint, Position};

/// Records missing after a position: they left retention before anybody delivered them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Delivered up to here.
    pub after: String,
    /// Where it ends.
    pub end: GapEnd,
}

/// The end of a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GapEnd {
    /// The first record found.
    Before(String),
    /// The last record that is missing: nothing was found in a range known to end with it.
    Through(String),
}

impl Gap {
    /// Between a checkpoint and the first record found.
    pub fn new(after: &Checkpoint, before: &Position) -> Self {
        Self { after: after.to_string(), end: GapEnd::Before(before.to_string()) }
    }

    /// From a checkpoint to the end of an announced range, that end included.
    pub fn through(after: &Checkpoint, last: &Position) -> Self {
        Self { after: after.to_string(), end: GapEnd::Through(last.to_string()) }
    }

    /// It as part of an object's name. Not the range of a batch: the same batch may be found with less
    /// of it left later on, and its own report of a gap before it bears the name of its range.
    pub fn name(&self) -> String {
        match &self.end {
            GapEnd::Before(end) => format!("{}-before-{end}", self.after),
            GapEnd::Through(end) => format!("{}-through-{end}", self.after),
        }
    }

    /// From a checkpoint to the end of the shard.
    pub fn to_end(after: &Checkpoint) -> Self {
        let end = GapEnd::Before(Checkpoint::ShardEnd.to_string());
        Self { after: after.to_string(), end }
    }
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.end {
            GapEnd::Before(end) => write!(f, "after {} and before {end}", self.after),
            GapEnd::Through(end) => write!(f, "after {} up to and including {end}", self.after),
        }
    }
}
