//! Decisions on small tables, and whole fleets played by them: each worker sees rows of different
//! ages, writes are conditional, owners drain before they hand over, workers join and die.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::delivery::gap::Gap;
use crate::lease::change_marker;
use crate::lease::expiry::tests::lease;
use crate::lease::parked::Parked;
use crate::lease::throughput::notable;
use crate::stream::position::Checkpoint;

const S: Duration = Duration::from_secs(1);
const WIDE: Bounds = Bounds { hold: usize::MAX, take: TAKE_PER_ROUND };

fn round(leases: &[Lease], me: &str) -> Round {
    let mut watch = Watch::new(10 * S);
    watch.observe(S, leases);
    decide(leases, &watch, &WorkerId::new(me), WIDE, 2 * S)
}

fn owned(n: usize, owner: &str) -> Lease {
    lease(&format!("s{n:04}"), Some(owner), 1)
}

#[test]
fn takes_its_fair_share_and_no_more() {
    let leases: Vec<_> = (0..6)
        .map(|n| lease(&format!("s{n}"), if n < 3 { Some("other") } else { None }, 1))
        .collect();
    let round = round(&leases, "me");
    assert_eq!((round.workers, round.take.len(), round.ask.len()), (2, 3, 0));
}

#[test]
fn a_lease_that_waits_at_a_gap_is_nobodys_and_its_children_wait_too() {
    let mut parked = lease("a", None, 1);
    let gap = Gap::to_end(&Checkpoint::TrimHorizon);
    parked.gap = Some(Parked::new(&gap, &Checkpoint::TrimHorizon, &WorkerId::new("w"), 0));
    let mut child = lease("b", None, 0);
    child.parents = vec![parked.shard.clone()];
    let leases = [parked, child, lease("c", None, 1)];
    let round = round(&leases, "me");
    assert_eq!(round.take, [ShardId::new("c")]);
    assert_eq!((round.active, round.waiting), (2, 1));
}

#[test]
fn expired_leases_are_free_and_their_owner_is_no_worker() {
    let leases = [lease("a", Some("dead"), 1), lease("b", Some("dead"), 1)];
    let mut watch = Watch::new(10 * S);
    watch.observe(S, &leases);
    let round = decide(&leases, &watch, &WorkerId::new("me"), WIDE, 12 * S);
    assert_eq!((round.workers, round.take.len(), round.free.len()), (1, 2, 0));
}

#[test]
fn leases_of_the_dead_that_are_for_others_are_to_be_freed() {
    let mut leases: Vec<Lease> = (0..9).map(|n| owned(n, ["dead", "me", "you"][n % 3])).collect();
    let mut watch = Watch::new(10 * S);
    watch.observe(S, &leases);
    for lease in leases.iter_mut().filter(|l| l.owner != Some(WorkerId::new("dead"))) {
        lease.counter += 1;
    }
    watch.observe(12 * S, &leases);
    let of = |me: &str| decide(&leases, &watch, &WorkerId::new(me), WIDE, 12 * S);
    let (me, you) = (of("me"), of("you"));
    assert_eq!((me.workers, me.take.len() + you.take.len()), (2, 3));
    let mut freed = me.free;
    freed.sort();
    let mut taken = you.take;
    taken.sort();
    assert_eq!(freed, taken, "one frees what the other takes");
}

#[test]
fn finished_and_blocked_leases_weigh_nothing() {
    let mut finished = lease("p", Some("other"), 1);
    finished.progress.checkpoint = Checkpoint::ShardEnd;
    let mut child = lease("c", None, 0);
    child.parents = vec![ShardId::new("q")];
    let parent = lease("q", Some("other"), 1);
    let round = round(&[finished, child, parent], "me");
    assert_eq!(round.active, 2);
    assert!(round.take.is_empty() && round.ask.is_empty());
}

#[test]
fn a_newcomer_asks_for_its_share_a_few_at_a_time() {
    let leases: Vec<_> = (0..60).map(|n| owned(n, if n < 40 { "busy" } else { "idle" })).collect();
    let round = round(&leases, "me");
    assert!(round.take.is_empty());
    assert_eq!(round.ask.len(), ASK_AT_ONCE);
    let from_busy = |s: &ShardId| {
        leases.iter().any(|l| l.shard == *s && l.owner == Some(WorkerId::new("busy")))
    };
    assert!(round.ask.iter().all(from_busy), "the busiest gives first");
}

#[test]
fn nothing_moves_within_one() {
    let leases: Vec<_> = (0..5).map(|n| owned(n, if n < 3 { "other" } else { "me" })).collect();
    assert!(round(&leases, "me").ask.is_empty());
}

#[test]
fn a_hot_lease_weighs_as_many_idle_ones() {
    // One carries as much as all the others; they are idle.
    let mut leases: Vec<_> = (0..10).map(|n| owned(n, "other")).collect();
    for (n, lease) in leases.iter_mut().enumerate() {
        lease.throughput_kbps = Some(if n == 4 { 900.0 } else { 0.0 });
    }
    let hot = weights(&leases.iter().collect::<Vec<_>>());
    assert!((hot[&ShardId::new("s0004")] - 5.5).abs() < 1e-9);
    assert!((hot[&ShardId::new("s0000")] - 0.5).abs() < 1e-9);
    // 5.5 of 10 is more than half: the newcomer gets all the idle ones, 4.5.
    let mut moved = 0;
    while let ask @ [_, ..] = round(&leases, "me").ask.as_slice() {
        for shard in ask {
            assert_ne!(shard.as_str(), "s0004");
            leases.iter_mut().find(|l| l.shard == *shard).unwrap().owner =
                Some(WorkerId::new("me"));
            moved += 1;
        }
    }
    assert_eq!(moved, 9);
}

#[test]
fn a_lease_handed_over_is_ours_once_its_old_owner_is_done() {
    let mut coming = lease("a", Some("me"), 1);
    coming.checkpoint_owner = Some(WorkerId::new("old"));
    let before = round(&[coming.clone()], "me");
    assert!(before.ours.is_empty());
    assert_eq!(before.coming, [ShardId::new("a")]);
    coming.checkpoint_owner = None;
    assert_eq!(round(&[coming], "me").ours, [ShardId::new("a")]);
}

#[test]
fn the_cap_holds() {
    let leases: Vec<_> = (0..10).map(|n| lease(&format!("s{n}"), None, 0)).collect();
    let mut watch = Watch::new(10 * S);
    watch.observe(S, &leases);
    let bounds = Bounds { hold: 4, take: TAKE_PER_ROUND };
    assert_eq!(decide(&leases, &watch, &WorkerId::new("me"), bounds, S).take.len(), 4);
    // Also for what is overdue.
    assert_eq!(decide(&leases, &watch, &WorkerId::new("me"), bounds, 60 * S).take.len(), 4);
}

#[test]
fn a_free_lease_whose_worker_does_not_come_is_anybodys() {
    let leases: Vec<_> = (0..9)
        .map(|n| if n < 5 { owned(n, "me") } else { owned(n, "full") })
        .chain([lease("free", None, 3)])
        .collect();
    let mut watch = Watch::new(10 * S);
    watch.observe(S, &leases);
    let me = WorkerId::new("me");
    assert!(decide(&leases, &watch, &me, WIDE, 2 * S).take.is_empty(), "it is for the other");
    let moved: Vec<Lease> = leases
        .iter()
        .cloned()
        .map(|mut l| {
            l.counter += u64::from(!l.is_free());
            l
        })
        .collect();
    watch.observe(12 * S, &moved);
    assert_eq!(decide(&moved, &watch, &me, WIDE, 12 * S).take, [ShardId::new("free")]);
}

#[test]
fn what_a_leaving_worker_gives_back_goes_to_the_others() {
    // It has least by now, and would get everything.
    let mut leases: Vec<_> = (0..9).map(|n| owned(n, ["a", "b", "going"][n % 3])).collect();
    for n in [2, 5] {
        leases[n].left = leases[n].owner.take();
    }
    let of = |me: &str| round(&leases, me);
    assert_eq!((of("a").take.len(), of("b").take.len(), of("going").take.len()), (1, 1, 0));
    assert!(of("going").ask.is_empty());
    // A worker alone takes again what it gave back.
    let mut alone = [owned(0, "me"), lease("b", None, 2)];
    alone[1].left = Some(WorkerId::new("me"));
    assert_eq!(round(&alone, "me").take, [ShardId::new("b")]);
}

#[test]
fn the_first_rounds_take_few() {
    assert_eq!((0..4).map(|r| ramp(r, 1000)).collect::<Vec<_>>(), [8, 32, 64, 64]);
    assert_eq!((ramp(0, 1), ramp(0, 8), ramp(1, 8)), (2, 2, 8));
    assert_eq!(ramp(u32::MAX, 1000), TAKE_PER_ROUND);
}

/// A worker of a played fleet.
struct Player {
    me: WorkerId,
    watch: Watch,
    rounds: u32,
}

/// A table and the workers on it, one round a second.
struct Play {
    rng: fastrand::Rng,
    now: Duration,
    /// In order of key, which is their number.
    leases: Vec<Lease>,
    players: Vec<Player>,
    /// What each shard truly carries, KiB/s, where it matters.
    truth: Vec<f64>,
    /// Measurements are off by this part either way.
    noise: f64,
    takes: Vec<usize>,
    moves: usize,
    stolen: usize,
}

fn index(shard: &ShardId) -> usize {
    shard.as_str().rsplit('-').next().unwrap().parse().unwrap()
}

impl Play {
    fn new(seed: u64, leases: usize, workers: usize) -> Self {
        let mut play = Self {
            rng: fastrand::Rng::with_seed(seed),
            now: S,
            leases: (0..leases).map(|n| lease(&format!("shardId-{n:012}"), None, 0)).collect(),
            players: Vec::new(),
            truth: Vec::new(),
            noise: 0.0,
            takes: Vec::new(),
            moves: 0,
            stolen: 0,
        };
        play.join(workers);
        play
    }

    fn join(&mut self, workers: usize) {
        for _ in 0..workers {
            let me = WorkerId::new(format!("host-{:08x}", self.rng.u32(..)));
            self.players.push(Player { me, watch: Watch::new(10 * S), rounds: 0 });
        }
    }

    fn die(&mut self, workers: usize) {
        for _ in 0..workers {
            let at = self.rng.usize(0..self.players.len());
            self.players.swap_remove(at);
        }
    }

    /// The living beat, measure and hand over what they were asked for.
    fn beat(&mut self) {
        let alive: BTreeSet<&WorkerId> = self.players.iter().map(|p| &p.me).collect();
        for (n, lease) in self.leases.iter_mut().enumerate() {
            if lease.effective_owner().is_none_or(|owner| !alive.contains(owner)) {
                continue;
            }
            // Drained, sooner or later; the owner beats until then.
            if lease.checkpoint_owner.is_some() && self.rng.u32(0..3) > 0 {
                lease.checkpoint_owner = None;
                lease.counter += 1;
            } else if self.now.as_secs().is_multiple_of(3) {
                lease.counter += 1;
                if let Some(truth) = self.truth.get(n) {
                    let measured = truth * (1.0 + self.noise * (2.0 * self.rng.f64() - 1.0));
                    if notable(lease.throughput_kbps, measured) {
                        lease.throughput_kbps = Some(measured);
                    }
                }
            }
        }
    }

    /// Every worker looks once, in any order; what it sees of a row is at most a round old.
    fn round(&mut self) {
        self.now += S;
        self.beat();
        let before = self.leases.clone();
        let mut order: Vec<usize> = (0..self.players.len()).collect();
        self.rng.shuffle(&mut order);
        self.takes = vec![0; self.players.len()];
        for at in order {
            let (rng, rows) = (&mut self.rng, self.leases.iter().zip(&before));
            let seen: Vec<Lease> =
                rows.map(|(new, old)| if rng.bool() { new } else { old }.clone()).collect();
            self.act(at, &seen);
        }
    }

    /// One worker decides by what it sees; the table takes what it can.
    fn act(&mut self, at: usize, seen: &[Lease]) {
        let player = &mut self.players[at];
        player.watch.observe(self.now, seen);
        let bounds = Bounds { hold: usize::MAX, take: ramp(player.rounds, seen.len()) };
        let plan = decide(seen, &player.watch, &player.me, bounds, self.now);
        assert!(plan.take.len() <= TAKE_PER_ROUND && plan.ask.len() <= ASK_AT_ONCE);
        player.rounds += u32::from(!plan.take.is_empty());
        let me = player.me.clone();
        let sweeper = change_marker::place(seen)
            .is_some_and(|board| seen[index(&board)].owner.as_ref() == Some(&me));
        let free = if sweeper { plan.free.as_slice() } else { &[] };
        for (shard, new) in
            plan.take.iter().map(|s| (s, Some(&me))).chain(free.iter().map(|s| (s, None)))
        {
            let (row, old) = (&mut self.leases[index(shard)], &seen[index(shard)]);
            if (row.counter, &row.owner) != (old.counter, &old.owner) {
                continue;
            }
            let lives = |owner: &WorkerId| self.players.iter().any(|p| p.me == *owner);
            self.stolen += usize::from(row.effective_owner().is_some_and(lives));
            row.owner = new.cloned();
            row.checkpoint_owner = None;
            row.counter += 1;
            self.takes[at] += usize::from(new.is_some());
        }
        for shard in &plan.ask {
            let (row, old) = (&mut self.leases[index(shard)], &seen[index(shard)]);
            if row.owner == old.owner && row.checkpoint_owner.is_none() {
                row.checkpoint_owner = row.owner.replace(me.clone());
                self.moves += 1;
            }
        }
    }

    fn rounds(&mut self, count: usize) -> &mut Self {
        (0..count).for_each(|_| self.round());
        self
    }

    fn free(&self) -> usize {
        self.leases.iter().filter(|l| l.is_free()).count()
    }

    /// Weights of the leases of each worker.
    fn held(&self) -> Vec<Vec<f64>> {
        let weights = weights(&self.leases.iter().collect::<Vec<_>>());
        let mut held: BTreeMap<&WorkerId, Vec<f64>> =
            self.players.iter().map(|p| (&p.me, Vec::new())).collect();
        for lease in &self.leases {
            if let Some(list) = lease.owner.as_ref().and_then(|owner| held.get_mut(owner)) {
                list.push(weights[&lease.shard]);
            }
        }
        held.into_values().collect()
    }

    /// Distance between the most and the least loaded, and twice the lightest lease of the former:
    /// nothing may move once the one is below the other.
    fn spread(&self) -> (f64, f64) {
        let held = self.held();
        let load = |list: &Vec<f64>| list.iter().sum::<f64>();
        let most = held.iter().max_by(|a, b| load(a).total_cmp(&load(b))).unwrap();
        let least = held.iter().map(load).fold(f64::MAX, f64::min);
        (load(most) - least, 2.0 * most.iter().copied().fold(f64::MAX, f64::min))
    }

    fn assert_level(&self) {
        assert_eq!(self.free(), 0);
        let (spread, bound) = self.spread();
        assert!(spread < bound, "{spread} apart: {:?}", self.held());
        assert_eq!(self.stolen, 0, "taken from the living");
    }
}

#[test]
fn a_cold_fleet_is_level_within_three_rounds() {
    for seed in 0..3 {
        let mut play = Play::new(seed, 1_000, 50);
        play.round();
        assert!(play.takes.iter().all(|takes| *takes <= FIRST_ROUND), "grabbed: {:?}", play.takes);
        play.rounds(2).assert_level();
        assert!(play.moves <= 20, "{} leases went to the wrong worker first", play.moves);
    }
    for seed in 0..30 {
        let mut play = Play::new(seed, 32, 3);
        play.rounds(3);
        assert_eq!(play.free(), 0);
        play.rounds(10).assert_level();
    }
}

#[test]
fn a_lone_worker_takes_everything_in_bounded_rounds() {
    let mut play = Play::new(1, 1_000, 1);
    let mut rounds = 0;
    while play.free() > 0 {
        play.round();
        rounds += 1;
        assert!(play.takes[0] <= TAKE_PER_ROUND && rounds <= 17, "{rounds}");
    }
}

#[test]
fn a_fleet_becomes_level_again_when_workers_join_and_die() {
    for (seed, leases, workers, turns) in [(1, 1_000, 50, 1), (2, 120, 12, 8), (3, 40, 7, 8)] {
        let mut play = Play::new(seed, leases, workers);
        play.rounds(8).assert_level();
        for turn in 0..turns {
            let moved = play.moves;
            let some = workers / 10 + 1;
            play.die(some);
            play.join(some + turn % 2);
            // Eleven seconds until the dead are known to be, then a few to spread what they had.
            play.rounds(22).assert_level();
            let bound = leases * (some + 2) / workers * 2;
            assert!(play.moves - moved <= bound, "{} moves, {bound}", play.moves - moved);
        }
    }
}

/// Owners of leases, in any distribution over at most nine workers.
fn distribution() -> impl Strategy<Value = (Vec<usize>, usize)> {
    (1_usize..9).prop_flat_map(|workers| (prop::collection::vec(0..workers, 1..80), Just(workers)))
}

fn placed(owners: &[usize], workers: usize) -> Play {
    let mut play = Play::new(7, owners.len(), workers);
    for (lease, owner) in play.leases.iter_mut().zip(owners) {
        lease.owner = Some(play.players[*owner].me.clone());
    }
    play
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// All alike: level by count, and then at rest.
    #[test]
    fn equal_leases_become_level_by_count_and_rest((owners, workers) in distribution()) {
        let mut play = placed(&owners, workers);
        play.rounds(60).assert_level();
        let counts: Vec<usize> = play.held().iter().map(Vec::len).collect();
        prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        let (moves, leases) = (play.moves, owners.len());
        prop_assert!(moves <= 2 * leases, "{moves} moves of {leases} leases");
        play.rounds(20);
        prop_assert_eq!(play.moves, moves, "the fleet does not rest");
    }

    /// Shards that carry different amounts, measured badly: level by weight, and then at rest.
    #[test]
    fn unequal_leases_become_level_by_weight_and_rest(
        (owners, workers) in distribution(),
        noise in 0.0..0.2,
        loads in prop::collection::vec(prop_oneof![Just(0.0), 1.0..100.0, 100.0..5_000.0], 80),
    ) {
        let mut play = placed(&owners, workers);
        (play.truth, play.noise) = (loads, noise);
        play.rounds(80).assert_level();
        let (moves, leases) = (play.moves, owners.len());
        prop_assert!(moves <= 3 * leases, "{moves} moves of {leases} leases");
        play.rounds(40).assert_level();
        prop_assert_eq!(play.moves, moves, "the fleet does not rest");
    }

    /// Free leases are shared by weight: nobody is lifted above the average by more than one.
    #[test]
    fn free_leases_are_shared_by_weight(
        loads in prop::collection::vec(0.0..1_000.0, 8..60),
        workers in 2_usize..6,
    ) {
        let mut leases: Vec<Lease> =
            (0..loads.len()).map(|n| lease(&format!("s-{n}"), None, 1)).collect();
        for (n, lease) in leases.iter_mut().enumerate() {
            lease.throughput_kbps = Some(loads[n]);
            lease.owner = (n < workers).then(|| WorkerId::new(format!("w{n}")));
        }
        let all: Vec<Round> = (0..workers).map(|n| round(&leases, &format!("w{n}"))).collect();
        let taken: usize = all.iter().map(|r| r.take.len()).sum();
        prop_assert_eq!(taken, loads.len() - workers, "each free lease is for exactly one");
        let weights = weights(&leases.iter().collect::<Vec<_>>());
        let average = weights.values().sum::<f64>() / workers as f64;
        let heaviest = weights.values().copied().fold(0.0, f64::max);
        for (n, round) in all.iter().enumerate() {
            let own = weights[&ShardId::new(format!("s-{n}"))];
            let load = own + round.take.iter().map(|s| weights[s]).sum::<f64>();
            prop_assert!(load <= average + heaviest + EQUAL, "{load} of {average}");
        }
    }
}
