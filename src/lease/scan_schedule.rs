//! When to look at the table, and at how much of it.
//!
//! The owner of the change marker ([`crate::lease::change_marker`]) is the sweeper: it scans often, and
//! frees the leases of the dead. Every other worker reads that one row, and scans when the signal was
//! raised, when the counter of the row stands still (the sweeper may be dead: begin to watch now), when a move of its own
//! is due, and else rarely. Only our own monotonic clock is asked.

use std::time::Duration;

use crate::ids::{ShardId, WorkerId};
use crate::lease::change_marker::ChangeMarker;
use crate::lease::row::Lease;

/// The pace of looking.
#[derive(Clone, Copy, Debug)]
pub struct ScanPace {
    /// How often the change marker is read (`lease.scan`).
    pub look: Duration,
    /// How often a worker that is not the sweeper reads the whole table (`lease.full_scan`).
    pub full: Duration,
    /// Expiry of a standing counter.
    pub failover: Duration,
}

/// Workers up to which each scans once per `lease.full_scan`. Larger fleets share these scans, so
/// that reading the whole table costs the same however many read it.
const SHARING: u32 = 5;

impl ScanPace {
    /// Between two scans of the sweeper.
    fn sweeper(&self) -> Duration {
        self.look * 2
    }

    /// Between two scans of anybody else in a fleet of `workers`, when nothing happens.
    pub fn rest(&self, workers: usize) -> Duration {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        self.full.max(self.full.saturating_mul(workers) / SHARING)
    }

    /// The marker's counter stands still for so long that its owner may be dead. Heartbeats come at
    /// a third of the failover time, and we see them up to a look late.
    fn suspicion(&self) -> Duration {
        (self.failover / 2).max(self.failover.mul_f64(0.4) + self.look.mul_f64(1.3))
    }
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanScope {
    /// Nothing.
    Rest,
    /// Read this row.
    At(ShardId),
    /// Read the whole table.
    Everywhere,
}

#[derive(Debug)]
struct SeenMarker {
    shard: ShardId,
    /// Unknown until the row was read by itself: a scan reads rows one after the other, so a signal it
    /// shows may be newer than rows it read before.
    signals: Option<u64>,
    sweeper: Option<WorkerId>,
    counter: u64,
    since: Duration,
}

/// Remembers what was looked at when.
#[derive(Debug)]
pub struct ScanSchedule {
    pace: ScanPace,
    marker: Option<SeenMarker>,
    scanned: Option<Duration>,
    /// A scan is wished for at this time.
    wish: Option<Duration>,
    /// Between scans when nothing happens, jittered by the caller.
    rest: Duration,
}

impl ScanSchedule {
    /// Nothing seen yet.
    pub fn new(pace: ScanPace) -> Self {
        Self { pace, marker: None, scanned: None, wish: None, rest: pace.full }
    }

    /// The change marker as last seen.
    pub fn marker(&self) -> Option<&ShardId> {
        self.marker.as_ref().map(|marker| &marker.shard)
    }

    /// Something of ours is due at `at`: look at the whole table then.
    pub fn wish(&mut self, at: Duration) {
        self.wish = Some(self.wish.map_or(at, |wish| wish.min(at)));
    }

    /// The next look. `sweeper`: we own the marker row.
    pub fn next(&self, now: Duration, sweeper: bool) -> ScanScope {
        let (Some(marker), Some(scanned)) = (&self.marker, self.scanned) else {
            return ScanScope::Everywhere;
        };
        let since = now.saturating_sub(scanned);
        let due = if sweeper { self.pace.sweeper().min(self.rest) } else { self.rest };
        // Jitter must not make a sweeper skip a beat: looks come about every `look`.
        let early = self.pace.look / 4;
        if since + early >= due || self.wish.is_some_and(|wish| wish <= now) {
            ScanScope::Everywhere
        } else if sweeper {
            ScanScope::Rest
        } else {
            ScanScope::At(marker.shard.clone())
        }
    }

    /// Takes in the marker row, as just read; says whether to look at the whole table.
    pub fn saw(&mut self, now: Duration, row: Option<&ChangeMarker>) -> bool {
        let (Some(seen), Some(marker)) = (&mut self.marker, row) else {
            return true;
        };
        if marker.lease.shard != seen.shard || marker.lease.is_finished() {
            return true;
        }
        let raised = seen.signals.replace(marker.signals) != Some(marker.signals);
        let sweeper = marker.sweeper();
        if seen.counter != marker.lease.counter || seen.sweeper.as_ref() != sweeper {
            seen.counter = marker.lease.counter;
            seen.sweeper = sweeper.cloned();
            seen.since = now;
        }
        let age = now.saturating_sub(seen.since);
        let watched = self.scanned.map_or(Duration::MAX, |at| now.saturating_sub(at));
        // Once to begin watching the others, and again when their time may be over.
        let silent = age >= self.pace.suspicion() && watched >= self.pace.failover / 2;
        let alone = sweeper.is_none() && watched >= self.pace.sweeper();
        raised || silent || alone
    }

    /// Takes in a scan begun at `begun`: the marker row as that scan shows it, and the pause to the
    /// next scan if nothing happens (about [`ScanPace::rest`]).
    pub fn scanned(&mut self, begun: Duration, now: Duration, row: Option<&Lease>, rest: Duration) {
        self.scanned = Some(begun);
        self.wish = self.wish.filter(|wish| *wish > begun);
        self.rest = rest;
        let seen = self.marker.take();
        self.marker = row.map(|row| {
            let new = SeenMarker {
                shard: row.shard.clone(),
                signals: None,
                sweeper: row.effective_owner().cloned(),
                counter: row.counter,
                since: now,
            };
            match seen {
                Some(seen) if seen.shard == new.shard => {
                    let same = seen.counter == new.counter && seen.sweeper == new.sweeper;
                    let since = if same { seen.since } else { now };
                    SeenMarker { signals: seen.signals, since, ..new }
                }
                _ => new,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::expiry::tests::lease;
    use crate::stream::position::Checkpoint;

    const S: Duration = Duration::from_secs(1);
    const PACE: ScanPace =
        ScanPace { look: S, full: Duration::from_secs(30), failover: Duration::from_secs(10) };

    fn marker(counter: u64, signals: u64) -> ChangeMarker {
        ChangeMarker { lease: lease("a", Some("w"), counter), signals }
    }

    fn after_a_scan() -> ScanSchedule {
        let mut schedule = ScanSchedule::new(PACE);
        assert_eq!(schedule.next(Duration::ZERO, false), ScanScope::Everywhere);
        schedule.scanned(Duration::ZERO, Duration::ZERO, Some(&marker(1, 5).lease), 30 * S);
        // What a scan shows of the signal does not count; what the row itself says does.
        assert!(schedule.saw(S, Some(&marker(1, 5))));
        schedule.scanned(S, S, Some(&marker(1, 5).lease), 30 * S);
        schedule
    }

    #[test]
    fn a_quiet_fleet_reads_one_row() {
        let mut schedule = after_a_scan();
        for second in 2..30_u32 {
            assert_eq!(schedule.next(second * S, false), ScanScope::At(ShardId::new("a")));
            assert!(!schedule.saw(second * S, Some(&marker(u64::from(second) / 3, 5))), "{second}");
        }
        assert_eq!(schedule.next(31 * S, false), ScanScope::Everywhere);
    }

    #[test]
    fn a_signal_is_looked_into_once() {
        let mut schedule = after_a_scan();
        assert!(schedule.saw(2 * S, Some(&marker(1, 6))));
        schedule.scanned(2 * S, 2 * S, Some(&marker(1, 6).lease), 30 * S);
        assert!(!schedule.saw(3 * S, Some(&marker(1, 6))));
        // A stale reading may show the old number again: that costs a scan, and nothing else.
        assert!(schedule.saw(4 * S, Some(&marker(1, 5))));
    }

    #[test]
    fn a_marker_without_an_owner_or_gone_is_looked_into() {
        let mut schedule = after_a_scan();
        assert!(schedule.saw(2 * S, None));
        let free = ChangeMarker { lease: lease("a", None, 2), signals: 5 };
        assert!(!schedule.saw(2 * S, Some(&free)), "scanned just now");
        assert!(schedule.saw(3 * S, Some(&free)));
        let mut finished = marker(2, 5);
        finished.lease.progress.checkpoint = Checkpoint::ShardEnd;
        assert!(schedule.saw(2 * S, Some(&finished)));
        schedule.scanned(2 * S, 2 * S, None, 30 * S);
        assert_eq!(schedule.next(3 * S, false), ScanScope::Everywhere);
    }

    #[test]
    fn a_silent_sweeper_is_suspected_in_time_and_not_at_every_look() {
        let mut schedule = after_a_scan();
        let mut scans = Vec::new();
        for second in 2..=16_u32 {
            if schedule.saw(second * S, Some(&marker(1, 5))) {
                scans.push(second);
                schedule.scanned(second * S, second * S, Some(&marker(1, 5).lease), 30 * S);
            }
        }
        // The counter was first seen at 0: watching begins early, and goes on at half the failover.
        assert_eq!(scans, [6, 11, 16]);
    }

    #[test]
    fn the_sweeper_scans_at_every_second_look_and_reads_no_marker() {
        let mut schedule = after_a_scan();
        assert_eq!(schedule.next(2 * S, true), ScanScope::Rest);
        assert_eq!(schedule.next(3 * S, true), ScanScope::Everywhere);
        schedule.wish(5 * S);
        schedule.wish(2 * S);
        assert_eq!(schedule.next(2 * S, true), ScanScope::Everywhere, "a wish is heard");
        schedule.scanned(2 * S, 2 * S, Some(&marker(1, 5).lease), 30 * S);
        assert_eq!(schedule.next(2 * S, true), ScanScope::Rest, "and done");
    }

    #[test]
    fn large_fleets_share_the_scans_of_small_ones() {
        assert_eq!(PACE.rest(1), 30 * S);
        assert_eq!(PACE.rest(5), 30 * S);
        assert_eq!(PACE.rest(50), 300 * S);
        // Heartbeats come every third of the failover time, seen a look late at worst.
        assert!(PACE.suspicion() > PACE.failover.mul_f64(0.38) + PACE.look);
        let hasty = ScanPace { failover: 2 * S, ..PACE };
        assert!(hasty.suspicion() > hasty.failover.mul_f64(0.38) + hasty.look);
    }
}
