//! PutRecord and PutRecords.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ferrokinesis::sequence::{self, SeqObj};
use ferrokinesis::types::{StoredRecord, Stream, StreamStatus};
use serde_json::{Value, json};

use super::log::LogLine;
use super::{Answer, Inner, KinesisFault, invalid};

const MAX_RECORDS: usize = 500;
const MAX_REQUEST: usize = 10 * 1024 * 1024;

/// A checked record on its way into a shard.
struct PutEntry<'a> {
    key: Option<&'a str>,
    hash: u128,
    data: &'a str,
    size: usize,
}

fn entry<'a>(
    inner: &Inner,
    stream: &Stream,
    record: &'a Value,
) -> Result<PutEntry<'a>, KinesisFault> {
    let data = record["Data"].as_str();
    let data = data.ok_or_else(|| KinesisFault::serialization_error("Data must be base64 text"))?;
    let decoded = BASE64
        .decode(data)
        .map_err(|e| KinesisFault::serialization_error(&format!("Data is not base64: {e}")))?;
    let key = record["PartitionKey"].as_str();
    if key.is_some_and(|key| key.is_empty() || key.chars().count() > 256) {
        return Err(KinesisFault::validation_error(
            "1 validation error detected: Value at 'partitionKey' failed to satisfy constraint: Member must have length between 1 and 256",
        ));
    }
    let size = decoded.len() + key.map_or(0, str::len);
    let limit = stream.max_record_size_kib as usize * 1024;
    if size > limit {
        return Err(KinesisFault::validation_error(&format!(
            "1 validation error detected: Value at 'data' failed to satisfy constraint: Member must have length less than or equal to {limit}, partition key included"
        )));
    }
    let hash = match (record["ExplicitHashKey"].as_str(), key) {
        (Some(hash), _) => hash.parse().map_err(|_| {
            invalid(format!(
                "Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified value was {hash}"
            ))
        })?,
        (None, Some(key)) => sequence::partition_key_to_hash_key(key),
        // The service distributes records that have no key.
        (None, None) => inner.jitter.uuid().as_u128(),
    };
    Ok(PutEntry { key, hash, data, size })
}

impl Inner {
    pub(super) async fn put_record(&self, data: &Value) -> Answer {
        let name = self.store.resolve_stream_name(data)?;
        let placed = self.put(&name, std::slice::from_ref(data)).await?;
        Ok(placed.into_iter().next())
    }

    pub(super) async fn put_records(&self, data: &Value) -> Answer {
        let name = self.store.resolve_stream_name(data)?;
        let records = data["Records"].as_array();
        let records =
            records.ok_or_else(|| KinesisFault::serialization_error("Records is missing"))?;
        if records.is_empty() || records.len() > MAX_RECORDS {
            return Err(KinesisFault::validation_error(&format!(
                "1 validation error detected: Value at 'records' failed to satisfy constraint: Member must have length between 1 and {MAX_RECORDS}"
            )));
        }
        let placed = self.put(&name, records).await?;
        Ok(Some(json!({ "FailedRecordCount": 0, "Records": placed })))
    }

    /// Places records in order; all or none.
    async fn put(&self, name: &str, records: &[Value]) -> Result<Vec<Value>, KinesisFault> {
        let mut counters = self.writing.lock().await;
        let stream = self.store.get_stream(name).await?;
        if stream.stream_status == StreamStatus::Deleting {
            return Err(KinesisFault::stream_not_found(name, &self.store.aws_account_id));
        }
        // All or nothing: every record is checked before the first has a number.
        let mut entries = Vec::with_capacity(records.len());
        for record in records {
            entries.push(entry(self, &stream, record)?);
        }
        if entries.iter().map(|entry| entry.size).sum::<usize>() > MAX_REQUEST {
            return Err(invalid(format!(
                "Records size exceeds {MAX_REQUEST} bytes, partition keys included"
            )));
        }
        // Numbers in the order of the request; the lock on the counters is held to the end.
        let counters = counters.entry(name.to_owned()).or_default();
        if counters.len() < stream.shards.len() {
            counters.resize(stream.shards.len(), 1);
        }
        let now_ms = self.clock.wall();
        let mut placed = Vec::with_capacity(entries.len());
        let mut batch = Vec::with_capacity(entries.len());
        for entry in entries {
            let shard_ix = stream
                .shards
                .iter()
                .position(|shard| {
                    let range = &shard.hash_key_range;
                    shard.sequence_number_range.ending_sequence_number.is_none()
                        && (range.start_u128()..=range.end_u128()).contains(&entry.hash)
                })
                .ok_or_else(|| {
                    KinesisFault::server_error(None, Some("no open shard takes the key"))
                })?;
            let shard = &stream.shards[shard_ix];
            let created = super::shards::created(shard);
            let number = sequence::stringify_sequence(&SeqObj {
                shard_create_time: created,
                seq_ix: Some(counters[shard_ix]),
                byte1: None,
                seq_time: Some(u64::try_from(now_ms).unwrap_or(0).max(created)),
                seq_rand: None,
                shard_ix: shard_ix as i64,
                version: 2,
            });
            counters[shard_ix] += 1;
            placed.push(json!({ "ShardId": shard.shard_id, "SequenceNumber": number }));
            batch.push((
                format!("{}/{number}", sequence::shard_ix_to_hex(shard_ix as i64)),
                StoredRecord {
                    partition_key: entry.key.unwrap_or_default().to_owned(),
                    data: entry.data.to_owned(),
                    approximate_arrival_timestamp: now_ms as f64 / 1000.0,
                },
            ));
        }
        // Logged before it is visible: what a reader has seen survives a restart.
        if self.log.is_some() {
            self.record(LogLine::Records(name.to_owned(), batch.clone())).await?;
        }
        self.store.put_records_batch(name, &batch).await?;
        Ok(placed)
    }
}
