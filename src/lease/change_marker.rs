//! The change marker: one row that every worker reads, so that none has to read them all.
//!
//! The marker is the lease with the smallest key that has work. It says two things. Whoever frees
//! leases, creates them or finishes a shard raises the change signal afterwards, the number
//! `catchment_news` in this row; a worker that sees another number than before scans the table. And
//! the owner of the row is the fleet's sweeper: the counter that keeps its lease alive also shows
//! the others that the sweeper lives, at no further write.
//!
//! All of this only saves time. A signal that is lost, a marker that two workers see in two places,
//! a sweeper too many or none at all: `lease.full_scan` makes good for it, and every move is still a
//! compare-and-set of its row.

use std::collections::BTreeMap;

use crate::ids::{ShardId, WorkerId};
use crate::lease::graph;
use crate::lease::row::{Attr, Item, Lease, attr, number};
use crate::lease::write::Update;

/// What the marker row says.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangeMarker {
    /// The row itself.
    pub lease: Lease,
    /// How often leases were made available; 0 while nobody said so.
    pub signals: u64,
}

impl ChangeMarker {
    /// Reads the row; `None` if the row is not readable as a lease.
    pub fn read(item: &Item) -> Option<Self> {
        let lease = Lease::parse(item).ok().flatten()?;
        Some(Self { lease, signals: number(item, attr::CHANGE_SIGNALS).unwrap_or(0) })
    }

    /// The worker that watches over the fleet: the one that may still deliver this lease.
    pub fn sweeper(&self) -> Option<&WorkerId> {
        self.lease.effective_owner()
    }
}

/// Where the marker is: the smallest key among leases somebody works on or may begin with. Finished
/// rows have nobody who keeps them alive, and children wait for their parents.
pub fn place(leases: &[Lease]) -> Option<ShardId> {
    let unfinished = graph::unfinished(leases);
    let usable = |lease: &&Lease| {
        !lease.is_finished() && (!lease.is_free() || graph::may_start(lease, &unfinished))
    };
    leases.iter().filter(usable).map(|l| &l.shard).min().cloned()
}

/// Raises the change signal. The number is added to, so that two who raise it at once both count; it
/// never creates an item, and touches nothing that another condition of ours or of a KCL tests.
pub fn bump() -> Update {
    Update {
        update: format!("ADD {} :one", attr::CHANGE_SIGNALS),
        condition: format!("attribute_exists({})", attr::KEY),
        values: vec![(":one", Attr::N("1".into()))],
    }
}

/// The parents of a lease that a reading of the table does not show.
pub fn unseen_parents<'a>(lease: &'a Lease, rows: &BTreeMap<&ShardId, &Lease>) -> Vec<&'a ShardId> {
    lease.parents.iter().filter(|parent| !rows.contains_key(parent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::expiry::tests::lease;
    use crate::lease::row::NewLease;
    use crate::lease::write;
    use crate::stream::position::Checkpoint;

    #[test]
    fn the_marker_is_the_smallest_key_with_work() {
        let mut finished = lease("a", Some("w"), 1);
        finished.progress.checkpoint = Checkpoint::ShardEnd;
        let mut child = lease("b", None, 0);
        child.parents = vec![ShardId::new("d")];
        let leases = [lease("d", Some("w"), 1), child.clone(), lease("c", None, 1), finished];
        assert_eq!(place(&leases), Some(ShardId::new("c")));
        assert_eq!(place(&leases[1..2]), Some(ShardId::new("b")), "its parent is gone");
        child.parents = vec![ShardId::new("b")];
        assert_eq!(place(&[child]), None);
    }

    #[test]
    fn the_signal_stands_beside_the_lease_and_no_other_write_touches_it() {
        let new = NewLease {
            shard: ShardId::new("a"),
            checkpoint: Checkpoint::TrimHorizon,
            pin_ms: None,
            parents: Vec::new(),
            hash_range: None,
        };
        let mut item = new.item("stream", 0);
        let before = ChangeMarker::read(&item).unwrap();
        item.insert(attr::CHANGE_SIGNALS.into(), Attr::N("7".into()));
        let after = ChangeMarker::read(&item).unwrap();
        assert_eq!((before.signals, after.signals), (0, 7));
        assert_eq!(before.lease, after.lease);
        let me = WorkerId::new("me");
        let held = lease("a", Some("me"), 4);
        let progress = &held.progress;
        for write in [
            write::progress(progress, progress, &me, 1, None),
            write::renew(&held, &me, &write::Notes::default()),
            write::take(&held, &me, "arn@1", None),
            write::free(&held),
            write::release(&me),
            write::request_handoff(&held, &me).unwrap(),
            write::transfer(&me),
            write::reset(&held, &Checkpoint::Latest, None),
        ] {
            let text = format!("{} {}", write.update, write.condition);
            assert!(!text.contains(attr::CHANGE_SIGNALS), "{text}");
        }
        assert!(bump().condition.contains("attribute_exists(leaseKey)"));
    }
}
