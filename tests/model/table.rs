//! Every variant of the protocol and its verdict.

use std::time::Instant;

use crate::rules::{BASE, Batching, Cas, Fan, Put, Recovery, Rules};
use crate::search::search;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Holds,
    Fails,
}
use Verdict::{Fails, Holds};

type Variant = (&'static str, Rules, Verdict);

fn variants() -> Vec<Variant> {
    let b = BASE;
    let differ = Rules { settings_differ: true, ..b };
    let count = Rules { batching: Batching::Count, ..b };
    let piped = Rules { pipeline: 2, ..b };
    vec![
        ("the protocol", b, Holds),
        ("+ create-only PUT", Rules { put: Put::CreateOnly, ..b }, Holds),
        ("state CAS without owner and epoch", Rules { cas: Cas::StateOnly, ..b }, Holds),
        ("restart resumes without a new epoch", Rules { bump_epoch: false, ..b }, Holds),
        ("row version instead of state", Rules { cas: Cas::Version, ..b }, Holds),
        ("stale re-read", Rules { stale_reads: true, ..b }, Holds),
        ("commit and next intent in one write", Rules { merged: true, ..b }, Holds),
        ("intent time-out taken as not written", Rules { timeout_is_failure: true, ..b }, Holds),
        ("owner and epoch, pending overwritten", Rules { cas: Cas::OwnerAndEpoch, ..b }, Fails),
        ("owner name only", Rules { cas: Cas::Owner, ..b }, Fails),
        ("pending absent, checkpoint not compared", Rules { cas: Cas::PendingOnly, ..b }, Fails),
        ("PUT overlaps the intent", Rules { confirm_intent: false, ..b }, Fails),
        ("new owner drops the intent", Rules { recovery: Recovery::Drop, ..b }, Fails),
        ("finished row re-created", Rules { row_recreated: true, ..b }, Fails),
        ("pipelining over one pending value", Rules { collapse: true, ..piped }, Fails),
        ("pipelining, ordered list of 2", piped, Holds),
        ("pipelining, ordered list of 3", Rules { pipeline: 3, crashes: 1, ..b }, Holds),
        ("pipelining, out-of-order commit", Rules { out_of_order: true, ..piped }, Fails),
        ("recovery with own settings", Rules { recovery: Recovery::Own, ..differ }, Fails),
        (
            "recovery deletes, then writes anew",
            Rules { recovery: Recovery::DeleteFirst, ..differ },
            Fails,
        ),
        ("recovery with recorded settings", differ, Holds),
        ("fan-out, commit after all", Rules { fan: Fan::AllAcks, ..b }, Holds),
        ("fan-out, commit after the first", Rules { fan: Fan::FirstAck, ..b }, Fails),
        ("path from the wall clock", Rules { fan: Fan::WallClock, ..b }, Fails),
        ("path from a stamp in the intent", Rules { fan: Fan::Stamped, ..b }, Holds),
        ("no intent, boundaries by count", count, Holds),
        ("no intent, count and timer", Rules { batching: Batching::CountAndTimer, ..b }, Fails),
        ("no intent, counts differ", Rules { batching: Batching::CountDiffers, ..b }, Fails),
        ("retention, recovery overwrites", Rules { retention: true, ..b }, Fails),
        (
            "retention, HEAD then overwrite",
            Rules { retention: true, put: Put::HeadFirst, ..b },
            Fails,
        ),
        ("retention, create-only PUT", Rules { retention: true, put: Put::CreateOnly, ..b }, Holds),
        ("consumer deletes", Rules { consumer_deletes: true, ..b }, Fails),
        (
            "consumer deletes, create-only",
            Rules { consumer_deletes: true, put: Put::CreateOnly, ..b },
            Fails,
        ),
    ]
}

/// Runs variants, prints a line for each, and says which verdicts were not as expected.
fn judge(variants: Vec<Variant>, tell: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    #[expect(clippy::disallowed_methods, reason = "a search is timed, nothing depends on it")]
    let now = Instant::now;
    for (name, rules, expected) in variants {
        let start = now();
        let found = search(&rules, true);
        let verdict = if found.failure.is_some() { Fails } else { Holds };
        let seconds = start.elapsed().as_secs_f64();
        println!("{verdict:?} {:>9} states {seconds:>6.1} s  {name}", found.states);
        if let (Some((what, steps)), true) = (&found.failure, tell || verdict != expected) {
            for (number, step) in steps.iter().enumerate() {
                println!("      {:>2}. {step}", number + 1);
            }
            println!("      -> {what}");
        }
        if verdict != expected {
            wrong.push(format!("{name}: {verdict:?}, expected {expected:?}"));
        }
        if found.stuck > 0 {
            wrong.push(format!("{name}: {} states cannot finish", found.stuck));
        }
    }
    wrong
}

/// The whole table. Slow without optimisation: `cargo test --release --test model -- --ignored`.
#[test]
#[ignore = "half a minute with optimisation, a minute and a half without"]
fn every_variant_has_its_verdict() {
    assert_eq!(judge(variants(), true), Vec::<String>::new());
}

/// Every mistake is found in small worlds, and the protocol survives them.
#[test]
fn small_worlds() {
    let small = variants().into_iter().map(|(name, rules, verdict)| {
        let rules = match verdict {
            Fails => rules,
            Holds => Rules { records: 2, epochs: 2, crashes: 1, ..rules },
        };
        (name, rules, verdict)
    });
    assert_eq!(judge(small.collect(), false), Vec::<String>::new());
}

/// Forgetting requests that can no longer matter changes no verdict.
#[test]
fn settling_changes_no_verdict() {
    for (name, rules, _) in variants() {
        let rules = Rules { records: 2, epochs: 2, crashes: 1, ..rules };
        let (settled, whole) = (search(&rules, true), search(&rules, false));
        println!("{:>9} states, {:>9} unsettled  {name}", settled.states, whole.states);
        assert_eq!(settled.failure.is_some(), whole.failure.is_some(), "{name}");
        assert_eq!((settled.stuck, whole.stuck), (0, 0), "{name}");
    }
}
