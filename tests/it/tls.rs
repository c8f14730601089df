//! The services over TLS, Kinesis by HTTP/2, as the real ones speak. The services run in the test's
//! own process, so that it can ask what went over which connection.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use aws_sdk_kinesis::primitives::Blob;
use catchment::aws::clients::Clients;
use catchment::aws::fan_out::Subscription;
use catchment::aws::kinesis::Kinesis;
use catchment::aws::objects::Objects;
use catchment::aws::producer::Producer;
use catchment::clock::Clock;
use catchment::local::{ConnectionSeen, Http2Limits, ServiceOptions, Services, TlsOptions};
use catchment::stream::position::StartAt;
use catchment::stream::{ShardInfo, StreamInfo};
use catchment::task::Tasks;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::lifecycle::{free_port, get};
use crate::support::{BIN, OUTAGE, Running, calls, eventually, lines, stderr};

const REGION: &str = "us-east-1";
/// What a log of a connection to Kinesis shows of its window.
const WINDOW: u32 = 1 << 20;
/// Subscriptions that a worker opens on one connection.
const EACH: usize = 4;

/// The services, a stream and a bucket.
struct Scene {
    dir: TempDir,
    services: Services,
    clients: Clients,
    kinesis: Kinesis,
    stream: StreamInfo,
    runtime: Runtime,
}

impl Scene {
    fn new(shards: i32, streams: Option<u32>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let http2 = Http2Limits { streams, window: streams.map(|_| WINDOW) };
        let options = ServiceOptions {
            data_dir: None,
            objects: dir.path().to_owned(),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: None,
            region: REGION.to_owned(),
            tls: Some(TlsOptions { kinesis_port: None, http2 }),
        };
        let (services, clients, kinesis, stream) = runtime.block_on(async {
            let tasks = Tasks::pooled(4);
            let services = Services::start(options, &tasks, &Clock::system()).await.unwrap();
            let clients = Clients::of(&services.endpoints(), REGION, &calls());
            Objects::new(clients.s3.clone()).create_bucket("archive").await.unwrap();
            Producer::new(clients.kinesis.clone()).create_stream("local", shards).await.unwrap();
            let kinesis = Kinesis::over(clients.kinesis.clone(), &clients.transport);
            let stream = kinesis.describe("local").await.unwrap();
            (services, clients, kinesis, stream)
        });
        Self { dir, services, clients, kinesis, stream, runtime }
    }

    /// One record into each of these shards.
    fn put(&self, shards: &[ShardInfo], data: &[u8]) {
        self.runtime.block_on(async {
            for shard in shards {
                let (first, _) = shard.hash_range.clone().unwrap();
                let call = self.clients.kinesis.put_record().stream_name("local");
                let call = call.partition_key("key").explicit_hash_key(first);
                call.data(Blob::new(data)).send().await.unwrap();
            }
        });
    }

    fn shards(&self) -> Vec<ShardInfo> {
        self.runtime.block_on(self.kinesis.list_shards(&self.stream.arn)).unwrap()
    }

    /// An active consumer.
    fn consumer(&self) -> String {
        self.runtime.block_on(async {
            self.kinesis.register(&self.stream.arn, "tap").await.unwrap();
            self.kinesis.consumer(&self.stream.arn, "tap").await.unwrap().arn
        })
    }

    fn worker_in(&self, environment: &[(&str, String)], settings: &[&str]) -> Command {
        let mut command = Command::new(BIN);
        command
            .args(["run", "--stream", "local", "--bucket", "archive"])
            .args(["--set", "aws.path_style=true", "--set", "stream.idle=100ms"])
            .args(["--set", "stream.calls_per_second=50", "--set", "lease.scan=200ms"])
            .args(["--set", "delivery.batch_age=300ms"])
            .envs(environment.iter().cloned())
            .env_remove(OUTAGE)
            .stdout(Stdio::null());
        for setting in settings {
            command.args(["--set", setting]);
        }
        command
    }

    /// A worker, and the address of its metrics.
    fn worker(&self, settings: &[&str]) -> (Running, String) {
        let listen = free_port();
        let log = fs::File::create(self.dir.path().join("worker.log")).unwrap();
        let mut command = self.worker_in(&self.services.environment(), settings);
        command.args(["--set", &format!("telemetry.listen={listen}")]).stderr(log);
        (Running { child: command.spawn().unwrap(), environment: Vec::new() }, listen)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("worker.log")).unwrap()
    }

    /// Connections on which there were such calls.
    fn with(&self, operation: &str) -> Vec<ConnectionSeen> {
        let all = self.services.connections().into_iter();
        all.filter(|one| one.calls.contains_key(operation)).collect()
    }

    /// Subscriptions that are open now.
    fn subscribed(&self) -> usize {
        self.services.connections().iter().map(|one| one.subscriptions).sum()
    }

    /// What holds of every connection, whatever was done.
    fn check(&self) {
        for one in self.services.connections() {
            let calls = &one.calls;
            assert!(one.tls, "{one:?}");
            // Kinesis by HTTP/2, the others not.
            let others = ["S3", "GetItem", "PutItem", "UpdateItem", "Scan", "DescribeTable"];
            let of_kinesis = !others.iter().any(|name| calls.contains_key(*name));
            assert!(calls.is_empty() || one.http2 == of_kinesis, "{one:?}");
            // A subscription shares a connection with few of its kind, and with nothing else.
            if calls.contains_key("SubscribeToShard") {
                assert_eq!(calls.len(), 1, "{one:?}");
                assert!(one.most_subscriptions <= EACH, "{one:?}");
            }
            // Reading waits for nobody who asks something else.
            if calls.contains_key("GetRecords") {
                assert_eq!(calls.len(), 1, "{one:?}");
            }
        }
    }
}

#[test]
fn a_worker_reads_by_http2_and_stores() {
    let scene = Scene::new(2, None);
    let shards = scene.shards();
    scene.put(&shards, b"before");
    let (mut polling, _) = scene.worker(&[]);
    eventually("what was there is delivered", || {
        (lines(scene.dir.path()).len() == 2).then_some(())
    });
    assert!(scene.with("GetRecords").iter().all(|one| one.http2), "{}", scene.log());
    assert_eq!(scene.with("SubscribeToShard").len(), 0);
    polling.signal("TERM");
    assert!(polling.wait(std::time::Duration::from_secs(60)).success(), "{}", scene.log());

    let (mut pushed, listen) = scene.worker(&["stream.reader=fan-out"]);
    eventually("both shards are subscribed to", || (scene.subscribed() == 2).then_some(()));
    scene.put(&shards, b"after");
    eventually("the rest is delivered", || (lines(scene.dir.path()).len() == 4).then_some(()));
    let (_, metrics) = get(&listen, "/metrics").unwrap();
    let events = "catchment_fan_out_events_total{result=\"records\"";
    assert!(metrics.lines().any(|l| l.starts_with(events) && !l.ends_with(" 0")), "{metrics}");
    pushed.signal("TERM");
    assert!(pushed.wait(std::time::Duration::from_secs(60)).success(), "{}", scene.log());
    eventually("nobody subscribes any more", || (scene.subscribed() == 0).then_some(()));
    let told: BTreeMap<Vec<u8>, usize> =
        lines(scene.dir.path()).into_iter().fold(BTreeMap::new(), |mut told, line| {
            *told.entry(line).or_default() += 1;
            told
        });
    assert_eq!(told, BTreeMap::from([(b"after".to_vec(), 2), (b"before".to_vec(), 2)]));
    scene.check();
}

/// More shards than a connection has streams: all are subscribed to, and whatever nobody reads of
/// them holds up no call.
fn unread(streams: u32) {
    let shards = streams as i32 + 7;
    let scene = Scene::new(shards, Some(streams));
    let all = scene.shards();
    let consumer = scene.consumer();
    let (kinesis, stream) = (&scene.kinesis, &scene.stream.arn);
    let mut open: Vec<Subscription> = scene.runtime.block_on(async {
        let mut open = Vec::new();
        for shard in &all {
            let start = StartAt::TrimHorizon;
            open.push(kinesis.subscribe(&consumer, &shard.id, &start).await.unwrap());
        }
        open
    });
    assert_eq!(scene.subscribed(), all.len());
    // More than the windows of a client take in, in three shards of one connection already.
    for _ in 0..3 {
        scene.put(&all[..6], &vec![b'x'; 1 << 20]);
    }
    // Nobody reads them, and yet everything is answered at the first attempt.
    scene.runtime.block_on(async {
        for shard in &all[..6] {
            let iterator = kinesis.iterator(stream, &shard.id, &StartAt::TrimHorizon).await;
            let page = kinesis.get_records(stream, &iterator.unwrap(), 10).await.unwrap();
            assert_eq!(page.records.len(), 3);
        }
    });
    assert_eq!(scene.subscribed(), all.len());
    // Their records are there, whoever asks late.
    let late = open[..6].iter_mut().map(|subscription| async {
        let mut records = 0;
        while records < 3 {
            records += subscription.next().await.unwrap().unwrap().records.len();
        }
        records
    });
    assert_eq!(scene.runtime.block_on(futures::future::join_all(late)), [3; 6]);
    assert_eq!(scene.with("SubscribeToShard").len(), all.len().div_ceil(EACH));
    scene.check();
}

#[test]
fn nothing_waits_for_unread_subscriptions_at_5_streams() {
    unread(5);
}

#[test]
fn nothing_waits_for_unread_subscriptions_at_100_streams() {
    unread(100);
}

#[test]
fn nothing_waits_for_unread_subscriptions_at_128_streams() {
    unread(128);
}

#[test]
fn a_worker_subscribes_to_more_shards_than_a_connection_has_streams() {
    let scene = Scene::new(23, Some(5));
    let (mut worker, _) = scene.worker(&["stream.reader=fan-out"]);
    eventually("all are subscribed to", || (scene.subscribed() == 23).then_some(()));
    scene.put(&scene.shards(), b"one");
    eventually("all are delivered", || (lines(scene.dir.path()).len() == 23).then_some(()));
    worker.signal("TERM");
    assert!(worker.wait(std::time::Duration::from_secs(60)).success(), "{}", scene.log());
    scene.check();
}

#[test]
fn authorities_that_cannot_be_used_are_named() {
    let scene = Scene::new(1, None);
    let mut environment = scene.services.environment();
    let bundle = scene.dir.path().join("proxy.pem");
    environment.retain(|(name, _)| *name != "AWS_CA_BUNDLE");
    environment.push(("AWS_CA_BUNDLE", bundle.display().to_string()));
    for content in [None, Some("no certificate")] {
        if let Some(content) = content {
            fs::write(&bundle, content).unwrap();
        }
        let output = scene.worker_in(&environment, &["telemetry.listen=off"]).output().unwrap();
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("catchment: AWS_CA_BUNDLE: "), "{told}");
        assert!(told.contains(bundle.to_str().unwrap()), "{told}");
        assert!(told.contains("name a PEM file"), "{told}");
    }
    assert_eq!(scene.with("DescribeStreamSummary").len(), 1, "the scene's own");
}

#[test]
fn local_runs_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("input");
    fs::write(&input, "one\ntwo\nthree\n").unwrap();
    let output = Command::new(BIN)
        .args(["local", "--tls", "--http2-streams", "5", "--once", "--json", "--input"])
        .arg(&input)
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .args(["--set", "stream.reader=fan-out"])
        .env_remove(OUTAGE)
        .output()
        .unwrap();
    let told = stderr(&output);
    assert!(output.status.success(), "{told}");
    assert_eq!(
        lines(&dir.path().join("data")),
        [b"one".to_vec(), b"three".to_vec(), b"two".to_vec()]
    );
    let authority = dir.path().join("data/.catchment/tls/authority.pem");
    assert!(fs::read_to_string(authority).unwrap().contains("BEGIN CERTIFICATE"));
}
