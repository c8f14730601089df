//! Which leases to take in this round, which to ask for, and which to free.
//!
//! Every worker computes the same plan for the whole fleet from the same table, and carries out its
//! own part of it: free leases go to workers that are below the fleet's average, and between two
//! workers a lease moves only if the one it leaves still has at least as much as the one it goes
//! to. So no two workers run for the same lease, and nothing is stolen from the living. Where two
//! see different tables, the conditions on the rows decide, and the next round mends the rest.
//!
//! Leases count by weight: half for being a lease, half for their share of the throughput. All
//! unknown, or all alike, each weighs 1, and the fleet is level by count.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::{ShardId, WorkerId};
use crate::lease::expiry::Watch;
use crate::lease::graph;
use crate::lease::row::Lease;

/// The most a worker takes in one round: a cold fleet levels itself instead of racing.
pub const TAKE_PER_ROUND: usize = 64;
/// The most it takes in its first round, when it may not see its peers yet.
const FIRST_ROUND: usize = 8;
/// Handoffs a worker waits for at once.
pub const ASK_AT_ONCE: usize = 8;
/// Moves of the whole fleet that are planned ahead.
const PLANNED: usize = 256;
/// Sums of weights that differ by less are equal.
const EQUAL: f64 = 1e-6;

/// What the table looks like to one worker.
#[derive(Debug, PartialEq, Eq)]
pub struct Round {
    /// Leases to take now.
    pub take: Vec<ShardId>,
    /// Leases to ask their owners for.
    pub ask: Vec<ShardId>,
    /// Leases handed over to us: ours to start, if we do not work on them already.
    pub ours: Vec<ShardId>,
    /// Leases we asked for that are still being drained.
    pub coming: Vec<ShardId>,
    /// Leases of the dead that are for others to take: the sweeper frees them.
    pub free: Vec<ShardId>,
    /// More is ours to take than one round allows.
    pub more: bool,
    /// Workers seen alive, this one included.
    pub workers: usize,
    /// Leases that still have work and do not wait for an operator.
    pub active: usize,
    /// Those of them that nobody may take yet: a parent is not finished.
    pub waiting: usize,
}

/// Bounds of one round.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most leases held (`lease.max`).
    pub hold: usize,
    /// Most leases taken in this round.
    pub take: usize,
}

/// The most to take in a worker's `round`th round that found something to take (from 0): few as
/// long as peers that start with us hold nothing and so cannot be seen.
pub fn ramp(round: u32, active: usize) -> usize {
    let first = active.div_ceil(4).clamp(2, FIRST_ROUND);
    first.saturating_mul(4_usize.saturating_pow(round)).min(TAKE_PER_ROUND)
}

/// Weights of leases: (1 + throughput / mean) / 2, where an unknown throughput counts as the mean.
fn weights<'a>(active: &[&'a Lease]) -> BTreeMap<&'a ShardId, f64> {
    let known: Vec<f64> =
        active.iter().filter_map(|l| l.throughput_kbps).filter(|t| t.is_finite()).collect();
    let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
    let weight = |lease: &Lease| match lease.throughput_kbps {
        Some(kbps) if mean > 0.0 && kbps.is_finite() => (1.0 + kbps.max(0.0) / mean) / 2.0,
        _ => 1.0,
    };
    active.iter().map(|l| (&l.shard, weight(l))).collect()
}

/// What one worker carries.
#[derive(Clone, Copy, Debug, Default)]
struct WorkerLoad {
    weight: f64,
    leases: usize,
}

impl WorkerLoad {
    fn add(&mut self, weight: f64) {
        self.weight += weight;
        self.leases += 1;
    }
}

type Loads<'a> = BTreeMap<&'a WorkerId, WorkerLoad>;

/// Decides one round. `leases` is the whole table, in any order.
pub fn decide(
    leases: &[Lease],
    watch: &Watch,
    me: &WorkerId,
    bounds: Bounds,
    now: Duration,
) -> Round {
    let unfinished = graph::unfinished(leases);
    let active: Vec<&Lease> =
        leases.iter().filter(|l| !l.is_finished() && l.parked().is_none()).collect();
    let weights = weights(&active);
    let weight = |l: &Lease| weights.get(&l.shard).copied().unwrap_or(1.0);
    let gone = |l: &Lease| l.is_free() || watch.is_expired(now, l, me);
    let is = |worker: &Option<WorkerId>| worker.as_ref() == Some(me);
    // A lease under way to a new owner counts as the new owner's load already.
    let mut loads: Loads<'_> = BTreeMap::from([(me, WorkerLoad::default())]);
    for lease in active.iter().filter(|l| !gone(l)) {
        for owner in lease.checkpoint_owner.iter() {
            loads.entry(owner).or_default();
        }
        if let Some(owner) = &lease.owner {
            loads.entry(owner).or_default().add(weight(lease));
        }
    }
    // Leases blocked by their parents are nobody's load yet.
    let is_mine = |l: &Lease| is(&l.owner) || is(&l.checkpoint_owner);
    let mut ready: Vec<(f64, &Lease)> = active
        .iter()
        .filter(|l| gone(l) && graph::may_start(l, &unfinished))
        .filter(|l| !is_mine(l) || l.checkpoint_owner.is_some())
        .map(|l| (weight(l), *l))
        .collect();
    // Who gives leases back is about to go, or failed with one: others take what is free.
    let leaving: BTreeSet<&WorkerId> =
        active.iter().filter(|l| l.is_free()).filter_map(|l| l.left.as_ref()).collect();
    let workers = loads.len();
    let held = loads.get(me).map_or(0, |l| l.leases);
    let given = share(&mut ready, &mut loads, &leaving, bounds.hold);
    // A lease that nobody took for so long: its worker may be unable to. Anybody may.
    let overdue = |l: &Lease| watch.age(now, &l.shard).is_some_and(|age| age > watch.overdue(l));
    // What is ready: ours by the plan, and of the rest what is overdue, if we have room. Every worker
    // goes through them in an order of its own, so that two do not run for the same ones.
    let mut take: Vec<&Lease> = Vec::new();
    let mut rest: Vec<&Lease> = Vec::new();
    for ((_, lease), owner) in ready.iter().zip(&given) {
        let list = if *owner == Some(me) { &mut take } else { &mut rest };
        list.push(lease);
    }
    take.sort_by_key(|l| mix(me, &l.shard));
    rest.sort_by_key(|l| mix(me, &l.shard));
    let room = bounds.hold.saturating_sub(held).saturating_sub(take.len());
    let owed: Vec<&Lease> = rest.iter().copied().filter(|l| overdue(l)).take(room).collect();
    rest.retain(|l| !owed.iter().any(|o| o.shard == l.shard));
    take.extend(owed);
    // What is held: leases move from those above the average to those below; we ask for our part.
    let coming: Vec<ShardId> = active
        .iter()
        .filter(|l| is(&l.owner) && l.checkpoint_owner.is_some() && !gone(l))
        .map(|l| l.shard.clone())
        .collect();
    let mut movable: BTreeMap<&WorkerId, Vec<(f64, &Lease)>> = BTreeMap::new();
    for lease in active.iter().filter(|l| !gone(l) && l.checkpoint_owner.is_none()) {
        if let Some(owner) = &lease.owner {
            movable.entry(owner).or_default().push((weight(lease), lease));
        }
    }
    let asks = ASK_AT_ONCE.saturating_sub(coming.len());
    let moves = level(movable, &mut loads, &leaving, bounds.hold);
    let mine = moves.into_iter().filter(|(_, to)| *to == me).take(asks);
    let names = |list: &[&Lease], limit: usize| -> Vec<ShardId> {
        list.iter().take(limit).map(|l| l.shard.clone()).collect()
    };
    Round {
        ask: mine.map(|(lease, _)| lease.shard.clone()).collect(),
        ours: active
            .iter()
            .filter(|l| is(&l.owner) && l.checkpoint_owner.is_none())
            .map(|l| l.shard.clone())
            .collect(),
        more: take.len() > bounds.take,
        take: names(&take, bounds.take),
        free: rest.iter().filter(|l| !l.is_free()).map(|l| l.shard.clone()).collect(),
        coming,
        workers,
        active: active.len(),
        waiting: active.iter().filter(|l| gone(l) && !graph::may_start(l, &unfinished)).count(),
    }
}

/// Gives each lease that is ready to a worker: the heaviest first, to one that it does not lift
/// above the average; if there is none, to the least loaded. Among several, lease and worker
/// decide, so that the choice stays when others are made. `None` where all hold all they may.
fn share<'a>(
    ready: &mut [(f64, &'a Lease)],
    loads: &mut Loads<'a>,
    leaving: &BTreeSet<&WorkerId>,
    hold: usize,
) -> Vec<Option<&'a WorkerId>> {
    ready.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.shard.cmp(&y.shard)));
    // If all are leaving, all are as good.
    let all = loads.keys().all(|worker| leaving.contains(worker));
    let stays = |worker: &WorkerId| all || !leaving.contains(worker);
    let (mut total, mut staying) = (ready.iter().map(|(w, _)| w).sum::<f64>(), 0.0);
    for (_, load) in loads.iter().filter(|(worker, _)| stays(worker)) {
        total += load.weight;
        staying += 1.0;
    }
    let average = total / staying;
    let mut given = Vec::with_capacity(ready.len());
    for (weight, lease) in ready.iter() {
        let open = || loads.iter().filter(|(worker, load)| stays(worker) && load.leases < hold);
        let below = open()
            .filter(|(_, load)| load.weight + weight <= average + EQUAL)
            .max_by_key(|(worker, _)| mix(worker, &lease.shard));
        let least = || {
            open().min_by(|(a, x), (b, y)| {
                let order = x.weight.total_cmp(&y.weight);
                order.then_with(|| mix(a, &lease.shard).cmp(&mix(b, &lease.shard)))
            })
        };
        let chosen = below.or_else(least).map(|(worker, _)| *worker);
        if let Some(load) = chosen.and_then(|worker| loads.get_mut(worker)) {
            load.add(*weight);
        }
        given.push(chosen);
    }
    given
}

/// Moves between the living: from the most to the least loaded, the heaviest lease that leaves the
/// giver with no less than the receiver gets. Each makes the sum of squares smaller, so they end.
fn level<'a>(
    mut movable: BTreeMap<&'a WorkerId, Vec<(f64, &'a Lease)>>,
    loads: &mut Loads<'a>,
    leaving: &BTreeSet<&WorkerId>,
    hold: usize,
) -> Vec<(&'a Lease, &'a WorkerId)> {
    for leases in movable.values_mut() {
        leases.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.shard.cmp(&y.shard)));
    }
    let mut moves = Vec::new();
    while moves.len() < PLANNED {
        let open =
            loads.iter().filter(|(worker, load)| !leaving.contains(*worker) && load.leases < hold);
        let Some((to, least)) = open.min_by(|a, b| a.1.weight.total_cmp(&b.1.weight)) else {
            break;
        };
        let (to, least) = (*to, *least);
        let mut givers: Vec<(&WorkerId, WorkerLoad)> =
            loads.iter().map(|(w, l)| (*w, *l)).collect();
        givers.sort_by(|a, b| b.1.weight.total_cmp(&a.1.weight));
        let found = givers.into_iter().find_map(|(from, most)| {
            let limit = (most.weight - least.weight) / 2.0 + EQUAL;
            let leases = movable.get_mut(from)?;
            let at = leases.iter().position(|(weight, _)| *weight <= limit)?;
            Some((from, leases.remove(at)))
        });
        let Some((from, (weight, lease))) = found else {
            break;
        };
        if let Some(giver) = loads.get_mut(from) {
            giver.weight -= weight;
            giver.leases -= 1;
        }
        if let Some(receiver) = loads.get_mut(to) {
            receiver.add(weight);
        }
        moves.push((lease, to));
    }
    moves
}

/// A number that looks random and is the same for everybody (FNV-1a over both names, mixed).
fn mix(worker: &WorkerId, shard: &ShardId) -> u64 {
    let bytes = worker.as_str().bytes().chain([0]).chain(shard.as_str().bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests;
