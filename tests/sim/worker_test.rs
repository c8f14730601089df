//! Fleets of real workers under the oracle.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::effects::Fnv;
use crate::faults::{Fault, Script};
use crate::fleet::{Act, Fleet};
use crate::sim::Report;
use crate::worker::fleet_of_workers;

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

/// Seeds that once failed.
fn corpus() -> impl Iterator<Item = u64> {
    let lines = include_str!("corpus.txt").lines();
    lines.filter_map(|line| line.split_whitespace().next()?.parse().ok())
}

/// Runs one seed; panics with the story if it fails.
fn check(seed: u64) -> crate::sim::Report {
    let fleet = Fleet::draw(seed);
    let outcome = fleet_of_workers(&fleet);
    if std::env::var("TRACE").is_ok() {
        outcome.report.print();
    }
    assert!(
        outcome.failures.is_empty(),
        "{}\n{fleet:?}\nreplay: SEED={seed} cargo test --test sim fleets_deliver -- --nocapture",
        outcome.explain()
    );
    if env("SEED").is_some() {
        println!("{}", outcome.explain());
    }
    outcome.report
}

#[test]
fn a_calm_fleet_delivers() {
    let outcome = fleet_of_workers(&Fleet::calm(1, 2, 2, 50));
    assert!(outcome.failures.is_empty(), "{}", outcome.explain());
}

/// S3 wants an upload that lost a race at its completion begun anew: completing it again never ends.
#[test]
fn an_upload_that_lost_a_race_begins_anew() {
    let mut beaten = 0;
    for seed in 0..8 {
        let mut fleet = Fleet::calm(seed, 1, 1, 60);
        fleet.world.min_part = Some(100);
        let op = "CompleteMultipartUpload";
        fleet.scripts = vec![Script { node: None, op, skip: 0, fault: Fault::Conflict }];
        let outcome = fleet_of_workers(&fleet);
        assert!(outcome.failures.is_empty(), "seed {seed}: {}", outcome.explain());
        let refused = outcome.report.effects.iter().filter(|e| e.op == op && e.status == 409);
        let refused = refused.count();
        assert!(refused <= 1, "seed {seed}: the same upload was completed {refused} times");
        beaten += refused;
    }
    assert!(beaten > 0, "no object went up in parts");
}

/// Runs `work` for each seed, on as many threads as there are cores (`JOBS` says otherwise), one
/// fleet to a thread; results in the order of seeds. `work` may end the run by returning `None`.
fn on_all_cores<T: Send>(seeds: &[u64], work: impl Fn(u64) -> Option<T> + Sync) -> Vec<T> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = env("JOBS").map_or(cores, |n| usize::try_from(n).unwrap_or(1)).max(1);
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let run = || {
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(seed) = seeds.get(at) else { break };
            match work(*seed) {
                Some(result) => done.push((at, result)),
                None => stop.store(true, Ordering::Relaxed),
            }
        }
        done
    };
    let mut all: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap_or_else(|p| resume_unwind(p))).collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}

/// The seeds whose fleets are of the kind that `KIND` names: `pushed` or `rewound`; else all.
fn of_kind(seeds: impl Iterator<Item = u64>) -> Vec<u64> {
    let kind = std::env::var("KIND").unwrap_or_default();
    let wanted = |fleet: Fleet| match kind.as_str() {
        "pushed" => fleet.fan_out,
        "rewound" => fleet.plan.iter().any(|(_, act)| matches!(act, Act::Rewind(..))),
        _ => true,
    };
    seeds.filter(|seed| wanted(Fleet::draw(*seed))).collect()
}

/// What a seed leaves behind once it is judged.
struct Sum {
    seed: u64,
    failures: Vec<String>,
    hash: u64,
    virtual_ms: u64,
    effects: usize,
    sometimes: BTreeMap<&'static str, u64>,
}

/// `SEED=n` replays one; `SEEDS=n` runs that many, beginning at `FROM`; `ALL=1` goes on after a
/// failure and lists them; `JOBS=n` threads; `KIND`: see [`of_kind`].
#[test]
fn fleets_deliver() {
    if let Some(seed) = env("SEED") {
        check(seed);
        return;
    }
    #[expect(clippy::disallowed_methods, reason = "how fast the machine is")]
    let begun = std::time::Instant::now();
    let first = env("FROM").unwrap_or(0);
    let drawn = first..first + env("SEEDS").unwrap_or(10);
    let seeds = of_kind(corpus().chain(drawn));
    let go_on = env("ALL").is_some();
    let sums = on_all_cores(&seeds, |seed| {
        let (failures, report) = if go_on {
            let outcome = fleet_of_workers(&Fleet::draw(seed));
            (outcome.failures, outcome.report)
        } else {
            (Vec::new(), check(seed))
        };
        if !failures.is_empty() {
            println!("seed {seed}: {}", failures.join(" | "));
        }
        let Report { hash, virtual_ms, effects, sometimes, .. } = report;
        Some(Sum { seed, failures, hash, virtual_ms, effects: effects.len(), sometimes })
    });
    let (mut sometimes, mut hash) = (BTreeMap::<&str, u64>::new(), Fnv::default());
    let (mut virtual_ms, mut effects) = (0, 0);
    for sum in &sums {
        virtual_ms += sum.virtual_ms;
        effects += sum.effects;
        hash.write(&sum.hash.to_be_bytes());
        for (what, times) in &sum.sometimes {
            *sometimes.entry(what).or_default() += times;
        }
    }
    let (n, secs) = (seeds.len(), begun.elapsed().as_secs_f64());
    println!(
        "{n} seeds in {secs:.1} s, {:.0} a minute; hash {:016x}",
        n as f64 * 60.0 / secs,
        hash.value()
    );
    println!("{} virtual hours, {effects} effects", virtual_ms / 3_600_000);
    for (what, times) in &sometimes {
        println!("{times:>8} {what}");
    }
    let failed: Vec<u64> = sums.iter().filter(|s| !s.failures.is_empty()).map(|s| s.seed).collect();
    assert!(failed.is_empty(), "{} of {n} seeds failed: {failed:?}", failed.len());
    if n >= ENOUGH {
        let never: Vec<_> =
            SOMETIMES.iter().filter(|what| !sometimes.contains_key(**what)).collect();
        assert!(never.is_empty(), "the simulation no longer reaches {never:?}");
    }
}

/// From so many seeds on, everything of [`SOMETIMES`] must have happened.
const ENOUGH: usize = 2_000;

/// Corners the simulation must reach. What the network does is not listed: it is drawn.
const SOMETIMES: &[&str] = &[
    "412",
    "a zombie puts",
    "blackout",
    "clock set",
    "commit and intent in one write",
    "condition failed after own success",
    "credentials expired",
    "did not start",
    "drained",
    "event twice",
    "exception in a subscription",
    "finished lease deleted",
    "gap",
    "intent of another worker finished",
    "lease handed over",
    "lease taken with intents pending",
    "merge",
    "multipart upload",
    "multipart upload aborted",
    "multipart upload gone",
    "multipart upload resumed",
    #[cfg(feature = "mutants")]
    "older build",
    "one survives",
    "part of an aggregate delivered",
    "record before LATEST",
    "record kept beside a gap",
    "record gone before the first checkpoint",
    "record partitioned by a field",
    "record spilled",
    "rewind",
    "split",
    "stopped for a gap",
    "subscription at the end of its shard",
    "subscription broken",
    "subscription held up",
    "subscription over",
    "subscription over early",
    "subscription replaced",
    "subscription silent",
    "upload conflict",
    "upload found its key taken",
    "zombie",
];

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 100..100 + env("SEEDS").unwrap_or(4).min(100) {
        let run = || fleet_of_workers(&Fleet::draw(seed)).report;
        let (first, second) = (run(), run());
        if first.hash != second.hash {
            let pairs = first.effects.iter().zip(&second.effects);
            let apart = pairs.into_iter().find(|(a, b)| a.to_string() != b.to_string());
            panic!("seed {seed} diverges at {apart:#?}");
        }
        assert_eq!(first.outline, second.outline, "seed {seed}");
    }
}

#[cfg(feature = "local")]
#[test]
fn both_back_ends_give_the_same_trace() {
    for seed in 200..200 + env("SEEDS").unwrap_or(4).min(40) {
        let mut fleet = Fleet::draw(seed);
        let strict = fleet_of_workers(&fleet);
        fleet.backend = crate::services::Backend::Libraries;
        let library = fleet_of_workers(&fleet);
        let line = |e: &crate::effects::Effect| {
            format!("{} {} {} {} {}", e.at, e.node, e.op, e.status, e.error)
        };
        if strict.report.outline != library.report.outline {
            let pairs = strict.report.effects.iter().zip(&library.report.effects);
            let apart = pairs.into_iter().find(|(a, b)| line(a) != line(b));
            panic!("seed {seed} diverges at {apart:#?}");
        }
        assert_eq!(strict.failures, library.failures, "seed {seed}");
    }
}

/// Each rule of the protocol is taken away, and the oracle must notice.
#[cfg(feature = "mutants")]
#[test]
fn mutants_are_killed() {
    use std::sync::Mutex;

    use catchment::mutant::{ALL, Mutant, choose};

    let seeds = of_kind(0..env("SEEDS").unwrap_or(2_000));
    let mut alive = Vec::new();
    println!("{:<22} {:>5}  seen as", "mutant", "seed");
    // `MUTANT=Name` tries one.
    let only = std::env::var("MUTANT").ok();
    let wanted = |mutant: &Mutant| only.as_ref().is_none_or(|o| format!("{mutant:?}") == *o);
    for mutant in ALL.into_iter().filter(wanted) {
        let killer = Mutex::new(None::<(u64, String)>);
        on_all_cores(&seeds, |seed| {
            choose(Some(mutant));
            let outcome = fleet_of_workers(&Fleet::draw(seed));
            choose(None);
            let Some(seen) = outcome.failures.first() else { return Some(()) };
            let mut killer = killer.lock().unwrap();
            if killer.as_ref().is_none_or(|(first, _)| seed < *first) {
                *killer = Some((seed, seen.clone()));
            }
            None
        });
        match killer.into_inner().unwrap() {
            Some((seed, seen)) => {
                let seen: String = seen.chars().take(110).collect();
                println!("{:<22} {seed:>5}  {seen}", format!("{mutant:?}"));
            }
            None => {
                println!("{:<22}     -  survives {} seeds", format!("{mutant:?}"), seeds.len());
                alive.push(mutant);
            }
        }
    }
    assert!(alive.is_empty(), "{alive:?} survive");
}
