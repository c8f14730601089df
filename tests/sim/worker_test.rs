//! Fleets of real workers under the oracle.

use std::collections::BTreeMap;

use crate::effects::Fnv;
use crate::fleet::Fleet;
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

/// `SEED=n` replays one; `SEEDS=n` runs that many, beginning at `FROM`; `ALL=1` goes on after a
/// failure and lists them.
#[test]
fn fleets_deliver() {
    if let Some(seed) = env("SEED") {
        check(seed);
        return;
    }
    #[expect(clippy::disallowed_methods, reason = "how fast the machine is")]
    let begun = std::time::Instant::now();
    let first = env("FROM").unwrap_or(0);
    let seeds: Vec<u64> = corpus().chain(first..first + env("SEEDS").unwrap_or(30)).collect();
    let (mut sometimes, mut hash) = (BTreeMap::<&str, u64>::new(), Fnv::default());
    let (mut virtual_ms, mut effects, mut failed) = (0, 0, Vec::new());
    for seed in &seeds {
        let report = if env("ALL").is_some() {
            let outcome = fleet_of_workers(&Fleet::draw(*seed));
            if !outcome.failures.is_empty() {
                println!("seed {seed}: {}", outcome.failures.join(" | "));
                failed.push(*seed);
            }
            outcome.report
        } else {
            check(*seed)
        };
        virtual_ms += report.virtual_ms;
        effects += report.effects.len();
        hash.write(&report.hash.to_be_bytes());
        for (what, times) in report.sometimes {
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
    assert!(failed.is_empty(), "{} of {n} seeds failed: {failed:?}", failed.len());
}

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
    use catchment::mutant::{ALL, Mutant, choose};

    let seeds = env("SEEDS").unwrap_or(400);
    let mut alive = Vec::new();
    println!("{:<22} {:>5}  seen as", "mutant", "seed");
    // `MUTANT=Name` tries one.
    let only = std::env::var("MUTANT").ok();
    let wanted = |mutant: &Mutant| only.as_ref().is_none_or(|o| format!("{mutant:?}") == *o);
    for mutant in ALL.into_iter().filter(wanted) {
        choose(Some(mutant));
        let killed = (0..seeds).find_map(|seed| {
            let outcome = fleet_of_workers(&Fleet::draw(seed));
            outcome.failures.first().map(|seen| (seed, seen.clone()))
        });
        choose(None);
        match killed {
            Some((seed, seen)) => {
                let seen: String = seen.chars().take(110).collect();
                println!("{:<22} {seed:>5}  {seen}", format!("{mutant:?}"));
            }
            None => {
                println!("{:<22}     -  survives {seeds} seeds", format!("{mutant:?}"));
                alive.push(mutant);
            }
        }
    }
    assert!(alive.is_empty(), "{alive:?} survive");
}
