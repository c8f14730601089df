//! Parents and children: which leases to create, when a shard may start, which rows may go.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::ShardId;
use crate::lease::row::{Lease, NewLease};
use crate::lease::write::{self, Update};
use crate::mutant::{self, Mutant};
use crate::stream::ShardInfo;
use crate::stream::position::{Checkpoint, InitialPosition};

/// The leases that are missing, parents before children.
///
/// Every listed shard gets a lease, closed ones too, with one exception: a shard that has a leased
/// descendant was finished and cleaned up (the KCL deletes such leases early), and reading it
/// again would deliver it twice. A crash half-way is harmless because a child's lease is only ever
/// created after its parent's. A shard with a leased ancestor starts at its first record, or
/// records between its birth and its discovery would be lost; any other starts where configured.
/// Where the ancestor was pinned to a time (it began at LATEST or at a time stamp), its descendant
/// is pinned to the same: that loses nothing after the pin, and brings back nothing before it when
/// two workers fill an empty table together. This also repairs a finished parent whose child has
/// no lease.
pub fn missing(shards: &[ShardInfo], leases: &[Lease], initial: InitialPosition) -> Vec<NewLease> {
    let leased: BTreeSet<&ShardId> = leases.iter().map(|l| &l.shard).collect();
    let by_id: BTreeMap<&ShardId, &ShardInfo> = shards.iter().map(|s| (&s.id, s)).collect();
    let mut covered: BTreeSet<&ShardId> = BTreeSet::new();
    for shard in shards.iter().filter(|s| leased.contains(&s.id)) {
        let mut open = vec![shard];
        while let Some(next) = open.pop() {
            for parent in &next.parents {
                if covered.insert(parent)
                    && let Some(parent) = by_id.get(parent)
                {
                    open.push(parent);
                }
            }
        }
    }
    let mut order: Vec<&ShardInfo> = Vec::new();
    let mut placed: BTreeSet<&ShardId> = BTreeSet::new();
    for shard in shards {
        place(shard, &by_id, &mut placed, &mut order);
    }
    // Shards with a lease or a leased ancestor, and the pin they inherit.
    let mut descends: BTreeMap<&ShardId, Option<i64>> =
        leases.iter().map(|l| (&l.shard, l.started_ms)).collect();
    let mut new = Vec::new();
    for shard in order {
        let parents: Vec<Option<i64>> =
            shard.parents.iter().filter_map(|p| descends.get(p).copied()).collect();
        let inherited = (!parents.is_empty())
            .then(|| parents.iter().copied().reduce(|a, b| Some(a?.min(b?))).flatten());
        if let Some(pin) = inherited {
            descends.entry(&shard.id).or_insert(pin);
        }
        if leased.contains(&shard.id) || covered.contains(&shard.id) {
            continue;
        }
        let (checkpoint, pin_ms) = match (inherited, initial) {
            (None, InitialPosition::AtTimestamp(at)) => (Checkpoint::AtTimestamp, Some(at)),
            (None, _) => (initial.sentinel(), None),
            (Some(Some(pin)), _) => (Checkpoint::Latest, Some(pin)),
            (Some(None), _) => (Checkpoint::TrimHorizon, None),
        };
        new.push(NewLease {
            shard: shard.id.clone(),
            checkpoint,
            pin_ms,
            parents: shard.parents.clone(),
            hash_range: shard.hash_range.clone(),
        });
    }
    new
}

fn place<'a>(
    shard: &'a ShardInfo,
    by_id: &BTreeMap<&'a ShardId, &'a ShardInfo>,
    placed: &mut BTreeSet<&'a ShardId>,
    order: &mut Vec<&'a ShardInfo>,
) {
    if !placed.insert(&shard.id) {
        return;
    }
    for parent in shard.parents.iter().filter_map(|p| by_id.get(p)) {
        place(parent, by_id, placed, order);
    }
    order.push(shard);
}

/// Leases for the children of a shard that was read to its end (KCL shard-end rule: they start at
/// their first record).
pub fn children(children: &[ShardInfo]) -> Vec<NewLease> {
    children
        .iter()
        .map(|child| NewLease {
            shard: child.id.clone(),
            checkpoint: Checkpoint::TrimHorizon,
            pin_ms: None,
            parents: child.parents.clone(),
            hash_range: child.hash_range.clone(),
        })
        .collect()
}

/// Leases without the range of their hash keys, and what it is: the KCL 1.x made such. Without it a
/// KPL aggregate cannot be told from its copy for another shard.
pub fn unranged<'a>(shards: &'a [ShardInfo], leases: &[Lease]) -> Vec<(&'a ShardId, Update)> {
    let without: BTreeSet<&ShardId> =
        leases.iter().filter(|l| l.hash_range.is_none()).map(|l| &l.shard).collect();
    let listed = shards.iter().filter(|s| without.contains(&s.id));
    listed.filter_map(|s| Some((&s.id, write::hash_range(s.hash_range.as_ref()?)))).collect()
}

/// Leases with work left that begin elsewhere than a configured start says: it counts for new leases
/// only. None for the default, and none if a lease of the table shows by its pin that the fleet
/// was begun with this very setting.
pub fn overruled(leases: &[Lease], initial: InitialPosition) -> Vec<&Lease> {
    let begun_with = |lease: &Lease| match initial {
        InitialPosition::TrimHorizon => true,
        InitialPosition::Latest => lease.started_ms.is_some(),
        InitialPosition::AtTimestamp(at) => lease.started_ms == Some(at),
    };
    if initial == InitialPosition::TrimHorizon || leases.iter().any(begun_with) {
        return Vec::new();
    }
    // A row of the KCL at AT_TIMESTAMP knows no time: the configured one is used.
    let uses = |lease: &Lease| {
        let open = lease.progress.checkpoint == Checkpoint::AtTimestamp;
        open && lease.started_ms.is_none() && matches!(initial, InitialPosition::AtTimestamp(_))
    };
    leases.iter().filter(|lease| !lease.is_finished() && !uses(lease)).collect()
}

/// Shards whose leases still have work.
pub fn unfinished(leases: &[Lease]) -> BTreeSet<&ShardId> {
    leases.iter().filter(|l| !l.is_finished()).map(|l| &l.shard).collect()
}

/// A shard may be read once each of its parents is delivered to the end, or has no lease any more.
pub fn may_start(lease: &Lease, unfinished: &BTreeSet<&ShardId>) -> bool {
    mutant::is(Mutant::ChildrenFirst)
        || lease.parents.iter().all(|parent| !unfinished.contains(parent))
}

/// Finished leases that may be deleted: the stream no longer lists the shard, and every child has
/// moved past its start. (Earlier, and a late shard sync would create the lease anew and deliver
/// the shard again.)
pub fn deletable(shards: &[ShardInfo], leases: &[Lease]) -> Vec<ShardId> {
    let listed: BTreeSet<&ShardId> = shards.iter().map(|s| &s.id).collect();
    leases
        .iter()
        .filter(|lease| lease.is_finished())
        .filter(|lease| mutant::is(Mutant::DeleteEarly) || !listed.contains(&lease.shard))
        .filter(|lease| {
            let children = leases.iter().filter(|l| l.parents.contains(&lease.shard));
            children.clone().next().is_some()
                && children.into_iter().all(|c| c.progress.checkpoint > Checkpoint::Latest)
        })
        .map(|lease| lease.shard.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::expiry::tests::lease;

    fn shard(id: &str, parents: &[&str], closed: bool) -> ShardInfo {
        ShardInfo {
            id: ShardId::new(id),
            parents: parents.iter().map(|p| ShardId::new(*p)).collect(),
            hash_range: None,
            closed,
        }
    }

    fn plan(shards: &[ShardInfo], leases: &[Lease], at: InitialPosition) -> Vec<(String, String)> {
        missing(shards, leases, at)
            .into_iter()
            .map(|l| (l.shard.to_string(), l.checkpoint.to_string()))
            .collect()
    }

    fn pair(a: &str, b: &str) -> (String, String) {
        (a.into(), b.into())
    }

    #[test]
    fn an_empty_table_leases_everything_parents_first() {
        let shards = [shard("c", &["p"], false), shard("p", &[], true), shard("q", &[], false)];
        assert_eq!(
            plan(&shards, &[], InitialPosition::Latest),
            [pair("p", "LATEST"), pair("c", "LATEST"), pair("q", "LATEST")]
        );
    }

    #[test]
    fn descendants_of_a_leased_shard_start_at_their_first_record() {
        let shards = [shard("p", &[], true), shard("c", &["p"], true), shard("g", &["c"], false)];
        assert_eq!(
            plan(&shards, &[lease("p", None, 1)], InitialPosition::Latest),
            [pair("c", "TRIM_HORIZON"), pair("g", "TRIM_HORIZON")]
        );
    }

    #[test]
    fn a_descendant_inherits_the_pin_of_its_ancestor() {
        let mut pinned = lease("p", None, 1);
        pinned.started_ms = Some(7);
        let shards = [shard("p", &[], true), shard("c", &["p"], true), shard("g", &["c"], false)];
        let new = missing(&shards, &[pinned.clone()], InitialPosition::TrimHorizon);
        let pins: Vec<_> = new.iter().map(|l| (l.checkpoint.clone(), l.pin_ms)).collect();
        assert_eq!(pins, [(Checkpoint::Latest, Some(7)), (Checkpoint::Latest, Some(7))]);
        // One parent read from its first record: so is the child.
        let merged = [shard("m", &["p", "q"], false)];
        let new = missing(&merged, &[pinned, lease("q", None, 1)], InitialPosition::Latest);
        assert_eq!((&new[0].checkpoint, new[0].pin_ms), (&Checkpoint::TrimHorizon, None));
    }

    #[test]
    fn a_finished_parent_that_was_cleaned_up_is_not_read_again() {
        let shards = [shard("p", &[], true), shard("c", &["p"], false)];
        assert!(plan(&shards, &[lease("c", None, 1)], InitialPosition::TrimHorizon).is_empty());
    }

    #[test]
    fn a_finished_parent_without_its_child_is_repaired() {
        let mut parent = lease("p", None, 1);
        parent.progress.checkpoint = Checkpoint::ShardEnd;
        let shards = [shard("c", &["p"], false)];
        assert_eq!(plan(&shards, &[parent], InitialPosition::Latest), [pair("c", "TRIM_HORIZON")]);
    }

    #[test]
    fn ranges_are_filled_in_where_they_are_missing() {
        let range = Some(("0".to_owned(), "7".to_owned()));
        let known = |id: &str| ShardInfo { hash_range: range.clone(), ..shard(id, &[], false) };
        let shards = [known("a"), known("b"), shard("c", &[], false)];
        let mut whole = lease("b", None, 1);
        whole.hash_range = range.clone();
        let leases = [lease("a", None, 1), whole, lease("c", None, 1), lease("gone", None, 1)];
        let found = unranged(&shards, &leases);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, &ShardId::new("a"));
    }

    #[test]
    fn a_start_that_is_overruled_is_noticed_and_one_that_was_used_is_not() {
        let mut read = lease("p", None, 1);
        read.progress.checkpoint = Checkpoint::parse("7", 0).unwrap();
        let (default, at) = (InitialPosition::TrimHorizon, InitialPosition::AtTimestamp(5));
        let count = |l: &Lease, i| overruled(std::slice::from_ref(l), i).len();
        assert_eq!((count(&read, default), count(&read, InitialPosition::Latest)), (0, 1));
        assert_eq!(count(&read, at), 1);
        let mut of_the_kcl = read.clone();
        of_the_kcl.progress.checkpoint = Checkpoint::AtTimestamp;
        assert_eq!((count(&of_the_kcl, at), count(&of_the_kcl, InitialPosition::Latest)), (0, 1));
        read.started_ms = Some(5);
        assert_eq!((count(&read, at), count(&read, InitialPosition::Latest)), (0, 0));
        assert_eq!(count(&read, InitialPosition::AtTimestamp(6)), 1);
        read.progress.checkpoint = Checkpoint::ShardEnd;
        assert_eq!(count(&read, InitialPosition::AtTimestamp(6)), 0);
    }

    #[test]
    fn children_wait_for_all_their_parents() {
        let mut child = lease("c", None, 0);
        child.parents = vec![ShardId::new("p"), ShardId::new("q")];
        let mut p = lease("p", None, 0);
        p.progress.checkpoint = Checkpoint::ShardEnd;
        let mut q = lease("q", None, 0);
        let ready = |all: &[Lease]| may_start(&child, &unfinished(all));
        assert!(!ready(&[child.clone(), p.clone(), q.clone()]));
        q.progress.checkpoint = Checkpoint::ShardEnd;
        assert!(ready(&[child.clone(), p, q]));
        assert!(ready(&[child.clone()]));
    }

    #[test]
    fn tombstones_stay_while_the_shard_is_listed_or_a_child_has_not_begun() {
        let mut parent = lease("p", None, 1);
        parent.progress.checkpoint = Checkpoint::ShardEnd;
        let mut child = lease("c", None, 1);
        child.parents = vec![ShardId::new("p")];
        let gone = [shard("c", &["p"], false)];
        let listed = [shard("p", &[], true), shard("c", &["p"], false)];
        assert!(deletable(&gone, &[parent.clone(), child.clone()]).is_empty());
        child.progress.checkpoint = Checkpoint::parse("7", 0).unwrap();
        assert!(deletable(&listed, &[parent.clone(), child.clone()]).is_empty());
        assert_eq!(deletable(&gone, &[parent.clone(), child]), [ShardId::new("p")]);
        assert!(deletable(&gone, &[parent]).is_empty(), "no child seen: keep");
    }
}
