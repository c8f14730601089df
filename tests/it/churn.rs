//! Workers come and go while the stream is split and merged all the time.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use catchment::aws::kinesis::Kinesis;
use catchment::stream::ShardInfo;

use crate::support::{Running, eventually, lines, services, worker};

const WORKERS: usize = 4;
const SHARDS: usize = 32;
/// Workers that leave, one after another, each replaced by a new one.
const CHANGES: usize = 6;
/// Batches of records put between two changes.
const ROUND: usize = 25;
const PER_PUT: usize = 50;

fn bounds(shard: &ShardInfo) -> (u128, u128) {
    let (from, to) = shard.hash_range.as_ref().unwrap();
    (from.parse().unwrap(), to.parse().unwrap())
}

/// Splits the widest open shard, or merges the two narrowest neighbours, so that there are always
/// about as many.
async fn reshard(client: &aws_sdk_kinesis::Client, kinesis: &Kinesis, arn: &str) {
    let shards = kinesis.list_shards(arn).await.unwrap();
    let mut open: Vec<_> = shards.iter().filter(|s| !s.closed).collect();
    open.sort_by_key(|s| bounds(s));
    let width = |s: &ShardInfo| bounds(s).1 - bounds(s).0;
    if open.len() > SHARDS {
        let pair = open.windows(2).min_by_key(|w| width(w[0]) / 2 + width(w[1]) / 2).unwrap();
        let merge = client.merge_shards().stream_name("local");
        let merge = merge.shard_to_merge(pair[0].id.as_str());
        merge.adjacent_shard_to_merge(pair[1].id.as_str()).send().await.unwrap();
    } else {
        let widest = open.iter().max_by_key(|s| width(s)).unwrap();
        let (from, to) = bounds(widest);
        let split = client.split_shard().stream_name("local");
        let split = split.shard_to_split(widest.id.as_str());
        split.new_starting_hash_key((from + (to - from) / 2).to_string()).send().await.unwrap();
    }
}

/// Each record is in exactly one object, whoever wrote it. Every step waits for the one before it:
/// a worker leaves once new records are delivered since the last one left.
#[test]
fn a_churning_fleet_on_a_churning_stream_delivers_each_record_once() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), u32::try_from(SHARDS).unwrap());
    let settings = [
        ("delivery.batch_age", "1s"),
        ("lease.failover", "3s"),
        ("lease.shard_sync", "2s"),
        // The services are unoptimised and share two cores with everybody.
        ("lease.scan", "500ms"),
        ("stream.idle", "500ms"),
        ("runtime.threads", "1"),
    ];
    let start = || worker(&services, &settings);
    let client = crate::support::clients(&services).kinesis;
    let stop = AtomicBool::new(false);
    let (sent, reshards) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        // Puts and reshards for as long as workers come and go; a reshard for every few puts.
        let producer = scope.spawn(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let kinesis = Kinesis::new(client.clone());
                let arn = kinesis.describe("local").await.unwrap().arn;
                while !stop.load(Ordering::Relaxed) {
                    let first = sent.load(Ordering::Relaxed);
                    let entries = (first..first + PER_PUT).map(|n| {
                        aws_sdk_kinesis::types::PutRecordsRequestEntry::builder()
                            .partition_key(format!("key {n}"))
                            .data(aws_sdk_kinesis::primitives::Blob::new(record(n)))
                            .build()
                            .unwrap()
                    });
                    let put = client.put_records().stream_name("local");
                    let put = put.set_records(Some(entries.collect())).send().await.unwrap();
                    assert_eq!(put.failed_record_count(), Some(0));
                    sent.fetch_add(PER_PUT, Ordering::Relaxed);
                    if (first / PER_PUT) % 10 == 9 {
                        reshard(&client, &kinesis, &arn).await;
                        reshards.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        });
        let mut workers: Vec<Running> = (0..WORKERS).map(|_| start()).collect();
        for change in 0..CHANGES {
            let before = sent.load(Ordering::Relaxed);
            let stored = || count(&dir.path().join("archive"));
            let had = stored();
            eventually("the fleet delivers, and more is sent", || {
                let more = sent.load(Ordering::Relaxed) >= before + ROUND * PER_PUT;
                (stored() > had + SHARDS && more).then_some(())
            });
            let mut leaving = workers.remove(0);
            if change % 2 == 0 {
                leaving.signal("TERM");
                assert!(leaving.wait(Duration::from_secs(60)).success(), "change {change}");
            } else {
                // Dropping kills with SIGKILL.
                drop(leaving);
            }
            workers.push(start());
        }
        stop.store(true, Ordering::Relaxed);
        producer.join().unwrap();
        let sent = sent.load(Ordering::Relaxed);
        eventually("every record is delivered", || {
            // Reading all objects is work: not while there are new ones.
            let before = count(&dir.path().join("archive"));
            std::thread::sleep(Duration::from_secs(1));
            if count(&dir.path().join("archive")) > before {
                return None;
            }
            let stored = lines(dir.path());
            let distinct: BTreeSet<&Vec<u8>> = stored.iter().collect();
            (distinct.len() >= sent).then_some(())
        });
        for running in &mut workers {
            running.signal("TERM");
        }
        for mut running in workers {
            assert!(running.wait(Duration::from_secs(60)).success());
        }
    });
    let (sent, reshards) = (sent.into_inner(), reshards.into_inner());
    println!("{sent} records, {reshards} splits and merges, {CHANGES} workers replaced");
    assert!(reshards > 2 * CHANGES, "the stream churned as well: {reshards}");
    let mut expected: Vec<Vec<u8>> = (0..sent).map(record).collect();
    expected.sort();
    let stored = lines(dir.path());
    let twice = stored.windows(2).filter(|w| w[0] == w[1]).count();
    assert_eq!((stored.len(), twice), (sent, 0));
    assert!(stored == expected);
}

/// Objects below a directory, without reading them.
fn count(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let each = entries.map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { count(&path) } else { 1 }
    });
    each.sum()
}

fn record(n: usize) -> Vec<u8> {
    format!("{n:07}:{n:0>40}").into_bytes()
}
