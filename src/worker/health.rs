//! Is it well? One word, and the reasons.

use std::time::Duration;

use serde::Serialize;

use crate::worker::status::Snapshot;

/// A shard that has not moved for this long makes the worker not live. Longer than the upload
/// deadline: an S3 outage must not get a worker killed that holds data.
pub const STUCK: Duration = Duration::from_secs(600);
/// More lag than this is worth a look.
const BEHIND_MS: i64 = 300_000;
/// A lease without an owner for so long, in every reading of the table, is not only on its way.
const FREE_MS: i64 = 20_000;
/// An error counts for this long.
const RECENT_MS: i64 = 300_000;
/// What happens once, and somebody should know of.
const TO_BE_SEEN_MS: i64 = 3_600_000;

/// The word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// All is well.
    Ok,
    /// Work goes on; somebody should look.
    Warn,
    /// Records are in danger, or work stands still.
    Bad,
}

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    /// The gravest of the reasons.
    pub state: HealthState,
    /// What is not as it should be; empty if all is well.
    pub reasons: Vec<String>,
}

/// `now` is the clock of the process, `now_ms` UTC in ms since the epoch.
pub fn assess(seen: &Snapshot, now: Duration, now_ms: i64) -> Health {
    let mut found: Vec<(HealthState, String)> = Vec::new();
    let stuck = seen.stuck(now, STUCK);
    if let Some(first) = stuck.first() {
        let minutes = STUCK.as_secs() / 60;
        found.push((
            HealthState::Bad,
            format!("{} shard(s) without progress for {minutes} minutes: {first}", stuck.len()),
        ));
    }
    let lag = seen.shards.iter().filter_map(|(id, s)| Some((s.lag_ms(now)?, id))).max();
    if let Some((ms, id)) = lag
        && ms > BEHIND_MS
    {
        let late = seen.retention_ms > 0 && ms.saturating_mul(2) >= seen.retention_ms;
        let state = if late { HealthState::Bad } else { HealthState::Warn };
        let danger = if late { ", more than half the stream's retention" } else { "" };
        found.push((state, format!("{id} is {} min behind{danger}", ms / 60_000)));
    }
    if seen.draining {
        found.push((HealthState::Warn, "draining: this worker is on its way out".into()));
    } else if !seen.ready {
        found.push((HealthState::Warn, "starting: the lease table was not read yet".into()));
    }
    let fleet = &seen.fleet;
    let free_for = fleet.seen_ms.zip(fleet.free_since_ms).map(|(seen, since)| seen - since);
    if free_for.is_some_and(|ms| ms >= FREE_MS) {
        found.push((HealthState::Warn, format!("{} lease(s) have no owner", fleet.free)));
    }
    if seen.foreign_ms.is_some_and(|at| now_ms.saturating_sub(at) < RECENT_MS) {
        let count = seen.foreign_records;
        found.push((
            HealthState::Warn,
            format!("{count} record(s) of other shards put aside, see delivery.foreign_records"),
        ));
    }
    if seen.possible_gap_ms.is_some_and(|at| now_ms.saturating_sub(at) < TO_BE_SEEN_MS) {
        let count = seen.possible_gaps;
        found.push((
            HealthState::Warn,
            format!("{count} possible gap(s): see the reports, delivery.on_possible_gap"),
        ));
    }
    if let Some(shard) = seen.open_ends.first() {
        let more = match seen.open_ends.len() {
            0 | 1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        found.push((
            HealthState::Bad,
            format!("nobody reads {shard}{more}: finished in the lease table, open in the stream"),
        ));
    }
    if let Some((shard, parked)) = seen.parked.first_key_value() {
        let more = match seen.fleet.parked {
            0 | 1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        let gap = &parked.gap;
        found.push((
            HealthState::Bad,
            format!("{shard}{more} parked: records {gap} were lost, see `catchment leases resume`"),
        ));
    }
    let errors: u64 = seen
        .recent_errors
        .iter()
        .filter(|error| now_ms.saturating_sub(error.at_ms) < RECENT_MS)
        .map(|error| error.times)
        .sum();
    if errors > 0 {
        found.push((HealthState::Warn, format!("{errors} error(s) lately, see below")));
    }
    found.sort_by_key(|(state, _)| std::cmp::Reverse(*state));
    let state = found.first().map_or(HealthState::Ok, |(state, _)| *state);
    Health { state, reasons: found.into_iter().map(|(_, reason)| reason).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::gap::{Certainty, Gap, GapEnd};
    use crate::ids::{ShardId, WorkerId};
    use crate::lease::parked::Parked;
    use crate::stream::position::Checkpoint;
    use crate::worker::status::tests::S;
    use crate::worker::status::{Shard, StatusStore};

    fn judged(change: impl FnOnce(&mut Snapshot)) -> (HealthState, Vec<String>) {
        let board = StatusStore::new("s", "w");
        board.update(|b| {
            b.ready = true;
            b.retention_ms = 86_400_000;
            let shard =
                Shard { behind_ms: Some(0), moved_at: S(995), read_at: S(995), ..Shard::default() };
            b.shards.insert(ShardId::new("a"), shard);
            change(b);
        });
        let health = board.view(S(1000), 1_000_000).health;
        (health.state, health.reasons)
    }

    fn shard(b: &mut Snapshot, change: impl FnOnce(&mut Shard)) {
        change(b.shards.get_mut(&ShardId::new("a")).unwrap());
    }

    #[test]
    fn each_reason_alone() {
        assert_eq!(judged(|_| {}), (HealthState::Ok, vec![]));
        for (state, word, change) in [
            (HealthState::Warn, "draining", (|b| b.draining = true) as fn(&mut Snapshot)),
            (HealthState::Warn, "starting", |b| b.ready = false),
            (HealthState::Warn, "no owner", |b| {
                (b.fleet.free, b.fleet.free_since_ms, b.fleet.seen_ms) = (2, Some(0), Some(20_000));
            }),
            (HealthState::Warn, "3 record(s) of other shards", |b| {
                (b.foreign_records, b.foreign_ms) = (3, Some(900_000));
            }),
            (HealthState::Warn, "1 possible gap(s)", |b| {
                (b.possible_gaps, b.possible_gap_ms) = (1, Some(-2_000_000));
            }),
            (HealthState::Bad, "and 1 more parked: records after 7 and before 20", |b| {
                let gap = Gap {
                    after: "7".into(),
                    end: GapEnd::Before("20".into()),
                    certainty: Certainty::Known,
                };
                let parked = Parked::new(&gap, &Checkpoint::TrimHorizon, &WorkerId::new("w"), 0);
                b.parked.insert(ShardId::new("a"), parked);
                b.fleet.parked = 2;
            }),
            (HealthState::Warn, "6 min behind", |b| shard(b, |s| s.behind_ms = Some(400_000))),
            (HealthState::Bad, "half the stream's retention", |b| {
                shard(b, |s| s.behind_ms = Some(50_000_000))
            }),
            (HealthState::Bad, "without progress", |b| shard(b, |s| s.moved_at = S(10))),
        ] {
            let (found, reasons) = judged(change);
            assert_eq!((found, reasons.len()), (state, 1), "{word}: {reasons:?}");
            assert!(reasons[0].contains(word), "{word}: {reasons:?}");
        }
    }

    #[test]
    fn errors_are_forgotten_and_the_gravest_reason_comes_first() {
        let board = StatusStore::new("s", "w");
        board.update(|b| b.ready = true);
        board.error(1_000, "x");
        assert_eq!(board.view(S(1), 200_000).health.state, HealthState::Warn);
        assert_eq!(board.view(S(1), 301_000).health.state, HealthState::Ok);
        let (state, reasons) = judged(|b| {
            b.draining = true;
            shard(b, |s| s.moved_at = S(10));
        });
        assert!(
            state == HealthState::Bad && reasons[0].contains("without progress"),
            "{reasons:?}"
        );
    }
}
