//! `catchment send`: sends the lines of a file, each exactly once, also when an earlier run was killed half-way.
//!
//! The partition key of line n is `<input>:<n>`, where `<input>` names the file. A later run over
//! the same directory finds in the stream which lines are there already, and sends the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::IsTerminal;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use crate::aws::clients::Clients;
use crate::aws::kinesis::Kinesis;
use crate::aws::producer::{BATCH_BYTES, BATCH_RECORDS, Outgoing, Producer};
use crate::clock::{Clock, Jitter};
use crate::config::Config;
use crate::config::raw::{Layers, Source};
use crate::fault::CallError;
use crate::ids::{SequenceNumber, ShardId};
use crate::stream::position::StartAt;
use crate::worker::Node;

use super::{Failure, runtime};

/// Most bytes of a record of the embedded stream.
const RECORD_BYTES: usize = 10 << 20;
/// PutRecords calls under way.
const PARALLEL: usize = 4;

#[derive(Debug, Args)]
pub(super) struct SendOptions {
    /// Stream to send to.
    #[arg(long, value_name = "NAME")]
    stream: String,
    /// Send each line of this file as a record; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    input: String,
}

pub(super) fn run(options: &SendOptions) -> Result<(), Failure> {
    let mut layers = Layers::default();
    // Only the calls matter here; the bucket is never used.
    for (key, value) in [("stream.name", options.stream.as_str()), ("delivery.bucket", "unused")] {
        layers.set(key, value.to_owned(), Source::Flag("--stream".into()));
    }
    let config = Config::from_layers(layers)?;
    let (runtime, tasks) = runtime(1)?;
    runtime.block_on(async {
        let clients =
            Clients::from_environment(&config.aws).await.map_err(|e| Failure::new(2, e))?;
        let node = Node { clock: Clock::system(), jitter: Jitter::system(), tasks };
        let kinesis = Kinesis::over(clients.kinesis.clone(), &clients.transport);
        let producer = Producer::new(clients.kinesis);
        let bar = progress();
        let sent =
            send(&node, &options.stream, &kinesis, &producer, &options.input, false, &bar).await?;
        bar.finish_and_clear();
        eprintln!("{} records of {} bytes are in the stream", sent.records, sent.bytes);
        Ok(())
    })
}

/// A bar on a terminal, nothing elsewhere.
pub(super) fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let style = "{msg:10} {bar:32} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}

/// Fingerprint of a payload.
pub(super) type Print = u128;

/// What is in the stream and must be found in the bucket.
#[derive(Default)]
pub(super) struct Sent {
    /// Lines of the input.
    pub(super) records: u64,
    /// Payload bytes of the input.
    pub(super) bytes: u64,
    /// How often each payload was sent.
    pub(super) payloads: HashMap<Print, u32>,
    /// Payloads in shard order: where a format leaves no trace of record ends.
    pub(super) by_shard: BTreeMap<ShardId, BTreeMap<SequenceNumber, (usize, Print)>>,
    /// The last record of each shard.
    pub(super) last: BTreeMap<ShardId, SequenceNumber>,
}

pub(super) fn print(payload: &[u8]) -> Print {
    let digest = Sha256::digest(payload);
    digest.iter().take(16).fold(0, |sum, byte| (sum << 8) | Print::from(*byte))
}

impl Sent {
    fn note(&mut self, shard: ShardId, sequence: SequenceNumber, length: usize, payload: Print) {
        let last = self.last.entry(shard.clone()).or_insert_with(|| sequence.clone());
        if *last < sequence {
            *last = sequence.clone();
        }
        *self.payloads.entry(payload).or_default() += 1;
        self.by_shard.entry(shard).or_default().insert(sequence, (length, payload));
    }
}

pub(super) async fn send(
    node: &Node,
    stream: &str,
    kinesis: &Kinesis,
    producer: &Producer,
    input: &str,
    fresh: bool,
    bar: &ProgressBar,
) -> Result<Sent, Failure> {
    // The id of the input makes the keys of its records: sent again, the same lines have the same keys.
    let (mut reader, id): (Box<dyn AsyncBufRead + Unpin>, String) = if input == "-" {
        // Standard input has no name to find again.
        (Box::new(BufReader::new(tokio::io::stdin())), node.jitter.uuid().simple().to_string())
    } else {
        let unreadable = |e: std::io::Error| {
            Failure::new(2, format!("--input {input}: {e}; name a readable file, or `-`"))
        };
        let path = std::path::Path::new(input).canonicalize().map_err(unreadable)?;
        let file = tokio::fs::File::open(&path).await.map_err(unreadable)?;
        let size = file.metadata().await.map_err(unreadable)?.len();
        bar.set_length(size);
        let id = format!("{:x}", print(format!("{}:{size}", path.display()).as_bytes()));
        (Box::new(BufReader::with_capacity(1 << 20, file)), id)
    };
    // What an earlier attempt has put is in the stream under these keys, and is not sent twice.
    let mut sent = Sent::default();
    let mut there = BTreeSet::new();
    if !fresh {
        let known = known(stream, kinesis, &id, &mut sent).await;
        there = known.map_err(|e| Failure::new(1, e))?;
    }
    // Lines become batches as large as PutRecords takes, a few of them under way at once.
    let mut running = FuturesUnordered::new();
    let (mut batch, mut size) = (Vec::new(), 0);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).await;
        if read.map_err(|e| Failure::new(1, format!("reading {input}: {e}")))? == 0 {
            break;
        }
        bar.inc(line.len() as u64);
        if line.ends_with(b"\n") {
            line.pop();
        }
        let key = format!("{id}:{number}");
        if line.len() + key.len() > RECORD_BYTES {
            return Err(Failure::new(
                2,
                format!(
                    "line {number} of {input} has {} bytes; a Kinesis record holds at most \
                     {RECORD_BYTES} with its key. Split the line",
                    line.len()
                ),
            ));
        }
        sent.records += 1;
        sent.bytes += line.len() as u64;
        if there.contains(&number) {
            continue;
        }
        let cost = line.len() + key.len();
        if batch.len() == BATCH_RECORDS || (size + cost > BATCH_BYTES && !batch.is_empty()) {
            if running.len() == PARALLEL
                && let Some(done) = running.next().await
            {
                taken(&mut sent, done)?;
            }
            running.push(deliver(node, producer, stream, std::mem::take(&mut batch)));
            size = 0;
        }
        size += cost;
        batch.push(Outgoing { key, data: Bytes::copy_from_slice(&line) });
    }
    if !batch.is_empty() {
        running.push(deliver(node, producer, stream, batch));
    }
    while let Some(done) = running.next().await {
        taken(&mut sent, done)?;
    }
    Ok(sent)
}

type AcceptedLines = Vec<(ShardId, SequenceNumber, usize, Print)>;

fn taken(sent: &mut Sent, done: Result<AcceptedLines, CallError>) -> Result<(), Failure> {
    for (shard, sequence, length, payload) in done.map_err(|e| Failure::new(1, e))? {
        sent.note(shard, sequence, length, payload);
    }
    Ok(())
}

/// Sends a batch until every record of it is taken.
async fn deliver(
    node: &Node,
    producer: &Producer,
    stream: &str,
    mut records: Vec<Outgoing>,
) -> Result<AcceptedLines, CallError> {
    let mut accepted = Vec::with_capacity(records.len());
    while !records.is_empty() {
        let answers = producer.put(stream, &records).await?;
        let mut refused = Vec::new();
        for (record, answer) in records.into_iter().zip(answers) {
            match answer {
                Some((shard, sequence)) => {
                    accepted.push((shard, sequence, record.data.len(), print(&record.data)));
                }
                None => refused.push(record),
            }
        }
        records = refused;
        if !records.is_empty() {
            node.clock.sleep(node.jitter.spread(Duration::from_millis(200), 0.5)).await;
        }
    }
    Ok(accepted)
}

/// Reads the whole stream: everything in it is expected in the bucket; lines of this input need not
/// be sent again.
async fn known(
    stream: &str,
    kinesis: &Kinesis,
    id: &str,
    sent: &mut Sent,
) -> Result<BTreeSet<u64>, CallError> {
    let stream = kinesis.describe(stream).await?;
    let mut lines = BTreeSet::new();
    for shard in kinesis.list_shards(&stream.arn).await? {
        let mut next = Some(kinesis.iterator(&stream.arn, &shard.id, &StartAt::TrimHorizon).await?);
        while let Some(iterator) = next.take() {
            let page = kinesis.get_records(&stream.arn, &iterator, 10_000).await?;
            let tip = page.records.is_empty() && page.behind_ms.unwrap_or(0) == 0;
            for record in page.records.iter() {
                let line = record.partition_key().and_then(|key| {
                    let (input, number) = key.split_once(':')?;
                    if input == id { number.parse::<u64>().ok() } else { None }
                });
                lines.extend(line);
                let (length, payload) = (record.data.len(), print(record.data));
                sent.note(shard.id.clone(), record.position().sequence, length, payload);
            }
            next = page.next.filter(|_| !tip);
        }
    }
    Ok(lines)
}
