//! Decisions on small tables, and whole fleets played by them: each worker sees rows of different
//! ages, writes are conditional, owners drain before they hand over, workers join and die.

use std::collections::BTreeMap;


use super::*;
use crate::lease::board;
use crate::lease::expiry::tests::lease;
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
    leases: Vec<Lease>,
    players: Vec<Player>,
    /// What each shard truly carries, where it matters.
    truth: BTreeMap<ShardId, f64>,
    /// Measurements are off by this part either way.
    noise: f64,
    takes: Vec<usize>,
    moves: usize,
    stolen: usize,
}

impl Play {
    fn new(seed: u64, leases: usize, workers: usize) -> Self {
        let mut play = Self {
            rng: fastrand::Rng::with_seed(seed),
            now: S,
            leases: (0..leases).map(|n| lease(&format!("shardId-{n:012}"), None, 0)).collect(),
            players: Vec::new(),
            truth: BTreeMap::new(),
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

    /// Every worker looks once, in any order; rows are as old as the last round at most.
    fn round(&mut self) {
        self.now += S;
        let alive: Vec<WorkerId> = self.players.iter().map(|p| p.me.clone()).collect();
        for lease in &mut self.leases {
            let Some(owner) = lease.effective_owner().filter(|o| alive.contains(o)).cloned() else {
                continue;
            };
            if lease.checkpoint_owner.is_some() {
                // Drained, sooner or later.
                if self.rng.u32(0..3) > 0 {
                    lease.checkpoint_owner = None;
                    lease.counter += 1;
                }
            } else if self.now.as_secs().is_multiple_of(3) {
                lease.counter += 1;
                if let Some(truth) = self.truth.get(&lease.shard) {
                    let measured = truth * (1.0 + self.noise * (2.0 * self.rng.f64() - 1.0));
                    if notable(lease.throughput_kbps, measured) {
                        lease.throughput_kbps = Some(measured);
                    }
                }
            }
            assert!(!owner.as_str().is_empty());
        }
        let before = self.leases.clone();
        let mut order: Vec<usize> = (0..self.players.len()).collect();
        self.rng.shuffle(&mut order);
        self.takes = vec![0; self.players.len()];
        for at in order {
            let seen: Vec<Lease> = self
                .leases
                .iter()
                .zip(&before)
                .map(|(new, old)| if self.rng.bool() { new.clone() } else { old.clone() })
                .collect();
            let player = &mut self.players[at];
            player.watch.observe(self.now, &seen);
            let bounds = Bounds { hold: usize::MAX, take: ramp(player.rounds, seen.len()) };
            let plan = decide(&seen, &player.watch, &player.me, bounds, self.now);
            assert!(plan.take.len() <= TAKE_PER_ROUND && plan.ask.len() <= ASK_AT_ONCE);
            player.rounds += u32::from(!plan.take.is_empty());
            let me = player.me.clone();
            let is_lookout = board::place(&seen).is_some_and(|board| {
                seen.iter().any(|l| l.shard == board && l.owner.as_ref() == Some(&me))
            });
            let as_seen = |shard: &ShardId, now: &Lease| {
                seen.iter().any(|old| {
                    old.shard == *shard && old.counter == now.counter && old.owner == now.owner
                })
            };
            for shard in &plan.take {
                let row = self.leases.iter_mut().find(|l| l.shard == *shard).unwrap();
                if as_seen(shard, row) {
                    self.stolen +=
                        usize::from(row.owner.as_ref().is_some_and(|o| alive.contains(o)));
                    row.owner = Some(me.clone());
                    row.checkpoint_owner = None;
                    row.counter += 1;
                    self.takes[at] += 1;
                }
            }
            for shard in plan.free.iter().filter(|_| is_lookout) {
                let row = self.leases.iter_mut().find(|l| l.shard == *shard).unwrap();
                if as_seen(shard, row) {
                    self.stolen +=
                        usize::from(row.owner.as_ref().is_some_and(|o| alive.contains(o)));
                    (row.owner, row.checkpoint_owner) = (None, None);
                    row.counter += 1;
                }
            }
            for shard in &plan.ask {
                let row = self.leases.iter_mut().find(|l| l.shard == *shard).unwrap();
                let old = seen.iter().find(|l| l.shard == *shard).unwrap();
                if row.owner == old.owner && row.checkpoint_owner.is_none() {
                    row.checkpoint_owner = row.owner.replace(me.clone());
                    self.moves += 1;
                }
            }
        }
    }

    fn rounds(&mut self, count: usize) {
        (0..count).for_each(|_| self.round());
    }

    fn free(&self) -> usize {
        self.leases.iter().filter(|l| l.is_free()).count()
    }

    fn loads(&self) -> Vec<f64> {
        let weights = weights(&self.leases.iter().collect::<Vec<_>>());
        let load = |p: &Player| {
            let mine = self.leases.iter().filter(|l| l.owner.as_ref() == Some(&p.me));
            mine.map(|l| weights[&l.shard]).sum()
        };
        self.players.iter().map(load).collect()
    }

    /// Distance between the most and the least loaded.
    fn spread(&self) -> f64 {
        let loads = self.loads();
        loads.iter().copied().fold(0.0, f64::max) - loads.iter().copied().fold(f64::MAX, f64::min)
    }
}

#[test]
fn a_cold_fleet_is_level_within_three_rounds() {
    for seed in 0..12 {
        let mut play = Play::new(seed, 1_000, 50);
        play.rounds(3);
        let shown = format!("seed {seed}: {} free, {:?}", play.free(), play.loads());
        println!("{shown} {} moves", play.moves);
    }
}

#[test]
fn a_lone_worker_takes_everything_in_bounded_rounds() {
    let mut play = Play::new(1, 1_000, 1);
    let mut rounds = 0;
    while play.free() > 0 {
        play.round();
        rounds += 1;
        assert!(play.takes[0] <= TAKE_PER_ROUND && rounds <= 20, "{rounds}");
    }
}

#[test]
fn a_large_fleet_stays_level_while_workers_join_and_die() {
    for seed in 0..3 {
        let mut play = Play::new(seed, 1_000, 50);
        play.rounds(20);
        println!("start: {} free, spread {}, moves {}", play.free(), play.spread(), play.moves);
        for turn in 0..4 {
            let moved = play.moves;
            play.die(5);
            play.join(5 + turn % 2);
            play.rounds(25);
            println!(
                "turn: {} free, spread {}, moves {}",
                play.free(),
                play.spread(),
                play.moves - moved
            );
        }
    }
}
