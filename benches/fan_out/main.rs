//! A thousand shards by fan-out where a connection has few streams, and polling beside shards that
//! stand still: over TLS and HTTP/2, on the embedded services. `benches/README.md` tells how to read
//! it.
#![expect(clippy::print_stdout, reason = "a table is the result")]

#[path = "../shared/document.rs"]
mod document;
mod worker;

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use catchment::aws::clients::Clients;
use catchment::aws::fan_out::Subscription;
use catchment::aws::kinesis::Kinesis;
use catchment::aws::objects::Objects;
use catchment::aws::producer::Producer;
use catchment::clock::Clock;
use catchment::config::AwsConfig;
use catchment::local::{ConnectionSeen, Http2Limits, ServiceOptions, Services, TlsOptions};
use catchment::stream::ShardInfo;
use catchment::stream::position::StartAt;
use catchment::task::Tasks;
use tempfile::TempDir;

use worker::{Table, Worker};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

pub(crate) const STREAM: &str = "local";
const REGION: &str = "us-east-1";
const WINDOW: u32 = 1 << 20;
/// Shards that nobody reads, and how much waits in each: more than the windows take in.
const STILL: usize = 10;
const WAITING: usize = 4 << 20;
/// Records of one PutRecords.
const PUT: usize = 500;
const LOOK: Duration = Duration::from_millis(20);
/// After this long something is broken.
const PATIENCE: Duration = Duration::from_secs(300);
/// Most: until all are subscribed to, and for the slowest of a hundred calls.
const SUBSCRIBED: f64 = 60.0;
const P99: f64 = 0.1;

/// What the command line asks for.
struct Options {
    shards: i32,
    streams: u32,
    calls: usize,
    /// The lease table is in this process, with the rest of the services.
    together: bool,
    quick: bool,
    write: bool,
}

struct Bench {
    directory: TempDir,
    services: Services,
    table: Option<Table>,
    clients: Clients,
    kinesis: Kinesis,
    arn: String,
    clock: Clock,
}

fn main() -> Outcome<()> {
    let options = options()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(&options))
}

fn options() -> Outcome<Options> {
    let mut options = Options {
        shards: 1000,
        streams: 5,
        calls: 1000,
        together: false,
        quick: false,
        write: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            // Cargo adds it.
            "--bench" => {}
            "--quick" => options = Options { shards: 50, calls: 100, quick: true, ..options },
            "--write" => options.write = true,
            "--together" => options.together = true,
            "--shards" => options.shards = value()?.parse()?,
            "--streams" => options.streams = value()?.parse()?,
            "--calls" => options.calls = value()?.parse()?,
            other => {
                let known = "--quick, --write, --together, --shards N, --streams N or --calls N";
                return Err(format!("{other}: {known} is expected").into());
            }
        }
    }
    Ok(options)
}

async fn run(options: &Options) -> Outcome<()> {
    let bench = Bench::start(options).await?;
    let shards = usize::try_from(options.shards)?;
    let (worker, seconds) = bench.subscribe(shards).await?;
    let (cpu, of_table) = (worker.cpu()?, bench.table.as_ref().map(Table::cpu).transpose()?);
    let all = bench.services.connections();
    let used: Vec<&ConnectionSeen> = all.iter().filter(|one| one.subscriptions > 0).collect();
    let most = used.iter().map(|one| one.most_subscriptions).max().unwrap_or(0);
    let mut rows = vec![
        ("until all are subscribed to, s".to_owned(), format!("{seconds:.1}")),
        ("CPU of the worker until then, s".to_owned(), format!("{cpu:.1}")),
        ("connections for subscriptions".to_owned(), format!("{}, {most} each", used.len())),
    ];
    if let Some(of_table) = of_table {
        rows.push(("CPU of the lease table until then, s".to_owned(), format!("{of_table:.1}")));
    }
    let delivered = bench.deliver(&worker).await?;
    rows.push(("records delivered, one of each shard".to_owned(), format!("{delivered}")));
    let mut slowest: f64 = 0.0;
    for (what, still) in [("", 0), (", beside ten that nobody reads", STILL)] {
        let open = bench.stand_still(still).await?;
        let mut times = bench.poll(options.calls).await?;
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] * 1e3;
        let told = format!("{:.1}, {:.1}, {:.1}", at(0.5), at(0.99), at(1.0));
        rows.push((format!("GetRecords{what}: p50, p99, longest, ms"), told));
        slowest = slowest.max(at(0.99) / 1e3);
        drop(open);
    }
    let lost = worker.metric("catchment_leases_lost_total")?;
    rows.push(("leases lost".to_owned(), format!("{lost}")));
    rows.push(("peak RSS of the worker, MiB".to_owned(), format!("{}", worker.peak()? >> 20)));
    worker.stop()?;
    check(&bench.services.connections())?;
    bench.complete(delivered)?;
    bench.services.stop().await?;
    tell(options, &rows)?;
    let lenient = options.quick || cfg!(debug_assertions);
    if lost > 0.0 {
        return Err(format!("{lost} leases were lost").into());
    }
    if !lenient && (seconds > SUBSCRIBED || slowest > P99) {
        return Err(format!("more than {SUBSCRIBED} s, or a p99 of more than {P99} s").into());
    }
    Ok(())
}

/// Prints what was measured, and writes it where it stands in docs/PERFORMANCE.md.
fn tell(options: &Options, rows: &[(String, String)]) -> Outcome<()> {
    let Options { shards, streams, .. } = options;
    let mut table = format!("| {shards} shards, {streams} streams a connection | |\n|---|---:|\n");
    for (what, figure) in rows {
        table.push_str(&format!("| {what} | {figure} |\n"));
    }
    println!("{table}");
    if options.write { document::write(&[("fan-out", table)]) } else { Ok(()) }
}

/// Subscriptions share a connection with nothing else.
fn check(connections: &[ConnectionSeen]) -> Outcome<()> {
    let shared =
        |one: &&ConnectionSeen| one.most_subscriptions > 0 && (one.calls.len() > 1 || !one.http2);
    match connections.iter().find(shared) {
        None => Ok(()),
        Some(one) => {
            Err(format!("a subscription does not have a connection to itself: {one:?}").into())
        }
    }
}

impl Bench {
    async fn start(options: &Options) -> Outcome<Self> {
        let directory = tempfile::tempdir()?;
        let (tasks, clock) = (Tasks::pooled(2), Clock::system());
        let http2 = Http2Limits { streams: Some(options.streams), window: Some(WINDOW) };
        let service = ServiceOptions {
            data_dir: None,
            objects: directory.path().to_owned(),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: None,
            region: REGION.to_owned(),
            tls: Some(TlsOptions { kinesis_port: None, http2 }),
        };
        let services = Services::start(service, &tasks, &clock).await?;
        let table = if options.together { None } else { Some(Table::start()?) };
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
        Producer::new(clients.kinesis.clone()).create_stream(STREAM, options.shards).await?;
        let kinesis = Kinesis::over(clients.kinesis.clone(), &clients.transport);
        let arn = kinesis.describe(STREAM).await?.arn;
        Ok(Self { directory, services, table, clients, kinesis, arn, clock })
    }

    /// What leads a worker here, and to the table.
    fn environment(&self) -> Outcome<Vec<(String, String)>> {
        let pairs = self.services.environment().into_iter();
        let mut pairs: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value)).collect();
        if let Some(table) = &self.table {
            let bundle = self.directory.path().join("authorities.pem");
            let own = self.services.authority().ok_or("no authority")?;
            let both = std::fs::read_to_string(own)? + &std::fs::read_to_string(&table.authority)?;
            std::fs::write(&bundle, both)?;
            pairs.push(("AWS_ENDPOINT_URL_DYNAMODB".to_owned(), table.endpoint.clone()));
            pairs.push(("AWS_CA_BUNDLE".to_owned(), bundle.display().to_string()));
        }
        Ok(pairs)
    }

    /// Starts a worker; seconds until it has subscribed to every shard.
    async fn subscribe(&self, shards: usize) -> Outcome<(Worker, f64)> {
        let environment = self.environment()?;
        let begun = self.clock.now();
        let worker = Worker::start(&environment)?;
        loop {
            let open: usize = self.services.connections().iter().map(|c| c.subscriptions).sum();
            let seconds = (self.clock.now() - begun).as_secs_f64();
            if open == shards {
                return Ok((worker, seconds));
            }
            if seconds > PATIENCE.as_secs_f64() {
                return Err(format!("{open} of {shards} subscribed to after {PATIENCE:?}").into());
            }
            self.clock.sleep(LOOK).await;
        }
    }

    async fn shards(&self) -> Outcome<Vec<ShardInfo>> {
        Ok(self.kinesis.list_shards(&self.arn).await?)
    }

    /// Sends a record to every shard and waits until as many are delivered; how many.
    async fn deliver(&self, worker: &Worker) -> Outcome<usize> {
        let shards = self.shards().await?;
        for some in shards.chunks(PUT) {
            let mut call = self.clients.kinesis.put_records().stream_name(STREAM);
            for shard in some {
                let (first, _) = shard.hash_range.clone().ok_or("a shard without a range")?;
                let data = Blob::new(format!("of {}", shard.id));
                let entry = PutRecordsRequestEntry::builder().partition_key("key");
                call = call.records(entry.explicit_hash_key(first).data(data).build()?);
            }
            let failed = call.send().await?.failed_record_count().unwrap_or(0);
            if failed > 0 {
                return Err(format!("{failed} records were refused").into());
            }
        }
        let begun = self.clock.now();
        while worker.metric("catchment_records_delivered_total")? < shards.len() as f64 {
            if self.clock.now() - begun > PATIENCE {
                return Err(format!("not everything is delivered after {PATIENCE:?}").into());
            }
            self.clock.sleep(LOOK * 10).await;
        }
        Ok(shards.len())
    }

    /// Is every record in the objects, and once?
    fn complete(&self, records: usize) -> Outcome<()> {
        let mut lines = worker::lines(&self.directory.path().join("archive"))?;
        lines.retain(|line| line.starts_with("of "));
        let all = lines.len();
        lines.dedup();
        if (all, lines.len()) == (records, records) {
            return Ok(());
        }
        Err(format!("{records} records, {all} in the objects, {} of them once", lines.len()).into())
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
        let shards = self.shards().await?;
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
        let shards = self.shards().await?;
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
