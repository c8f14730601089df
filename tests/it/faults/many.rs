//! A stream of five thousand shards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::*;
use crate::proxy::Moment;

const SHARDS: usize = 5_000;
/// Writes in flight at once, see `worker/leases/taker.rs`.
const PARALLEL: usize = 32;

/// Leases are created for all of them, page by page, parents before children, and no more writes
/// at once than the worker allows itself.
#[test]
fn five_thousand_shards_get_their_leases_parents_first() {
    let scene = Scene::new(1);
    let client = &scene.clients.kinesis;
    // Two generations: the last fifty of the first are split, and five halves once more.
    let first = SHARDS - 2 * 50 - 2 * 5;
    scene.runtime.block_on(async {
        let count = i32::try_from(first).unwrap();
        client.create_stream().stream_name("many").shard_count(count).send().await.unwrap();
    });
    let kinesis = catchment::aws::kinesis::Kinesis::new(client.clone());
    let listed = |arn: &str| scene.runtime.block_on(kinesis.list_shards(arn)).unwrap();
    let arn = scene.runtime.block_on(kinesis.describe("many")).unwrap().arn;
    let split = |shards: &[catchment::stream::ShardInfo]| {
        for shard in shards {
            let (from, to) = shard.hash_range.clone().unwrap();
            let (from, to): (u128, u128) = (from.parse().unwrap(), to.parse().unwrap());
            let call = client.split_shard().stream_name("many").shard_to_split(shard.id.as_str());
            let call = call.new_starting_hash_key((from + (to - from) / 2).to_string());
            scene.runtime.block_on(call.send()).unwrap();
        }
    };
    split(&listed(&arn)[first - 50..first]);
    split(&listed(&arn)[first..first + 5]);
    assert_eq!(listed(&arn).len(), SHARDS);
    let log: Arc<Mutex<Vec<Moment>>> = Arc::default();
    scene.proxy.add(Rule::new("DynamoDB.PutItem", Fault::Record(Arc::clone(&log))));
    let pages = scene.proxy.calls("Kinesis.ListShards");
    let mut worker = scene.worker_of("many", &[("lease.max", "1"), ("lease.shard_sync", "1h")]);
    eventually("every lease is created", || {
        (worker.metric("catchment_leases_created_total")? >= SHARDS as f64).then_some(())
    });
    assert!(scene.proxy.calls("Kinesis.ListShards") - pages >= 2 * SHARDS.div_ceil(1_000));
    let (mut open, mut peak) = (0_usize, 0);
    let mut done: BTreeSet<String> = BTreeSet::new();
    let mut children = 0;
    for Moment { body, answered, .. } in log.lock().unwrap().iter() {
        let body: Value = serde_json::from_slice(body).unwrap();
        let key = body["Item"]["leaseKey"]["S"].as_str().unwrap().to_owned();
        if *answered {
            open -= 1;
            assert!(done.insert(key), "created once");
            continue;
        }
        open += 1;
        peak = peak.max(open);
        for parent in body["Item"]["parentShardId"]["SS"].as_array().into_iter().flatten() {
            children += 1;
            assert!(done.contains(parent.as_str().unwrap()), "{key} before its parent {parent}");
        }
    }
    assert_eq!((done.len(), children), (SHARDS, 110));
    assert!((2..=PARALLEL).contains(&peak), "{peak} writes at once");
    let table = catchment::aws::dynamodb::LeaseTable::new(scene.clients.dynamodb.clone(), TABLE);
    let rows = scene.runtime.block_on(table.scan(true)).unwrap();
    assert_eq!(rows.len(), SHARDS);
    let generations: BTreeMap<usize, usize> = rows.iter().fold(BTreeMap::new(), |mut all, row| {
        *all.entry(usize::from(row.contains_key("parentShardId"))).or_default() += 1;
        all
    });
    assert_eq!(generations, BTreeMap::from([(0, first), (1, 110)]));
    worker.stop();
}
