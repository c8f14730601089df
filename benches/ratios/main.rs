//! How far from the floor: reading and delivering with Catchment, with the plain SDK, and with the
//! least a program can do, in one run. `benches/README.md` tells how to read it.
#![expect(clippy::print_stdout, reason = "a table is the result")]

mod cbor;
#[path = "../shared/document.rs"]
mod document;
mod events;
mod floor;
#[path = "../shared/measure.rs"]
mod measure;
#[path = "../shared/reader.rs"]
mod reader;
mod server;
mod way;

use std::collections::VecDeque;
use std::error::Error;
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use catchment::aws::clients::Clients;
use catchment::aws::kinesis::Kinesis;
use catchment::aws::s3::ObjectStore;
use catchment::config::AwsConfig;
use catchment::delivery::batch::{BatchLimits, OpenBatch};
use catchment::delivery::body::Body;
use catchment::delivery::buffers::FRAME;
use catchment::delivery::object::{Object, ObjectKind};
use catchment::delivery::recipe::Recipe;
use catchment::delivery::settings::Settings;
use catchment::ids::ShardId;
use catchment::metrics::registry::Metrics;
use catchment::stream::wire::WireFormat;
use catchment::worker::reader::poll::{self, Fetched};

use events::{events, reply};
use floor::{Http, Pieces};
use measure::{cpu, median};
use server::Server;
use way::Way;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const ARN: &str = "arn:aws:kinesis:eu-west-1:123456789012:stream/events";
/// Payload of a reply: what the worker asks for.
const REPLY: usize = 2 << 20;
const OBJECT: u64 = 64 << 20;
const ROUNDS: usize = 7;

/// Record sizes, and what may not be crossed at each. Only ratios that hold still from run to run
/// are gates.
struct Size {
    record: usize,
    name: &'static str,
    /// Payload of one measurement of reading; of delivering, a part of it.
    payload: u64,
    /// Most: Catchment's read path by the floor's.
    to_floor: Option<f64>,
    /// Least: the plain SDK's read loop by Catchment's.
    to_sdk: f64,
    /// The same in CBOR; the plain SDK reads JSON. What CBOR costs by its own floor does not hold
    /// still: both are too little.
    cbor_to_sdk: f64,
    /// Most: the whole path by its floor's; least: the plain SDK's by the whole path.
    whole: Option<(f64, f64)>,
}

impl Size {
    /// Records of a reply.
    fn count(&self) -> usize {
        (REPLY / self.record).min(10_000)
    }

    /// Payload of a reply, bytes.
    fn of_reply(&self) -> u64 {
        (self.count() * self.record) as u64
    }
}

const SIZES: [Size; 4] = [
    Size {
        record: 100,
        name: "100 B",
        payload: 64 << 20,
        to_floor: None,
        to_sdk: 2.2,
        cbor_to_sdk: 4.0,
        whole: None,
    },
    Size {
        record: 1000,
        name: "1 KB",
        payload: 256 << 20,
        to_floor: Some(1.35),
        to_sdk: 2.2,
        cbor_to_sdk: 4.0,
        whole: Some((1.20, 1.35)),
    },
    Size {
        record: 10_000,
        name: "10 KB",
        payload: 256 << 20,
        to_floor: None,
        to_sdk: 1.7,
        cbor_to_sdk: 3.0,
        whole: None,
    },
    Size {
        record: 100_000,
        name: "100 KB",
        payload: 256 << 20,
        to_floor: None,
        to_sdk: 1.7,
        cbor_to_sdk: 3.0,
        whole: None,
    },
];

/// Most: an upload by a plain PUT of the same bytes.
const UPLOAD: f64 = 1.5;

/// The programs, in the order of a round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Discard,
    FloorRead,
    SdkRead,
    Read,
    FloorCbor,
    ReadCbor,
    FloorWhole,
    SdkWhole,
    Whole,
}

const READ: [Program; 6] = [
    Program::Discard,
    Program::FloorRead,
    Program::SdkRead,
    Program::Read,
    Program::FloorCbor,
    Program::ReadCbor,
];
const WHOLE: [Program; 3] = [Program::FloorWhole, Program::SdkWhole, Program::Whole];

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Discard => "hyper, discard",
            Self::FloorRead => "hyper + scan + base64 (floor)",
            Self::SdkRead => "plain SDK loop",
            Self::Read => "Catchment's reader",
            Self::FloorCbor => "hyper + CBOR slices (floor)",
            Self::ReadCbor => "Catchment's reader, CBOR",
            Self::FloorWhole => "floor + zstd + PUT (floor)",
            Self::SdkWhole => "plain SDK + zstd + PutObject",
            Self::Whole => "Catchment, read to put",
        }
    }
}

fn main() -> Outcome<()> {
    catchment::heap::follow_use();
    let has = |name: &str| std::env::args().any(|argument| argument == name);
    let (quick, write, plain) = (has("--quick"), has("--write"), has("--plain"));
    let slack = std::env::args().skip_while(|argument| argument != "--slack").nth(1);
    let slack = slack.map_or(Ok(1.0), |slack| slack.parse())?;
    if cfg!(debug_assertions) {
        println!("This build is not optimised: figures mean nothing, and no gate is applied.\n");
    }
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // In a task, as a worker runs the reader of a shard: what is waited for outside of one is woken
    // through the kernel.
    #[expect(clippy::disallowed_methods, reason = "no part of the programs under test")]
    let measuring = async { tokio::spawn(measure(quick, slack, write, plain)).await? };
    runtime.enable_all().build()?.block_on(measuring)
}

async fn measure(quick: bool, slack: f64, write: bool, plain: bool) -> Outcome<()> {
    let server = Server::default();
    let bench = Bench::new(server.clone(), Way::plain(&server)?, slack)?;
    let mut found = bench.run(quick).await?;
    let gated = !quick && !cfg!(debug_assertions);
    if gated && !found.outside.is_empty() {
        println!("\nOnce more, because: {}\n", found.outside.join("; "));
        found = bench.run(quick).await?;
    }
    // The same programs, the same replies. No gates: encryption costs both sides of a ratio the same,
    // and brings all of them nearer to one.
    let mut parts = vec![("floor", format!("{HEAD}{}", found.table))];
    if !plain {
        println!();
        let over = Bench::new(server.clone(), Way::tls(&server)?, slack)?.run(quick).await?;
        parts.push(("floor-tls", format!("{HEAD}{}", over.table)));
    }
    if write {
        document::write(&parts)?;
    }
    if gated && !found.outside.is_empty() {
        return Err(format!("outside of its gate: {}", found.outside.join("; ")).into());
    }
    Ok(())
}

/// What a run found.
#[derive(Default)]
struct Found {
    /// Ratios outside of their gates.
    outside: Vec<String>,
    /// For docs/PERFORMANCE.md, without [`HEAD`].
    table: String,
}

const HEAD: &str = "\
| records of | read / floor | plain SDK / read | read in CBOR / floor | plain SDK / read in CBOR | whole / floor \
| plain SDK / whole |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
";

struct Bench {
    server: Server,
    way: Way,
    /// By how much gates are wider.
    slack: f64,
    clients: Clients,
    recipe: Arc<Recipe>,
}

impl Bench {
    fn new(server: Server, way: Way, slack: f64) -> Outcome<Self> {
        let aws = AwsConfig {
            path_style: true,
            attempt_timeout: Duration::from_secs(30),
            operation_timeout: Duration::from_secs(60),
            table_attempt_timeout: Duration::from_secs(30),
            table_operation_timeout: Duration::from_secs(60),
            upload_timeout: Duration::from_secs(60),
        };
        Ok(Self {
            server,
            slack,
            clients: Clients::of(&way.endpoints(), "eu-west-1", &aws),
            way,
            recipe: Arc::new(Recipe::new(Arc::new(Settings::new("archive", "events")))?),
        })
    }

    /// Every table.
    async fn run(&self, quick: bool) -> Outcome<Found> {
        let (rounds, part) = if quick { (1, 16) } else { (ROUNDS, 1) };
        let mut found = Found::default();
        println!("{}:\n", self.way.name());
        for size in &SIZES {
            let replies = (0..3).map(|turn| {
                let events = events(size, turn);
                [reply(&events), cbor::reply(&events)]
            });
            self.server.set(replies.collect());
            let mut costs = vec![Vec::new(); READ.len() + WHOLE.len()];
            for round in 0..=rounds {
                for (program, costs) in READ.iter().chain(&WHOLE).zip(&mut costs) {
                    // The first round warms up.
                    let share = if round == 0 { 8 } else { 1 };
                    let whole = if WHOLE.contains(program) { 2 } else { 1 };
                    let payload = (size.payload / part / share / whole).max(REPLY as u64);
                    let before = cpu()?;
                    let bytes = self.program(*program, payload, size.of_reply()).await?;
                    if round > 0 {
                        costs.push((cpu()? - before) / (bytes as f64 / 1e9));
                    }
                }
            }
            let of = |program: Program| {
                let at = READ.iter().chain(&WHOLE).position(|p| *p == program).unwrap_or(0);
                &costs[at]
            };
            // Of one round each: whatever disturbs the machine disturbs both.
            let ratio = |a: Program, b: Program| {
                let each = of(a).iter().zip(of(b)).map(|(a, b)| a / b);
                median(&mut each.collect::<Vec<_>>())
            };
            println!("records of {}: CPU s/GB of payload (median), and by the floor", size.name);
            for program in READ.iter().chain(&WHOLE) {
                let base = match program {
                    Program::FloorCbor | Program::ReadCbor => Program::FloorCbor,
                    program if WHOLE.contains(program) => Program::FloorWhole,
                    _ => Program::FloorRead,
                };
                let cost = median(&mut of(*program).clone());
                let name = program.name();
                println!("  {name:<34} {cost:>6.2} {:>8.2}", ratio(*program, base));
            }
            use Program::{
                FloorCbor, FloorRead, FloorWhole, Read, ReadCbor, SdkRead, SdkWhole, Whole,
            };
            let (most, least) =
                (size.whole.map(|(most, _)| most), size.whole.map(|(_, least)| least));
            let _ = write!(found.table, "| {} |", size.name);
            for (name, (a, b), least, most) in [
                ("read / floor", (Read, FloorRead), None, size.to_floor),
                ("plain SDK / read", (SdkRead, Read), Some(size.to_sdk), None),
                ("read in CBOR / floor", (ReadCbor, FloorCbor), None, None),
                ("plain SDK / read in CBOR", (SdkRead, ReadCbor), Some(size.cbor_to_sdk), None),
                ("whole / floor", (Whole, FloorWhole), None, most),
                ("plain SDK / whole", (SdkWhole, Whole), least, None),
            ] {
                let ratio = ratio(a, b);
                let _ = write!(found.table, " {ratio:.2} |");
                self.gate(&format!("{name} at {}", size.name), ratio, least, most, &mut found);
            }
            found.table.push('\n');
            println!();
        }
        self.uploads(rounds, &mut found).await?;
        Ok(found)
    }

    /// Tells a ratio, and whether it is where it should be.
    fn gate(
        &self,
        name: &str,
        ratio: f64,
        least: Option<f64>,
        most: Option<f64>,
        found: &mut Found,
    ) {
        let (least, most) = match self.way.tls {
            None => (least.map(|l| l / self.slack), most.map(|m| m * self.slack)),
            Some(_) => (None, None),
        };
        let mut told = format!("{name}: {ratio:.2}");
        for (word, bound) in [("at least", least), ("at most", most)] {
            if let Some(bound) = bound {
                let _ = write!(told, ", {word} {bound:.2}");
            }
        }
        let good = least.is_none_or(|l| ratio >= l) && most.is_none_or(|m| ratio <= m);
        println!("  {told}{}", if good { "" } else { "  <-- OUTSIDE" });
        if !good {
            found.outside.push(told);
        }
    }

    async fn program(&self, program: Program, payload: u64, each: u64) -> Outcome<u64> {
        match program {
            Program::Discard => self.discard(payload, each).await,
            Program::FloorRead => self.floor_read(payload).await,
            Program::SdkRead => Box::pin(self.sdk(payload, false)).await,
            Program::Read => Box::pin(self.catchment(payload, false, WireFormat::Json)).await,
            Program::FloorCbor => cbor::floor_read(&self.way, payload).await,
            Program::ReadCbor => Box::pin(self.catchment(payload, false, WireFormat::Cbor)).await,
            Program::FloorWhole => self.floor_whole(payload).await,
            Program::SdkWhole => Box::pin(self.sdk(payload, true)).await,
            Program::Whole => Box::pin(self.catchment(payload, true, WireFormat::Json)).await,
        }
    }

    async fn discard(&self, payload: u64, each: u64) -> Outcome<u64> {
        Http::with(&self.way, |mut http| async move {
            let mut all = 0;
            while all < payload {
                http.records(&mut Vec::new(), false).await?;
                all += each;
            }
            Ok(all)
        })
        .await
    }

    async fn floor_read(&self, payload: u64) -> Outcome<u64> {
        Http::with(&self.way, |mut http| async move {
            let (mut all, mut body) = (0, Vec::new());
            let (mut arena, mut slices) = (Vec::new(), Vec::new());
            while all < payload {
                http.records(&mut body, true).await?;
                floor::scan(&body, &mut arena, &mut slices).ok_or("the floor's scan failed")?;
                black_box(&slices);
                all += arena.len() as u64;
            }
            Ok(all)
        })
        .await
    }

    async fn floor_whole(&self, payload: u64) -> Outcome<u64> {
        Http::with(&self.way, |mut http| async move {
            let (mut all, mut object, mut body) = (0, 0, Vec::new());
            let (mut arena, mut slices) = (Vec::new(), Vec::new());
            let mut codec = Frames::new()?;
            while all < payload {
                http.records(&mut body, true).await?;
                floor::scan(&body, &mut arena, &mut slices).ok_or("the floor's scan failed")?;
                for slice in &slices {
                    codec.push(&arena[slice.data.0..slice.data.1])?;
                }
                all += arena.len() as u64;
                object += arena.len() as u64;
                if object >= OBJECT || all >= payload {
                    object = 0;
                    http.put("key", Pieces(codec.finish()?.into())).await?;
                }
            }
            Ok(all)
        })
        .await
    }

    /// What one writes first: the SDK's records, and its PutObject.
    async fn sdk(&self, payload: u64, deliver: bool) -> Outcome<u64> {
        let (mut all, mut object) = (0, 0);
        let mut codec = Frames::new()?;
        while all < payload {
            let call = self.clients.kinesis.get_records().stream_arn(ARN);
            let reply = call.shard_iterator("iterator").limit(10_000).send().await?;
            let mut bytes = 0;
            for record in reply.records() {
                bytes += record.data().as_ref().len() as u64;
                black_box((record.sequence_number(), record.partition_key()));
                if deliver {
                    codec.push(record.data().as_ref())?;
                }
            }
            all += bytes;
            object += bytes;
            if deliver && (object >= OBJECT || all >= payload) {
                object = 0;
                let body = codec.finish()?.concat();
                let put = self.clients.s3.put_object().bucket("archive").key("key");
                put.body(body.into()).send().await?;
            }
        }
        Ok(all)
    }

    /// The reader of a shard as the worker runs it; and its batches and uploads.
    async fn catchment(&self, payload: u64, deliver: bool, wire: WireFormat) -> Outcome<u64> {
        let metrics = Arc::new(Metrics::new("bench", true));
        let kinesis = Kinesis::over(self.clients.kinesis.clone(), &self.clients.transport)
            .with_wire_format(wire, &metrics);
        let means = reader::means(kinesis, ARN, Arc::clone(&metrics));
        let shard = ShardId::new("shardId-000000000000");
        let (send, mut pages) = mpsc::channel(1);
        let consume = async {
            let store = ObjectStore::new(self.clients.s3.clone());
            let limits = BatchLimits { bytes: OBJECT, ..BatchLimits::NONE };
            let new = || OpenBatch::new(Arc::clone(&self.recipe), shard.clone(), 0, None);
            let (mut all, mut batch) = (0, new());
            while all < payload {
                let Some(Fetched::Page { mut records, permit, .. }) = pages.recv().await else {
                    return Err("the reader gave up".into());
                };
                all += records.payload() as u64;
                if !deliver {
                    black_box(&records);
                    continue;
                }
                while !records.is_empty() {
                    let full = batch.fill(&mut records, &limits)?.is_some();
                    if (full || all >= payload)
                        && let Some(sealed) = std::mem::replace(&mut batch, new()).seal()?
                    {
                        for object in &sealed.objects {
                            store.put(object).await?;
                        }
                    }
                }
                drop(permit);
            }
            drop(pages);
            Outcome::Ok(all)
        };
        let reading = poll::read(means, shard.clone(), reader::whole(), send);
        let (done, ()) = futures::join!(consume, reading);
        let told = metrics.render();
        let mut fallbacks =
            told.lines().filter(|l| l.starts_with("catchment_wire_fallbacks_total"));
        assert!(fallbacks.all(|line| line.ends_with(" 0")), "not read in CBOR: {told}");
        done
    }

    /// An object as it is, in pieces as batches have them.
    async fn uploads(&self, rounds: usize, found: &mut Found) -> Outcome<()> {
        let store = ObjectStore::new(self.clients.s3.clone());
        for size in [8 << 20, 64 << 20_usize] {
            let piece = Bytes::from(vec![b'x'; 1 << 20]);
            let object = Object {
                accepted_ms: None,
                last: false,
                bucket: "archive".into(),
                key: "key".into(),
                kind: ObjectKind::Archive,
                body: Body { chunks: vec![piece.clone(); size >> 20] },
                content_type: "application/x-ndjson".into(),
                metadata: Vec::new(),
                records: 1,
                aside: None,
            };
            let times = (256 << 20) / size;
            let mut ratios = Vec::new();
            for round in 0..=rounds {
                let before = cpu()?;
                let piece = piece.clone();
                Http::with(&self.way, |mut http| async move {
                    for _ in 0..times {
                        let pieces = VecDeque::from(vec![piece.clone(); size >> 20]);
                        http.put("key", Pieces(pieces)).await?;
                    }
                    Ok(())
                })
                .await?;
                let between = cpu()?;
                for _ in 0..times {
                    store.put(&object).await?;
                }
                if round > 0 {
                    ratios.push((cpu()? - between) / (between - before));
                }
            }
            let ratio = median(&mut ratios);
            let name = format!("upload / plain PUT, {} MiB", size >> 20);
            let _ = write!(found.table, "\n{name}: {ratio:.2}");
            self.gate(&name, ratio, None, Some(UPLOAD), found);
        }
        Ok(())
    }
}

/// Lines in zstd frames, as the encoder makes them: the same calls in the same portions.
struct Frames {
    codec: zstd::bulk::Compressor<'static>,
    open: Vec<u8>,
    frames: Vec<Bytes>,
}

impl Frames {
    fn new() -> Outcome<Self> {
        let codec = zstd::bulk::Compressor::new(1)?;
        Ok(Self { codec, open: Vec::new(), frames: Vec::new() })
    }

    fn push(&mut self, line: &[u8]) -> Outcome<()> {
        self.open.extend_from_slice(line);
        self.open.push(b'\n');
        if self.open.len() >= FRAME {
            self.close()?;
        }
        Ok(())
    }

    fn close(&mut self) -> Outcome<()> {
        let mut frame = self.codec.compress(&self.open)?;
        frame.shrink_to_fit();
        self.frames.push(frame.into());
        self.open.clear();
        Ok(())
    }

    fn finish(&mut self) -> Outcome<Vec<Bytes>> {
        if !self.open.is_empty() {
            self.close()?;
        }
        Ok(std::mem::take(&mut self.frames))
    }
}
