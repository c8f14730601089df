//! The live application goes back while its workers run, are killed, or are not there.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{
    BIN, OUTAGE, Running, catchment, clients, eventually, lines, objects, send, services, stderr,
    worker,
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

/// Waits until exactly these lines are in the bucket and everything is committed, then empties it: a
/// range delivered a second time may have the same name, and would not be seen beside the first.
fn settled(services: &Running, dir: &Path, expected: &[&[Vec<u8>]]) {
    let mut expected = expected.concat();
    expected.sort();
    eventually("deliveries", || (lines(dir).len() >= expected.len()).then_some(()));
    eventually("commits", || {
        let list = catchment(&["leases", "list", "--json"], &services.environment);
        let rows = String::from_utf8(list.stdout).ok()?;
        let done = rows.lines().all(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            let checkpoint = row["checkpoint"].as_str().unwrap();
            row["announced"].as_array().unwrap().is_empty()
                && !checkpoint.starts_with("AT_")
                && !checkpoint.starts_with("TRIM")
        });
        done.then_some(())
    });
    assert!(lines(dir) == expected, "{} lines, {} expected", lines(dir).len(), expected.len());
    for (key, _) in objects(dir, "archive") {
        std::fs::remove_file(dir.join("archive").join(key)).unwrap();
    }
}

#[test]
fn running_workers_go_back_to_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 3);
    let mut workers: Vec<Running> = (0..2).map(|_| worker(&services, &SETTINGS)).collect();
    let (a, b, c) = (numbered("a", 600), numbered("b", 600), numbered("c", 300));
    send(&services, dir.path(), "a", &a);
    let from = now();
    send(&services, dir.path(), "b", &b);
    settled(&services, dir.path(), &[&a, &b]);
    // Nothing happens without a word.
    let output = rewind(&services, &["--from-timestamp", &from, "--dry-run"]);
    assert!(text(&output).contains("Nothing was done"));
    let output = rewind(&services, &["--from-timestamp", &from]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--yes"));
    let told = text(&rewind(&services, &["--from-timestamp", &from, "--yes"]));
    assert_eq!(told.matches("by its worker").count(), 3, "{told}");
    assert!(told.contains("delivered again"), "{told}");
    settled(&services, dir.path(), &[&b]);
    // And on with what comes.
    send(&services, dir.path(), "c", &c);
    settled(&services, dir.path(), &[&c]);
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
    settled(&services, dir.path(), &[&a, &b, &c]);
}

#[test]
fn a_finished_parent_and_its_children_go_back_together() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let mut running = worker(&services, &SETTINGS);
    let (a, b) = (numbered("a", 500), numbered("b", 500));
    send(&services, dir.path(), "a", &a);
    let clients = clients(&services);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let parent = "shardId-000000000000";
    let middle = (u128::MAX / 2).to_string();
    let split = clients.kinesis.split_shard().stream_name("local").shard_to_split(parent);
    runtime.block_on(split.new_starting_hash_key(middle).send()).unwrap();
    send(&services, dir.path(), "b", &b);
    settled(&services, dir.path(), &[&a, &b]);
    let records = runtime.block_on(async {
        let kinesis = catchment::aws::kinesis::Kinesis::new(clients.kinesis.clone());
        let arn = kinesis.describe("local").await.unwrap().arn;
        let shard = catchment::ids::ShardId::new(parent);
        let start = catchment::stream::position::StartAt::TrimHorizon;
        let iterator = kinesis.iterator(&arn, &shard, &start).await.unwrap();
        kinesis.get_records(&arn, &iterator, 10_000).await.unwrap().records
    });
    // From the 301st record of the parent on.
    let first = records.get(300).unwrap().sequence();
    let told = text(&rewind(&services, &["--from-sequence-number", first, "--yes"]));
    assert!(told.contains("3 shard(s) went back"), "{told}");
    let again: Vec<Vec<u8>> = records.iter().skip(300).map(|r| r.data.to_vec()).collect();
    settled(&services, dir.path(), &[&again, &b]);
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(40)).success());
    // Without a worker; the finished parent still names the one that finished it.
    let told = text(&rewind(&services, &["--from-trim-horizon", "--yes"]));
    assert_eq!(told.matches("by this command").count(), 3, "{told}");
    let _next = worker(&services, &SETTINGS);
    settled(&services, dir.path(), &[&a, &b]);
}

#[test]
fn a_request_outlives_a_killed_worker() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 2);
    let running = worker(&services, &SETTINGS);
    let a = numbered("a", 400);
    send(&services, dir.path(), "a", &a);
    settled(&services, dir.path(), &[&a]);
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
    settled(&services, dir.path(), &[&a]);
    next.signal("TERM");
    assert!(next.wait(Duration::from_secs(40)).success());
}

/// Whatever happens to the workers meanwhile, the second pass is as exactly-once as the first.
#[test]
fn a_rewind_among_kills_delivers_the_range_exactly_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 4);
    let settings = [
        ("delivery.batch_age", "300ms"),
        ("delivery.batch_records", "300"),
        ("lease.failover", "1s"),
    ];
    let mut workers: Vec<Running> = (0..3).map(|_| worker(&services, &settings)).collect();
    let all = numbered("a", 20_000);
    send(&services, dir.path(), "a", &all);
    settled(&services, dir.path(), &[&all]);
    let mut asking = Command::new(BIN)
        .args(["leases", "rewind", "--from-trim-horizon", "--yes"])
        .envs(services.environment.iter().cloned())
        .env_remove(OUTAGE)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    for turn in 0..7 {
        std::thread::sleep(Duration::from_millis(500));
        // Dropping kills with SIGKILL.
        workers[turn % 3] = worker(&services, &settings);
    }
    assert!(asking.wait().unwrap().success());
    settled(&services, dir.path(), &[&all]);
    for mut running in workers {
        running.signal("TERM");
        assert!(running.wait(Duration::from_secs(40)).success());
    }
    assert!(lines(dir.path()).is_empty(), "something was delivered a third time");
}

#[test]
fn requests_that_nobody_meets_are_withdrawn() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let running = worker(&services, &SETTINGS);
    let (a, b) = (numbered("a", 100), numbered("b", 100));
    send(&services, dir.path(), "a", &a);
    settled(&services, dir.path(), &[&a]);
    drop(running);
    let output = rewind(&services, &["--from-trim-horizon", "--yes", "--wait", "1s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("withdrawn"), "{}", stderr(&output));
    let mut next = worker(&services, &SETTINGS);
    send(&services, dir.path(), "b", &b);
    settled(&services, dir.path(), &[&b]);
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
