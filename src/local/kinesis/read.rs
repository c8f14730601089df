//! GetShardIterator and GetRecords.

use ferrokinesis::actions::Operation;
use ferrokinesis::sequence::{self, SeqObj};
use ferrokinesis::shard_iterator::{create_shard_iterator, decode_shard_iterator};
use ferrokinesis::types::{StoredRecord, Stream};
use serde_json::{Value, json};

use super::shards::{self, shard};
use super::{Answer, Inner, KinesisFault, invalid};

const MAX_RECORDS: u64 = 10_000;
const MAX_PAGE: usize = 10 * 1024 * 1024;
/// Records taken from the store at once, so that a page of large ones stays bounded.
const SLICE: usize = 256;
const ITERATOR_LIFE_MS: i64 = 300_000;

/// A place in a shard: the first sequence number to read.
#[derive(Clone)]
pub(super) struct IteratorPosition {
    pub(super) stream: String,
    pub(super) shard_ix: usize,
    pub(super) from: String,
}

/// What was read at a position.
pub(super) struct RecordPage {
    pub(super) records: Vec<Value>,
    pub(super) next: IteratorPosition,
    /// Age of the first record after the page; 0 at the tip.
    pub(super) behind_ms: i64,
    /// The shard is closed and this was the rest of it.
    pub(super) ended: bool,
    pub(super) description: Stream,
}

impl Inner {
    pub(super) async fn get_shard_iterator(&self, data: Value) -> Answer {
        let position = self.position(&data).await?;
        Ok(Some(json!({ "ShardIterator": self.token(&position) })))
    }

    fn token(&self, position: &IteratorPosition) -> String {
        let shard = sequence::shard_id_name(position.shard_ix as i64);
        let now = u64::try_from(self.clock.wall()).unwrap_or(0);
        create_shard_iterator(&position.stream, &shard, &position.from, now)
    }

    /// Where a request of GetShardIterator's shape starts.
    pub(super) async fn position(&self, data: &Value) -> Result<IteratorPosition, KinesisFault> {
        // Nothing may be written between looking for a record and taking the tip.
        let counters = self.writing.lock().await;
        let name = data["StreamName"].as_str().unwrap_or_default();
        let stream = self.store.get_stream(name).await?;
        let shard_ix = shard(&stream, data["ShardId"].as_str().unwrap_or_default())?;
        let position = |from| IteratorPosition { stream: name.to_owned(), shard_ix, from };
        let created = shards::created(&stream.shards[shard_ix]);
        let tip = || {
            let next = counters.get(name).and_then(|c| c.get(shard_ix).copied());
            sequence::stringify_sequence(&SeqObj {
                shard_create_time: created,
                seq_ix: Some(next.unwrap_or(1)),
                byte1: None,
                seq_time: Some(created),
                seq_rand: None,
                shard_ix: shard_ix as i64,
                version: 2,
            })
        };
        match data["ShardIteratorType"].as_str() {
            Some("LATEST") if data["StartingSequenceNumber"].is_null() => Ok(position(tip())),
            Some("AT_TIMESTAMP") => {
                let at = data["Timestamp"].as_f64();
                let at = at.ok_or_else(|| invalid("AT_TIMESTAMP needs a Timestamp"))?;
                let at = whole_ms(at);
                if at * 1000.0 > self.clock.wall() as f64 + 1.0 {
                    return Err(invalid("The Timestamp parameter lies in the future"));
                }
                let hex = sequence::shard_ix_to_hex(shard_ix as i64);
                let end = sequence::shard_ix_to_hex(shard_ix as i64 + 1);
                let found = self
                    .store
                    .find_first_record_at_timestamp(name, &format!("{hex}/"), &end, at)
                    .await
                    .and_then(|(key, _)| Some(key.split_once('/')?.1.to_owned()));
                Ok(position(found.unwrap_or_else(tip)))
            }
            _ => {
                let answer = self
                    .checked(Operation::GetShardIterator, data.clone())
                    .await?
                    .unwrap_or_default();
                let token = answer["ShardIterator"].as_str().unwrap_or_default();
                let (_, _, _, from) = decode_shard_iterator(token)
                    .map_err(|e| KinesisFault::server_error(None, Some(&e.to_string())))?;
                Ok(position(from))
            }
        }
    }

    pub(super) async fn get_records(&self, data: &Value) -> Answer {
        let token = data["ShardIterator"].as_str().unwrap_or_default();
        let bad = || invalid("Invalid ShardIterator.");
        let (made, stream, shard, from) = decode_shard_iterator(token).map_err(|_| bad())?;
        let (_, shard_ix) = sequence::resolve_shard_id(&shard).map_err(|_| bad())?;
        let age = self.clock.wall() - i64::try_from(made).unwrap_or(i64::MAX);
        if age > ITERATOR_LIFE_MS {
            return Err(KinesisFault::client_error(
                "ExpiredIteratorException",
                Some(&format!(
                    "Iterator expired. It was created {age} ms ago, the limit is {ITERATOR_LIFE_MS} ms."
                )),
            ));
        }
        let limit = data["Limit"].as_u64().unwrap_or(MAX_RECORDS);
        if !(1..=MAX_RECORDS).contains(&limit) {
            return Err(KinesisFault::validation_error(&format!(
                "1 validation error detected: Value at 'limit' failed to satisfy constraint: Member must have value between 1 and {MAX_RECORDS}"
            )));
        }
        let position = IteratorPosition {
            stream,
            shard_ix: usize::try_from(shard_ix).map_err(|_| bad())?,
            from,
        };
        let page = self.page(position, limit, MAX_PAGE).await?;
        let mut answer = json!({
            "Records": page.records,
            "MillisBehindLatest": page.behind_ms,
        });
        if page.ended {
            let children = shards::children(&page.description, page.next.shard_ix);
            answer["ChildShards"] = children.into();
            answer["NextShardIterator"] = Value::Null;
        } else {
            answer["NextShardIterator"] = self.token(&page.next).into();
        }
        Ok(Some(answer))
    }

    /// Reads up to `limit` records and `max` bytes, at least one record when there is any.
    pub(super) async fn page(
        &self,
        mut position: IteratorPosition,
        limit: u64,
        max: usize,
    ) -> Result<RecordPage, KinesisFault> {
        // The description first: a shard seen closed here gets no more records.
        let stream = self.store.get_stream(&position.stream).await?;
        let id = sequence::shard_id_name(position.shard_ix as i64);
        shard(&stream, &id)?;
        let now_ms = self.clock.wall();
        let oldest = super::retention::horizon(now_ms, stream.retention_period_hours);
        let hex = sequence::shard_ix_to_hex(position.shard_ix as i64);
        let end = sequence::shard_ix_to_hex(position.shard_ix as i64 + 1);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut start = format!("{hex}/{}", position.from);
        let (mut records, mut bytes, mut waiting) = (Vec::new(), 0, None);
        'reading: loop {
            let slice =
                self.store.get_records_range_limited(&position.stream, &start, &end, SLICE).await;
            let full = slice.len() == SLICE;
            for (key, record) in slice {
                let number = key.split_once('/').map_or("", |(_, number)| number);
                let size = record.data.len() / 4 * 3;
                let expired = record.approximate_arrival_timestamp < oldest;
                if !expired {
                    let over = !records.is_empty() && bytes + size > max;
                    if records.len() == limit || over {
                        waiting = Some(record.approximate_arrival_timestamp);
                        break 'reading;
                    }
                    bytes += size;
                    records.push(row(number, record));
                }
                let read = sequence::parse_sequence(number)
                    .map_err(|e| KinesisFault::server_error(None, Some(&e.to_string())))?;
                position.from = sequence::increment_sequence(&read, None);
                start = format!("{key}\0");
            }
            if !full {
                break;
            }
        }
        let behind_ms = waiting.map_or(0, |arrival| (now_ms - (arrival * 1000.0) as i64).max(1));
        let range = &stream.shards[position.shard_ix].sequence_number_range;
        Ok(RecordPage {
            records,
            next: position,
            behind_ms,
            ended: waiting.is_none() && range.ending_sequence_number.is_some(),
            description: stream,
        })
    }
}

/// The time of a request, in epoch seconds, as arrival times are written. A time that a client was
/// given and sends back may be another float by its last bit: clients cut after nine digits, and the
/// JSON parser of the request does not always take the nearest float.
fn whole_ms(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

fn row(number: &str, record: StoredRecord) -> Value {
    let mut row = json!({
        "SequenceNumber": number,
        "Data": record.data,
        "ApproximateArrivalTimestamp": record.approximate_arrival_timestamp,
    });
    if !record.partition_key.is_empty() {
        row["PartitionKey"] = record.partition_key.into();
    }
    row
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::DateTime;
    use aws_smithy_types::date_time::Format;

    use super::*;

    #[test]
    fn an_arrival_time_that_went_through_a_client_means_its_record() {
        let mut changed = 0;
        for ms in 1_795_480_000_000_i64..1_795_480_002_000 {
            let written = ms as f64 / 1000.0;
            let sent = DateTime::from_secs_f64(written).fmt(Format::EpochSeconds).unwrap();
            let sent: f64 = serde_json::from_str(&sent).unwrap();
            changed += u32::from(sent != written);
            assert_eq!(whole_ms(sent), written, "{ms} ms came back as {sent} s");
        }
        assert!(changed > 0, "the client changes no time, so this test says nothing");
    }
}
