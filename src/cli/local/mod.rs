//! `catchment local`: embedded AWS and workers in one process.

mod verify;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::aws::clients::{Clients, Endpoints};
use crate::aws::kinesis::Kinesis;
use crate::aws::objects::Objects;
use crate::aws::producer::Producer;
use crate::clock::{Clock, Jitter};
use crate::config::Config;
use crate::config::raw::{Layers, Source};
use crate::ids::{SequenceNumber, ShardId};
use crate::lease::row::Lease;
use crate::local::door::{FrontDoor, FrontDoorOptions};
use crate::local::{Http2Limits, Services, TlsOptions};
use crate::shutdown::Shutdown;
use crate::stream::position::Position;
use crate::task::{Handle, Tasks};
use crate::telemetry::{http, logs};
use crate::worker::supervisor::{self, Exit};
use crate::worker::{self, Node};

use super::run::judge;
use super::{Failure, SettingsArgs, runtime, send};

/// Region of the embedded services.
const REGION: &str = "us-east-1";

#[derive(Debug, Args)]
pub(super) struct LocalOptions {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Send each line of this file as a record; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    input: Option<String>,
    /// Stop when everything sent is durable and checkpointed, and check the result.
    #[arg(long, requires = "input")]
    once: bool,
    /// Keep everything here: objects as plain files under DIR/BUCKET/, stream and leases under
    /// DIR/.catchment. A run that was killed goes on where it was.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Shards of the stream, when it is created.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=1000))]
    shards: i32,
    /// Workers in this process; 0 runs the embedded services alone.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Port of the embedded services; a free one if not given.
    #[arg(long)]
    port: Option<u16>,
    /// Speak TLS, by an authority of its own; Kinesis HTTP/2 too, on a port of its own.
    #[arg(long)]
    tls: bool,
    /// Port of the embedded Kinesis with TLS; a free one if not given.
    #[arg(long, requires = "tls")]
    kinesis_port: Option<u16>,
    /// Streams that the embedded Kinesis allows to an HTTP/2 connection.
    #[arg(long, value_name = "N", requires = "tls", value_parser = clap::value_parser!(u32).range(1..))]
    http2_streams: Option<u32>,
    /// Bytes on the way to the embedded Kinesis, of an HTTP/2 stream and of the connection.
    #[arg(long, value_name = "BYTES", requires = "tls", value_parser = clap::value_parser!(u32).range(65_535..=0x7fff_ffff))]
    http2_window: Option<u32>,
    /// Port of the upload API and the /try page; 3000 or a free one if not given.
    #[arg(long)]
    api_port: Option<u16>,
    /// Print one last line of JSON.
    #[arg(long)]
    json: bool,
}

/// SettingsArgs that suit a laptop; everything can be overridden as usual.
fn defaults(options: &LocalOptions) -> Layers {
    let mut layers = Layers::default();
    for (key, value) in [
        ("stream.name", "local"),
        ("stream.idle", "100ms"),
        ("stream.calls_per_second", "100"),
        ("stream.bytes_per_second", "0B"),
        ("delivery.bucket", "archive"),
        ("delivery.batch_age", if options.once { "1s" } else { "5s" }),
        ("lease.scan", "200ms"),
        ("aws.path_style", "true"),
        ("telemetry.listen", if options.once { "off" } else { "127.0.0.1:9464" }),
        ("telemetry.logs", "text"),
    ] {
        layers.set(key, value.to_owned(), Source::Default);
    }
    layers
}

pub(super) fn run(options: LocalOptions) -> Result<(), Failure> {
    let config = options.settings.load(defaults(&options))?;
    if options.once && options.workers == 0 {
        return Err(Failure::new(2, "--once needs a worker: leave --workers out, or at 1 or more"));
    }
    logs::install(config.telemetry.logs, if options.once { "warn" } else { "info" });
    let (runtime, tasks) = runtime(config.threads)?;
    runtime.block_on(async {
        let shutdown = Shutdown::default();
        let _signals = tasks.spawn("signals", shutdown.clone().on_signals());
        tokio::select! {
            biased;
            ended = session(&options, config, &tasks, &shutdown) => ended,
            () = shutdown.abort.cancelled() => Err(Failure::new(1, "left at once on a second signal")),
        }
    })
}

/// Starts everything, does what was asked, stops everything.
async fn session(
    options: &LocalOptions,
    config: Config,
    tasks: &Tasks,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let node = Node { clock: Clock::system(), jitter: Jitter::system(), tasks: tasks.clone() };
    // Objects of a run without a directory of its own stay where the summary says.
    let objects = options.data_dir.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("catchment-{}", node.jitter.uuid().simple()))
    });
    let services = Services::start(
        crate::local::ServiceOptions {
            data_dir: options.data_dir.clone(),
            objects: objects.clone(),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: options.port,
            region: REGION.to_owned(),
            tls: options.tls.then_some(TlsOptions {
                kinesis_port: options.kinesis_port,
                http2: Http2Limits { streams: options.http2_streams, window: options.http2_window },
            }),
        },
        tasks,
        &node.clock,
    )
    .await
    .map_err(|e| Failure::new(2, e))?;
    let ended = with_services(options, config, &node, shutdown, &services, &objects).await;
    services.stop().await.map_err(|e| Failure::new(1, e))?;
    ended
}

async fn with_services(
    options: &LocalOptions,
    config: Config,
    node: &Node,
    shutdown: &Shutdown,
    services: &Services,
    objects: &std::path::Path,
) -> Result<(), Failure> {
    let clients = Clients::of(&services.endpoints(), REGION, &config.aws);
    let producer = Producer::new(clients.kinesis.clone());
    let bucket = &config.delivery.settings.bucket;
    let stream = &config.stream.name;
    let fail = |e: crate::fault::CallError| Failure::new(1, e);
    Objects::new(clients.s3.clone()).create_bucket(bucket).await.map_err(fail)?;
    let fresh = producer.create_stream(stream, options.shards).await.map_err(fail)?;
    let door = if options.once {
        None
    } else {
        let door = front_door(options, &config, node, services).await?;
        introduce(options, &config, services, objects, &door);
        Some(door)
    };
    let workers_stop = Shutdown::default();
    let mut workers = Vec::new();
    for number in 0..options.workers {
        let listen = config.telemetry.listen.filter(|_| number == 0);
        workers.push(start(node, &config, &clients, listen, &workers_stop).await?);
    }
    let begun = node.clock.now();
    let done = work(options, &config, node, shutdown, &clients, &producer, fresh).await;
    // First nobody sends any more, then what was sent is delivered.
    if let Some(door) = door {
        door.stop().await;
    }
    workers_stop.drain.cancel();
    let mut exits = Vec::new();
    for worker in workers {
        exits.push(worker.await.map_err(|e| Failure::new(1, e))?);
    }
    let sent = done?;
    exits.iter().try_for_each(judge)?;
    let Some(sent) = sent else { return Ok(()) };
    let seconds = (node.clock.now() - begun).as_secs_f64();
    let report = verify::verify(&config, &Objects::new(clients.s3), &sent, seconds)
        .await
        .map_err(|e| Failure::new(1, e))?;
    report.print(options.json, objects);
    if report.missing > 0 || report.duplicated > 0 {
        return Err(Failure::new(1, "records are missing or stored twice"));
    }
    Ok(())
}

/// The upload API with its login. On port 3000, where the login's redirect leads, if it is free.
async fn front_door(
    options: &LocalOptions,
    config: &Config,
    node: &Node,
    services: &Services,
) -> Result<FrontDoor, Failure> {
    let Endpoints { kinesis, others, transport } = services.endpoints();
    let (stream, bucket) = (&config.stream.name, &config.delivery.settings.bucket);
    let wanted = FrontDoorOptions {
        gateway_port: options.api_port.unwrap_or(3000),
        transport,
        ..FrontDoorOptions::new(&kinesis, &others, stream, bucket)
    };
    let start =
        |wanted| FrontDoor::start(wanted, &node.tasks, node.clock.clone(), node.jitter.clone());
    let started = match start(wanted.clone()).await {
        Err(error)
            if options.api_port.is_none() && error.kind() == std::io::ErrorKind::AddrInUse =>
        {
            start(FrontDoorOptions { gateway_port: 0, ..wanted }).await
        }
        other => other,
    };
    started.map_err(|e| {
        Failure::new(2, format!("the front door cannot start: {e}; pass another --api-port"))
    })
}

async fn start(
    node: &Node,
    config: &Config,
    clients: &Clients,
    listen: Option<std::net::SocketAddr>,
    stop: &Shutdown,
) -> Result<Handle<Exit>, Failure> {
    let listener = match listen {
        Some(address) => Some(http::listen(address).await.map_err(|e| Failure::new(2, e))?),
        None => None,
    };
    let worker = worker::prepare(node, config.clone(), clients.clone())
        .await
        .map_err(|e| Failure::new(2, e))?;
    let stop = stop.clone();
    Ok(node.tasks.spawn("worker", async move {
        match listener {
            Some(listener) => super::run::serve(worker, Some(listener), stop).await,
            None => supervisor::run(worker, stop).await,
        }
    }))
}

/// Sends the input and, with `--once`, waits until it is delivered; else waits for a signal.
async fn work(
    options: &LocalOptions,
    config: &Config,
    node: &Node,
    shutdown: &Shutdown,
    clients: &Clients,
    producer: &Producer,
    fresh: bool,
) -> Result<Option<send::Sent>, Failure> {
    let Some(input) = &options.input else {
        shutdown.drain.cancelled().await;
        return Ok(None);
    };
    let bar = send::progress();
    let kinesis = Kinesis::over(clients.kinesis.clone(), &clients.transport);
    let sending = send::send(node, &config.stream.name, &kinesis, producer, input, fresh, &bar);
    let sent = tokio::select! {
        biased;
        sent = sending => sent?,
        () = shutdown.drain.cancelled() => return Ok(None),
    };
    bar.finish_with_message("sent");
    if !options.once {
        eprintln!("{} records sent; they are delivered as batches fill or age", sent.records);
        shutdown.drain.cancelled().await;
        return Ok(None);
    }
    let table =
        crate::aws::dynamodb::LeaseTable::new(clients.dynamodb.clone(), &config.lease.table);
    tokio::select! {
        biased;
        delivered = delivered(&table, &sent.last, &node.clock) => delivered?,
        () = shutdown.drain.cancelled() => return Ok(None),
    }
    Ok(Some(sent))
}

/// Waits until every shard's checkpoint has reached the last record sent to it.
async fn delivered(
    table: &crate::aws::dynamodb::LeaseTable,
    last: &BTreeMap<ShardId, SequenceNumber>,
    clock: &Clock,
) -> Result<(), Failure> {
    loop {
        let items = match table.scan(true).await {
            Ok(items) => items,
            // The workers get over it, and so does who watches them.
            Err(error) if error.fault.is_transient() => Vec::new(),
            Err(error) => return Err(Failure::new(1, error)),
        };
        let leases: Vec<Lease> =
            items.iter().filter_map(|item| Lease::parse(item).ok().flatten()).collect();
        let reached = last.iter().all(|(shard, sequence)| {
            let position = Position::plain(sequence.clone());
            leases.iter().any(|l| {
                l.shard == *shard
                    && (l.is_finished()
                        || l.progress.checkpoint.position().is_some_and(|at| *at >= position))
            })
        });
        if reached {
            return Ok(());
        }
        clock.sleep(Duration::from_millis(50)).await;
    }
}

/// Prints the environment for a shell to `eval`, and what to try next.
fn introduce(
    options: &LocalOptions,
    config: &Config,
    services: &Services,
    objects: &std::path::Path,
    door: &FrontDoor,
) {
    let mut out = std::io::stdout().lock();
    for (name, value) in services.environment() {
        let _ = writeln!(out, "export {name}='{value}'");
    }
    let _ = out.flush();
    let (stream, bucket) = (&config.stream.name, &config.delivery.settings.bucket);
    let status = match config.telemetry.listen {
        Some(address) if options.workers > 0 => {
            format!("  curl -s http://{address}/status\n  curl -s http://{address}/metrics\n")
        }
        _ => String::new(),
    };
    let endpoints = services.endpoints();
    let tls = match services.authority() {
        Some(authority) => format!(
            "Kinesis answers at {}, by HTTP/2 and HTTP/1.1. AWS_CA_BUNDLE names the authority to \
             trust; it is new with\neach start. Clients that do not know the variable: \
             NODE_EXTRA_CA_CERTS or a trust store with {}\n",
            endpoints.kinesis,
            authority.display(),
        ),
        None => String::new(),
    };
    eprintln!(
        "Embedded Kinesis, DynamoDB and S3 answer at {endpoint}; nothing leaves this machine.\n{tls}\
         Paste the export lines above into another terminal, then try:\n\n  \
         aws kinesis put-record --stream-name {stream} --partition-key k \
         --cli-binary-format raw-in-base64-out --data 'hello'   \
         (version 1 of the AWS CLI: without --cli-binary-format …)\n  \
         aws s3 ls --recursive s3://{bucket}/\n{status}\n\
         Upload a file through the front door, in a browser at {try_url} (user dev, password \
         catchment),\nor with curl: get a code, exchange it, upload\n\n{tour}\n\
         Objects appear as files under {dir}\nStop with Ctrl-C.",
        endpoint = endpoints.others,
        try_url = door.try_url,
        tour = door.tour().iter().map(|line| format!("  {line}\n")).collect::<String>(),
        dir = objects.join(bucket).display(),
    );
}
