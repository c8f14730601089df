//! Where a bounded read of a shard ends: decided by the records, so that a second reading ends at
//! the same one.

use crate::ids::SequenceNumber;
use crate::stream::Records;

/// How long after a bound's time the tip of a shard is believed to hold nothing from before it:
/// clocks of two hosts, and records on their way into the stream.
pub const GRACE_MS: i64 = 5_000;

/// The end of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// This record is the last.
    Sequence {
        /// Its number.
        last: SequenceNumber,
        /// It was in the stream by this time, ms since the epoch.
        known_ms: i64,
    },
    /// The shard ends before the first record that arrived at or after this time (ms since the
    /// epoch), whatever comes behind it. Arrival times of a shard may go back by a few milliseconds;
    /// a rule about each record would need the whole rest of the shard.
    Before(i64),
}

impl Bound {
    /// How many of these records, in shard order, are inside, if the end is among them.
    pub fn cut(&self, records: &Records) -> Option<usize> {
        match self {
            Self::Sequence { last, .. } => {
                let inside = records.partition_point(|r| r.cmp_sequence(last).is_le());
                let seen = inside < records.len()
                    || records.last().is_some_and(|r| r.cmp_sequence(last).is_eq());
                seen.then_some(inside)
            }
            Self::Before(end) => {
                records.iter().position(|r| r.arrival_ms.is_some_and(|at| at >= *end))
            }
        }
    }

    /// The time by which everything inside is in the stream: a reader that asks after it and finds
    /// itself at the tip has seen all there is. `asked_ms` is the wall clock, ms since the epoch.
    pub fn is_settled(&self, asked_ms: i64) -> bool {
        let (Self::Sequence { known_ms: end, .. } | Self::Before(end)) = self;
        asked_ms >= end.saturating_add(GRACE_MS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stream::Record;

    fn number(n: u64) -> SequenceNumber {
        SequenceNumber::parse(&n.to_string()).unwrap()
    }

    /// Records of these numbers and times of arrival.
    fn records(all: &[(u64, i64)]) -> Records {
        let numbers: Vec<_> = all.iter().map(|(n, _)| n.to_string()).collect();
        let mut records = Vec::new();
        for (number, (_, at)) in numbers.iter().zip(all) {
            records.push(Record::new(number, Some(*at), None, b"").unwrap());
        }
        Records::copy(&records).unwrap()
    }

    #[test]
    fn the_last_record_is_inside_and_ends_the_range() {
        let records = records(&[(2, 0), (4, 0), (6, 0)]);
        let bound = |n| Bound::Sequence { last: number(n), known_ms: 0 };
        assert_eq!(bound(4).cut(&records), Some(2));
        assert_eq!(bound(6).cut(&records), Some(3));
        assert_eq!(bound(5).cut(&records), Some(2));
        assert_eq!(bound(1).cut(&records), Some(0));
        assert_eq!(bound(7).cut(&records), None);
        assert_eq!(bound(7).cut(&Records::default()), None);
    }

    #[test]
    fn a_tip_counts_only_after_the_grace() {
        assert!(!Bound::Before(10).is_settled(10 + GRACE_MS - 1));
        assert!(Bound::Before(10).is_settled(10 + GRACE_MS));
    }

    proptest! {
        /// However the shard is paged, the same records are inside.
        #[test]
        fn paging_does_not_move_the_end(
            arrivals in prop::collection::vec(0_i64..50, 1..40),
            end in 0_i64..60,
            last in 0_u64..50,
            sizes in prop::collection::vec(1_usize..6, 40),
        ) {
            let all: Vec<_> = (1_u64..).zip(arrivals).collect();
            for bound in [Bound::Before(end), Bound::Sequence { last: number(last), known_ms: 0 }] {
                let whole = bound.cut(&records(&all)).unwrap_or(all.len());
                let (mut rest, mut inside) = (all.as_slice(), 0);
                for size in &sizes {
                    let (page, later) = rest.split_at((*size).min(rest.len()));
                    rest = later;
                    if let Some(n) = bound.cut(&records(page)) {
                        inside += n;
                        break;
                    }
                    inside += page.len();
                }
                prop_assert_eq!(inside, whole);
            }
        }
    }
}
