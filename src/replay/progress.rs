//! How far a replay is, and when it will be done.

use std::time::Duration;

use serde::Serialize;

use crate::lease::row::Lease;

/// The state of a replay, from its leases.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReplayProgress {
    /// Shards of the range.
    pub shards: usize,
    /// Shards delivered to the end of the range.
    pub finished: usize,
    /// User records committed, by all workers.
    pub records: u64,
    /// Their payload, bytes.
    pub bytes: u64,
    /// Workers that own leases.
    pub workers: usize,
    /// How far the slowest shard of this process is from the end of the range, seconds.
    pub lag_seconds: Option<f64>,
    /// Time left at the pace so far, seconds.
    pub eta_seconds: Option<f64>,
    /// Everything is delivered.
    pub complete: bool,
}

impl ReplayProgress {
    /// Sums up the leases. `whole`: every lease of the range is among them, and was readable.
    pub fn of(leases: &[Lease], whole: bool) -> Self {
        let finished = leases.iter().filter(|l| l.is_finished()).count();
        let totals = leases.iter().filter_map(|l| l.counted);
        let (records, bytes) = totals.fold((0, 0), |(r, b), (x, y)| (r + x, b + y));
        let mut owners: Vec<_> =
            leases.iter().filter(|l| !l.is_finished()).filter_map(|l| l.owner.as_ref()).collect();
        owners.sort();
        owners.dedup();
        Self {
            shards: leases.len(),
            finished,
            records,
            bytes,
            workers: owners.len(),
            lag_seconds: None,
            eta_seconds: None,
            complete: whole && finished == leases.len(),
        }
    }
}

/// Remembers how the lag went down.
#[derive(Debug, Default)]
pub struct ReplayPace {
    begun: Option<(Duration, i64)>,
}

impl ReplayPace {
    /// The fraction of the way that is done, and the time left; `lag_ms` is the distance to the end.
    pub fn note(&mut self, now: Duration, lag_ms: i64) -> (f64, Option<Duration>) {
        let (since, most) = *self.begun.get_or_insert((now, lag_ms));
        if lag_ms > most {
            self.begun = Some((now, lag_ms));
            return (0.0, None);
        }
        let done = most - lag_ms;
        let ratio = if most == 0 { 1.0 } else { done as f64 / most as f64 };
        let spent = now.saturating_sub(since);
        let left = (done > 0 && !spent.is_zero())
            .then(|| spent.mul_f64(lag_ms.max(0) as f64 / done as f64));
        (ratio, left)
    }
}

/// What one reply at the begin of a range showed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Records in the reply.
    pub records: u64,
    /// Their payload, bytes.
    pub bytes: u64,
    /// Arrival of the first, ms since the epoch.
    pub first_ms: Option<i64>,
    /// Arrival of the last.
    pub last_ms: Option<i64>,
    /// Nothing came behind it.
    pub at_tip: bool,
}

impl Sample {
    /// Payload bytes from the sample's begin to `end_ms`, if the sample tells: all there is, or the
    /// rate of the sample carried on.
    pub fn bytes_until(&self, end_ms: i64) -> Option<u64> {
        if self.at_tip {
            return Some(self.bytes);
        }
        let (first, last) = (self.first_ms?, self.last_ms?);
        if last <= first || end_ms <= first {
            return None;
        }
        Some((self.bytes as f64 * (end_ms - first) as f64 / (last - first) as f64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::expiry::tests::lease;
    use crate::stream::position::Checkpoint;

    #[test]
    fn complete_needs_every_lease() {
        let mut one = lease("a", Some("w"), 1);
        one.counted = Some((3, 30));
        let mut two = lease("b", None, 1);
        two.counted = Some((4, 40));
        two.progress.checkpoint = Checkpoint::ShardEnd;
        let progress = ReplayProgress::of(&[one.clone(), two.clone()], true);
        assert_eq!((progress.finished, progress.records, progress.bytes), (1, 7, 70));
        assert_eq!((progress.workers, progress.complete), (1, false));
        one.progress.checkpoint = Checkpoint::ShardEnd;
        assert!(ReplayProgress::of(&[one.clone(), two.clone()], true).complete);
        assert!(!ReplayProgress::of(&[one, two], false).complete);
    }

    #[test]
    fn the_pace_so_far_says_what_is_left() {
        let mut pace = ReplayPace::default();
        let at = Duration::from_secs;
        assert_eq!(pace.note(at(10), 90_000), (0.0, None));
        assert_eq!(pace.note(at(20), 60_000).1, Some(at(20)));
        assert_eq!(pace.note(at(40), 0), (1.0, Some(at(0))));
        assert_eq!(pace.note(at(41), 100_000), (0.0, None));
    }

    #[test]
    fn a_sample_is_carried_on_or_says_nothing() {
        let sample = Sample {
            records: 10,
            bytes: 100,
            first_ms: Some(0),
            last_ms: Some(1_000),
            at_tip: false,
        };
        assert_eq!(sample.bytes_until(10_000), Some(1_000));
        assert_eq!(Sample { last_ms: Some(0), ..sample.clone() }.bytes_until(10_000), None);
        assert_eq!(Sample { at_tip: true, ..sample }.bytes_until(10_000), Some(100));
    }
}
