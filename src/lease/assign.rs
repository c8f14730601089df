//! ◆ Which leases to take in this round.
//!
//! Every worker decides for itself from the same table: its fair share of the leases that still
//! have work, no more. Only free and expired leases are taken, and those that name us although we
//! do not hold them: given up here (not renewed in time, or released without success), they would
//! otherwise wait for another worker, and a worker alone would wait for ever.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ids::{ShardId, WorkerId};
use crate::lease::expiry::Watch;
use crate::lease::graph;
use crate::lease::row::Lease;

/// The most a worker takes in one round: a cold fleet levels itself instead of racing.
pub const TAKE_PER_ROUND: usize = 64;

/// What the table looks like to one worker.
#[derive(Debug, PartialEq, Eq)]
pub struct Round {
    /// Leases to take now.
    pub take: Vec<ShardId>,
    /// Workers seen alive, this one included.
    pub workers: usize,
    /// Leases that still have work.
    pub active: usize,
    /// The share of one worker.
    pub target: usize,
}

/// Decides one round. `leases` is the whole table; the order of `take` is that of `leases`, so the
/// caller shuffles first to keep workers from racing for the same ones. `held` are the shards this
/// process has a live lease of, which the table alone does not tell.
pub fn decide(
    leases: &[Lease],
    watch: &Watch,
    me: &WorkerId,
    held: &BTreeSet<ShardId>,
    max_leases: usize,
    now: Duration,
) -> Round {
    let active: Vec<&Lease> = leases.iter().filter(|l| !l.is_finished()).collect();
    let unfinished = graph::unfinished(leases);
    let mut workers: BTreeSet<&WorkerId> = active
        .iter()
        .filter(|l| !watch.is_expired(now, l))
        .filter_map(|l| l.effective_owner())
        .collect();
    workers.insert(me);
    let mine = active.iter().filter(|l| held.contains(&l.shard)).count();
    let ready: Vec<&Lease> = active
        .iter()
        .copied()
        .filter(|l| !held.contains(&l.shard))
        .filter(|l| l.checkpoint_owner.as_ref() != Some(me))
        .filter(|l| l.is_free() || l.owner.as_ref() == Some(me) || watch.is_expired(now, l))
        .filter(|l| graph::may_start(l, &unfinished))
        .collect();
    // Leases blocked by their parents are nobody's load yet.
    let load = active
        .iter()
        .filter(|l| l.effective_owner().is_some() || graph::may_start(l, &unfinished))
        .count();
    let target = load.div_ceil(workers.len()).min(max_leases);
    let room = target.saturating_sub(mine).min(TAKE_PER_ROUND);
    Round {
        take: ready.into_iter().take(room).map(|l| l.shard.clone()).collect(),
        workers: workers.len(),
        active: active.len(),
        target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::expiry::tests::lease;
    use crate::stream::position::Checkpoint;

    const S: Duration = Duration::from_secs(1);

    fn round(leases: &[Lease], me: &str) -> Round {
        let mut watch = Watch::new(10 * S);
        watch.observe(S, leases);
        decide(leases, &watch, &WorkerId::new(me), &BTreeSet::new(), usize::MAX, 2 * S)
    }

    #[test]
    fn takes_its_fair_share_and_no_more() {
        let leases: Vec<_> = (0..6)
            .map(|n| lease(&format!("s{n}"), if n < 3 { Some("other") } else { None }, 1))
            .collect();
        let round = round(&leases, "me");
        assert_eq!((round.workers, round.target, round.take.len()), (2, 3, 3));
    }

    #[test]
    fn expired_leases_are_free_and_their_owner_is_no_worker() {
        let leases = [lease("a", Some("dead"), 1), lease("b", Some("dead"), 1)];
        let mut watch = Watch::new(10 * S);
        watch.observe(S, &leases);
        let round =
            decide(&leases, &watch, &WorkerId::new("me"), &BTreeSet::new(), usize::MAX, 12 * S);
        assert_eq!((round.workers, round.take.len()), (1, 2));
    }

    #[test]
    fn finished_and_blocked_leases_weigh_nothing() {
        let mut finished = lease("p", Some("other"), 1);
        finished.progress.checkpoint = Checkpoint::ShardEnd;
        let mut child = lease("c", None, 0);
        child.parents = vec![ShardId::new("q")];
        let parent = lease("q", Some("other"), 1);
        let round = round(&[finished, child, parent], "me");
        assert_eq!((round.active, round.target), (2, 1));
        assert!(round.take.is_empty());
    }

    #[test]
    fn the_cap_holds() {
        let leases: Vec<_> = (0..10).map(|n| lease(&format!("s{n}"), None, 0)).collect();
        let mut watch = Watch::new(10 * S);
        watch.observe(S, &leases);
        let round = decide(&leases, &watch, &WorkerId::new("me"), &BTreeSet::new(), 4, S);
        assert_eq!(round.take.len(), 4);
    }

    #[test]
    fn a_lease_that_names_us_and_is_not_held_is_taken_again() {
        let leases = [lease("a", Some("me"), 1), lease("b", Some("me"), 1)];
        let mut watch = Watch::new(10 * S);
        watch.observe(S, &leases);
        let held = BTreeSet::from([ShardId::new("a")]);
        let round = decide(&leases, &watch, &WorkerId::new("me"), &held, usize::MAX, S);
        assert_eq!(round.take, [ShardId::new("b")]);
    }
}
