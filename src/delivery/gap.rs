//! Records missing because they left retention before anybody delivered them.

use crate::stream::position::{Checkpoint, Position};

/// Records missing after a position: they left retention before anybody delivered them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Delivered up to here.
    pub after: String,
    /// Where it ends.
    pub end: GapEnd,
    /// Whether it is known that records are missing.
    pub certainty: Certainty,
}

/// What is known of a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// The shard was not read to its tip for as long as retention reaches back.
    Known,
    /// Nothing says when the shard was last read to its tip, as in a row of the KCL: perhaps it was
    /// idle.
    Possible,
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
        Self::ending(after, GapEnd::Before(before.to_string()))
    }

    fn ending(after: &Checkpoint, end: GapEnd) -> Self {
        Self { after: after.to_string(), end, certainty: Certainty::Known }
    }

    /// The same, of this certainty.
    pub fn of(self, certainty: Certainty) -> Self {
        Self { certainty, ..self }
    }

    /// From a checkpoint to the end of an announced range, that end included.
    pub fn through(after: &Checkpoint, last: &Position) -> Self {
        Self::ending(after, GapEnd::Through(last.to_string()))
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
        Self::ending(after, GapEnd::Before(Checkpoint::ShardEnd.to_string()))
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
