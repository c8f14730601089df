//! ◆ Which leases to take in this round, and which to ask for.
//!
//! Every worker decides for itself from the same table: its fair share of the leases that still
//! have work, no more. Free and expired leases are taken; if there are none and another worker
//! holds at least two more than we do, it is asked to hand some over. Nothing is stolen from the
//! living.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::{ShardId, WorkerId};
use crate::lease::expiry::Watch;
use crate::lease::graph;
use crate::lease::row::Lease;

/// The most a worker takes in one round: a cold fleet levels itself instead of racing.
pub const TAKE_PER_ROUND: usize = 64;
/// Handoffs a worker waits for at once.
pub const ASK_AT_ONCE: usize = 4;

/// What the table looks like to one worker.
#[derive(Debug, PartialEq, Eq)]
pub struct Round {
    /// Leases to take now.
    pub take: Vec<ShardId>,
    /// Leases to ask their owners for.
    pub ask: Vec<ShardId>,
    /// Leases handed over to us: ours to start, if we do not work on them already.
    pub ours: Vec<ShardId>,
    /// Workers seen alive, this one included.
    pub workers: usize,
    /// Leases that still have work.
    pub active: usize,
    /// The share of one worker.
    pub target: usize,
}

/// Decides one round. `leases` is the whole table; the order of `take` and `ask` is that of
/// `leases`, so the caller shuffles first to keep workers from racing for the same ones.
pub fn decide(
    leases: &[Lease],
    watch: &Watch,
    me: &WorkerId,
    max_leases: usize,
    now: Duration,
) -> Round {
    let unfinished = graph::unfinished(leases);
    let active: Vec<&Lease> = leases.iter().filter(|l| !l.is_finished()).collect();
    let gone = |lease: &Lease| lease.is_free() || watch.is_expired(now, lease);
    // A lease under way to a new owner counts as the new owner's load already.
    let mut loads: BTreeMap<&WorkerId, usize> = BTreeMap::from([(me, 0)]);
    for lease in active.iter().filter(|l| !gone(l)) {
        for owner in lease.checkpoint_owner.iter() {
            loads.entry(owner).or_default();
        }
        if let Some(owner) = &lease.owner {
            *loads.entry(owner).or_default() += 1;
        }
    }
    let mine = loads.get(me).copied().unwrap_or(0);
    let is_mine =
        |l: &Lease| l.owner.as_ref() == Some(me) || l.checkpoint_owner.as_ref() == Some(me);
    let ready: Vec<&Lease> = active
        .iter()
        .copied()
        .filter(|l| gone(l) && graph::may_start(l, &unfinished))
        .filter(|l| !is_mine(l) || l.checkpoint_owner.is_some())
        .collect();
    let ours = active
        .iter()
        .filter(|l| l.owner.as_ref() == Some(me) && l.checkpoint_owner.is_none())
        .map(|l| l.shard.clone())
        .collect();
    // Leases blocked by their parents are nobody's load yet.
    let load = loads.values().sum::<usize>() + ready.len();
    let target = load.div_ceil(loads.len()).min(max_leases);
    let room = target.saturating_sub(mine).min(TAKE_PER_ROUND);
    let take: Vec<ShardId> = ready.iter().take(room).map(|l| l.shard.clone()).collect();
    let ask = if ready.is_empty() && mine < max_leases {
        ask(&active, &loads, me, mine, watch, now)
    } else {
        Vec::new()
    };
    Round { take, ask, ours, workers: loads.len(), active: active.len(), target }
}

/// Leases to ask the most loaded worker for: half of our distance, bounded, and none while the
/// difference is one, or fleets would never come to rest.
fn ask(
    active: &[&Lease],
    loads: &BTreeMap<&WorkerId, usize>,
    me: &WorkerId,
    mine: usize,
    watch: &Watch,
    now: Duration,
) -> Vec<ShardId> {
    let Some((busiest, load)) = loads.iter().max_by_key(|(_, load)| **load) else {
        return Vec::new();
    };
    if *busiest == me || *load < mine + 2 {
        return Vec::new();
    }
    let coming =
        active.iter().filter(|l| l.owner.as_ref() == Some(me) && l.checkpoint_owner.is_some());
    let room = ASK_AT_ONCE.saturating_sub(coming.count());
    let share = (load - mine) / 2;
    active
        .iter()
        .filter(|l| l.owner.as_ref() == Some(busiest) && l.checkpoint_owner.is_none())
        .filter(|l| !watch.is_expired(now, l))
        .take(share.min(room))
        .map(|l| l.shard.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lease::expiry::tests::lease;
    use crate::stream::position::Checkpoint;

    const S: Duration = Duration::from_secs(1);

    fn round(leases: &[Lease], me: &str) -> Round {
        let mut watch = Watch::new(10 * S);
        watch.observe(S, leases);
        decide(leases, &watch, &WorkerId::new(me), usize::MAX, 2 * S)
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
        let round = decide(&leases, &watch, &WorkerId::new("me"), usize::MAX, 12 * S);
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
    fn a_newcomer_asks_the_busiest_for_half_the_difference() {
        let leases: Vec<_> = (0..10)
            .map(|n| lease(&format!("s{n}"), Some(if n < 7 { "busy" } else { "idle" }), 1))
            .collect();
        let round = round(&leases, "me");
        assert!(round.take.is_empty());
        assert_eq!(round.ask.len(), 3);
        assert!(round.ask.iter().all(|s| {
            leases.iter().any(|l| l.shard == *s && l.owner == Some(WorkerId::new("busy")))
        }));
    }

    #[test]
    fn nothing_moves_within_one() {
        let leases: Vec<_> = (0..5)
            .map(|n| lease(&format!("s{n}"), Some(if n < 3 { "other" } else { "me" }), 1))
            .collect();
        assert!(round(&leases, "me").ask.is_empty());
    }

    #[test]
    fn a_lease_handed_over_is_ours_once_its_old_owner_is_done() {
        let mut coming = lease("a", Some("me"), 1);
        coming.checkpoint_owner = Some(WorkerId::new("old"));
        assert!(round(&[coming.clone()], "me").ours.is_empty());
        coming.checkpoint_owner = None;
        assert_eq!(round(&[coming], "me").ours, [ShardId::new("a")]);
    }

    proptest! {
        /// Workers come and go; asked leases are handed over between rounds. The fleet becomes
        /// level, and then comes to rest.
        #[test]
        fn fleets_become_level_and_rest(shards in 1_usize..60, workers in 1_usize..9, first in 0_usize..9) {
            let mut leases: Vec<Lease> = (0..shards)
                .map(|n| lease(&format!("s{n:03}"), Some(&format!("w{}", first % workers)), 1))
                .collect();
            let mut moved_last = 0;
            for turn in 0..60_u32 {
                let mut moved = 0;
                for worker in 0..workers {
                    let me = WorkerId::new(format!("w{worker}"));
                    let mut watch = Watch::new(10 * S);
                    watch.observe(turn * S, &leases);
                    for asked in decide(&leases, &watch, &me, usize::MAX, turn * S).ask {
                        let lease = leases.iter_mut().find(|l| l.shard == asked).unwrap();
                        lease.owner = Some(me.clone());
                        moved += 1;
                    }
                }
                moved_last = moved;
            }
            prop_assert_eq!(moved_last, 0, "the fleet does not rest");
            let load = |w: usize| {
                let me = Some(WorkerId::new(format!("w{w}")));
                leases.iter().filter(|l| l.owner == me).count()
            };
            let loads: Vec<usize> = (0..workers).map(load).collect();
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
        }
    }

    #[test]
    fn the_cap_holds() {
        let leases: Vec<_> = (0..10).map(|n| lease(&format!("s{n}"), None, 0)).collect();
        let mut watch = Watch::new(10 * S);
        watch.observe(S, &leases);
        assert_eq!(decide(&leases, &watch, &WorkerId::new("me"), 4, S).take.len(), 4);
    }
}
