//! The live application goes back while its workers run, are killed, or are not there.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{
    BIN, OUTAGE, Running, catchment, clients, eventually, lines, send, services, stderr, worker,
};

const SETTINGS: [(&str, &str); 2] = [("delivery.batch_age", "300ms"), ("lease.failover", "2s")];

fn numbered(name: &str, count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("{name}:{n:05}:{n:0>60}").into_bytes()).collect()
}

fn now() -> String {
    std::thread::sleep(Duration::from_millis(20));
    let now = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_millis(20));
    now
}

fn rewind(services: &Running, more: &[&str]) -> Output {
    let mut arguments = vec!["leases", "rewind"];
    arguments.extend(more);
    catchment(&arguments, &services.environment)
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// How often each line was delivered, by the name in front of it: (fewest, most).
fn times(dir: &Path, name: &str, count: usize) -> (usize, usize) {
    let mut seen: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let prefix = format!("{name}:").into_bytes();
    for line in lines(dir).into_iter().filter(|l| l.starts_with(&prefix)) {
        *seen.entry(line).or_default() += 1;
    }
    let fewest = if seen.len() < count { 0 } else { seen.values().copied().min().unwrap_or(0) };
    (fewest, seen.values().copied().max().unwrap_or(0))
}

/// Everything was delivered this often, committed, and no worker has more to do.
fn settled(services: &Running, dir: &Path, what: &[(&str, usize, usize)]) {
    eventually("deliveries", || {
        let done = what.iter().all(|(name, count, wanted)| times(dir, name, *count).0 >= *wanted);
        done.then_some(())
    });
    eventually("commits", || {
        let list = catchment(&["leases", "list", "--json"], &services.environment);
        let rows = String::from_utf8(list.stdout).ok()?;
        let done = rows.lines().all(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            row["announced"].as_array().unwrap().is_empty()
                && !row["checkpoint"].as_str().unwrap().starts_with("AT_")
                && !row["checkpoint"].as_str().unwrap().starts_with("TRIM")
        });
        done.then_some(())
    });
    for (name, count, wanted) in what {
        assert_eq!(times(dir, name, *count), (*wanted, *wanted), "{name}");
    }
}

#[test]
fn running_workers_go_back_to_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 3);
    let mut workers: Vec<Running> = (0..2).map(|_| worker(&services, &SETTINGS)).collect();
    send(&services, dir.path(), "a", &numbered("a", 600));
    let from = now();
    send(&services, dir.path(), "b", &numbered("b", 600));
    settled(&services, dir.path(), &[("a", 600, 1), ("b", 600, 1)]);
    // Nothing happens without a word.
    let output = rewind(&services, &["--from-timestamp", &from, "--dry-run"]);
    assert!(text(&output).contains("Nothing was done"));
    let output = rewind(&services, &["--from-timestamp", &from]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--yes"));
    let told = text(&rewind(&services, &["--from-timestamp", &from, "--yes"]));
    assert_eq!(told.matches("by its worker").count(), 3, "{told}");
    assert!(told.contains("delivered again"), "{told}");
    settled(&services, dir.path(), &[("a", 600, 1), ("b", 600, 2)]);
    // And on with what comes.
    send(&services, dir.path(), "c", &numbered("c", 300));
    settled(&services, dir.path(), &[("a", 600, 1), ("b", 600, 2), ("c", 300, 1)]);
    for running in &mut workers {
        running.signal("TERM");
        assert!(running.wait(Duration::from_secs(40)).success());
    }
    // Nobody there: the command moves the rows itself, and the next worker goes on from them.
    let told = text(&rewind(&services, &["--from-trim-horizon", "--yes"]));
    assert_eq!(told.matches("by this command").count(), 3, "{told}");
    let again = text(&rewind(&services, &["--from-trim-horizon", "--yes"]));
    assert!(again.contains("No shard has to go back"), "{again}");
    workers[0] = worker(&services, &SETTINGS);
    settled(&services, dir.path(), &[("a", 600, 2), ("b", 600, 3), ("c", 300, 2)]);
}

#[test]
fn a_finished_parent_and_its_children_go_back_together() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let mut running = worker(&services, &SETTINGS);
    send(&services, dir.path(), "a", &numbered("a", 500));
    let clients = clients(&services);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let parent = "shardId-000000000000";
    let middle = (u128::MAX / 2).to_string();
    let split = clients.kinesis.split_shard().stream_name("local").shard_to_split(parent);
    runtime.block_on(split.new_starting_hash_key(middle).send()).unwrap();
    send(&services, dir.path(), "b", &numbered("b", 500));
    settled(&services, dir.path(), &[("a", 500, 1), ("b", 500, 1)]);
    let arn = runtime.block_on(async {
        let kinesis = catchment::aws::kinesis::Kinesis::new(clients.kinesis.clone());
        let arn = kinesis.describe("local").await.unwrap().arn;
        let shard = catchment::ids::ShardId::new(parent);
        let start = catchment::stream::position::StartAt::TrimHorizon;
        let iterator = kinesis.iterator(&arn, &shard, &start).await.unwrap();
        kinesis.get_records(&arn, &iterator, 10_000).await.unwrap().records
    });
    // From the 301st record of the parent on.
    let first = arn[300].position.sequence.as_str();
    let told = text(&rewind(&services, &["--from-sequence-number", first, "--yes"]));
    assert!(told.contains("3 shard(s) went back"), "{told}");
    settled(&services, dir.path(), &[("b", 500, 2)]);
    let (_, most) = times(dir.path(), "a", 500);
    assert_eq!(most, 2);
    let twice = lines(dir.path()).iter().filter(|l| l.starts_with(b"a:")).count();
    assert_eq!(twice, 500 + 200);
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(40)).success());
}

#[test]
fn a_request_outlives_a_killed_worker() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 2);
    let running = worker(&services, &SETTINGS);
    send(&services, dir.path(), "a", &numbered("a", 400));
    settled(&services, dir.path(), &[("a", 400, 1)]);
    drop(running); // SIGKILL: its name stays in the rows.
    let mut asking = Command::new(BIN)
        .args(["leases", "rewind", "--from-trim-horizon", "--yes"])
        .envs(services.environment.iter().cloned())
        .env_remove(OUTAGE)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut next = worker(&services, &SETTINGS);
    assert!(asking.wait().unwrap().success());
    settled(&services, dir.path(), &[("a", 400, 2)]);
    next.signal("TERM");
    assert!(next.wait(Duration::from_secs(40)).success());
}

#[test]
fn requests_that_nobody_meets_are_withdrawn() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let running = worker(&services, &SETTINGS);
    send(&services, dir.path(), "a", &numbered("a", 100));
    settled(&services, dir.path(), &[("a", 100, 1)]);
    drop(running);
    let output = rewind(&services, &["--from-trim-horizon", "--yes", "--wait", "1s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("withdrawn"), "{}", stderr(&output));
    let mut next = worker(&services, &SETTINGS);
    send(&services, dir.path(), "b", &numbered("b", 100));
    settled(&services, dir.path(), &[("a", 100, 1), ("b", 100, 1)]);
    next.signal("TERM");
    assert!(next.wait(Duration::from_secs(40)).success());
    for (more, code, part) in [
        (vec!["--from-timestamp", "2999-01-01T00:00:00Z", "--yes"], 2, "future"),
        (vec!["--from-trim-horizon", "--shard", "shardId-7", "--yes"], 2, "no lease"),
        (vec!["--yes"], 2, "--from-trim-horizon"),
        (vec!["--from-sequence-number", "12", "--yes"], 2, "--shard"),
    ] {
        let output = rewind(&services, &more);
        assert_eq!(output.status.code(), Some(code), "{more:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{more:?}: {}", stderr(&output));
    }
}
