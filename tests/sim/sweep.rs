//! One calm fleet, and one thing that goes wrong: every request fails once in every way, and a
//! worker dies at every point. A supplement to the random seeds: dull, and complete.
//!
//! Unoptimised builds take samples; `SWEEP=1` runs all of it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::faults::{Fault, Script};
use crate::fleet::{Act, Fleet};
use crate::worker::{Outcome, fleet_of_workers};

/// Two workers, a shard that is split, a few records of every kind.
fn scene() -> Fleet {
    let mut fleet = Fleet::calm(7, 2, 1, 16);
    fleet.load.aggregates = 200;
    fleet.load.uploads = 200;
    fleet.heal_ms = 9_000;
    fleet.plan = vec![(3_000, Act::Split(0))];
    fleet
}

fn check(what: &str, fleet: &Fleet) -> Outcome {
    let outcome = fleet_of_workers(fleet);
    assert!(outcome.failures.is_empty(), "{what}\n{}", outcome.explain());
    outcome
}

/// Everything, or one of so many.
fn stride(sample: usize) -> usize {
    let all = std::env::var("SWEEP").is_ok() || !cfg!(debug_assertions);
    if all { 1 } else { sample }
}

#[test]
fn any_one_request_may_fail_in_any_way() {
    let calm = check("calm", &scene());
    let mut requests = BTreeMap::<&str, u32>::new();
    let known = [
        "UpdateItem",
        "PutItem",
        "GetItem",
        "Scan",
        "PutObject",
        "GetRecords",
        "GetShardIterator",
        "ListShards",
        "HeadObject",
        "CreateTable",
    ];
    for effect in calm.report.effects.iter().filter(|e| e.status > 0) {
        if let Some(op) = known.iter().find(|op| **op == effect.op) {
            *requests.entry(op).or_default() += 1;
        }
    }
    assert!(requests["UpdateItem"] > 10 && requests["PutObject"] > 3, "{requests:?}");
    let minute = Duration::from_secs(60);
    let faults = [
        Fault::RequestLost,
        Fault::ResponseLost,
        Fault::ErrorBefore,
        Fault::ErrorAfter,
        Fault::Throttled,
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::Duplicated(minute),
        Fault::Late(minute),
        Fault::Conflict,
    ];
    let mut cases = Vec::new();
    for (op, times) in &requests {
        // Polls and looks at the table are alike after a while.
        for skip in 0..(*times).min(60) {
            for fault in faults {
                if fault != Fault::Conflict || *op == "PutObject" {
                    cases.push((*op, skip, fault));
                }
            }
        }
    }
    let mut ran = 0;
    for (op, skip, fault) in cases.iter().step_by(stride(97)) {
        let mut fleet = scene();
        fleet.scripts = vec![Script { node: None, op, skip: *skip, fault: *fault }];
        check(&format!("{op} number {skip}: {fault:?}"), &fleet);
        ran += 1;
    }
    println!("{ran} of {} single faults", cases.len());
}

#[test]
fn a_worker_may_die_at_any_point() {
    let points = 1..900_u64;
    let mut ran = 0;
    for poll in points.step_by(stride(67)) {
        let mut fleet = scene();
        fleet.plan.insert(0, (0, Act::Crash(0, poll, 500)));
        check(&format!("dies at poll {poll}"), &fleet);
        ran += 1;
    }
    println!("{ran} crash points");
}
