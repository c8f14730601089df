//! Kinesis: the embedded engine's store and stream descriptions, with the data path and resharding
//! of our own where the engine differs from AWS.
//!
//! Ours: PutRecord(s), GetShardIterator, GetRecords, SubscribeToShard, ListShards, SplitShard,
//! MergeShards, UpdateShardCount. Everything else is the engine's, called with `StreamName` filled
//! in from `StreamARN`.

mod fanout;
mod log;
mod put;
mod read;
mod reshard;
mod shards;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ferrokinesis::actions::{Operation, dispatch};
use ferrokinesis::error::KinesisErrorResponse;
use ferrokinesis::persistence::PersistentStream;
use ferrokinesis::sequence;
use ferrokinesis::store::{Store, StoreOptions};
use ferrokinesis::types::{ConsumerStatus, Stream, StreamMode, StreamModeDetails, StreamStatus};
use ferrokinesis::validation;
use serde_json::{Map, Value};

use self::log::{Line, Log};
use super::{LocalError, gateway};
use crate::clock::{Clock, Jitter};
use crate::task::Tasks;

const SHARD_LIMIT: u32 = 5_000;
/// How long a change of a stream may take in the engine's background.
const SETTLE: Duration = Duration::from_secs(10);

type Fault = KinesisErrorResponse;
type Answer = Result<Option<Value>, Fault>;

/// The Kinesis service. Cheap to clone.
#[derive(Clone)]
pub(super) struct Streams(Arc<Inner>);

struct Inner {
    store: Store,
    /// Held by everything that writes, so that records become readable in the order of their
    /// sequence numbers and never on a closed shard.
    writing: tokio::sync::Mutex<Counters>,
    log: Option<Log>,
    subscriptions: Mutex<HashMap<String, fanout::Subscription>>,
    clock: Clock,
    jitter: Jitter,
    tasks: Tasks,
}

/// The next sequence index of every shard, by stream.
type Counters = HashMap<String, Vec<u64>>;

impl Streams {
    /// Opens the streams logged in `directory`, or empty ones in memory.
    pub(super) async fn open(
        directory: Option<&Path>,
        region: &str,
        tasks: &Tasks,
        clock: &Clock,
        jitter: &Jitter,
    ) -> Result<Self, LocalError> {
        let store = Store::new(StoreOptions {
            create_stream_ms: 0,
            delete_stream_ms: 0,
            update_stream_ms: 0,
            shard_limit: SHARD_LIMIT,
            aws_region: region.to_owned(),
            ..StoreOptions::default()
        });
        let mut inner = Inner {
            store,
            writing: tokio::sync::Mutex::default(),
            log: None,
            subscriptions: Mutex::default(),
            clock: clock.clone(),
            jitter: jitter.clone(),
            tasks: tasks.clone(),
        };
        if let Some(directory) = directory {
            let (log, contents) = Log::open(directory, clock.wall())?;
            inner.log = Some(log);
            inner
                .restore(contents)
                .await
                .map_err(|fault| LocalError::Streams {
                    path: directory.to_owned(),
                    line: 0,
                    reason: fault.to_string(),
                })?;
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Answers one request.
    pub(super) async fn handle(&self, operation: &str, cbor: bool, body: &[u8]) -> Response {
        if cbor {
            return gateway::error(
                StatusCode::BAD_REQUEST,
                "SerializationException",
                "the local Kinesis speaks JSON only: switch CBOR off in the client, for the Java SDK with AWS_CBOR_DISABLE=true",
            );
        }
        let Ok(operation) = operation.parse::<Operation>() else {
            return gateway::error(
                StatusCode::BAD_REQUEST,
                "UnknownOperationException",
                &format!("Kinesis has no operation `{operation}`"),
            );
        };
        let data = match serde_json::from_slice(body) {
            Ok(Value::Object(data)) => data,
            _ => {
                return gateway::error(
                    StatusCode::BAD_REQUEST,
                    "SerializationException",
                    "the body is not a JSON object",
                );
            }
        };
        if operation == Operation::SubscribeToShard {
            return match self.subscribe(&Value::Object(data)).await {
                Ok(response) => response,
                Err(fault) => refuse(&fault),
            };
        }
        match self.0.answer(operation, data).await {
            Ok(None) => reply(Vec::new()),
            Ok(Some(value)) => reply(serde_json::to_vec(&value).unwrap_or_default()),
            Err(fault) => refuse(&fault),
        }
    }
}

impl Streams {
    /// Frees the records that are past their retention.
    pub(super) async fn sweep(&self) {
        let store = &self.0.store;
        for name in store.list_stream_names().await {
            if let Ok(stream) = store.get_stream(&name).await {
                store
                    .delete_expired_records(&name, stream.retention_period_hours)
                    .await;
            }
        }
    }
}

fn reply(body: Vec<u8>) -> Response {
    ([("content-type", "application/x-amz-json-1.1")], body).into_response()
}

fn refuse(fault: &Fault) -> Response {
    let status = StatusCode::from_u16(fault.status_code).unwrap_or(StatusCode::BAD_REQUEST);
    let message = fault.body.message.as_deref().unwrap_or_default();
    gateway::error(status, &fault.body.error_type, message)
}

fn invalid(message: impl AsRef<str>) -> Fault {
    Fault::client_error("InvalidArgumentException", Some(message.as_ref()))
}

/// The oldest arrival, in epoch seconds, that is still retained.
fn horizon(now_ms: i64, hours: u32) -> f64 {
    now_ms as f64 / 1000.0 - f64::from(hours) * 3600.0
}

/// Raises the counter of the shard in a record key past that record.
fn count(counters: &mut Vec<u64>, key: &str) {
    let Some((_, number)) = key.split_once('/') else {
        return;
    };
    let Ok(number) = sequence::parse_sequence(number) else {
        return;
    };
    let Ok(shard) = usize::try_from(number.shard_ix) else {
        return;
    };
    if counters.len() <= shard {
        counters.resize(shard + 1, 1);
    }
    counters[shard] = counters[shard].max(number.seq_ix.unwrap_or(0) + 1);
}

impl Inner {
    async fn answer(&self, operation: Operation, mut data: Map<String, Value>) -> Answer {
        let by_arn = matches!(
            operation,
            Operation::RegisterStreamConsumer
                | Operation::DeregisterStreamConsumer
                | Operation::DescribeStreamConsumer
                | Operation::ListStreamConsumers
                | Operation::UpdateMaxRecordSize
                | Operation::UpdateStreamMode
                | Operation::UpdateStreamWarmThroughput
        );
        if !by_arn && let Some(Value::String(arn)) = data.remove("StreamARN") {
            let name = arn.rsplit_once(":stream/").map(|(_, name)| name);
            let name = name.ok_or_else(|| invalid(format!("`{arn}` is not a stream ARN")))?;
            data.entry("StreamName").or_insert_with(|| name.into());
        }
        let data = Value::Object(data);
        match operation {
            Operation::PutRecord => self.put_record(&data).await,
            Operation::PutRecords => self.put_records(&data).await,
            Operation::GetShardIterator => self.get_shard_iterator(data).await,
            Operation::GetRecords => self.get_records(&data).await,
            Operation::ListShards => self.list_shards(&data).await,
            Operation::SplitShard => self.split_shard(&data).await,
            Operation::MergeShards => self.merge_shards(&data).await,
            Operation::UpdateShardCount => self.update_shard_count(&data).await,
            Operation::CreateStream => self.create_stream(data).await,
            _ => self.engine(operation, data).await,
        }
    }

    /// Lets the engine answer, waits until its background work is done, and logs what changed.
    async fn engine(&self, operation: Operation, data: Value) -> Answer {
        if ["Describe", "Get", "List"]
            .iter()
            .any(|verb| operation.as_str().starts_with(verb))
        {
            return self.checked(operation, data).await;
        }
        let name = stream_of(&data);
        let mut counters = self.writing.lock().await;
        let answer = self.checked(operation, data).await?;
        if let Some(name) = name {
            self.settle(&name).await;
            self.keep(&name, &mut counters).await?;
        }
        Ok(answer)
    }

    /// Validates as the engine's own server does, then runs the operation.
    async fn checked(&self, operation: Operation, data: Value) -> Answer {
        let rules = operation.validation_rules();
        let rules: Vec<_> = rules.iter().map(|(name, rule)| (*name, rule)).collect();
        let data = validation::check_types(&data, &rules)?;
        validation::check_validations(&data, &rules, None)?;
        dispatch(&self.store, operation, data).await
    }

    async fn create_stream(&self, mut data: Value) -> Answer {
        let on_demand = data["StreamModeDetails"]["StreamMode"] == "ON_DEMAND";
        if on_demand && data["ShardCount"].is_null() {
            data["ShardCount"] = 4.into();
        }
        let name = data["StreamName"].as_str().unwrap_or_default().to_owned();
        let kib = data["MaxRecordSizeInKiB"].as_u64();
        let mut counters = self.writing.lock().await;
        if data["ShardCount"].as_i64().is_none_or(|count| count < 1) {
            return Err(invalid("ShardCount must be at least 1"));
        }
        self.checked(Operation::CreateStream, data).await?;
        self.settle(&name).await;
        counters.remove(&name);
        self.store
            .update_stream(&name, |stream| {
                if let Some(kib) = kib.and_then(|kib| u32::try_from(kib).ok()) {
                    stream.max_record_size_kib = kib.clamp(1024, 10_240);
                }
                if on_demand {
                    stream.stream_mode_details = StreamModeDetails {
                        stream_mode: StreamMode::OnDemand,
                    };
                }
                Ok(())
            })
            .await?;
        self.keep(&name, &mut counters).await?;
        Ok(None)
    }

    /// Waits for the engine's background: a stream is ACTIVE or gone when the reply is sent.
    async fn settle(&self, name: &str) {
        let until = self.clock.now() + SETTLE;
        while self.clock.now() < until {
            let done = match self.store.get_stream(name).await {
                Err(_) => true,
                Ok(stream) => {
                    let consumers = self.store.list_consumers_for_stream(&stream.stream_arn);
                    stream.stream_status == StreamStatus::Active
                        && consumers
                            .await
                            .iter()
                            .all(|c| c.consumer_status == ConsumerStatus::Active)
                }
            };
            if done {
                return;
            }
            self.clock.sleep(Duration::from_millis(1)).await;
        }
    }

    /// Logs a stream and its consumers as they are now.
    async fn keep(&self, name: &str, counters: &mut Counters) -> Result<(), Fault> {
        let Ok(stream) = self.store.get_stream(name).await else {
            counters.remove(name);
            return self.record(Line::Deleted(name.to_owned())).await;
        };
        if self.log.is_none() {
            return Ok(());
        }
        let arn = stream.stream_arn.clone();
        let consumers = self.store.list_consumers_for_stream(&arn).await;
        let mut numbers = counters.get(name).cloned().unwrap_or_default();
        numbers.resize(stream.shards.len(), 1);
        let stream = PersistentStream::from_stream(name.to_owned(), &stream, numbers);
        self.record(Line::Stream(Box::new(stream))).await?;
        self.record(Line::Consumers(arn, consumers)).await
    }

    /// Writes a line to the log, if there is one.
    async fn record(&self, line: Line) -> Result<(), Fault> {
        let Some(log) = self.log.clone() else {
            return Ok(());
        };
        let broken = |e: &dyn std::fmt::Display| {
            let message = format!("cannot write the stream log: {e}; is the disk full?");
            Fault::server_error(None, Some(&message))
        };
        match self.tasks.compute(move || log.append(&line)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(broken(&error)),
            Err(error) => Err(broken(&error)),
        }
    }

    async fn restore(&mut self, contents: log::Contents) -> Result<(), Fault> {
        let mut counters = self.writing.lock().await;
        for (name, stored) in contents.streams {
            let (_, stream, numbers): (_, Stream, _) = stored.into_parts();
            let arn = stream.stream_arn.clone();
            self.store.put_stream(&name, stream).await?;
            counters.insert(name, numbers);
            for consumer in contents.consumers.get(&arn).into_iter().flatten() {
                let arn = consumer.consumer_arn.clone();
                self.store.put_consumer(&arn, consumer.clone()).await?;
            }
        }
        for (name, records) in contents.records {
            if counters.contains_key(&name) {
                let records: Vec<_> = records.into_iter().collect();
                self.store.put_records_batch(&name, &records).await?;
            }
        }
        Ok(())
    }
}

/// The stream a request is about, if it names one.
fn stream_of(data: &Value) -> Option<String> {
    if let Some(name) = data["StreamName"].as_str() {
        return Some(name.to_owned());
    }
    let arn = ["StreamARN", "ConsumerARN", "ResourceARN"]
        .iter()
        .find_map(|field| data[field].as_str())?;
    let (_, rest) = arn.split_once(":stream/")?;
    Some(rest.split('/').next().unwrap_or(rest).to_owned())
}
