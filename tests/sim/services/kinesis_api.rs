//! The wire of Kinesis: JSON 1.1.
//!
//! Iterators are positions with a date of issue, readable in a trace; they may be used again until
//! they are five minutes old. A position is "the first record with a number of at least n".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::fan_out::opened;
use super::kinesis::{
    Kinesis, KinesisOptions, Record, Shard, Stream, parse_sequence_number, sequence_number,
};
use super::{ACCOUNT, REGION, Refusal, Response, Service, json_response, only_fields};
use crate::effects::Fnv;

/// Iterators and page tokens live this long.
const TOKEN_MS: i64 = 300_000;

/// What a GetRecords handed out.
pub struct Served {
    pub stream: String,
    pub shard: String,
    pub records: Vec<Record>,
    pub ended: bool,
}

pub(super) type Answer = Result<Value, Refusal>;

pub(super) fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(400, "InvalidArgumentException", message)
}

/// The ARN of a stream.
pub fn stream_arn(name: &str) -> String {
    format!("arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/{name}")
}

pub(super) fn stream_name(body: &Value) -> Result<String, Refusal> {
    let by_arn = body["StreamARN"].as_str().and_then(|arn| arn.split_once(":stream/"));
    match (body["StreamName"].as_str(), by_arn) {
        (Some(name), Some((_, other))) if name != other => {
            Err(invalid("StreamARN and StreamName differ"))
        }
        (Some(name), _) | (None, Some((_, name))) => Ok(name.to_owned()),
        (None, None) => Err(Refusal::validation("StreamName or StreamARN is needed")),
    }
}

fn hash_key(body: &Value, field: &str) -> Result<Option<u128>, Refusal> {
    match body[field].as_str() {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| invalid(field)),
    }
}

fn shard_json(shard: &Shard) -> Value {
    let mut range = json!({ "StartingSequenceNumber": sequence_number(shard.start) });
    if let Some((end, _)) = shard.closed {
        range["EndingSequenceNumber"] = json!(sequence_number(end));
    }
    let mut shown = json!({
        "ShardId": shard.id,
        "HashKeyRange": hash_range(shard),
        "SequenceNumberRange": range,
    });
    for (name, parent) in ["ParentShardId", "AdjacentParentShardId"].iter().zip(&shard.parents) {
        shown[*name] = json!(parent);
    }
    shown
}

fn hash_range(shard: &Shard) -> Value {
    json!({
        "StartingHashKey": shard.range.0.to_string(),
        "EndingHashKey": shard.range.1.to_string(),
    })
}

pub(super) fn children(stream: &Stream, shard: &str) -> Vec<Value> {
    let born = stream.shards.iter().filter(|s| s.parents.iter().any(|p| p == shard));
    born.map(
        |s| json!({ "ShardId": s.id, "ParentShards": s.parents, "HashKeyRange": hash_range(s) }),
    )
    .collect()
}

fn iterator(stream: &Stream, shard: &str, position: u128, now_ms: i64) -> Value {
    json!(
        STANDARD
            .encode(format!("{}|{}|{shard}|{position}|{now_ms}", stream.name, stream.created_ms))
    )
}

/// The first number wanted by a reader that begins here: type, sequence number, time.
pub(super) fn position(
    stream: &Stream,
    index: usize,
    (kind, number, time): (&str, &Value, &Value),
    now_ms: i64,
) -> Result<u128, Refusal> {
    let held = &stream.shards[index];
    let numbered = || {
        let text = number.as_str().unwrap_or_default();
        let n = parse_sequence_number(text).filter(|n| stream.shard_of(*n) == index);
        n.ok_or_else(|| {
            let shard = &held.id;
            invalid(format!(
                "StartingSequenceNumber {text} used in GetShardIterator on shard {shard} is invalid"
            ))
        })
    };
    let beyond = held.records.last().map_or(held.start, |r| r.sequence) + 1;
    Ok(match kind {
        "TRIM_HORIZON" => 0,
        "LATEST" => beyond,
        "AT_SEQUENCE_NUMBER" => numbered()?,
        "AFTER_SEQUENCE_NUMBER" => numbered()? + 1,
        "AT_TIMESTAMP" => {
            let at = time.as_f64().ok_or_else(|| invalid("Timestamp"))? * 1000.0;
            if at > now_ms as f64 {
                return Err(invalid(format!(
                    "The timestampInMillis parameter cannot be greater than the currentTimestampInMillis. timestampInMillis: {at}, currentTimestampInMillis: {now_ms}"
                )));
            }
            let first = held.visible().iter().find(|r| r.arrival_ms as f64 >= at);
            first.map_or(beyond, |r| r.sequence)
        }
        other => return Err(Refusal::validation(format!("ShardIteratorType {other}"))),
    })
}

impl Kinesis {
    /// Answers a request; the second part says which records left a shard.
    pub fn call(
        &mut self,
        operation: &str,
        body: &Value,
        now_ms: i64,
    ) -> (Response, Option<Served>) {
        let mut served = None;
        for stream in self.streams.values_mut() {
            stream.expire(now_ms, self.options.grain_ms);
        }
        let answer = match operation {
            "CreateStream" => self.create_stream(body, now_ms),
            "DeleteStream" => self.delete_stream(body),
            "DescribeStreamSummary" => self.describe(body),
            "ListShards" => self.list_shards(body, now_ms),
            "GetShardIterator" => self.get_shard_iterator(body, now_ms),
            "GetRecords" => self.get_records(body, now_ms).map(|(answer, records)| {
                served = Some(records);
                answer
            }),
            "PutRecord" => self.put_record(body, now_ms),
            "PutRecords" => self.put_records(body, now_ms),
            "SplitShard" => self.split_shard(body, now_ms),
            "MergeShards" => self.merge_shards(body, now_ms),
            "DescribeStreamConsumer" => self.describe_consumer(body, now_ms),
            "RegisterStreamConsumer" => self.register_consumer(body, now_ms),
            "SubscribeToShard" => {
                let subscribed = self.subscribe(body, now_ms);
                let response = subscribed.map_or_else(|e| e.response(Service::Kinesis), opened);
                return (response, None);
            }
            other => Err(Refusal::new(
                400,
                "UnknownOperationException",
                format!("the simulator knows no {other}"),
            )),
        };
        let response =
            answer.map_or_else(|e| e.response(Service::Kinesis), |body| json_response(200, &body));
        (response, served)
    }

    fn create_stream(&mut self, body: &Value, now_ms: i64) -> Answer {
        let name = stream_name(body)?;
        if self.streams.contains_key(&name) {
            return Err(Refusal::new(
                400,
                "ResourceInUseException",
                format!("Stream {name} exists"),
            ));
        }
        let shards = body["ShardCount"].as_u64().unwrap_or(4);
        self.create(&name, u32::try_from(shards).unwrap_or(1), now_ms);
        Ok(json!({}))
    }

    fn delete_stream(&mut self, body: &Value) -> Answer {
        let name = stream_name(body)?;
        self.stream(&name)?;
        self.streams.remove(&name);
        Ok(json!({}))
    }

    fn describe(&mut self, body: &Value) -> Answer {
        only_fields(body, &["StreamName", "StreamARN"])?;
        let stream = self.stream(&stream_name(body)?)?;
        let open = stream.listed().filter(|s| s.closed.is_none()).count();
        Ok(json!({ "StreamDescriptionSummary": {
            "StreamName": stream.name,
            "StreamARN": stream_arn(&stream.name),
            "StreamStatus": "ACTIVE",
            "StreamModeDetails": { "StreamMode": "PROVISIONED" },
            "RetentionPeriodHours": stream.retention_hours,
            "StreamCreationTimestamp": stream.created_ms as f64 / 1000.0,
            "EnhancedMonitoring": [],
            "OpenShardCount": open,
            "ConsumerCount": stream.consumers.len(),
        }}))
    }

    fn list_shards(&mut self, body: &Value, now_ms: i64) -> Answer {
        let fields = [
            "StreamName",
            "StreamARN",
            "NextToken",
            "MaxResults",
            "ExclusiveStartShardId",
            "ShardFilter",
            "StreamCreationTimestamp",
        ];
        only_fields(body, &fields)?;
        let asked = match body["NextToken"].as_str() {
            None => body.clone(),
            Some(_) if body["StreamName"].is_string() || body["ShardFilter"].is_object() => {
                return Err(invalid("NextToken and StreamName cannot be provided together."));
            }
            Some(token) => {
                let text = STANDARD
                    .decode(token)
                    .ok()
                    .and_then(|b| serde_json::from_slice::<Value>(&b).ok());
                let text = text.ok_or_else(|| invalid("NextToken is invalid"))?;
                if now_ms - text["at"].as_i64().unwrap_or(0) > TOKEN_MS {
                    return Err(Refusal::new(
                        400,
                        "ExpiredNextTokenException",
                        "NextToken expired",
                    ));
                }
                text
            }
        };
        let limit = body["MaxResults"].as_u64().or(asked["MaxResults"].as_u64()).unwrap_or(1000);
        let limit = usize::try_from(limit).unwrap_or(1).min(self.options.list_page);
        let name = stream_name(&asked)?;
        let stream = self.stream(&name)?;
        let filter = asked["ShardFilter"]["Type"].as_str().unwrap_or("FROM_TRIM_HORIZON");
        let after = match filter {
            "AFTER_SHARD_ID" => asked["ShardFilter"]["ShardId"].as_str(),
            _ => None,
        };
        let after = asked["ExclusiveStartShardId"].as_str().max(after).unwrap_or_default();
        let at = asked["ShardFilter"]["Timestamp"].as_f64().map_or(0, |s| (s * 1000.0) as i64);
        let wanted = |s: &&Shard| {
            let open_at = |ms| s.closed.is_none_or(|(_, closed)| closed > ms);
            let born = i64::try_from(s.start / 10_000 / 1_000_000).unwrap_or(0);
            s.id.as_str() > after
                && match filter {
                    "AT_LATEST" => s.closed.is_none(),
                    "AT_TRIM_HORIZON" => s.parents.iter().all(|p| stream.index(p).is_none()),
                    "AT_TIMESTAMP" => open_at(at) && born <= at,
                    "FROM_TIMESTAMP" => open_at(at),
                    _ => true,
                }
        };
        let all: Vec<&Shard> = stream.listed().filter(wanted).collect();
        let page: Vec<Value> = all.iter().take(limit).map(|s| shard_json(s)).collect();
        let mut answer = json!({ "Shards": page });
        if all.len() > limit {
            let mut next = asked.clone();
            next["StreamName"] = json!(name);
            next["ExclusiveStartShardId"] = json!(all[limit - 1].id);
            next["MaxResults"] = json!(limit);
            next["at"] = json!(now_ms);
            answer["NextToken"] = json!(STANDARD.encode(next.to_string()));
        }
        Ok(answer)
    }

    fn get_shard_iterator(&mut self, body: &Value, now_ms: i64) -> Answer {
        only_fields(
            body,
            &[
                "StreamName",
                "StreamARN",
                "ShardId",
                "ShardIteratorType",
                "StartingSequenceNumber",
                "Timestamp",
            ],
        )?;
        let stream = self.stream(&stream_name(body)?)?;
        let shard = body["ShardId"].as_str().unwrap_or_default();
        let index = stream.index(shard).ok_or_else(|| {
            let message = format!("Shard {shard} in stream {} does not exist", stream.name);
            Refusal::new(400, "ResourceNotFoundException", message)
        })?;
        let kind = body["ShardIteratorType"].as_str().unwrap_or_default();
        let number = &body["StartingSequenceNumber"];
        let position = position(stream, index, (kind, number, &body["Timestamp"]), now_ms)?;
        Ok(json!({ "ShardIterator": iterator(stream, shard, position, now_ms) }))
    }

    fn get_records(&mut self, body: &Value, now_ms: i64) -> Result<(Value, Served), Refusal> {
        only_fields(body, &["ShardIterator", "Limit", "StreamARN"])?;
        let token = body["ShardIterator"].as_str().and_then(|t| STANDARD.decode(t).ok());
        let token = String::from_utf8(token.unwrap_or_default()).unwrap_or_default();
        let parts: Vec<&str> = token.split('|').collect();
        let [name, created, shard, position, issued] = parts.as_slice() else {
            return Err(invalid("Invalid ShardIterator."));
        };
        let issued: i64 = issued.parse().map_err(|_| invalid("Invalid ShardIterator."))?;
        if now_ms - issued > TOKEN_MS {
            return Err(Refusal::new(
                400,
                "ExpiredIteratorException",
                "Iterator expired. The iterator was created more than 5 minutes ago.",
            ));
        }
        let limit = body["Limit"].as_u64().unwrap_or(10_000);
        if !(1..=10_000).contains(&limit) {
            return Err(Refusal::validation("Limit must be from 1 to 10000"));
        }
        let empty = self.chance(self.options.empty_pages);
        let late = self.chance(self.options.late_ends);
        let lost_end = self.chance(self.options.lost_ends);
        let void = self.chance(self.options.void_pages);
        let blank = self.chance(self.options.blank_tips);
        let repeats = self.chance(self.options.repeats);
        let twice = repeats && self.chance(500);
        let options = self.options.clone();
        let stream = self.stream(name)?;
        if stream.created_ms.to_string() != **created {
            return Err(invalid("The iterator belongs to an earlier stream of this name"));
        }
        let index = stream.index(shard).ok_or_else(|| {
            Refusal::new(400, "ResourceNotFoundException", format!("Could not find shard {shard}"))
        })?;
        let retention_ms = stream.retention_hours * 3_600_000;
        let held = &mut stream.shards[index];
        if options.limits {
            held.calls.retain(|at| now_ms - at < 1000);
            if held.calls.len() >= 5 || now_ms < held.busy_until {
                return Err(Refusal::new(
                    400,
                    "ProvisionedThroughputExceededException",
                    format!(
                        "Rate exceeded for shard {shard} in stream {name} under account {ACCOUNT}."
                    ),
                ));
            }
            held.calls.push(now_ms);
        }
        let from: u128 = position.parse().map_err(|_| invalid("Invalid ShardIterator."))?;
        // As users report it: nothing, for as long as one asks.
        let stuck = options.stuck && held.is_expired(from);
        let empty = empty || blank || stuck;
        let visible = held.visible();
        let first = visible.partition_point(|r| r.sequence < from);
        let (mut taken, mut bytes) = (0, 0);
        while !empty && taken < usize::try_from(limit).unwrap_or(1) && first + taken < visible.len()
        {
            bytes += visible[first + taken].data.len();
            if taken > 0 && bytes > options.page_bytes {
                break;
            }
            taken += 1;
        }
        let mut records = visible[first..first + taken].to_vec();
        let behind = visible.get(first + taken).map_or(0, |r| now_ms - r.arrival_ms + 1);
        let behind = match (stuck, blank) {
            (true, _) => retention_ms,
            (false, true) => 0,
            (false, false) => behind,
        };
        let drained = first + taken == visible.len();
        let ended = drained && held.closed.is_some() && !(late && taken > 0) && !stuck;
        if options.limits {
            // 2 MB a second: a large page silences the shard until its share has passed.
            held.busy_until = now_ms + i64::try_from(bytes).unwrap_or(0) / 2_000;
        }
        let next = records.last().filter(|_| !repeats || twice).map_or(from, |r| r.sequence + 1);
        if twice {
            records = records.into_iter().flat_map(|r| [r.clone(), r]).collect();
        }
        let mut answer = json!({
            "Records": records.iter().map(|r| record_json(r, &options)).collect::<Vec<_>>(),
            "MillisBehindLatest": behind,
            "NextShardIterator": if ended { Value::Null } else { iterator(stream, shard, next, now_ms) },
        });
        if ended {
            answer["ChildShards"] = json!(children(stream, shard));
        }
        if lost_end && let Some(fields) = answer.as_object_mut() {
            fields.remove("NextShardIterator");
            fields.remove("ChildShards");
        }
        if void {
            (answer, records) = (json!({}), Vec::new());
        }
        let served =
            Served { stream: (*name).to_owned(), shard: (*shard).to_owned(), records, ended };
        Ok((answer, served))
    }

    fn put_record(&mut self, body: &Value, now_ms: i64) -> Answer {
        let name = stream_name(body)?;
        let data = body["Data"].as_str().and_then(|d| STANDARD.decode(d).ok());
        let data = data.ok_or_else(|| Refusal::validation("Data"))?;
        let key = body["PartitionKey"].as_str().map(str::to_owned);
        let hash = hash_key(body, "ExplicitHashKey")?;
        if data.len() > 10 * 1024 * 1024 {
            return Err(Refusal::validation("Data is longer than 10 MiB"));
        }
        let (shard, sequence) = self.stream(&name)?.put(key, hash, data.into(), now_ms);
        Ok(json!({ "ShardId": shard, "SequenceNumber": sequence_number(sequence) }))
    }

    fn put_records(&mut self, body: &Value, now_ms: i64) -> Answer {
        let name = stream_name(body)?;
        let records = body["Records"].as_array().cloned().unwrap_or_default();
        if records.is_empty() || records.len() > 500 {
            return Err(Refusal::validation("Records must hold 1 to 500 entries"));
        }
        let mut done = Vec::new();
        for mut record in records {
            record["StreamName"] = json!(name);
            done.push(self.put_record(&record, now_ms)?);
        }
        Ok(json!({ "FailedRecordCount": 0, "Records": done }))
    }

    fn split_shard(&mut self, body: &Value, now_ms: i64) -> Answer {
        let at = hash_key(body, "NewStartingHashKey")?;
        let stream = self.stream(&stream_name(body)?)?;
        stream.split(body["ShardToSplit"].as_str().unwrap_or_default(), at, now_ms)?;
        Ok(json!({}))
    }

    fn merge_shards(&mut self, body: &Value, now_ms: i64) -> Answer {
        let stream = self.stream(&stream_name(body)?)?;
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        stream.merge(&text("ShardToMerge"), &text("AdjacentShardToMerge"), now_ms)?;
        Ok(json!({}))
    }
}

/// A record without a partition key never has one, whoever reads it.
pub(super) fn record_json(record: &Record, options: &KinesisOptions) -> Value {
    // By the record, so that it looks the same whenever it is read.
    let dice = Fnv::of(&record.sequence.to_be_bytes()) % 1000;
    let mut shown = json!({
        "SequenceNumber": record.sequence_number(),
        "Data": STANDARD.encode(&record.data),
    });
    if let (Some(key), false) = (&record.partition_key, dice < options.no_partition_key.into()) {
        shown["PartitionKey"] = json!(key);
    }
    if dice >= options.no_arrival_time.into() {
        shown["ApproximateArrivalTimestamp"] = json!(record.arrival_ms as f64 / 1000.0);
    }
    if dice % 40 == 7 {
        // Something a later version of the service might say: such replies are not for the fast
        // path, and owners of a shard may read the same records on different ones.
        shown["Novelty"] = json!({ "of": ["a", "later", "version"] });
    }
    shown
}
