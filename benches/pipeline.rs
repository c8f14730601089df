//! What a gigabyte costs: encoding alone, the batch path, and the whole pipe over the embedded
//! services. `benches/README.md` tells how to read it.
#![expect(clippy::print_stdout, reason = "a table is the result")]

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use catchment::aws::clients::Clients;
use catchment::aws::objects::Objects;
use catchment::aws::producer::{Outgoing, Producer};
use catchment::clock::{Clock, Jitter};
use catchment::config::Config;
use catchment::config::raw::{Layers, Source};
use catchment::delivery::batch::{BatchLimits, OpenBatch};
use catchment::delivery::blocks::Blocks;
use catchment::delivery::encode::Encoder;
use catchment::delivery::layout;
use catchment::delivery::recipe::Recipe;
use catchment::delivery::settings::{Codec, Format, Settings};
use catchment::ids::ShardId;
use catchment::local::{ServiceOptions, Services};
use catchment::shutdown::Shutdown;
use catchment::stream::{Record, Records};
use catchment::task::Tasks;
use catchment::worker::{Node, prepare, supervisor};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How much of everything.
#[derive(Clone, Copy)]
struct Load {
    /// Payload of the encoding rows, bytes.
    encode: u64,
    /// Payload of the pipe, bytes.
    pipe: u64,
}

const QUICK: Load = Load { encode: 16 << 20, pipe: 16 << 20 };
const FULL: Load = Load { encode: 512 << 20, pipe: 256 << 20 };
/// Ticks per second of `/proc/self/stat`, the same on every Linux.
const TICKS: f64 = 100.0;
/// Records of one page; encoded over and over.
const PAGE: usize = 4096;
const FORMATS: [Format; 4] = [Format::Raw, Format::Ndjson, Format::JsonArray, Format::Envelope];
const CODECS: [(Codec, &str, i32); 3] =
    [(Codec::None, "none", 0), (Codec::Gzip, "gzip", 1), (Codec::Zstd, "zstd", 1)];

fn main() -> Outcome<()> {
    // Cargo adds `--bench`.
    let quick = std::env::args().any(|argument| argument == "--quick");
    let load = if quick { QUICK } else { FULL };
    if cfg!(debug_assertions) {
        println!("This build is not optimised: only the ratios between rows mean anything.\n");
    }
    let meter = Meter { clock: Clock::system() };
    let page = page();
    println!("{:<34} {:>9} {:>10} {:>8}", "", "MB/s", "CPU s/GB", "ratio");

    let mut plain = 0.0;
    for format in FORMATS {
        for (codec, name, level) in CODECS {
            let settings = settings(format, codec, level);
            let cost = meter.measure(|| encode(&page, &settings, load.encode))?;
            if codec == Codec::None {
                plain = cost.per_gb();
            }
            // What the codec adds to the layout.
            let share = 1.0 - plain / cost.per_gb();
            let note = format!("{:.0} %", 100.0 * share);
            cost.row(
                &format!("encode {format}, {name}"),
                if codec == Codec::None { "" } else { &note },
            );
        }
    }
    let mut batch = [0.0; CODECS.len()];
    for (slot, (codec, name, level)) in batch.iter_mut().zip(CODECS) {
        let settings = settings(Format::Ndjson, codec, level);
        let cost = meter.measure(|| Ok(batches(&page, settings, load.encode)?.bytes))?;
        *slot = cost.per_gb();
        cost.row(&format!("batch path ndjson, {name}"), "");
    }
    partitions(&meter, load.encode)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for (batch, (_, name, _)) in batch.into_iter().zip(CODECS) {
        let (sent, delivered) = runtime.block_on(pipe(&meter, &page, name, load.pipe))?;
        sent.row(&format!("send (with emulators), {name}"), "");
        let note = format!("{:.0} %", 100.0 * batch / delivered.per_gb());
        delivered.row(&format!("deliver (with emulators), {name}"), &note);
    }
    println!(
        "\nGB of payload as the producer sent it. Ratio: of an encode row, the codec's part of its \
         CPU; of a deliver row, the batch path's part."
    );
    Ok(())
}

/// What something cost.
struct Cost {
    bytes: u64,
    cpu: f64,
    wall: Duration,
}

impl Cost {
    fn per_gb(&self) -> f64 {
        self.cpu / (self.bytes as f64 / 1e9)
    }

    fn row(&self, name: &str, ratio: &str) {
        let speed = self.bytes as f64 / 1e6 / self.wall.as_secs_f64();
        println!("{name:<34} {speed:>9.0} {:>10.2} {ratio:>8}", self.per_gb());
    }
}

struct Meter {
    clock: Clock,
}

impl Meter {
    /// CPU seconds of the process so far, all threads, user and system.
    fn cpu() -> Outcome<f64> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        // The second field is a name in parentheses that may hold anything.
        let fields = stat.rsplit_once(')').ok_or("unexpected /proc/self/stat")?.1;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
    }

    fn measure(&self, work: impl FnOnce() -> Outcome<u64>) -> Outcome<Cost> {
        let (cpu, begun) = (Self::cpu()?, self.clock.now());
        let bytes = work()?;
        Ok(Cost { bytes, cpu: Self::cpu()? - cpu, wall: self.clock.now() - begun })
    }
}

/// Records of about 1 KB, the same in every run: JSON with ids that do not compress, and words,
/// names and numbers that do.
fn page() -> Records {
    page_of(PAGE, 100_000)
}

/// The same, so many records of so many users.
fn page_of(records: usize, users: u32) -> Records {
    let mut random = fastrand::Rng::with_seed(1);
    let events = ["page_view", "add_to_cart", "checkout", "search", "login"];
    let words = ["red", "large", "shirt", "winter", "sale", "cotton", "delivery", "express"];
    let lines: Vec<_> = (0..records)
        .map(|n| {
            let mut line = format!(
                "{{\"id\":\"{:032x}\",\"session\":\"{:016x}\",\"user\":{},\"event\":\"{}\",\
                 \"time\":\"2026-11-23T07:{:02}:{:02}.{:03}Z\",\"tags\":[",
                random.u128(..),
                random.u64(..),
                random.u32(0..users),
                events[random.usize(0..events.len())],
                n / 60 % 60,
                n % 60,
                random.u16(0..1000),
            );
            while line.len() < 960 {
                line.push_str(&format!(
                    "{{\"{}\":\"{}\",\"score\":{}}},",
                    words[random.usize(0..words.len())],
                    words[random.usize(0..words.len())],
                    random.u16(..),
                ));
            }
            line.push_str("0]}");
            let sequence = format!("4959033827149025660855969253836157109592157598913{n:07}");
            (sequence, Some(1_795_417_509_123 + n as i64), n.to_string(), line)
        })
        .collect();
    fn record((sequence, at, key, line): &(String, Option<i64>, String, String)) -> Record<'_> {
        let record = Record::new(sequence, *at, Some(key), line.as_bytes());
        record.unwrap_or_else(|e| unreachable!("{e}"))
    }
    let records: Vec<_> = lines.iter().map(record).collect();
    Records::copy(&records).unwrap_or_else(|e| unreachable!("{e}"))
}

fn settings(format: Format, codec: Codec, level: i32) -> Settings {
    Settings {
        format,
        codec,
        level,
        uploads: false,
        deaggregate: false,
        ..Settings::new("archive", "events")
    }
}

/// Layout and compression of objects of 64 MiB.
fn encode(page: &Records, settings: &Settings, total: u64) -> Outcome<u64> {
    let shard = ShardId::new("shardId-000000000000");
    let (mut all, mut object) = (0, 0);
    let mut blocks = Blocks::default();
    let mut encoder = Encoder::archive(settings);
    while all < total {
        for record in page.iter() {
            layout::accepts(settings, record).map_err(|reject| reject.reason)?;
            encoder.push(record, &settings.stream, &shard, None, &mut blocks)?;
            object += record.data.len() as u64;
        }
        if object >= 64 << 20 {
            all += std::mem::take(&mut object);
            std::hint::black_box(
                std::mem::replace(&mut encoder, Encoder::archive(settings)).finish(&mut blocks)?,
            );
        } else if all + object >= total {
            all += std::mem::take(&mut object);
        }
    }
    std::hint::black_box(encoder.finish(&mut blocks)?);
    Ok(all)
}

/// Partitions by a field of the record; none: by arrival time alone.
const PARTITIONS: [usize; 6] = [0, 1, 10, 100, 500, 2_000];

/// The batch path with so many partitions open.
fn partitions(meter: &Meter, total: u64) -> Outcome<()> {
    let mut alone = (0.0, 0.0);
    for count in PARTITIONS {
        let mut settings = settings(Format::Ndjson, Codec::Zstd, 1);
        if count > 0 {
            settings.prefix = "!{stream}/user=!{field:user}/".into();
        }
        // As long as a batch: what comes twice would compress too well.
        let page = page_of(70_000.min(total as usize / 900), u32::try_from(count.max(1))?);
        let mut made = Batches::default();
        let cost = meter.measure(|| {
            made = batches(&page, settings, total)?;
            Ok(made.bytes)
        })?;
        let size = made.stored as f64;
        if count == 0 {
            alone = (cost.per_gb(), size);
        }
        let note = format!(
            "{:.2} times the CPU, {:.2} times the size, {} MiB held at most",
            cost.per_gb() / alone.0,
            size / alone.1,
            made.held >> 20
        );
        cost.row(&format!("batch path, zstd, {count} partitions"), &note);
    }
    Ok(())
}

/// What a run of [`batches`] made.
#[derive(Default)]
struct Batches {
    /// Payload.
    bytes: u64,
    /// Bytes of the objects.
    stored: u64,
    /// Most memory that an open batch held.
    held: usize,
}

/// From records in memory to sealed batches: routing, key, encoding, intent.
fn batches(page: &Records, settings: Settings, total: u64) -> Outcome<Batches> {
    let recipe = Arc::new(Recipe::new(Arc::new(settings))?);
    let limits = BatchLimits { bytes: 64 << 20, ..BatchLimits::NONE };
    let open = || OpenBatch::new(recipe.clone(), ShardId::new("shardId-000000000000"), 0, None);
    let (mut made, mut batch) = (Batches::default(), open());
    let stored = |batch: OpenBatch| -> Outcome<u64> {
        let objects = batch.seal()?.into_iter().flat_map(|sealed| sealed.objects);
        Ok(objects.map(|object| object.body.len() as u64).sum())
    };
    while made.bytes < total {
        let mut queue = page.clone();
        made.bytes += page.payload() as u64;
        while !queue.is_empty() {
            let full = batch.fill(&mut queue, &limits)?.is_some();
            made.held = made.held.max(batch.memory());
            if full {
                made.stored += stored(std::mem::replace(&mut batch, open()))?;
            }
        }
    }
    made.stored += stored(batch)?;
    Ok(made)
}

/// A directory that goes when the run is over, however it ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Sends through the embedded stream, then starts a worker that delivers all of it; the cost of
/// each. Producer, emulators and worker share the process, so their CPU cannot be told apart.
async fn pipe(meter: &Meter, page: &Records, codec: &str, total: u64) -> Outcome<(Cost, Cost)> {
    let jitter = Jitter::system();
    let scratch = Scratch(std::env::temp_dir().join(format!("catchment-bench-{}", jitter.uuid())));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let node = Node { clock: Clock::system(), jitter, tasks: Tasks::pooled(threads) };
    let mut layers = Layers::default();
    for (key, value) in [
        ("stream.name", "bench"),
        ("stream.idle", "50ms"),
        ("stream.calls_per_second", "100"),
        ("stream.bytes_per_second", "0B"),
        ("delivery.bucket", "archive"),
        ("delivery.compression", codec),
        ("delivery.batch_bytes", "16MiB"),
        ("delivery.batch_age", "500ms"),
        ("lease.scan", "100ms"),
        ("aws.path_style", "true"),
    ] {
        layers.set(key, value.to_owned(), Source::Default);
    }
    let config = Config::from_layers(layers)?;
    let options = ServiceOptions {
        data_dir: None,
        objects: scratch.0.clone(),
        listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: None,
        region: "eu-west-1".into(),
        tls: None,
    };
    let services = Services::start(options, &node.tasks, &node.clock).await?;
    let clients = Clients::at(&services.endpoint(), "eu-west-1", &config.aws);
    Objects::new(clients.s3.clone()).create_bucket("archive").await?;
    let producer = Producer::new(clients.kinesis.clone());
    producer.create_stream("bench", 4).await?;

    let (cpu, begun) = (Meter::cpu()?, node.clock.now());
    let (records, bytes) = send(&producer, page, total).await?;
    let sent = Cost { bytes, cpu: Meter::cpu()? - cpu, wall: node.clock.now() - begun };

    let (cpu, begun) = (Meter::cpu()?, meter.clock.now());
    let worker = prepare(&node, config, clients).await?;
    let shutdown = Shutdown::default();
    let status = Arc::clone(&worker.ctx.status);
    let running = supervisor::run(worker, shutdown.clone());
    let watching = async {
        let mut delivered = 0;
        while delivered < records {
            node.clock.sleep(Duration::from_millis(5)).await;
            status.update(|board| delivered = board.records);
        }
        shutdown.drain.cancel();
    };
    let (exit, ()) = futures::join!(running, watching);
    if !matches!(exit, supervisor::Exit::Drained) {
        return Err(format!("the worker ended with {exit:?}").into());
    }
    let wall = meter.clock.now() - begun;
    let delivered = Cost { bytes, cpu: Meter::cpu()? - cpu, wall };
    services.stop().await?;
    Ok((sent, delivered))
}

async fn send(producer: &Producer, page: &Records, total: u64) -> Outcome<(u64, u64)> {
    let (mut records, mut bytes) = (0, 0);
    let page: Vec<_> = page.iter().map(|r| Bytes::copy_from_slice(r.data)).collect();
    let calls = page.chunks(500).cycle().take_while(|chunk| {
        let more = bytes < total;
        if more {
            records += chunk.len() as u64;
            bytes += chunk.iter().map(|data| data.len() as u64).sum::<u64>();
        }
        more
    });
    let calls: Vec<&[Bytes]> = calls.collect();
    let mut running = futures::stream::iter(calls.into_iter().enumerate())
        .map(|(turn, chunk)| async move {
            let outgoing: Vec<Outgoing> = chunk
                .iter()
                .enumerate()
                .map(|(n, data)| Outgoing { key: format!("{turn}:{n}"), data: data.clone() })
                .collect();
            producer.put("bench", &outgoing).await
        })
        .buffer_unordered(4);
    while let Some(answers) = running.next().await {
        if answers?.iter().any(Option::is_none) {
            return Err("the embedded stream refused a record".into());
        }
    }
    drop(running);
    Ok((records, bytes))
}
