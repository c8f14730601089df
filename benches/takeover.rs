//! How long a fleet takes to close the gap a worker leaves: real processes on the embedded
//! services. `benches/README.md` tells how to read it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a table is the result")]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_sdk_kinesis::primitives::Blob;
use catchment::aws::clients::Clients;
use catchment::aws::dynamodb::LeaseTable;
use catchment::aws::kinesis::Kinesis;
use catchment::clock::Clock;
use catchment::config::AwsConfig;
use catchment::ids::{SequenceNumber, ShardId, WorkerId};
use catchment::lease::row::Lease;
use catchment::stream::position::Position;

type Outcome<T> = Result<T, Box<dyn Error>>;

const BIN: &str = env!("CARGO_BIN_EXE_catchment");
const STREAM: &str = "local";
/// After this long something is broken.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(20);

/// A process that does not outlive us.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Scene {
    environment: Vec<(String, String)>,
    settings: Vec<String>,
    clients: Clients,
    kinesis: Kinesis,
    table: LeaseTable,
    arn: String,
    clock: Clock,
    _services: Process,
}

/// Times of one kind of event, seconds.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn row(mut self, what: &str) {
        self.0.sort_by(f64::total_cmp);
        let at = |share: f64| self.0[((self.0.len() - 1) as f64 * share).round() as usize];
        println!(
            "| {what:58} | {:>4} | {:>7.2} | {:>7.2} | {:>7.2} |",
            self.0.len(),
            at(0.0),
            at(0.5),
            at(1.0)
        );
    }
}

fn main() -> Outcome<()> {
    let (mut rounds, mut shards, mut settings) = (5_usize, 8_usize, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            // Cargo adds it.
            "--bench" => {}
            "--quick" => (rounds, shards) = (1, 4),
            "--rounds" => rounds = value()?.parse()?,
            "--shards" => shards = value()?.parse()?,
            "--set" => settings.push(value()?),
            other => {
                return Err(format!(
                    "{other}: --quick, --rounds N, --shards N or --set KEY=VALUE is expected"
                )
                .into());
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(rounds, shards, settings))
}

async fn run(rounds: usize, shards: usize, settings: Vec<String>) -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let scene = Scene::new(dir.path(), shards, settings).await?;
    let mut next = 0;
    let mut workers: BTreeMap<WorkerId, Process> = BTreeMap::new();
    for _ in 0..2 {
        let (id, process) = scene.worker(&mut next)?;
        workers.insert(id, process);
    }
    scene.level(&workers, shards).await?;
    let (mut terminated, mut killed, mut joined) = <(Times, Times, Times)>::default();
    for round in 0..2 * rounds {
        let Some((id, mut leaving)) = workers.pop_first() else { break };
        let (signal, times): (_, &mut Times) =
            if round % 2 == 0 { ("-TERM", &mut terminated) } else { ("-KILL", &mut killed) };
        eprintln!("round {} of {}: {signal}", round + 1, 2 * rounds);
        let moved: Vec<ShardId> = scene
            .leases()
            .await?
            .into_iter()
            .filter(|l| l.owner.as_ref() == Some(&id))
            .map(|l| l.shard)
            .collect();
        let begun = scene.clock.now();
        Command::new("kill").args([signal, &leaving.0.id().to_string()]).status()?;
        let sent = scene.put(&moved).await?;
        scene.delivered(&sent).await?;
        times.0.push((scene.clock.now() - begun).as_secs_f64());
        leaving.0.wait()?;
        let begun = scene.clock.now();
        let (id, process) = scene.worker(&mut next)?;
        workers.insert(id, process);
        scene.level(&workers, shards).await?;
        joined.0.push((scene.clock.now() - begun).as_secs_f64());
    }
    println!("\n2 workers, {shards} shards; settings: {}\n", scene.settings.join(" "));
    println!("| {:58} | runs | fastest |  median | slowest |", "seconds from … to …");
    println!("|{}|-----:|--------:|--------:|--------:|", "-".repeat(60));
    terminated.row("SIGTERM to the next record of every shard that moves");
    killed.row("SIGKILL to the next record of every shard that moves");
    joined.row("a worker is started to the fleet is level");
    Ok(())
}

impl Scene {
    async fn new(dir: &Path, shards: usize, more: Vec<String>) -> Outcome<Self> {
        let mut child = Command::new(BIN)
            .args(["local", "--workers", "0", "--shards", &shards.to_string(), "--data-dir"])
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let services = Process(child);
        let mut environment = Vec::new();
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            let pair = line.strip_prefix("export ").and_then(|l| l.split_once('='));
            let (name, value) = pair.ok_or("`catchment local` prints something else")?;
            environment.push((name.to_owned(), value.trim_matches('\'').to_owned()));
            if environment.len() == 7 {
                break;
            }
        }
        let endpoint = environment.iter().find(|(name, _)| name == "AWS_ENDPOINT_URL");
        let calls = AwsConfig {
            attempt_timeout: Duration::from_secs(10),
            operation_timeout: Duration::from_secs(30),
            table_attempt_timeout: Duration::from_secs(10),
            table_operation_timeout: Duration::from_secs(30),
            upload_timeout: Duration::from_secs(10),
            path_style: true,
        };
        let clients = Clients::at(&endpoint.ok_or("no endpoint")?.1, "us-east-1", &calls);
        let kinesis = Kinesis::new(clients.kinesis.clone());
        let arn = kinesis.describe(STREAM).await?.arn;
        let table = LeaseTable::new(clients.dynamodb.clone(), "catchment");
        // Defaults, but for the wait that batching adds.
        let mut settings = vec!["delivery.batch_age=100ms".to_owned()];
        settings.extend(more);
        let clock = Clock::system();
        Ok(Self { environment, settings, clients, kinesis, table, arn, clock, _services: services })
    }

    fn worker(&self, next: &mut usize) -> Outcome<(WorkerId, Process)> {
        // Names sort by age: the oldest leaves first.
        let id = format!("worker-{next:04}");
        *next += 1;
        let mut command = Command::new(BIN);
        command
            .args(["run", "--stream", STREAM, "--bucket", "archive"])
            .args(["--set", "aws.path_style=true", "--set", "telemetry.listen=off"])
            .args(["--set", &format!("lease.worker={id}")])
            .envs(self.environment.iter().cloned())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        Ok((WorkerId::new(id), Process(command.spawn()?)))
    }

    async fn leases(&self) -> Outcome<Vec<Lease>> {
        let items = match self.table.scan(true).await {
            Ok(items) => items,
            // Not created yet.
            Err(error) if error.fault == catchment::fault::Fault::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(items.iter().filter_map(|item| Lease::parse(item).ok().flatten()).collect())
    }

    /// Waits for something to be true of the leases.
    async fn until(&self, what: &str, done: impl Fn(&[Lease]) -> bool) -> Outcome<()> {
        let begun = self.clock.now();
        while !done(&self.leases().await?) {
            if self.clock.now() - begun > PATIENCE {
                return Err(format!("after {PATIENCE:?} still not: {what}").into());
            }
            self.clock.sleep(LOOK).await;
        }
        Ok(())
    }

    /// Every lease is with one of these workers, none on its way, loads within one.
    async fn level(&self, workers: &BTreeMap<WorkerId, Process>, shards: usize) -> Outcome<()> {
        self.until("level", |leases| {
            let load = |id| leases.iter().filter(|l| l.owner.as_ref() == Some(id)).count();
            let loads: Vec<usize> = workers.keys().map(load).collect();
            let (most, least) = (loads.iter().max(), loads.iter().min());
            loads.iter().sum::<usize>() == shards
                && leases.iter().all(|l| l.checkpoint_owner.is_none())
                && most.zip(least).is_some_and(|(most, least)| most - least <= 1)
        })
        .await
    }

    /// One record into each of these shards.
    async fn put(&self, shards: &[ShardId]) -> Outcome<BTreeMap<ShardId, Position>> {
        let mut sent = BTreeMap::new();
        for shard in self.kinesis.list_shards(&self.arn).await? {
            if !shards.contains(&shard.id) {
                continue;
            }
            let (first, _) = shard.hash_range.ok_or("a shard without hash keys")?;
            let call = self.clients.kinesis.put_record().stream_name(STREAM);
            let call = call.partition_key("k").explicit_hash_key(first);
            let reply = call.data(Blob::new("after the signal")).send().await?;
            let sequence = SequenceNumber::parse(reply.sequence_number())?;
            sent.insert(shard.id, Position::plain(sequence));
        }
        Ok(sent)
    }

    /// Waits until each of these records is in an object and committed.
    async fn delivered(&self, sent: &BTreeMap<ShardId, Position>) -> Outcome<()> {
        self.until("delivered", |leases| {
            sent.iter().all(|(shard, position)| {
                let lease = leases.iter().find(|l| l.shard == *shard);
                lease.and_then(|l| l.progress.checkpoint.position()).is_some_and(|p| p >= position)
            })
        })
        .await
    }
}
