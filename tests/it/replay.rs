//! Ranges are delivered again, beside live workers, by several processes, through kills and reshards.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use catchment::aws::kinesis::Kinesis;
use catchment::stream::position::StartAt;
use serde_json::Value;

use crate::support::{
    BIN, OUTAGE, Running, catchment, clients, eventually, lines, lines_below, objects, send,
    services, stderr, worker,
};

const FAST: [&str; 10] = [
    "--set",
    "aws.path_style=true",
    "--set",
    "stream.idle=100ms",
    "--set",
    "lease.scan=200ms",
    "--set",
    "lease.failover=2s",
    "--set",
    "delivery.batch_age=300ms",
];

fn numbered(name: &str, count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("{name}:{n:05}:{n:0>60}").into_bytes()).collect()
}

fn arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["replay", "--stream", "local", "--bucket", "archive"];
    arguments.extend(FAST);
    arguments.extend(["--set", "stream.calls_per_second=50"]);
    arguments.extend(more);
    arguments
}

fn replay(services: &Running, more: &[&str]) -> Output {
    catchment(&arguments(more), &services.environment)
}

fn spawn(services: &Running, arguments: &[&str]) -> Running {
    let child = Command::new(BIN)
        .args(arguments)
        .envs(services.environment.iter().cloned())
        .env_remove(OUTAGE)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Running { child, environment: Vec::new() }
}

/// The wall clock, between two milliseconds that records have.
fn now() -> String {
    std::thread::sleep(Duration::from_millis(20));
    let now = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_millis(20));
    now
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Everything in the stream: sequence number and payload, by shard.
fn stream(services: &Running) -> BTreeMap<String, Vec<(String, Vec<u8>)>> {
    let kinesis = Kinesis::new(clients(services).kinesis);
    runtime().block_on(async {
        let arn = kinesis.describe("local").await.unwrap().arn;
        let mut all = BTreeMap::new();
        for shard in kinesis.list_shards(&arn).await.unwrap() {
            let mut records = Vec::new();
            let start = StartAt::TrimHorizon;
            let mut next = Some(kinesis.iterator(&arn, &shard.id, &start).await.unwrap());
            while let Some(iterator) = next.take() {
                let page = kinesis.get_records(&arn, &iterator, 10_000).await.unwrap();
                let tip = page.records.is_empty() && page.behind_ms == Some(0);
                let found = page.records.iter();
                records.extend(found.map(|r| (r.sequence().to_owned(), r.data.to_vec())));
                next = page.next.filter(|_| !tip);
            }
            all.insert(shard.id.as_str().to_owned(), records);
        }
        all
    })
}

fn payloads(records: &[(String, Vec<u8>)]) -> Vec<Vec<u8>> {
    records.iter().map(|(_, data)| data.clone()).collect()
}

fn sorted(mut lines: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    lines.sort();
    lines
}

/// Owner, checkpoint and announced batches of every row: all that a stranger could spoil.
fn rows(services: &Running) -> Vec<String> {
    let output = catchment(&["leases", "list", "--json"], &services.environment);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            row.as_object_mut().unwrap().remove("counter");
            row.to_string()
        })
        .collect()
}

fn tables(services: &Running) -> Vec<String> {
    let dynamodb = clients(services).dynamodb;
    let listed = runtime().block_on(dynamodb.list_tables().send()).unwrap();
    listed.table_names.unwrap_or_default()
}

fn live(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut objects = objects(dir, "archive");
    objects.retain(|(key, _)| !key.starts_with("replays/"));
    objects
}

#[test]
fn a_range_of_time_is_replayed_beside_a_running_worker() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 2);
    let mut running = worker(&services, &[("delivery.batch_age", "300ms")]);
    let (a, b, c) = (numbered("a", 800), numbered("b", 700), numbered("c", 600));
    send(&services, dir.path(), "a", &a);
    let from = now();
    send(&services, dir.path(), "b", &b);
    let until = now();
    send(&services, dir.path(), "c", &c);
    let delivered = |count: usize| {
        eventually("live delivery", || (lines(dir.path()).len() >= count).then_some(()));
        eventually("live commits", || {
            rows(&services).iter().all(|r| r.contains("\"announced\":[]")).then_some(())
        });
    };
    delivered(2_100);
    let before = (live(dir.path()), rows(&services));
    let output = replay(
        &services,
        &["--from-timestamp", &from, "--until-timestamp", &until, "--id", "noon"],
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let summary = String::from_utf8(output.stdout).unwrap();
    let summary: Value = serde_json::from_str(summary.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["event"], &summary["records"]), (&"summary".into(), &700.into()));
    assert_eq!(summary["complete"], true);
    assert_eq!(lines_below(dir.path(), "replays/noon/"), sorted(b.clone()));
    assert!((live(dir.path()), rows(&services)) == before, "live objects or leases were touched");
    // The live worker goes on as if nothing had been.
    send(&services, dir.path(), "d", &numbered("d", 100));
    let expected = 2_100 + 700 + 100;
    eventually("live goes on", || (lines(dir.path()).len() == expected).then_some(()));
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(40)).success());
    // Again by id alone: nothing to do. Otherwise: refused, with both values.
    let mut by_id = vec!["replay", "--id", "noon"];
    by_id.extend(FAST);
    assert!(catchment(&by_id, &services.environment).status.success());
    let output = replay(&services, &["--from-trim-horizon", "--id", "noon"]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("--from-trim-horizon") && text.contains(&from), "{text}");
    assert_eq!(lines_below(dir.path(), "replays/noon/").len(), 700);
    // Finished replays are listed, and tidied up; their objects stay.
    let list = catchment(&["replay", "list", "--json"], &services.environment);
    let line: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!((&line["id"], &line["state"]), (&"noon".into(), &"complete".into()));
    let deleted = catchment(&["replay", "delete", "noon"], &services.environment);
    assert!(deleted.status.success(), "{}", stderr(&deleted));
    assert_eq!(tables(&services), ["catchment"]);
    assert_eq!(lines_below(dir.path(), "replays/noon/").len(), 700);
    // Its prefix is not taken by a new one.
    let output = replay(&services, &["--from-trim-horizon", "--id", "noon"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("in use"));
}

#[test]
fn uploads_are_replayed_under_the_prefix_and_never_over_the_live_key() {
    use catchment::upload::event::{Envelope, sha256_hex, subject_hash, validate_file_key};
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let event = Envelope {
        file_key: validate_file_key("uploads/a.txt").unwrap(),
        content_type: "text/plain".into(),
        sha256: sha256_hex(b"hello"),
        subject: subject_hash("issuer", "someone"),
        request_id: "request-1".into(),
        received_at: 1_790_000_000_000,
        body: b"hello".to_vec(),
    };
    send(&services, dir.path(), "uploads", &[event.encode()]);
    let output = replay(&services, &["--from-trim-horizon", "--id", "u", "--prefix", "again"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let found = objects(dir.path(), "archive");
    assert_eq!(found, [("again/uploads/a.txt".to_owned(), b"hello".to_vec())]);
}

#[test]
fn two_processes_share_a_replay_and_a_third_resumes_it_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 4);
    let all = numbered("x", 24_000);
    send(&services, dir.path(), "input", &all);
    let slow = [
        "--from-trim-horizon",
        "--id",
        "shared",
        "--set",
        "stream.page_records=200",
        "--set",
        "stream.calls_per_second=4",
        "--set",
        "delivery.batch_records=500",
    ];
    let both: Vec<Running> = (0..2).map(|_| spawn(&services, &arguments(&slow))).collect();
    let status = || {
        let output = catchment(&["replay", "status", "shared", "--json"], &services.environment);
        serde_json::from_slice::<Value>(&output.stdout).ok()
    };
    eventually("both work on it", || {
        let status = status()?;
        (status["workers"] == 2 && status["records"].as_u64()? > 1_000).then_some(())
    });
    drop(both); // SIGKILL
    let cut_off = status().unwrap();
    assert_eq!(cut_off["state"], "active");
    assert!(cut_off["records"].as_u64().unwrap() < 24_000);
    // Not complete: not deleted by mistake.
    let refused = catchment(&["replay", "delete", "shared"], &services.environment);
    assert_eq!(refused.status.code(), Some(1));
    let mut by_id = vec!["replay", "--id", "shared", "--set", "stream.calls_per_second=50"];
    by_id.extend(FAST);
    let output = catchment(&by_id, &services.environment);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(summary["records"], 24_000);
    assert!(lines_below(dir.path(), "replays/shared/") == sorted(all));
    let mut verify = vec!["verify", "--replay", "shared", "--deep"];
    verify.extend(["--set", "aws.path_style=true"]);
    let verified = catchment(&verify, &services.environment);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[test]
fn a_position_in_a_parent_leads_through_a_split_and_a_merge() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 2);
    let kinesis = clients(&services).kinesis;
    send(&services, dir.path(), "a", &numbered("a", 400));
    let id = |n: u32| format!("shardId-{n:012}");
    let quarter = u128::MAX / 4;
    let split = kinesis.split_shard().stream_name("local").shard_to_split(id(0));
    let split = split.new_starting_hash_key(quarter.to_string());
    runtime().block_on(split.send()).unwrap();
    send(&services, dir.path(), "b", &numbered("b", 400));
    let merge = kinesis.merge_shards().stream_name("local");
    let merge = merge.shard_to_merge(id(3)).adjacent_shard_to_merge(id(1));
    runtime().block_on(merge.send()).unwrap();
    send(&services, dir.path(), "c", &numbered("c", 400));
    let all = stream(&services);
    let parent = &all[&id(0)];
    let (first, _) = &parent[parent.len() / 2];
    let from = &parent[parent.len() / 2..];

    // To the present: the rest of the parent, and everything of its descendants.
    let output = replay(&services, &["--from-sequence-number", first, "--id", "lineage"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let mut expected = payloads(from);
    for n in [2, 3, 4] {
        expected.extend(payloads(&all[&id(n)]));
    }
    assert!(lines_below(dir.path(), "replays/lineage/") == sorted(expected));

    // To a record of the merged shard: only what leads there.
    let merged = &all[&id(4)];
    let (last, _) = &merged[merged.len() / 3];
    let output = replay(
        &services,
        &["--from-sequence-number", first, "--until-sequence-number", last, "--id", "path"],
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let mut expected = payloads(from);
    expected.extend(payloads(&all[&id(3)]));
    expected.extend(payloads(&merged[..=merged.len() / 3]));
    assert!(lines_below(dir.path(), "replays/path/") == sorted(expected));

    // One lineage by name, whole; and an end that it does not lead to.
    let output = replay(&services, &["--from-trim-horizon", "--shard", &id(1), "--id", "one"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let mut expected = payloads(&all[&id(1)]);
    expected.extend(payloads(merged));
    assert!(lines_below(dir.path(), "replays/one/") == sorted(expected));
    let output = replay(
        &services,
        &["--from-trim-horizon", "--shard", &id(1), "--until-sequence-number", first, "--id", "no"],
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("not shardId-000000000001 or one of its descendants"));
    for replay in ["lineage", "path", "one"] {
        let mut verify = vec!["verify", "--replay", replay, "--deep"];
        verify.extend(["--set", "aws.path_style=true"]);
        let verified = catchment(&verify, &services.environment);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    }
}

#[test]
fn a_replay_goes_on_while_the_stream_is_written_to_and_resharded() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let before = numbered("before", 3_000);
    send(&services, dir.path(), "before", &before);
    let slow = ["--set", "stream.page_records=200", "--set", "stream.calls_per_second=4"];
    let mut more = vec!["--from-trim-horizon", "--id", "busy"];
    more.extend(slow);
    let mut running = spawn(&services, &arguments(&more));
    eventually("it is planned", || {
        let output = catchment(&["replay", "status", "busy", "--json"], &services.environment);
        let status = serde_json::from_slice::<Value>(&output.stdout).ok()?;
        (status["state"] == "active").then_some(())
    });
    // The end was settled when it was planned: none of this belongs to it.
    let kinesis = clients(&services).kinesis;
    let split = kinesis.split_shard().stream_name("local").shard_to_split("shardId-000000000000");
    let split = split.new_starting_hash_key((u128::MAX / 2).to_string());
    runtime().block_on(split.send()).unwrap();
    send(&services, dir.path(), "after", &numbered("after", 500));
    assert!(running.wait(Duration::from_secs(60)).success());
    assert!(lines_below(dir.path(), "replays/busy/") == sorted(before));
}

#[test]
fn a_dry_run_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 2);
    send(&services, dir.path(), "a", &numbered("a", 500));
    let output = replay(&services, &["--from-trim-horizon", "--id", "dry", "--dry-run", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["shards"].as_array().unwrap().len(), 2);
    assert!(plan["estimated_bytes"].as_u64().unwrap() > 30_000, "{plan}");
    assert_eq!(plan["outside_retention"], Value::Null);
    let output = replay(&services, &["--from-trim-horizon", "--dry-run"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("Nothing was written"));
    assert_eq!(tables(&services), Vec::<String>::new());
    assert!(objects(dir.path(), "archive").is_empty());
}

#[test]
fn wrong_ranges_are_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 2);
    send(&services, dir.path(), "a", &numbered("a", 50));
    let all = stream(&services);
    let (known, _) = &all["shardId-000000000000"][0];
    // Numbers that no record has: one that cannot be, and the one a shard begins with.
    let listed = clients(&services).kinesis;
    let listed = runtime().block_on(listed.list_shards().stream_name("local").send()).unwrap();
    let begin = listed.shards()[0].sequence_number_range().unwrap();
    let begin = begin.starting_sequence_number().to_owned();
    let unknown = format!("{}1", &known[..known.len() - 1]);
    let unknown = if unknown == *known { known.replace(&known[50..], "111111") } else { unknown };
    let past = "2026-01-01T00:00:00Z";
    for (code, more, part) in [
        (2, vec![], "nothing says where to begin"),
        (2, vec!["--id", "none"], "no replay `none`"),
        (2, vec!["--from-timestamp", "yesterday"], "2026-11-23T07:00:00Z"),
        (2, vec!["--from-timestamp", "2999-01-01T00:00:00Z"], "future"),
        (2, vec!["--from-sequence-number", "12x"], "decimal digits"),
        (2, vec!["--from-sequence-number", &unknown], "--shard"),
        (2, vec!["--from-trim-horizon", "--until-sequence-number", &unknown], "--until-shard"),
        (2, vec!["--from-trim-horizon", "--shard", "shardId-9"], "no shard `shardId-9`"),
        (2, vec!["--from-trim-horizon", "--from-timestamp", past], "cannot be used with"),
        (2, vec!["--from-timestamp", past, "--until-timestamp", past], "range is empty"),
        (2, vec!["--from-trim-horizon", "--id", "a/b"], "table name"),
        (2, vec!["--from-trim-horizon", "--prefix", ""], "empty"),
        (2, vec!["--from-trim-horizon", "--prefix", "a/!{yyyy}"], "delivery.prefix"),
        (2, vec!["--from-trim-horizon", "--prefix", "/a"], "start with"),
        (
            3,
            vec!["--from-sequence-number", &begin, "--shard", "shardId-000000000000"],
            "delivery.on_gap=continue",
        ),
        (
            2,
            vec!["--from-sequence-number", &unknown, "--shard", "shardId-000000000000"],
            "is no number of",
        ),
    ] {
        let output = replay(&services, &more);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{more:?}: {text}");
        assert!(text.contains(part), "{more:?}: {part} is missing in {text}");
    }
    assert!(objects(dir.path(), "archive").is_empty());
    assert_eq!(tables(&services), Vec::<String>::new());
    // With the policy to go on, what is there is delivered.
    let output = replay(
        &services,
        &[
            "--from-sequence-number",
            &begin,
            "--shard",
            "shardId-000000000000",
            "--until-sequence-number",
            known,
            "--id",
            "single",
            "--set",
            "delivery.on_gap=continue",
        ],
    );
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(lines_below(dir.path(), "replays/single/local/").len(), 1);
    let gaps = objects(dir.path(), "archive");
    assert!(gaps.iter().any(|(key, _)| key.starts_with("replays/single/errors/gap/")), "{gaps:?}");
}
