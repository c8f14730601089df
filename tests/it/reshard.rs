//! The stream is split and merged while it is written to and while workers come and go.

use std::time::Duration;

use catchment::aws::kinesis::Kinesis;
use catchment::stream::ShardInfo;

use crate::support::{BIN, Running, eventually, lines, services, worker};

fn open(shards: &[ShardInfo]) -> Vec<&ShardInfo> {
    let mut open: Vec<_> = shards.iter().filter(|s| !s.closed).collect();
    open.sort_by_key(|s| start(s));
    open
}

fn start(shard: &ShardInfo) -> u128 {
    shard.hash_range.as_ref().unwrap().0.parse().unwrap()
}

#[test]
fn splits_and_merges_lose_and_repeat_nothing() {
    through_reshards("polling");
}

#[test]
fn splits_and_merges_lose_and_repeat_nothing_by_fan_out() {
    through_reshards("fan-out");
}

fn through_reshards(reader: &str) {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 2);
    let settings = [
        ("stream.reader", reader),
        ("delivery.batch_bytes", "30KB"),
        ("delivery.batch_age", "500ms"),
        ("lease.failover", "2s"),
        ("lease.shard_sync", "2s"),
    ];
    let mut workers: Vec<Running> = (0..3).map(|_| worker(&services, &settings)).collect();
    let expected: Vec<Vec<u8>> = (0..6).flat_map(numbered).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = crate::support::clients(&services).kinesis;
        let kinesis = Kinesis::new(client.clone());
        let arn = kinesis.describe("local").await.unwrap().arn;
        for turn in 0..6_usize {
            send(&services, dir.path(), turn);
            let shards = kinesis.list_shards(&arn).await.unwrap();
            let open = open(&shards);
            // Split, split, merge, and again: children of children are born before their parents
            // are read.
            if turn % 3 == 2 {
                client
                    .merge_shards()
                    .stream_name("local")
                    .shard_to_merge(open[0].id.as_str())
                    .adjacent_shard_to_merge(open[1].id.as_str())
                    .send()
                    .await
                    .unwrap();
            } else {
                let widest = open[turn % open.len()];
                let end: u128 = widest.hash_range.as_ref().unwrap().1.parse().unwrap();
                let middle = start(widest) + (end - start(widest)) / 2;
                client
                    .split_shard()
                    .stream_name("local")
                    .shard_to_split(widest.id.as_str())
                    .new_starting_hash_key(middle.to_string())
                    .send()
                    .await
                    .unwrap();
            }
            if turn % 2 == 1 {
                // Dropping kills with SIGKILL; a fresh one takes its place.
                workers[turn % 3] = worker(&services, &settings);
            }
        }
    });
    eventually("every record is delivered", || {
        (lines(dir.path()).len() >= expected.len()).then_some(())
    });
    for mut running in workers {
        running.signal("TERM");
        assert!(running.wait(Duration::from_secs(40)).success());
    }
    let mut expected = expected;
    expected.sort();
    assert!(lines(dir.path()) == expected);
}

fn numbered(turn: usize) -> Vec<Vec<u8>> {
    (0..3_000).map(|n| format!("{turn}:{n:05}:{n:0>60}").into_bytes()).collect()
}

fn send(services: &Running, dir: &std::path::Path, turn: usize) {
    let file = dir.join(format!("input-{turn}"));
    std::fs::write(&file, numbered(turn).join(&b'\n')).unwrap();
    let status = std::process::Command::new(BIN)
        .args(["send", "--stream", "local", "--input", file.to_str().unwrap()])
        .envs(services.environment.iter().cloned())
        .stderr(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success());
}
