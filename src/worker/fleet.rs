//! Who owns what, over the hash-key space, from the lease table as a worker last read it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ids::ShardId;
use crate::lease::graph;
use crate::lease::row::Lease;

/// Owners listed; those with most leases.
const OWNERS: usize = 64;
/// Leases listed one by one. More cannot be told apart on a screen: then they are cells.
const LEASES: usize = 256;
/// Rows of the picture: while a stream is resharded, parents and children overlap.
const LANES: usize = 3;
/// Nobody; somebody who is not listed; nobody yet, because a parent is not finished; nobody, until
/// somebody accepts the gap it is parked at.
const FREE: i32 = -1;
const OTHER: i32 = -2;
const WAITING: i32 = -3;
const PARKED: i32 = -4;

/// See the module.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Fleet {
    /// When the table was read, ms since the epoch; rows may be seconds older.
    pub seen_ms: Option<i64>,
    /// Who holds leases, by number of leases.
    pub owners: Vec<Owner>,
    /// Owners that are not listed.
    pub owners_omitted: usize,
    /// Leases with work left that nobody owns, though they might be worked on.
    pub free: usize,
    /// Since when there have been such in every reading of the table, ms since the epoch.
    pub free_since_ms: Option<i64>,
    /// Leases that nobody owns until their parents are finished.
    pub waiting: usize,
    /// Leases parked at a gap until somebody accepts it.
    pub parked: usize,
    /// Leases delivered to SHARD_END.
    pub finished: usize,
    /// Leases with work left, in the order of their hash keys; only if there are few enough.
    pub leases: Vec<HeldShare>,
    /// Leases with work left that are not listed.
    pub leases_omitted: usize,
    /// The hash-key space from left to right.
    pub spans: Vec<HashSpan>,
    /// Each span is a cell of equal size that shows the lease at its middle, not one lease.
    pub cells: bool,
}

/// A worker that holds leases.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Owner {
    /// Worker id.
    pub worker: String,
    /// Leases with work left.
    pub leases: usize,
    /// KiB/s of those whose owner wrote it down (`throughputKBps`).
    pub kbps: f64,
}

/// A lease with work left.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeldShare {
    /// Shard.
    pub shard: ShardId,
    /// Index of its owner; -1 for nobody, -2 for one that is not listed, -3 for nobody because a
    /// parent is not finished, -4 for nobody because it is parked.
    pub owner: i32,
    /// Handed over to that owner, and not yet let go by the old one.
    pub moving: bool,
    /// KiB/s, if known.
    pub kbps: Option<f64>,
}

/// A part of the hash-key space.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HashSpan {
    /// As in [`HeldShare`].
    pub owner: i32,
    /// Begin, 0 to 1.
    pub from: f64,
    /// End, 0 to 1.
    pub to: f64,
    /// 0 to 2: row of the picture.
    pub lane: usize,
    /// Shard, unless it is a cell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardId>,
}

/// A range of hash keys as a part of the whole.
fn part(lease: &Lease) -> Option<(f64, f64)> {
    let (first, last) = lease.hash_range.as_ref()?;
    let of = |digits: &str| digits.parse::<u128>().ok();
    let whole = 2.0_f64.powi(128);
    let (from, to) = (of(first)? as f64 / whole, of(last)? as f64 / whole);
    (from <= to).then_some((from, to))
}

impl Fleet {
    /// Of all leases of our stream; `before` is the picture this one replaces.
    pub fn of(leases: &[Lease], seen_ms: i64, before: &Self) -> Self {
        let unfinished = graph::unfinished(leases);
        let active: Vec<&Lease> = leases.iter().filter(|l| !l.is_finished()).collect();
        let mut by_owner: BTreeMap<&str, Owner> = BTreeMap::new();
        for lease in &active {
            let Some(worker) = &lease.owner else { continue };
            let owner = by_owner.entry(worker.as_str()).or_insert_with(|| Owner {
                worker: worker.as_str().to_owned(),
                leases: 0,
                kbps: 0.0,
            });
            owner.leases += 1;
            owner.kbps += lease.throughput_kbps.unwrap_or(0.0);
        }
        let mut owners: Vec<Owner> = by_owner.into_values().collect();
        // Those of as many leases stay in the order of their names, so that colours stay.
        owners.sort_by_key(|owner| std::cmp::Reverse(owner.leases));
        let owners_omitted = owners.len().saturating_sub(OWNERS);
        owners.truncate(OWNERS);
        let index: BTreeMap<&str, i32> =
            (0..).zip(&owners).map(|(at, owner)| (owner.worker.as_str(), at)).collect();
        let owner = |lease: &Lease| match &lease.owner {
            _ if lease.parked().is_some() => PARKED,
            None if graph::may_start(lease, &unfinished) => FREE,
            None => WAITING,
            Some(worker) => index.get(worker.as_str()).copied().unwrap_or(OTHER),
        };
        let mut placed: Vec<(f64, f64, &Lease)> =
            active.iter().filter_map(|l| part(l).map(|(from, to)| (from, to, *l))).collect();
        placed.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.2.shard.cmp(&b.2.shard)));
        let cells = placed.len() > LEASES;
        let spans = if cells { merged(&placed, owner) } else { lanes(&placed, owner) };
        let listed = if active.len() > LEASES { &[][..] } else { &active[..] };
        let held = |lease: &&Lease| HeldShare {
            shard: lease.shard.clone(),
            owner: owner(lease),
            moving: lease.checkpoint_owner.is_some(),
            kbps: lease.throughput_kbps,
        };
        let count = |of: i32| active.iter().filter(|lease| owner(lease) == of).count();
        let free = count(FREE);
        Self {
            seen_ms: Some(seen_ms),
            free,
            free_since_ms: (free > 0).then(|| before.free_since_ms.unwrap_or(seen_ms)),
            waiting: count(WAITING),
            parked: count(PARKED),
            finished: leases.len() - active.len(),
            leases: listed.iter().map(held).collect(),
            leases_omitted: active.len() - listed.len(),
            owners_omitted,
            spans,
            cells,
            owners,
        }
    }
}

/// One span for each lease, in the first lane that is free there.
fn lanes(placed: &[(f64, f64, &Lease)], owner: impl Fn(&Lease) -> i32) -> Vec<HashSpan> {
    let mut ends = [f64::NEG_INFINITY; LANES];
    let mut spans = Vec::with_capacity(placed.len());
    for (from, to, lease) in placed {
        let Some(lane) = ends.iter().position(|end| end <= from) else { continue };
        ends[lane] = *to;
        let shard = Some(lease.shard.clone());
        spans.push(HashSpan { owner: owner(lease), from: *from, to: *to, lane, shard });
    }
    spans
}

/// Cells of equal size; neighbours of one owner are one span.
fn merged(placed: &[(f64, f64, &Lease)], owner: impl Fn(&Lease) -> i32) -> Vec<HashSpan> {
    let mut spans: Vec<HashSpan> = Vec::new();
    for cell in 0..LEASES {
        let of = |at: usize| at as f64 / LEASES as f64;
        let (from, to) = (of(cell), of(cell + 1));
        let middle = f64::midpoint(from, to);
        // The last that begins before the middle: of a parent and its child, the child.
        let before = placed.partition_point(|(from, _, _)| *from <= middle);
        let Some((_, _, lease)) = placed[..before].iter().rev().find(|(_, to, _)| *to >= middle)
        else {
            continue;
        };
        let owner = owner(lease);
        match spans.last_mut().filter(|last| last.owner == owner && last.to >= from) {
            Some(last) => last.to = to,
            None => spans.push(HashSpan { owner, from, to, lane: 0, shard: None }),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lease::row::{Attr, Item, attr};

    fn lease(n: usize, owner: Option<&str>, from: u128, to: u128) -> Lease {
        let mut item = Item::from([
            (attr::KEY.to_owned(), Attr::S(format!("shardId-{n:012}"))),
            (attr::COUNTER.to_owned(), Attr::N("3".into())),
            (attr::CHECKPOINT.to_owned(), Attr::S("1".into())),
            (attr::HASH_START.to_owned(), Attr::S(from.to_string())),
            (attr::HASH_END.to_owned(), Attr::S(to.to_string())),
            (attr::THROUGHPUT.to_owned(), Attr::N("2.5".into())),
        ]);
        if let Some(owner) = owner {
            item.insert(attr::OWNER.into(), Attr::S(owner.into()));
        }
        Lease::parse(&item).unwrap().unwrap()
    }

    fn level(count: usize, owner: impl Fn(usize) -> Option<String>) -> Vec<Lease> {
        let size = u128::MAX / count as u128;
        let range = |n: usize| (n as u128 * size, (n as u128 + 1) * size - 1);
        (0..count).map(|n| lease(n, owner(n).as_deref(), range(n).0, range(n).1)).collect()
    }

    #[test]
    fn owners_and_spans_of_a_small_fleet() {
        let leases = level(4, |n| ["a", "b", "b"].get(n).map(|w| (*w).to_owned()));
        let empty = Fleet::default();
        let fleet = Fleet::of(&leases, 7, &empty);
        let names: Vec<_> = fleet.owners.iter().map(|o| (o.worker.as_str(), o.leases)).collect();
        assert_eq!(names, [("b", 2), ("a", 1)]);
        assert!((fleet.owners[0].kbps - 5.0).abs() < 1e-9);
        assert_eq!((fleet.free, fleet.finished, fleet.seen_ms), (1, 0, Some(7)));
        assert_eq!(Fleet::of(&leases, 9, &fleet).free_since_ms, Some(7));
        assert_eq!(Fleet::of(&leases[..3], 9, &fleet).free_since_ms, None);
        let spans: Vec<_> = fleet.spans.iter().map(|s| (s.owner, s.lane)).collect();
        assert_eq!(spans, [(1, 0), (0, 0), (0, 0), (FREE, 0)]);
        assert_eq!(fleet.leases.len(), 4);
    }

    #[test]
    fn parents_and_children_stand_in_lanes() {
        let half = u128::MAX / 2;
        let leases = [
            lease(0, Some("a"), 0, u128::MAX),
            lease(1, None, 0, half),
            lease(2, None, half + 1, u128::MAX),
        ];
        let fleet = Fleet::of(&leases, 0, &Fleet::default());
        let lanes: Vec<_> = fleet.spans.iter().map(|s| s.lane).collect();
        assert_eq!(lanes, [0, 1, 1]);
    }

    #[test]
    fn a_child_waits_for_its_parent_and_is_not_free() {
        let half = u128::MAX / 2;
        let mut child = lease(1, None, 0, half);
        child.parents = vec![ShardId::new("shardId-000000000000")];
        let leases = [lease(0, Some("a"), 0, u128::MAX), child];
        let fleet = Fleet::of(&leases, 0, &Fleet::default());
        assert_eq!((fleet.free, fleet.waiting), (0, 1));
        assert_eq!(fleet.spans[1].owner, WAITING);
    }

    #[test]
    fn five_thousand_leases_are_told_in_a_bounded_size() {
        let leases = level(5000, |n| Some(format!("host-{}:{}", n % 100, "u".repeat(36))));
        let fleet = Fleet::of(&leases, 0, &Fleet::default());
        assert_eq!((fleet.owners.len(), fleet.owners_omitted), (OWNERS, 36));
        assert!(fleet.cells && fleet.leases.is_empty() && fleet.leases_omitted == 5000);
        assert!(fleet.spans.len() <= LEASES);
        assert!(serde_json::to_string(&fleet).unwrap().len() < 40_000);
    }

    proptest! {
        #[test]
        fn spans_of_a_lane_do_not_overlap_and_cells_cover_what_leases_cover(
            ranges in proptest::collection::vec((0..1000_u128, 1..400_u128), 0..600),
        ) {
            let unit = u128::MAX / 1500;
            let leases: Vec<Lease> = ranges.iter().enumerate()
                .map(|(n, (from, size))| lease(n, Some("w"), from * unit, (from + size) * unit))
                .collect();
            let fleet = Fleet::of(&leases, 0, &Fleet::default());
            for lane in 0..LANES {
                let spans: Vec<_> = fleet.spans.iter().filter(|s| s.lane == lane).collect();
                prop_assert!(spans.windows(2).all(|w| w[0].to <= w[1].from), "{spans:?}");
            }
            let within = |s: &HashSpan| s.from <= s.to && s.from >= 0.0 && s.to <= 1.0;
            prop_assert!(fleet.spans.iter().all(within));
            prop_assert!(fleet.spans.is_empty() == leases.is_empty());
        }
    }
}
