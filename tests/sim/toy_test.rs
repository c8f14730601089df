//! The harness proven end to end with the toy worker: determinism, both back ends, crashes at every
//! poll, lost responses, and an oracle that catches deliberate mistakes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::effects::{Event, Fnv, Moment, Observer};
use crate::faults::{Fault, Script};
use crate::fleet::{BUCKET, Fleet, STREAM, TABLE, drive};
use crate::node::{End, Node, NodeOptions};
use crate::services::World;
use crate::services::attr::{Attr, Row};
use crate::sim::{Report, run};
use crate::toy::{self, Mutant};

/// Where each record went, checked at every PUT; checkpoints, checked at every write.
#[derive(Default)]
struct Oracle {
    home: BTreeMap<String, String>,
}

fn field<'a>(row: Option<&'a Row>, name: &str) -> Option<&'a str> {
    row.and_then(|row| row.get(name)).and_then(Attr::as_s)
}

impl Observer for Oracle {
    fn observe(&mut self, _: &Moment, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Put { key, body, stored: true, existing, .. } => {
                if existing.is_some_and(|old| old.body != **body) {
                    return Err(format!("{key} overwritten with other content"));
                }
                for line in String::from_utf8_lossy(body).lines() {
                    let record = line.split(' ').next().unwrap_or_default().to_owned();
                    let home = self.home.entry(record.clone()).or_insert((*key).to_owned());
                    if home != key {
                        return Err(format!("record {record} is in {home} and in {key}"));
                    }
                }
                Ok(())
            }
            Event::Row { key, before, after, .. } => {
                let (from, to) = (field(*before, "checkpoint"), field(*after, "checkpoint"));
                let pending = field(*before, "pendingCheckpoint");
                if from != to && from.is_some() && to != pending && to != Some("SHARD_END") {
                    return Err(format!(
                        "{key}: checkpoint {from:?} to {to:?}, pending was {pending:?}"
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Every record produced is in exactly one object, and every shard that closed is finished.
fn complete(world: &mut World) -> bool {
    let Ok(stream) = world.kinesis.stream(STREAM) else {
        return false;
    };
    let mut produced = BTreeMap::new();
    let mut closed = Vec::new();
    for shard in &stream.shards {
        closed.extend(shard.closed.map(|_| shard.id.clone()));
        for record in &shard.records {
            produced.insert(
                record.sequence_number(),
                String::from_utf8_lossy(&record.data).into_owned(),
            );
        }
    }
    let objects = world.objects.lock().unwrap();
    for object in objects.buckets[BUCKET].values() {
        for line in String::from_utf8_lossy(&object.body).lines() {
            let Some((seq, data)) = line.split_once(' ') else {
                return false;
            };
            if produced.remove(seq).as_deref() != Some(data) {
                return false;
            }
        }
    }
    drop(objects);
    let rows = world.dynamodb.rows(TABLE);
    produced.is_empty()
        && closed.iter().all(|id| field(rows.get(id), "checkpoint") == Some("SHARD_END"))
}

fn toy_fleet(fleet: &Fleet, mutant: Mutant) -> (Result<(), String>, Report) {
    let start =
        move |node: &Node| -> catchment::task::BoxTask { Box::pin(toy::run(node.clone(), mutant)) };
    let setup = fleet.setup(Box::new(Oracle::default()));
    run(setup, async |sim| drive(&sim, fleet, &start, complete).await)
}

#[test]
fn a_calm_fleet_delivers() {
    let (done, report) = toy_fleet(&Fleet::calm(1, 2, 2, 50), Mutant::Correct);
    if done.is_err() || !report.violations.is_empty() {
        report.print();
    }
    assert_eq!((done, report.violations), (Ok(()), vec![]));
}

/// How many seeds: `CATCHMENT_SIM_SEEDS`, or few.
fn seeds(default: u64) -> u64 {
    std::env::var("CATCHMENT_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn drawn_fleets_deliver() {
    let mut sometimes: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut virtual_ms, mut effects, mut hash) = (0, 0, Fnv::default());
    for seed in 0..seeds(15) {
        let fleet = Fleet::draw(seed);
        let (done, report) = toy_fleet(&fleet, Mutant::Correct);
        if done.is_err() || !report.violations.is_empty() {
            report.print();
            panic!("seed {seed}: {done:?} {:?}\n{fleet:?}", report.violations);
        }
        virtual_ms += report.virtual_ms;
        effects += report.effects.len();
        hash.write(&report.hash.to_be_bytes());
        for (what, times) in report.sometimes {
            *sometimes.entry(what).or_default() += times;
        }
    }
    // The same in every process: compare two runs to see it.
    println!("hash {:016x}, {} virtual s, {effects} effects", hash.value(), virtual_ms / 1000);
    println!("{sometimes:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 100..100 + seeds(4) {
        let fleet = Fleet::draw(seed);
        let (first, second) =
            (toy_fleet(&fleet, Mutant::Correct).1, toy_fleet(&fleet, Mutant::Correct).1);
        assert_eq!(first.outline, second.outline, "seed {seed}");
        if first.hash != second.hash {
            let pairs = first.effects.iter().zip(&second.effects);
            let apart = pairs.into_iter().find(|(a, b)| a.to_string() != b.to_string());
            panic!("seed {seed} diverges at {apart:#?}");
        }
    }
}

#[cfg(feature = "local")]
#[test]
fn both_back_ends_give_the_same_trace() {
    for seed in 200..200 + seeds(4) {
        let mut fleet = Fleet::draw(seed);
        let (done, strict) = toy_fleet(&fleet, Mutant::Correct);
        fleet.backend = crate::services::Backend::Libraries;
        let (library_done, library) = toy_fleet(&fleet, Mutant::Correct);
        let line = |e: &crate::effects::Effect| {
            format!("{} {} {} {} {}", e.at, e.node, e.op, e.status, e.error)
        };
        if strict.outline != library.outline {
            let pairs = strict.effects.iter().zip(&library.effects);
            let apart = pairs.into_iter().find(|(a, b)| line(a) != line(b));
            panic!("seed {seed} diverges at {apart:#?}");
        }
        assert_eq!((done, strict.violations), (library_done, library.violations), "seed {seed}");
    }
}

#[test]
fn mutants_are_killed() {
    let mutants = [Mutant::IgnorePending, Mutant::PutFailureIsSuccess, Mutant::UnconditionalIntent];
    for mutant in mutants {
        let killed = (0..300).find_map(|seed| {
            let (done, report) = toy_fleet(&Fleet::draw(seed), mutant);
            let seen = report.violations.first().cloned().or(done.err())?;
            Some((seed, seen))
        });
        println!("{mutant:?}: {killed:?}");
        assert!(killed.is_some(), "{mutant:?} survives");
    }
}

/// A worker that dies at any poll of a short life leaves nothing that its successor cannot finish.
#[test]
fn a_crash_at_any_poll_is_survived() {
    let mut fleet = Fleet::calm(3, 1, 1, 12);
    fleet.heal_ms = 25_000;
    fleet.settle_ms = 60_000;
    let mut crashed = 0;
    for poll in 1..40 {
        let poll = poll * 4;
        fleet.plan = vec![(0, crate::fleet::Act::Crash(0, poll, 0))];
        let (done, report) = toy_fleet(&fleet, Mutant::Correct);
        assert_eq!((done, report.violations), (Ok(()), vec![]), "poll {poll}");
        crashed += usize::from(report.effects.iter().any(|e| &*e.node == "w0.2"));
    }
    assert!(crashed == 39, "only {crashed} runs saw a second incarnation");
}

/// The response to a conditional write is lost; the SDK tries again and reports that the condition
/// failed, although the write is in. This is why every conditional failure must be judged by the row.
#[test]
fn a_lost_response_turns_success_into_a_failed_condition() {
    let fleet = Fleet::calm(5, 1, 1, 0);
    let told = Arc::new(Mutex::new(String::new()));
    let heard = told.clone();
    let (value, report) = run(fleet.setup(Box::new(Oracle::default())), async |sim| {
        let create = serde_json::json!({
            "TableName": TABLE,
            "KeySchema": [{ "AttributeName": "leaseKey", "KeyType": "HASH" }],
        });
        sim.net.world().dynamodb.call("CreateTable", &create);
        sim.net.script(Script { node: None, op: "PutItem", skip: 0, fault: Fault::ResponseLost });
        let node = Node::new(&sim, "w0.1", &NodeOptions::default());
        let dynamodb = node.dynamodb.clone();
        node.run(async move {
            let key = aws_sdk_dynamodb::types::AttributeValue::S("s".into());
            let put = dynamodb.put_item().table_name(TABLE).item("leaseKey", key);
            let put = put.condition_expression("attribute_not_exists(leaseKey)").send().await;
            let error = put.err().and_then(|e| {
                e.into_service_error()
                    .is_conditional_check_failed_exception()
                    .then_some("failed condition")
            });
            *heard.lock().unwrap() = error.unwrap_or("no error").to_owned();
        });
        assert_eq!(node.ended().await, End::Returned);
        sim.net.world().dynamodb.peek(TABLE, "s").is_some()
    });
    assert!(value, "the write is in");
    assert_eq!(*told.lock().unwrap(), "failed condition");
    let puts: Vec<u16> =
        report.effects.iter().filter(|e| e.op == "PutItem").map(|e| e.status).collect();
    assert_eq!(puts, [200, 400]);
}
