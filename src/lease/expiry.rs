//! When a lease has expired, judged by our own monotonic clock alone.
//!
//! A lease lives while its counter moves. Nothing in the row tells time, and no two hosts' clocks
//! are ever compared: what counts is how long *we* have seen the counter stand still.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::{ShardId, WorkerId};
use crate::lease::graph;
use crate::lease::row::Lease;

/// Time an owner has to drain a lease it was asked for (the KCL's gracefulLeaseHandoffTimeout).
pub const HANDOFF: Duration = Duration::from_secs(30);

/// What has been seen of one lease.
#[derive(Debug)]
struct SeenLease {
    counter: u64,
    owner: Option<WorkerId>,
    since: Duration,
    /// When the handoff under way was first seen.
    handoff: Option<Duration>,
}

impl SeenLease {
    fn after(previous: Option<Self>, now: Duration, lease: &Lease) -> Self {
        let owner = lease.effective_owner().cloned();
        let handoff = lease
            .checkpoint_owner
            .as_ref()
            .map(|_| previous.as_ref().and_then(|p| p.handoff).unwrap_or(now));
        let since = match previous {
            Some(p) if p.counter == lease.counter && p.owner == owner => p.since,
            // A first sight counts as a heartbeat: we do not know better yet.
            _ => now,
        };
        Self { counter: lease.counter, owner, since, handoff }
    }
}

/// Remembers when each counter last moved.
#[derive(Debug)]
pub struct Watch {
    failover: Duration,
    /// A handoff that takes longer than this is not coming.
    patience: Duration,
    seen: BTreeMap<ShardId, SeenLease>,
}

impl Watch {
    /// Leases expire after `failover` without a heartbeat.
    pub fn new(failover: Duration) -> Self {
        Self { failover, patience: failover + HANDOFF, seen: BTreeMap::new() }
    }

    /// Takes in a fresh reading of the whole table.
    pub fn observe(&mut self, now: Duration, leases: &[Lease]) {
        let unfinished = graph::unfinished(leases);
        let mut seen = BTreeMap::new();
        for lease in leases {
            let previous = self.seen.remove(&lease.shard);
            let mut after = SeenLease::after(previous, now, lease);
            if lease.is_free() && !graph::may_start(lease, &unfinished) {
                // Nobody may take it yet, so nobody is late.
                after.since = now;
            }
            seen.insert(lease.shard.clone(), after);
        }
        self.seen = seen;
    }

    /// Takes in a fresh reading of one row.
    pub fn observe_row(&mut self, now: Duration, lease: &Lease) {
        let seen = self.seen.remove(&lease.shard);
        self.seen.insert(lease.shard.clone(), SeenLease::after(seen, now, lease));
    }

    /// How long a lease may stand still before anybody may take it, whoever it was meant for: the
    /// failover time if it is free, one more if it had to expire first.
    pub fn overdue(&self, lease: &Lease) -> Duration {
        if lease.is_free() { self.failover } else { self.failover * 2 }
    }

    /// How long the counter has stood still.
    pub fn age(&self, now: Duration, shard: &ShardId) -> Option<Duration> {
        self.seen.get(shard).map(|s| now.saturating_sub(s.since))
    }

    /// We asked for a lease: its handoff counts from now, not from the next reading that shows it.
    pub fn asked(&mut self, now: Duration, shard: &ShardId) {
        if let Some(seen) = self.seen.get_mut(shard) {
            seen.handoff = Some(now);
        }
    }

    /// Owned, but its owner's heart has stopped; or asked for by `me`, and not handed over in time.
    /// What others asked for is theirs to judge: a `checkpointOwner` may be left of somebody dead,
    /// for a KCL 2.x neither knows nor removes it.
    pub fn is_expired(&self, now: Duration, lease: &Lease, me: &WorkerId) -> bool {
        let silent = self.age(now, &lease.shard).is_some_and(|age| age > self.failover);
        let seen = self.seen.get(&lease.shard);
        let stuck = lease.owner.as_ref() == Some(me)
            && seen
                .and_then(|s| s.handoff)
                .is_some_and(|at| now.saturating_sub(at) > self.patience);
        !lease.is_free() && (silent || stuck)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::checkpoint::progress::{Pending, Progress};
    use crate::stream::position::Checkpoint;

    pub(crate) fn lease(shard: &str, owner: Option<&str>, counter: u64) -> Lease {
        Lease {
            gap: None,
            gap_accepted: None,
            shard: ShardId::new(shard),
            owner: owner.map(WorkerId::new),
            counter,
            checkpoint_owner: None,
            progress: Progress { checkpoint: Checkpoint::TrimHorizon, pending: Pending::None },
            parents: Vec::new(),
            children: Vec::new(),
            hash_range: None,
            throughput_kbps: None,
            stream: None,
            started_ms: None,
            read_through_ms: None,
            left: None,
            start_sequence: None,
            rewind: None,
            rewinds: 0,
            delivered: None,
            counted: None,
        }
    }

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn only_a_standing_counter_expires() {
        let mut watch = Watch::new(10 * S);
        let standing = lease("a", Some("w"), 1);
        watch.observe(S, &[standing.clone(), lease("b", Some("w"), 1)]);
        watch.observe(12 * S, &[standing.clone(), lease("b", Some("w"), 2)]);
        assert!(watch.is_expired(12 * S, &standing, &WorkerId::new("new")));
        assert!(!watch.is_expired(12 * S, &lease("b", Some("w"), 2), &WorkerId::new("new")));
    }

    #[test]
    fn a_handoff_that_never_comes_expires_although_the_heart_beats() {
        let mut watch = Watch::new(10 * S);
        let mut asked = lease("a", Some("new"), 1);
        asked.checkpoint_owner = Some(WorkerId::new("old"));
        for second in 0..=41 {
            asked.counter += 1;
            watch.observe(second * S, &[asked.clone()]);
            let expired = |me| watch.is_expired(second * S, &asked, &WorkerId::new(me));
            assert_eq!((expired("new"), expired("other")), (second == 41, false));
        }
    }

    /// The reading that follows a request may come much later.
    #[test]
    fn a_handoff_counts_from_the_request() {
        let mut watch = Watch::new(10 * S);
        let mut row = lease("a", Some("old"), 1);
        watch.observe(S, &[row.clone()]);
        watch.asked(2 * S, &row.shard);
        (row.owner, row.checkpoint_owner) = (Some(WorkerId::new("new")), row.owner.clone());
        for (second, expired) in [(30, false), (42, false), (43, true)] {
            row.counter += 1;
            watch.observe(second * S, &[row.clone()]);
            assert_eq!(watch.is_expired(second * S, &row, &WorkerId::new("new")), expired);
        }
    }

    #[test]
    fn a_new_owner_and_a_first_sight_start_afresh() {
        let mut watch = Watch::new(10 * S);
        watch.observe(S, &[lease("a", Some("w"), 1)]);
        watch.observe(20 * S, &[lease("a", Some("x"), 1), lease("b", Some("w"), 9)]);
        assert!(!watch.is_expired(20 * S, &lease("a", Some("x"), 1), &WorkerId::new("new")));
        assert!(!watch.is_expired(25 * S, &lease("b", Some("w"), 9), &WorkerId::new("new")));
        assert!(!watch.is_expired(25 * S, &lease("unseen", Some("w"), 9), &WorkerId::new("new")));
    }
}
