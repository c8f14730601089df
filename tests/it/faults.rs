//! The services fail in every way they know; nothing is lost, nothing is delivered twice, and what
//! a person has to mend is told with its remedy.

mod fan_out;
mod hang;
mod kpl;
mod many;
mod memory;
mod parked;
mod parts;
mod refused;
mod table;
mod wire;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType,
};
use base64_simd::STANDARD;
use catchment::aws::clients::Clients;
use catchment::ids::SequenceNumber;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::lifecycle::{free_port, get, taken};
use crate::proxy::{Fault, Proxy, Rule};
use crate::support::{
    BIN, OUTAGE, Running, catchment, eventually, lines, lines_below, objects, services,
};

const TABLE: &str = "catchment";
const SHARD: &str = "shardId-000000000000";

/// Services, a proxy before them, and clients that go round it.
struct Scene {
    dir: TempDir,
    services: Running,
    proxy: Proxy,
    clients: Clients,
    runtime: Runtime,
    sent: u64,
}

impl Scene {
    fn new(shards: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let services = services(dir.path(), shards);
        let proxy = Proxy::start(&services);
        let runtime = Runtime::new().unwrap();
        let clients = crate::support::clients(&services);
        Self { dir, services, proxy, clients, runtime, sent: 0 }
    }

    fn data(&self) -> &Path {
        self.dir.path()
    }

    fn environment(&self) -> Vec<(String, String)> {
        let mut environment = self.services.environment.clone();
        environment.retain(|(name, _)| name != "AWS_ENDPOINT_URL");
        environment.push(("AWS_ENDPOINT_URL".into(), self.proxy.endpoint()));
        environment
    }

    /// A worker behind the proxy.
    fn worker(&self, settings: &[(&str, &str)]) -> Worker {
        self.worker_of("local", settings)
    }

    fn worker_of(&self, stream: &str, settings: &[(&str, &str)]) -> Worker {
        let (log, listen) = (self.dir.path().join("worker.log"), free_port());
        let file = fs::File::create(&log).unwrap();
        let mut command = Command::new(BIN);
        command
            .args(arguments(stream, "archive"))
            .args(["--set", &format!("telemetry.listen={listen}")])
            .envs(self.environment())
            .env_remove(OUTAGE)
            .stdout(Stdio::null())
            .stderr(file);
        for (key, value) in settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let running = Running { child: command.spawn().unwrap(), environment: Vec::new() };
        Worker { running, log, listen }
    }

    /// Runs a worker that cannot start, and returns what it says.
    fn refused(&self, stream: &str, bucket: &str) -> String {
        let arguments = arguments(stream, bucket);
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.extend(["--set", "telemetry.listen=off"]);
        let output = catchment(&arguments, &self.environment());
        let text = crate::support::stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(!text.contains("panicked"), "{text}");
        text.lines().filter(|line| line.starts_with("catchment:")).collect()
    }

    /// Sends numbered records; returns their sequence numbers.
    fn send(&mut self, count: u64) -> Vec<SequenceNumber> {
        let client = &self.clients.kinesis;
        let mut sequences = Vec::new();
        for n in self.sent..self.sent + count {
            let call = client
                .put_record()
                .stream_name("local")
                .partition_key(format!("key {n}"))
                .data(aws_sdk_kinesis::primitives::Blob::new(line(n)));
            let reply = self.runtime.block_on(call.send()).unwrap();
            sequences.push(SequenceNumber::parse(reply.sequence_number()).unwrap());
        }
        self.sent += count;
        sequences
    }

    /// Everything sent so far, sorted.
    fn expected(&self) -> Vec<Vec<u8>> {
        let mut lines: Vec<_> = (0..self.sent).map(line).collect();
        lines.sort();
        lines
    }

    /// Waits until everything is delivered, ends the worker, and looks for what is twice.
    fn settle(&self, mut worker: Worker) {
        let expected = self.expected();
        eventually("every record is delivered", || {
            (lines(self.data()).len() >= expected.len()).then_some(())
        });
        worker.stop();
        assert!(lines(self.data()) == expected, "missing or twice; see {}", worker.text());
    }

    fn row(&self, shard: &str) -> Option<HashMap<String, AttributeValue>> {
        let call = self.clients.dynamodb.get_item().table_name(TABLE).consistent_read(true);
        let call = call.key("leaseKey", AttributeValue::S(shard.into()));
        self.runtime.block_on(call.send()).ok()?.item
    }

    fn change_row(&self, shard: &str, expression: &str, value: AttributeValue) {
        let call = self.clients.dynamodb.update_item().table_name(TABLE);
        let call = call
            .key("leaseKey", AttributeValue::S(shard.into()))
            .update_expression(expression)
            .expression_attribute_values(":v", value);
        self.runtime.block_on(call.send()).unwrap();
    }
}

struct Worker {
    running: Running,
    log: PathBuf,
    listen: String,
}

impl Worker {
    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = get(&self.listen, "/metrics")?;
        let of_name = |l: &&str| {
            l.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
        };
        let values: Vec<f64> = text
            .lines()
            .filter(of_name)
            .filter_map(|l| l.rsplit(' ').next()?.parse().ok())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    fn stop(&mut self) {
        self.running.signal("TERM");
        let status = self.running.wait(Duration::from_secs(60));
        assert!(status.success(), "{status}: {}", self.text());
        assert!(!self.text().contains("panicked"), "{}", self.text());
    }
}

fn arguments(stream: &str, bucket: &str) -> Vec<String> {
    let fixed = ["run", "--stream", stream, "--bucket", bucket];
    let settings = [
        "aws.path_style=true",
        "stream.idle=100ms",
        "stream.calls_per_second=50",
        "lease.scan=200ms",
        "delivery.batch_age=300ms",
    ];
    let fixed = fixed.into_iter().map(str::to_owned);
    fixed.chain(settings.iter().flat_map(|s| ["--set".to_owned(), (*s).to_owned()])).collect()
}

fn line(n: u64) -> Vec<u8> {
    format!("{{\"record\":{n},\"pad\":\"{n:0>60}\"}}").into_bytes()
}

// Start.

#[test]
fn a_missing_permission_ends_the_start_with_operation_and_remedy() {
    let scene = Scene::new(1);
    for (operation, status, code) in [
        ("Kinesis.DescribeStreamSummary", 400, "AccessDeniedException"),
        ("Kinesis.ListShards", 400, "AccessDeniedException"),
        ("S3.HeadBucket", 403, "AccessDenied"),
        ("DynamoDB.DescribeTable", 400, "AccessDeniedException"),
        ("DynamoDB.CreateTable", 400, "AccessDeniedException"),
        ("DynamoDB.Scan", 400, "AccessDeniedException"),
    ] {
        scene.proxy.add(Rule::new(operation, Fault::Refuse(status, code)));
        let text = scene.refused("local", "archive");
        let name = operation.split_once('.').unwrap().1;
        assert!(text.contains(&format!("{name} failed")), "{operation}: {text}");
        assert!(text.contains("grant"), "{operation}: {text}");
        scene.proxy.heal();
    }
}

#[test]
fn a_table_of_another_shape_is_refused() {
    let scene = Scene::new(1);
    let key = |name: &str, kind| {
        KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap()
    };
    let definition = |name: &str| {
        AttributeDefinition::builder()
            .attribute_name(name)
            .attribute_type(ScalarAttributeType::S)
            .build()
            .unwrap()
    };
    let call = scene.clients.dynamodb.create_table().table_name(TABLE);
    let call = call
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(key("leaseKey", KeyType::Hash))
        .key_schema(key("sort", KeyType::Range))
        .attribute_definitions(definition("leaseKey"))
        .attribute_definitions(definition("sort"));
    scene.runtime.block_on(call.send()).unwrap();
    let text = scene.refused("local", "archive");
    for part in ["`catchment`", "HASH leaseKey + RANGE sort", "lease.application"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[test]
fn the_table_of_a_stream_that_was_created_again_is_refused() {
    let mut scene = Scene::new(1);
    scene.send(3);
    let worker = scene.worker(&[]);
    scene.settle(worker);
    let kinesis = scene.clients.kinesis.clone();
    scene.runtime.block_on(async {
        kinesis.delete_stream().stream_name("local").send().await.unwrap();
    });
    // The time of creation tells them apart: the new one must be of another second.
    let born = |scene: &Scene| {
        let call = scene.clients.kinesis.create_stream().stream_name("local").shard_count(1);
        scene.runtime.block_on(call.send()).ok()
    };
    eventually("the stream can be created again", || born(&scene));
    let text = scene.refused("local", "archive");
    for part in ["another stream", "created again", "lease.application"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[test]
fn a_bucket_in_another_region_is_named() {
    let scene = Scene::new(1);
    scene.proxy.add(Rule::new("S3.HeadBucket", Fault::Elsewhere("ap-south-1")));
    let text = scene.refused("local", "archive");
    for part in ["`archive`", "ap-south-1", "AWS_REGION"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

// Retention.

/// Delivers some records, stops, and lets retention pass the checkpoint and four of the records
/// that followed.
fn passed_by_retention() -> (Scene, Vec<Vec<u8>>) {
    let mut scene = Scene::new(1);
    scene.send(5);
    let worker = scene.worker(&[]);
    scene.settle(worker);
    let sequences = scene.send(10);
    let trim = Fault::Trim(sequences[4].clone());
    scene.proxy.add(Rule::new("Kinesis.GetRecords", trim));
    let long_ago = AttributeValue::N("1600000000000".into());
    scene.change_row(SHARD, "SET catchment_read_through_ms = :v", long_ago);
    let mut left: Vec<_> = (0..5).chain(9..15).map(line).collect();
    left.sort();
    (scene, left)
}

/// The archive's lines, without the dead letters.
fn archived(scene: &Scene) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = objects(scene.data(), "archive")
        .into_iter()
        .filter(|(key, _)| !key.starts_with("errors/"))
        .flat_map(|(_, raw)| {
            raw.strip_suffix(b"\n")
                .unwrap()
                .split(|b| *b == b'\n')
                .map(<[u8]>::to_vec)
                .collect::<Vec<_>>()
        })
        .collect();
    found.sort();
    found
}

#[test]
fn a_checkpoint_older_than_retention_is_recorded_and_passed_if_so_configured() {
    let (scene, left) = passed_by_retention();
    let mut worker = scene.worker(&[("delivery.on_gap", "continue")]);
    eventually("what is left is delivered", || (archived(&scene).len() >= 11).then_some(()));
    worker.stop();
    assert!(archived(&scene) == left);
    let reports: Vec<_> = objects(scene.data(), "archive")
        .into_iter()
        .filter(|(key, _)| key.starts_with("errors/gap/"))
        .collect();
    assert_eq!(reports.len(), 1, "{reports:?}");
    let report: serde_json::Value = serde_json::from_slice(&reports[0].1).unwrap();
    assert_eq!((&report["kind"], &report["shard"]), (&"gap".into(), &SHARD.into()));
}

#[test]
fn an_idle_shard_whose_last_record_left_retention_is_no_gap() {
    let mut scene = Scene::new(1);
    scene.send(5);
    let worker = scene.worker(&[("lease.failover", "1s")]);
    eventually("a heartbeat says how far the shard is read", || {
        let row = scene.row(SHARD)?;
        let read = row.get("catchment_read_through_ms")?.as_n().ok()?;
        (read != "0").then_some(())
    });
    scene.settle(worker);
    // The checkpointed record is gone, but the shard was read to its tip a moment ago.
    let sequences = scene.send(5);
    scene.proxy.add(Rule::new("Kinesis.GetRecords", Fault::Trim(sequences[0].clone())));
    let worker = scene.worker(&[]);
    scene.settle(worker);
}

// Kinesis.

#[test]
fn a_throttled_stream_is_read_once_it_lets_us() {
    let mut scene = Scene::new(2);
    let throttle = Fault::Refuse(400, "ProvisionedThroughputExceededException");
    let rule = scene.proxy.add(Rule::new("Kinesis.*", throttle.clone()).with_body("shard"));
    scene.send(50);
    let worker = scene.worker(&[]);
    eventually("Kinesis throttles", || (rule.hits() >= 6).then_some(()));
    scene.proxy.heal();
    scene.proxy.add(Rule::new("Kinesis.GetRecords", throttle).every(3));
    eventually("half-way", || (!lines(scene.data()).is_empty()).then_some(()));
    scene.send(50);
    scene.settle(worker);
}

#[test]
fn expired_iterators_are_renewed_where_they_were() {
    let mut scene = Scene::new(2);
    let expired = Fault::Refuse(400, "ExpiredIteratorException");
    let rule = scene.proxy.add(Rule::new("Kinesis.GetRecords", expired).every(2));
    scene.send(30);
    let worker = scene.worker(&[("stream.page_records", "7")]);
    eventually("iterators expire", || (rule.hits() >= 5).then_some(()));
    scene.send(30);
    scene.settle(worker);
}

#[test]
fn lost_replies_of_the_stream_lose_nothing() {
    let mut scene = Scene::new(2);
    scene.proxy.add(Rule::new("Kinesis.*", Fault::LoseReply).every(3));
    scene.send(40);
    let worker = scene.worker(&[("stream.page_records", "7")]);
    scene.settle(worker);
}

// DynamoDB.

const PROGRESS: &str = "catchment_read_through_ms = :now";
const TAKE: &str = "leaseOwner = :me REMOVE";
const RENEW: &str = "SET leaseCounter = :next\"";
/// Every attempt of the SDK for one call.
const ATTEMPTS: usize = 3;

/// Replies of one kind of write are lost, every second one; then all attempts of every call.
fn lost_replies_of_writes(body: &str, settings: &[(&str, &str)]) {
    for every in [2, 1] {
        let mut scene = Scene::new(3);
        let rule = Rule::new("DynamoDB.UpdateItem", Fault::LoseReply).with_body(body).every(every);
        let rule = scene.proxy.add(rule);
        scene.send(30);
        let worker = scene.worker(settings);
        eventually("replies are lost", || {
            (rule.hits() >= if every == 1 { 3 * ATTEMPTS } else { 2 }).then_some(())
        });
        scene.proxy.heal();
        scene.send(30);
        let expected = scene.expected().len();
        eventually("every record is delivered", || {
            (lines(scene.data()).len() >= expected).then_some(())
        });
        let lost = worker.metric("catchment_leases_lost_total");
        assert_eq!(lost, Some(0.0), "{}", worker.text());
        scene.settle(worker);
    }
}

#[test]
fn lost_replies_of_progress_writes_lose_no_lease() {
    lost_replies_of_writes(PROGRESS, &[("delivery.batch_records", "2")]);
}

#[test]
fn lost_replies_of_takes_lose_no_lease() {
    lost_replies_of_writes(TAKE, &[]);
}

#[test]
fn lost_replies_of_heartbeats_lose_no_lease() {
    lost_replies_of_writes(RENEW, &[("lease.failover", "9s")]);
}

#[test]
fn a_table_away_for_longer_than_the_failover_time_is_taken_up_again() {
    let mut scene = Scene::new(2);
    scene.send(20);
    let worker = scene.worker(&[("lease.failover", "1s")]);
    eventually("the first records are delivered", || {
        (lines(scene.data()).len() == 20).then_some(())
    });
    scene.proxy.add(Rule::new("DynamoDB.*", Fault::Refuse(500, "InternalServerError")));
    scene.send(20);
    eventually("the leases run out", || {
        (worker.metric("catchment_leases_owned") == Some(0.0)).then_some(())
    });
    scene.proxy.heal();
    scene.settle(worker);
}

#[test]
fn a_lease_of_a_later_version_is_left_alone() {
    let mut scene = Scene::new(2);
    let mut worker = scene.worker(&[]);
    let other = "shardId-000000000001";
    eventually("the leases exist", || {
        (scene.proxy.calls("DynamoDB.PutItem") >= 2 && scene.row(other).is_some()).then_some(())
    });
    worker.stop();
    let state = Blob::new("{\"catchment\":9,\"settings\":[],\"intents\":[]}");
    scene.change_row(SHARD, "SET pendingCheckpointState = :v", AttributeValue::B(state));
    let before = scene.row(SHARD).unwrap();
    scene.send(40);
    let mut worker = scene.worker(&[]);
    let of_other: Vec<_> = eventually("the other shard is delivered to its end", || {
        let stored = lines(scene.data());
        (worker.metric("catchment_behind_latest_seconds") == Some(0.0) && !stored.is_empty())
            .then_some(stored)
    });
    worker.stop();
    assert!(of_other.len() < 40);
    assert_eq!(scene.row(SHARD).unwrap(), before, "the row is as it was");
    let text = worker.text();
    assert!(text.contains("\"level\":\"ERROR\"") && text.contains("upgrade"), "{text}");
    // Once the newer version has finished its intent, this one goes on.
    let call = scene.clients.dynamodb.update_item().table_name(TABLE);
    let call = call
        .key("leaseKey", AttributeValue::S(SHARD.into()))
        .update_expression("REMOVE pendingCheckpointState");
    scene.runtime.block_on(call.send()).unwrap();
    let worker = scene.worker(&[]);
    scene.settle(worker);
}

// S3.

#[test]
fn lost_replies_and_errors_of_the_bucket_repeat_nothing() {
    let mut scene = Scene::new(2);
    scene.proxy.add(Rule::new("S3.PutObject", Fault::LoseReply).every(2));
    scene.proxy.add(Rule::new("S3.PutObject", Fault::Refuse(500, "InternalError")).every(2));
    scene.send(30);
    let worker = scene.worker(&[("delivery.batch_records", "5")]);
    scene.settle(worker);
}

#[test]
fn objects_in_parts_survive_lost_replies() {
    let scene = Scene::new(1);
    let file = scene.dir.path().join("input");
    let (size, _) = noise(&file, 24 << 20, 300_000);
    let rule = scene.proxy.add(Rule::new("S3.CompleteMultipartUpload", Fault::LoseReply).every(2));
    let mut worker = scene.worker(&[
        ("delivery.multipart_bytes", "5MiB"),
        // Cut by size, however slow the machine.
        ("delivery.batch_bytes", "8MiB"),
        ("delivery.batch_age", "5s"),
        ("delivery.compression", "none"),
        ("stream.bytes_per_second", "0B"),
    ]);
    sent(&scene, &file);
    within(Duration::from_secs(300), "every byte is stored", || {
        (stored(scene.data()) >= size).then_some(())
    });
    assert!(rule.hits() > 0, "there were objects in parts");
    worker.stop();
    same_lines(&file, scene.data());
}

/// Lines that hardly compress, each different; returns size and number.
fn noise(file: &Path, bytes: usize, record: usize) -> (u64, usize) {
    let mut out = std::io::BufWriter::new(fs::File::create(file).unwrap());
    let mut random = fastrand::Rng::with_seed(7);
    let mut raw = vec![0; record];
    let count = bytes / (record + 1);
    for _ in 0..count {
        random.fill(&mut raw);
        let line = STANDARD.encode_to_string(&raw);
        out.write_all(&line.as_bytes()[..record]).unwrap();
        out.write_all(b"\n").unwrap();
    }
    out.flush().unwrap();
    ((count * (record + 1)) as u64, count)
}

fn sent(scene: &Scene, file: &Path) {
    let output = catchment(
        &["send", "--stream", "local", "--input", file.to_str().unwrap()],
        &scene.services.environment,
    );
    assert!(output.status.success(), "{}", crate::support::stderr(&output));
}

/// Bytes stored below the bucket.
fn stored(data_dir: &Path) -> u64 {
    objects(data_dir, "archive").iter().map(|(_, raw)| raw.len() as u64).sum()
}

fn same_lines(file: &Path, data_dir: &Path) {
    let mut expected: Vec<Vec<u8>> =
        fs::read(file).unwrap().split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    expected.pop();
    expected.sort();
    let found = lines(data_dir);
    assert!(found == expected, "{} lines of {}", found.len(), expected.len());
}

fn within<T>(bound: Duration, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(begun.elapsed() < bound, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
