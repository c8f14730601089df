//! A thousand shards by fan-out where a connection has few streams, and polling beside shards that
//! stand still: over TLS and HTTP/2, on the embedded services. `benches/README.md` tells how to read
//! it.
#![expect(clippy::print_stdout, reason = "a table is the result")]

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_sdk_kinesis::primitives::Blob;
use catchment::aws::clients::Clients;
use catchment::aws::fan_out::Subscription;
use catchment::aws::kinesis::Kinesis;
use catchment::aws::objects::Objects;
use catchment::aws::producer::Producer;
use catchment::clock::Clock;
use catchment::config::AwsConfig;
use catchment::local::{Http2Limits, ServiceOptions, Services, TlsOptions};
use catchment::stream::position::StartAt;
use catchment::task::Tasks;

type Outcome<T> = Result<T, Box<dyn Error>>;

const STREAM: &str = "local";
const REGION: &str = "us-east-1";
const WINDOW: u32 = 1 << 20;
/// Shards that nobody reads, and how much waits in each: more than the windows take in.
const STILL: usize = 10;
const WAITING: usize = 4 << 20;
const LOOK: Duration = Duration::from_millis(20);
/// After this long something is broken.
const PATIENCE: Duration = Duration::from_secs(300);
/// Most: until all are subscribed to, and for the slowest of a hundred calls.
const SUBSCRIBED: f64 = 60.0;
const P99: f64 = 0.1;

/// A process that does not outlive us.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Bench {
    services: Services,
    clients: Clients,
    kinesis: Kinesis,
    arn: String,
    clock: Clock,
}

fn main() -> Outcome<()> {
    let (mut shards, mut streams, mut calls, mut quick) = (1000_i32, 5_u32, 1000_usize, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            // Cargo adds it.
            "--bench" => {}
            "--quick" => (shards, calls, quick) = (50, 100, true),
            "--shards" => shards = value()?.parse()?,
            "--streams" => streams = value()?.parse()?,
            "--calls" => calls = value()?.parse()?,
            other => {
                let known = "--quick, --shards N, --streams N or --calls N";
                return Err(format!("{other}: {known} is expected").into());
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(shards, streams, calls, quick || cfg!(debug_assertions)))
}

async fn run(shards: i32, streams: u32, calls: usize, lenient: bool) -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let bench = Bench::start(dir.path(), shards, streams).await?;
    println!("{shards} shards, {streams} streams and windows of 1 MiB a connection\n");
    let (worker, seconds) = bench.subscribe(shards).await?;
    let all = bench.services.connections();
    let used: Vec<_> = all.iter().filter(|one| one.subscriptions > 0).collect();
    println!(
        "all subscribed to after {seconds:.1} s, on {} connections with {} at most; worker {} MiB",
        used.len(),
        used.iter().map(|one| one.most_subscriptions).max().unwrap_or(0),
        resident(&worker)? >> 20,
    );
    let mut slowest: f64 = 0.0;
    for (what, still) in [("beside them", 0), ("and beside ten that stand still", STILL)] {
        let open = bench.stand_still(still).await?;
        let mut times = bench.poll(calls).await?;
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] * 1e3;
        println!(
            "GetRecords {what}: median {:.1} ms, p99 {:.1} ms, most {:.1} ms",
            at(0.5),
            at(0.99),
            at(1.0)
        );
        slowest = slowest.max(at(0.99) / 1e3);
        drop(open);
    }
    for one in bench.services.connections() {
        if one.most_subscriptions > 0 && (one.calls.len() > 1 || !one.http2) {
            return Err(
                format!("a subscription does not have a connection to itself: {one:?}").into()
            );
        }
    }
    drop(worker);
    bench.services.stop().await?;
    if !lenient && (seconds > SUBSCRIBED || slowest > P99) {
        return Err(format!("more than {SUBSCRIBED} s, or a p99 of more than {P99} s").into());
    }
    Ok(())
}

impl Bench {
    async fn start(dir: &Path, shards: i32, streams: u32) -> Outcome<Self> {
        let (tasks, clock) = (Tasks::pooled(2), Clock::system());
        let http2 = Http2Limits { streams: Some(streams), window: Some(WINDOW) };
        let options = ServiceOptions {
            data_dir: None,
            objects: dir.to_owned(),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: None,
            region: REGION.to_owned(),
            tls: Some(TlsOptions { kinesis_port: None, http2 }),
        };
        let services = Services::start(options, &tasks, &clock).await?;
        let aws = AwsConfig {
            attempt_timeout: Duration::from_secs(30),
            operation_timeout: Duration::from_secs(60),
            table_attempt_timeout: Duration::from_secs(30),
            table_operation_timeout: Duration::from_secs(60),
            upload_timeout: Duration::from_secs(60),
            path_style: true,
        };
        let clients = Clients::of(&services.endpoints(), REGION, &aws);
        Objects::new(clients.s3.clone()).create_bucket("archive").await?;
        Producer::new(clients.kinesis.clone()).create_stream(STREAM, shards).await?;
        let kinesis = Kinesis::over(clients.kinesis.clone(), &clients.transport);
        let arn = kinesis.describe(STREAM).await?.arn;
        Ok(Self { services, clients, kinesis, arn, clock })
    }

    /// Starts a worker with defaults; seconds until it has subscribed to every shard.
    async fn subscribe(&self, shards: i32) -> Outcome<(Worker, f64)> {
        let begun = self.clock.now();
        let worker = Command::new(env!("CARGO_BIN_EXE_catchment"))
            .args(["run", "--stream", STREAM, "--bucket", "archive"])
            .args(["--set", "stream.reader=fan-out", "--set", "aws.path_style=true"])
            .args(["--set", "telemetry.listen=off"])
            .envs(self.services.environment())
            .env("CATCHMENT_LOG", "warn")
            .stdout(Stdio::null())
            .spawn()?;
        let worker = Worker(worker);
        loop {
            let open: usize = self.services.connections().iter().map(|c| c.subscriptions).sum();
            let seconds = (self.clock.now() - begun).as_secs_f64();
            if open == usize::try_from(shards)? {
                return Ok((worker, seconds));
            }
            if seconds > PATIENCE.as_secs_f64() {
                return Err(format!("{open} of {shards} subscribed to after {PATIENCE:?}").into());
            }
            self.clock.sleep(LOOK).await;
        }
    }

    /// Subscriptions of another consumer to so many shards, in which more waits than windows take
    /// in, and which nobody reads.
    async fn stand_still(&self, count: usize) -> Outcome<Vec<Subscription>> {
        let mut open = Vec::new();
        if count == 0 {
            return Ok(open);
        }
        self.kinesis.register(&self.arn, "still").await?;
        let consumer = self.kinesis.consumer(&self.arn, "still").await?.arn;
        let shards = self.kinesis.list_shards(&self.arn).await?;
        for shard in &shards[..count] {
            let start = StartAt::TrimHorizon;
            open.push(self.kinesis.subscribe(&consumer, &shard.id, &start).await?);
        }
        for shard in &shards[..count] {
            let (first, _) = shard.hash_range.clone().ok_or("a shard without a range")?;
            for _ in 0..WAITING >> 20 {
                let call = self.clients.kinesis.put_record().stream_name(STREAM);
                let call = call.partition_key("key").explicit_hash_key(&first);
                call.data(Blob::new(vec![b'x'; (1 << 20) - 3])).send().await?;
            }
        }
        Ok(open)
    }

    /// Seconds of so many GetRecords calls, one after the other, each of 100 KB.
    async fn poll(&self, calls: usize) -> Outcome<Vec<f64>> {
        let shards = self.kinesis.list_shards(&self.arn).await?;
        let last = shards.last().ok_or("no shard")?;
        let (first, _) = last.hash_range.clone().ok_or("a shard without a range")?;
        let call = self.clients.kinesis.put_record().stream_name(STREAM).partition_key("key");
        let call = call.explicit_hash_key(first).data(Blob::new(vec![b'y'; 100_000]));
        let put = call.send().await?;
        let start = StartAt::At(catchment::ids::SequenceNumber::parse(put.sequence_number())?);
        let iterator = self.kinesis.iterator(&self.arn, &last.id, &start).await?;
        let mut times = Vec::new();
        for _ in 0..calls {
            let begun = self.clock.now();
            let page = self.kinesis.get_records(&self.arn, &iterator, 1).await?;
            times.push((self.clock.now() - begun).as_secs_f64());
            if page.records.len() != 1 {
                return Err("a page without its record".into());
            }
        }
        Ok(times)
    }
}

/// Memory of a process, bytes.
fn resident(worker: &Worker) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.0.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line.ok_or("no VmRSS")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
