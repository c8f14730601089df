//! What proves that records of an announced batch are gone.
//!
//! An empty page proves nothing, and a clock alone neither: records are given up only when they
//! are old enough to have left retention *and* the stream shows what stands in their place.

use crate::mutant::{self, Mutant};
use crate::stream::position::may_have_lost;

/// What reading from the first record of the range on came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Empty pages, or a failure.
    Nothing,
    /// The first record found stands behind it. When it arrived, ms since the epoch, if it says so.
    Behind(Option<i64>),
    /// The shard is closed and was read to its end, or is not there any more.
    Ended,
    /// The stream keeps nothing: an iterator at TRIM_HORIZON stands at the tip.
    Empty,
}

/// Are the missing records of a batch gone for good whose first record has been in the stream since
/// `since_ms`, about? Times in milliseconds since the epoch.
pub fn is_gone(evidence: Evidence, since_ms: i64, now_ms: i64, retention_ms: i64) -> bool {
    // What stands before a record arrived before it, which may tell more than the row does.
    let oldest_ms = match evidence {
        Evidence::Behind(arrival_ms) => arrival_ms.map_or(since_ms, |at| at.min(since_ms)),
        Evidence::Ended | Evidence::Empty => since_ms,
        Evidence::Nothing => return mutant::is(Mutant::EmptyIsGone),
    };
    may_have_lost(Some(oldest_ms), now_ms, retention_ms) || mutant::is(Mutant::EmptyIsGone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_age_and_something_in_its_place() {
        const HOUR: i64 = 3_600_000;
        let gone = |evidence, hours| is_gone(evidence, 0, hours * HOUR, 24 * HOUR);
        for evidence in [Evidence::Behind(None), Evidence::Ended, Evidence::Empty] {
            assert!(gone(evidence, 22) && !gone(evidence, 21), "{evidence:?}");
        }
        assert!(!gone(Evidence::Nothing, 100));
        // Of a backlog, opened late: what was read then was old already.
        assert!(gone(Evidence::Behind(Some(-20 * HOUR)), 2));
        assert!(!gone(Evidence::Behind(Some(20 * HOUR)), 21));
        assert!(gone(Evidence::Behind(Some(20 * HOUR)), 22), "the stamp is enough");
    }
}
