//! GetRecords in CBOR. The embedded Kinesis speaks JSON only, so it shows how CBOR is given up; the
//! proxy in front of it translates where CBOR is to be spoken.

use super::*;

const CBOR: (&str, &str) = ("stream.wire", "cbor");
/// How a request in CBOR begins, and none in JSON.
const IN_CBOR: &str = "\u{fffd}iStreamARN";

fn spoken(unit: f64) -> Rule {
    Rule::new("Kinesis.GetRecords", Fault::Cbor { unit, cut: false }).with_body(IN_CBOR)
}

fn fallbacks(worker: &Worker) -> f64 {
    worker.metric("catchment_wire_fallbacks_total").unwrap()
}

#[test]
fn records_are_read_in_cbor_through_reshards() {
    let mut scene = Scene::new(2);
    let spoken = scene.proxy.add(spoken(1000.0));
    let settings = [CBOR, ("lease.shard_sync", "2s"), ("delivery.batch_records", "7")];
    let worker = scene.worker(&settings);
    scene.send(30);
    let kinesis = scene.clients.kinesis.clone();
    let split = kinesis.split_shard().stream_name("local").shard_to_split(SHARD);
    let split = split.new_starting_hash_key((u128::MAX / 4).to_string());
    scene.runtime.block_on(split.send()).unwrap();
    scene.send(30);
    let merge = kinesis.merge_shards().stream_name("local");
    let merge = merge.shard_to_merge("shardId-000000000002");
    let merge = merge.adjacent_shard_to_merge("shardId-000000000003");
    scene.runtime.block_on(merge.send()).unwrap();
    scene.send(30);
    eventually("the parents are delivered to their end", || {
        (worker.metric("catchment_shards_finished_total")? >= 3.0).then_some(())
    });
    eventually("every record is delivered", || (lines(scene.data()).len() >= 90).then_some(()));
    assert!(fallbacks(&worker) == 0.0, "{}", worker.text());
    assert_eq!(worker.metric("catchment_slow_path_replies_total"), Some(0.0));
    scene.settle(worker);
    assert_eq!(scene.proxy.calls("Kinesis.GetRecords"), spoken.hits(), "nothing in JSON");
}

#[test]
fn broken_replies_in_cbor_lose_and_repeat_nothing() {
    let mut scene = Scene::new(2);
    let settings = [CBOR, ("stream.page_records", "7"), ("delivery.batch_records", "3")];
    let of_cbor = |fault| Rule::new("Kinesis.GetRecords", fault).with_body(IN_CBOR).after(4);
    let cut = Fault::Cbor { unit: 1000.0, cut: true };
    let expired = Fault::Refuse(400, "ExpiredIteratorException");
    let failed = Fault::Refuse(500, "InternalFailure");
    let rules = [cut, expired, failed, Fault::LoseReply];
    let rules = rules.map(|fault| scene.proxy.add(of_cbor(fault).every(5)));
    scene.proxy.add(spoken(1000.0));
    scene.send(40);
    let worker = scene.worker(&settings);
    eventually("each of them happens", || rules.iter().all(|r| r.hits() >= 2).then_some(()));
    scene.send(40);
    eventually("every record is delivered", || (lines(scene.data()).len() >= 80).then_some(()));
    assert!(fallbacks(&worker) == 0.0, "{}", worker.text());
    scene.settle(worker);
}

#[test]
fn a_service_that_refuses_cbor_is_read_in_json() {
    let mut scene = Scene::new(2);
    scene.send(20);
    let worker = scene.worker(&[CBOR]);
    scene.send(20);
    eventually("every record is delivered", || (lines(scene.data()).len() >= 40).then_some(()));
    let told = worker.text().matches("does not work in CBOR here").count();
    assert_eq!(told, 1, "told once: {}", worker.text());
    assert!(fallbacks(&worker) >= 1.0);
    scene.settle(worker);
}

#[test]
fn times_in_seconds_are_not_believed() {
    let mut scene = Scene::new(1);
    let spoken = scene.proxy.add(spoken(1.0));
    scene.send(20);
    let worker = scene.worker(&[CBOR, ("stream.page_records", "2")]);
    eventually("every record is delivered", || (lines(scene.data()).len() >= 20).then_some(()));
    assert!(fallbacks(&worker) == 3.0, "{}", worker.text());
    scene.send(20);
    scene.settle(worker);
    // By the day in which they arrived, not by one of 1970.
    let keys: Vec<_> = objects(scene.data(), "archive").into_iter().map(|(key, _)| key).collect();
    assert!(keys.iter().all(|key| key.contains("dt=2")), "{keys:?}");
    assert!(spoken.hits() >= 3);
}
