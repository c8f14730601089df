//! Kinesis: the embedded engine's store and stream descriptions, with the data path and resharding
//! of our own where the engine differs from AWS.
//!
//! Ours: PutRecord(s), GetShardIterator, GetRecords, SubscribeToShard, ListShards, SplitShard,
//! MergeShards, UpdateShardCount. Everything else is the engine's, called with `StreamName` filled
//! in from `StreamARN`.

mod counters;
mod engine;
mod fanout;
mod log;
mod put;
mod read;
mod reshard;
mod retention;
mod shards;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ferrokinesis::actions::Operation;
use ferrokinesis::error::KinesisErrorResponse;
use ferrokinesis::store::{Store, StoreOptions};
use ferrokinesis::types::Stream;
use serde_json::{Map, Value};

use self::log::{Log, LogLine};
use super::{LocalError, json_error};
use crate::clock::{Clock, Jitter};
use crate::task::Tasks;

const SHARD_LIMIT: u32 = 5_000;

type KinesisFault = KinesisErrorResponse;
type Answer = Result<Option<Value>, KinesisFault>;

/// The Kinesis service. Cheap to clone.
#[derive(Clone)]
pub(super) struct Streams(Arc<Inner>);

struct Inner {
    store: Store,
    /// Held by everything that writes, so that records become readable in the order of their
    /// sequence numbers and never on a closed shard.
    writing: tokio::sync::Mutex<Counters>,
    log: Option<Log>,
    subscriptions: Mutex<HashMap<String, fanout::LocalSubscription>>,
    /// Calls so far after which a subscription may have something to say.
    changes: AtomicU64,
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
            changes: AtomicU64::new(0),
            clock: clock.clone(),
            jitter: jitter.clone(),
            tasks: tasks.clone(),
        };
        if let Some(directory) = directory {
            let (log, contents) = Log::open(directory, clock.wall())?;
            inner.log = Some(log);
            inner.restore(contents).await.map_err(|fault| LocalError::Streams {
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
            return json_error::error(
                StatusCode::BAD_REQUEST,
                "SerializationException",
                "the local Kinesis speaks JSON only: switch CBOR off in the client, for the Java SDK with AWS_CBOR_DISABLE=true",
            );
        }
        let Ok(operation) = operation.parse::<Operation>() else {
            return json_error::error(
                StatusCode::BAD_REQUEST,
                "UnknownOperationException",
                &format!("Kinesis has no operation `{operation}`"),
            );
        };
        let data = match serde_json::from_slice(body) {
            Ok(Value::Object(data)) => data,
            _ => {
                return json_error::error(
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
        let answer = self.0.answer(operation, data).await;
        if !matches!(
            operation,
            Operation::GetRecords | Operation::GetShardIterator | Operation::ListShards
        ) {
            self.0.changes.fetch_add(1, Ordering::Release);
        }
        match answer {
            Ok(None) => reply(Vec::new()),
            Ok(Some(value)) => reply(value.to_string().into_bytes()),
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
                store.delete_expired_records(&name, stream.retention_period_hours).await;
            }
        }
    }
}

fn reply(body: Vec<u8>) -> Response {
    ([("content-type", "application/x-amz-json-1.1")], body).into_response()
}

fn refuse(fault: &KinesisFault) -> Response {
    let status = StatusCode::from_u16(fault.status_code).unwrap_or(StatusCode::BAD_REQUEST);
    let message = fault.body.message.as_deref().unwrap_or_default();
    json_error::error(status, &fault.body.error_type, message)
}

fn invalid(message: impl AsRef<str>) -> KinesisFault {
    KinesisFault::client_error("InvalidArgumentException", Some(message.as_ref()))
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

    /// Writes a line to the log, if there is one.
    async fn record(&self, line: LogLine) -> Result<(), KinesisFault> {
        let Some(log) = self.log.clone() else {
            return Ok(());
        };
        let broken = |e: &dyn std::fmt::Display| {
            let message = format!("cannot write the stream log: {e}; is the disk full?");
            KinesisFault::server_error(None, Some(&message))
        };
        match self.tasks.compute(move || log.append(&line)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(broken(&error)),
            Err(error) => Err(broken(&error)),
        }
    }

    async fn restore(&mut self, contents: log::LogContents) -> Result<(), KinesisFault> {
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
