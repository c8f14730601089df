//! KPL aggregates: of encoders that are not ours, broken ones, ones cut by a restart or a reshard.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use catchment::stream::deaggregate::{HashRange, split};
use catchment::stream::{Record, Records};

use super::*;

/// One user record: partition key, explicit hash key, payload.
type User = (String, Option<String>, Vec<u8>);

const GOLDEN: [&str; 7] =
    ["keys", "explicit", "one", "node-keys", "node-explicit", "node-long", "node-one"];

fn golden(name: &str) -> (Vec<u8>, Vec<User>) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let raw = fs::read(data.join(format!("kpl-{name}.bin"))).unwrap();
    let text = fs::read_to_string(data.join(format!("kpl-{name}.json"))).unwrap();
    let users: Vec<(String, Option<String>, String)> = serde_json::from_str(&text).unwrap();
    let bytes = |hex: String| {
        let pairs = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16));
        pairs.collect::<Result<Vec<u8>, _>>().unwrap()
    };
    (raw, users.into_iter().map(|(key, hash, hex)| (key, hash, bytes(hex))).collect())
}

fn record(data: &[u8]) -> Records {
    Records::copy(&[Record::new("1", None, None, data).unwrap()]).unwrap()
}

/// `tests/data/README.md` says where they come from.
#[test]
fn aggregates_of_independent_encoders_are_read() {
    for name in GOLDEN {
        let (raw, users) = golden(name);
        let split = split(&record(&raw), None);
        assert_eq!((split.aggregates, split.foreign), (1, 0), "{name}");
        assert_eq!(split.records.len(), users.len(), "{name}");
        for (n, (found, (key, _, data))) in split.records.iter().zip(&users).enumerate() {
            assert_eq!(found.sub, n as u64);
            assert_eq!(found.partition_key(), Some(key.as_str()), "{name} {n}");
            assert_eq!(found.data, data, "{name} {n}");
        }
    }
}

#[test]
fn explicit_hash_keys_of_independent_encoders_decide_the_shard() {
    let middle = 1_u128 << 127;
    let low = HashRange::parse("0", &(middle - 1).to_string()).unwrap();
    let high = HashRange::parse(&middle.to_string(), &u128::MAX.to_string()).unwrap();
    for name in GOLDEN {
        let (raw, users) = golden(name);
        let (first, second) = (split(&record(&raw), Some(low)), split(&record(&raw), Some(high)));
        assert_eq!((first.records.len(), second.records.len()), (users.len(), users.len()));
        assert_eq!(first.foreign + second.foreign, users.len() as u64, "{name}");
        let is_low = |sub: u64| first.records.iter().any(|r| r.sub == sub && !r.foreign);
        for (n, (_, hash, _)) in users.iter().enumerate() {
            if let Some(hash) = hash {
                assert_eq!(is_low(n as u64), hash.parse::<u128>().unwrap() < middle, "{name} {n}");
            }
        }
    }
}

#[test]
fn a_damaged_aggregate_is_one_record_as_it_came() {
    for name in GOLDEN {
        let (raw, _) = golden(name);
        let step = raw.len().div_ceil(400);
        let cut = (0..raw.len()).step_by(step).map(|length| raw[..length].to_vec());
        let flipped = (4..raw.len()).step_by(step).map(|at| {
            let mut damaged = raw.clone();
            damaged[at] ^= 0x40;
            damaged
        });
        for damaged in cut.chain(flipped) {
            let split = split(&record(&damaged), None);
            assert_eq!(split.aggregates, 0, "{name}, {} bytes", damaged.len());
            let whole: Vec<_> = split.records.iter().map(|r| r.data).collect();
            assert_eq!(whole, [damaged]);
        }
    }
}

fn put(scene: &Scene, data: Vec<u8>, hash: u128) {
    let call = scene.clients.kinesis.put_record().stream_name("local").partition_key("k");
    let call = call.explicit_hash_key(hash.to_string());
    let call = call.data(aws_sdk_kinesis::primitives::Blob::new(data));
    scene.runtime.block_on(call.send()).unwrap();
}

/// A worker that is killed once the store has taken so many objects, and what is stored is committed:
/// the sub-sequence number of its checkpoint.
fn life(scene: &Scene, settings: &[(&str, &str)], puts: usize) -> u64 {
    scene.proxy.heal();
    let refuse = Fault::Refuse(503, "SlowDown");
    let refused = scene.proxy.add(Rule::new("S3.PutObject", refuse).after(puts));
    let at = || {
        let row = scene.row(SHARD)?;
        Some((row["checkpoint"].clone(), row["checkpointSubSequenceNumber"].clone()))
    };
    let before = at();
    let _worker = scene.worker(settings);
    eventually("the store refuses the rest", || (refused.hits() > 0).then_some(()));
    let now = eventually("what was stored is committed", || at().filter(|_| at() != before));
    now.1.as_n().unwrap().parse().unwrap()
}

/// Every life of the worker stores two or three batches of seven records and is killed; each begins
/// in the middle of an aggregate.
#[test]
fn a_restart_in_the_middle_of_an_aggregate_loses_and_repeats_nothing() {
    let scene = Scene::new(1);
    let (raw, users) = golden("node-explicit");
    let mut expected = Vec::new();
    for _ in 0..3 {
        put(&scene, raw.clone(), 0);
        expected.extend(users.iter().map(|(_, _, data)| data.clone()));
    }
    expected.sort();
    // The one shard takes every hash key: nothing is foreign here.
    let settings = [
        ("delivery.batch_records", "7"),
        ("delivery.inflight_batches", "1"),
        ("lease.failover", "1s"),
    ];
    let subs = [2, 3, 2, 3].map(|puts| life(&scene, &settings, puts));
    assert!(subs.iter().filter(|sub| **sub != 0).count() >= 3, "in the middle: {subs:?}");
    scene.proxy.heal();
    let mut worker = scene.worker(&settings);
    eventually("every record is delivered", || {
        (lines(scene.data()).len() >= expected.len()).then_some(())
    });
    worker.stop();
    assert!(lines(scene.data()) == expected, "missing or twice; see {}", worker.text());
}

/// Aggregates apart and whole in turns: each life is killed with a batch announced, and most of them in
/// the middle of an aggregate. Each of these is delivered as it came, or user record by user record.
#[test]
fn between_apart_and_whole_no_record_is_lost_or_repeated() {
    let scene = Scene::new(1);
    let (raw, users) = golden("node-explicit");
    let put_all = 60;
    (0..put_all).for_each(|_| put(&scene, raw.clone(), 0));
    let settings = |apart: bool| {
        [
            ("delivery.batch_records", "7"),
            ("delivery.inflight_batches", "1"),
            ("delivery.format", "envelope"),
            ("delivery.deaggregate", if apart { "true" } else { "false" }),
            ("lease.failover", "1s"),
        ]
    };
    let lives = [2, 4, 3, 3, 2, 4].into_iter().enumerate();
    let subs: Vec<u64> =
        lives.map(|(nth, puts)| life(&scene, &settings(nth % 2 == 0), puts)).collect();
    let inside = subs.iter().filter(|sub| **sub + 1 < users.len() as u64).count();
    assert!(inside >= 2, "in the middle: {subs:?}");
    scene.proxy.heal();
    let mut worker = scene.worker(&settings(true));
    let found = || {
        let mut found: HashMap<String, Vec<Vec<u8>>> = HashMap::new();
        for line in lines(scene.data()) {
            let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let data = STANDARD.decode(line["data"].as_str().unwrap()).unwrap();
            let sequence = line["sequence"].as_str().unwrap().to_owned();
            found.entry(sequence).or_default().push(data);
        }
        found
    };
    let whole = |of: &[Vec<u8>]| of == [raw.clone()];
    eventually("every record is delivered", || {
        let found = found();
        let ended = found.values().filter(|of| whole(of) || of.len() >= users.len()).count();
        (ended == put_all).then_some(())
    });
    worker.stop();
    let mut apart: Vec<Vec<u8>> = users.into_iter().map(|(_, _, data)| data).collect();
    apart.sort();
    let mut whole_ones = 0;
    for (sequence, mut of) in found() {
        of.sort();
        whole_ones += usize::from(whole(&of));
        assert!(whole(&of) || of == apart, "{sequence}: {} lines; {}", of.len(), worker.text());
    }
    assert!(whole_ones > 0 && whole_ones < put_all, "{whole_ones} whole");
}

/// User records among the dead letters, and the rest of the lines.
fn put_aside(scene: &Scene) -> (Vec<Vec<u8>>, usize) {
    let folder = scene.data().join("archive/errors/foreign-record");
    let mut data = Vec::new();
    let mut empty = 0;
    for body in files_below(&folder) {
        let text = String::from_utf8(zstd::decode_all(body.as_slice()).unwrap()).unwrap();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["kind"], "foreign-record");
            match STANDARD.decode(line["data"].as_str().unwrap()).unwrap() {
                none if none.is_empty() => empty += 1,
                some => data.push(some),
            }
        }
    }
    data.sort();
    (data, empty)
}

fn files_below(folder: &std::path::Path) -> Vec<Vec<u8>> {
    let Ok(found) = std::fs::read_dir(folder) else { return Vec::new() };
    let each = found.flatten().flat_map(|entry| {
        let path = entry.path();
        if path.is_dir() { files_below(&path) } else { std::fs::read(path).into_iter().collect() }
    });
    each.collect()
}

/// Aggregators that know no shards, and a KPL that was given no partition keys: on a stream that was
/// never resharded all of it is delivered.
#[test]
fn without_a_reshard_no_record_of_an_aggregate_is_foreign() {
    let scene = Scene::new(4);
    let mut expected = Vec::new();
    for name in ["node-explicit", "explicit"] {
        let (raw, users) = golden(name);
        put(&scene, raw, 0);
        expected.extend(users.into_iter().map(|(_, _, data)| data));
    }
    expected.sort();
    let mut worker = scene.worker(&[]);
    eventually("every record is delivered", || {
        (lines(scene.data()).len() >= expected.len()).then_some(())
    });
    assert_eq!(worker.metric("catchment_foreign_records_total").unwrap_or(0.0), 0.0);
    worker.stop();
    assert!(lines(scene.data()) == expected, "missing or twice; see {}", worker.text());
}

/// After a split an aggregate made for the parent arrives at one child; the KPL sends it again for
/// the records of the other.
#[test]
fn aggregates_split_by_a_reshard_are_judged_record_by_record() {
    judged("dead-letter");
}

#[test]
fn foreign_records_are_dropped_or_kept_if_asked() {
    judged("drop");
    judged("keep");
}

fn judged(policy: &str) {
    let scene = Scene::new(1);
    let middle = 1_u128 << 127;
    let call = scene.clients.kinesis.split_shard().stream_name("local").shard_to_split(SHARD);
    let call = call.new_starting_hash_key(middle.to_string());
    scene.runtime.block_on(call.send()).unwrap();
    let mut expected = Vec::new();
    for name in ["node-explicit", "explicit"] {
        let (raw, users) = golden(name);
        put(&scene, raw.clone(), 1);
        put(&scene, raw, middle + 1);
        expected.extend(users.into_iter().map(|(_, _, data)| data));
    }
    // Not an aggregate any more: a record as it came, in the shard where it is.
    let (mut broken, _) = golden("node-one");
    broken.pop();
    put(&scene, broken.clone(), 1);
    let mut foreign = expected.clone();
    foreign.sort();
    if policy == "keep" {
        expected.extend(foreign.clone());
    }
    // It holds line feeds, so it is several lines of an object.
    expected.extend(broken.split(|b| *b == b'\n').map(<[u8]>::to_vec));
    expected.sort();
    let mut worker = scene.worker(&[("delivery.foreign_records", policy)]);
    eventually("every record is delivered", || {
        let (aside, empty) = put_aside(&scene);
        let aside = if policy == "keep" { foreign.len() } else { aside.len() + empty };
        (lines_below(scene.data(), "local/").len() >= expected.len() && aside >= foreign.len())
            .then_some(())
    });
    assert_eq!(worker.metric("catchment_foreign_records_total"), Some(foreign.len() as f64));
    assert_eq!(worker.metric("catchment_aggregates_total"), Some(4.0));
    worker.stop();
    assert!(
        lines_below(scene.data(), "local/") == expected,
        "missing or twice; see {}",
        worker.text()
    );
    match policy {
        "dead-letter" => assert!(put_aside(&scene) == (foreign, 0), "see {}", worker.text()),
        "drop" => assert!(put_aside(&scene) == (Vec::new(), foreign.len())),
        _ => assert!(put_aside(&scene) == (Vec::new(), 0)),
    }
}
