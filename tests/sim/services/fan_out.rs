//! Enhanced fan-out: consumers, subscriptions, and what is pushed to them next.
//!
//! A subscription is a position that the service moves; how its events travel is in `crate::feed`.
//! It lasts for five minutes, and a later one of the same consumer to the same shard takes its place,
//! though not within five seconds. Each event says where to go on (ContinuationSequenceNumber), which
//! moves in an idle shard as well.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::kinesis::{Kinesis, Record, Stream, sequence_number};
use super::kinesis_api::{
    Answer, children, invalid, position, record_json, stream_arn, stream_name,
};
use super::{Refusal, Response, only_fields, response};
use crate::effects::Fnv;

/// How long a subscription lasts.
const LIFE_MS: i64 = 300_000;
/// How long after a subscription the next one is refused.
const OCCUPIED_MS: i64 = 5_000;

/// What is pushed, and what goes wrong with it; in a thousand events where nothing else is said.
#[derive(Clone, Debug, Default)]
pub struct FanOutOptions {
    /// For the draws of the subscriptions: the other draws stay what they were.
    pub seed: u64,
    /// A consumer is CREATING for so long.
    pub creating_ms: i64,
    /// The connection breaks.
    pub resets: u32,
    /// Nothing comes any more, though the connection stands.
    pub silences: u32,
    /// The subscription ends before its time.
    pub early_ends: u32,
    /// An exception comes instead, and nothing after it.
    pub exceptions: u32,
    /// Events that come twice.
    pub twice: u32,
    /// Events without a field that they must have, or without any.
    pub void: u32,
}

impl FanOutOptions {
    /// What breaks subscriptions ends with the other faults.
    pub fn heal(&mut self) {
        (self.resets, self.silences, self.early_ends, self.exceptions) = (0, 0, 0, 0);
    }
}

/// A registered consumer.
#[derive(Clone, Debug)]
pub struct Consumer {
    arn: String,
    created_ms: i64,
    active_ms: i64,
}

/// The latest subscription of a consumer to a shard.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    number: u64,
    since_ms: i64,
}

/// A subscription, as the service sees it.
#[derive(Clone, Debug)]
pub struct Subscription {
    stream: String,
    consumer: String,
    index: usize,
    turn: Turn,
    /// The first number not pushed yet.
    position: u128,
    /// For what happens to its events.
    pub rng: fastrand::Rng,
}

/// What a subscription does next.
pub enum Push {
    /// An event: its payload, and what it says, for people. The `last` one names the shard's children.
    Event { payload: Value, what: String, last: bool },
    /// Nothing has changed.
    Idle,
    /// Five minutes are over.
    Over,
    /// Another subscription took its place.
    Replaced,
    /// An exception of this name.
    Exception(&'static str),
}

/// The head of the reply to a SubscribeToShard that was taken; its events come from `crate::feed`.
pub(super) fn opened(subscription: Subscription) -> Response {
    let mut reply = response(200, "application/vnd.amazon.eventstream", Bytes::new());
    reply.extensions_mut().insert(subscription);
    reply
}

/// A message of an event stream.
fn message(headers: &[(&str, &str)], payload: &str) -> Bytes {
    let mut head = Vec::new();
    for (name, value) in headers {
        head.push(name.len() as u8);
        head.extend(name.as_bytes());
        // Type 7: text.
        head.push(7);
        head.extend((value.len() as u16).to_be_bytes());
        head.extend(value.as_bytes());
    }
    let mut out = Vec::new();
    out.extend((12 + head.len() as u32 + payload.len() as u32 + 4).to_be_bytes());
    out.extend((head.len() as u32).to_be_bytes());
    out.extend(crc32fast::hash(&out).to_be_bytes());
    out.extend(head);
    out.extend(payload.as_bytes());
    out.extend(crc32fast::hash(&out).to_be_bytes());
    out.into()
}

/// An event of this type.
pub fn event(kind: &str, payload: &Value) -> Bytes {
    let headers =
        [(":event-type", kind), (":content-type", "application/json"), (":message-type", "event")];
    message(&headers, &payload.to_string())
}

/// An exception of this type.
pub fn exception(kind: &str) -> Bytes {
    let headers = [
        (":exception-type", kind),
        (":content-type", "application/json"),
        (":message-type", "exception"),
    ];
    message(&headers, &json!({ "message": "said inside the stream" }).to_string())
}

/// The greatest number of a shard below a position: whoever goes on after it misses nothing.
fn before(position: u128, index: usize, start: u128) -> u128 {
    if position == 0 {
        return start;
    }
    let last = position - 1;
    last - (last + 10_000 - index as u128) % 10_000
}

impl Kinesis {
    fn find_consumer(&mut self, body: &Value) -> Result<(&mut Stream, String, Consumer), Refusal> {
        let missing = |what: &str| {
            Refusal::new(400, "ResourceNotFoundException", format!("Consumer {what} not found."))
        };
        if let Some(arn) = body["ConsumerARN"].as_str() {
            let named = |s: &&mut Stream| s.consumers.values().any(|c| c.arn == arn);
            let stream = self.streams.values_mut().find(named).ok_or_else(|| missing(arn))?;
            let found = stream.consumers.iter().find(|(_, c)| c.arn == arn);
            let found = found.map(|(name, consumer)| (name.clone(), consumer.clone()));
            let (name, consumer) = found.ok_or_else(|| missing(arn))?;
            return Ok((stream, name, consumer));
        }
        let name = body["ConsumerName"].as_str().unwrap_or_default().to_owned();
        let stream = self.stream(&stream_name(body)?)?;
        let consumer = stream.consumers.get(&name).cloned().ok_or_else(|| missing(&name))?;
        Ok((stream, name, consumer))
    }

    pub(super) fn describe_consumer(&mut self, body: &Value, now_ms: i64) -> Answer {
        only_fields(body, &["StreamARN", "ConsumerName", "ConsumerARN"])?;
        let (stream, name, consumer) = self.find_consumer(body)?;
        let active = now_ms >= consumer.active_ms;
        Ok(json!({ "ConsumerDescription": {
            "ConsumerName": name,
            "ConsumerARN": consumer.arn,
            "ConsumerStatus": if active { "ACTIVE" } else { "CREATING" },
            "ConsumerCreationTimestamp": consumer.created_ms as f64 / 1000.0,
            "StreamARN": stream_arn(&stream.name),
        }}))
    }

    pub(super) fn register_consumer(&mut self, body: &Value, now_ms: i64) -> Answer {
        only_fields(body, &["StreamARN", "ConsumerName"])?;
        let creating_ms = self.options.fan_out.creating_ms;
        let name = body["ConsumerName"].as_str().unwrap_or_default().to_owned();
        let stream = self.stream(&stream_name(body)?)?;
        if stream.consumers.contains_key(&name) {
            let message = format!("Consumer {name} exists.");
            return Err(Refusal::new(400, "ResourceInUseException", message));
        }
        let arn = format!("{}/consumer/{name}:{}", stream_arn(&stream.name), now_ms / 1000);
        let consumer =
            Consumer { arn: arn.clone(), created_ms: now_ms, active_ms: now_ms + creating_ms };
        stream.consumers.insert(name.clone(), consumer);
        Ok(json!({ "Consumer": {
            "ConsumerName": name,
            "ConsumerARN": arn,
            "ConsumerStatus": "CREATING",
            "ConsumerCreationTimestamp": now_ms as f64 / 1000.0,
        }}))
    }

    pub(super) fn subscribe(&mut self, body: &Value, now_ms: i64) -> Result<Subscription, Refusal> {
        only_fields(body, &["ConsumerARN", "ShardId", "StartingPosition"])?;
        let seed = self.options.fan_out.seed;
        let (stream, consumer, found) = self.find_consumer(body)?;
        let in_use = |why: &str| Refusal::new(400, "ResourceInUseException", why);
        if now_ms < found.active_ms {
            return Err(in_use("The consumer is not ACTIVE."));
        }
        let shard = body["ShardId"].as_str().unwrap_or_default();
        let index = stream.index(shard).ok_or_else(|| {
            Refusal::new(400, "ResourceNotFoundException", format!("Could not find shard {shard}"))
        })?;
        let key = (consumer.clone(), index);
        let latest = stream.turns.get(&key).copied();
        if latest.is_some_and(|turn| now_ms < turn.since_ms + OCCUPIED_MS) {
            return Err(in_use("Another active subscription exists for this consumer."));
        }
        let at = &body["StartingPosition"];
        let kind = at["Type"].as_str().ok_or_else(|| invalid("StartingPosition"))?;
        let position =
            position(stream, index, (kind, &at["SequenceNumber"], &at["Timestamp"]), now_ms)?;
        let turn = Turn { number: latest.map_or(0, |turn| turn.number + 1), since_ms: now_ms };
        stream.turns.insert(key, turn);
        stream.changed.notify_waiters();
        let seed = seed ^ Fnv::of(format!("{consumer}/{shard}/{}", turn.number).as_bytes());
        let rng = fastrand::Rng::with_seed(seed);
        Ok(Subscription { stream: stream.name.clone(), consumer, index, turn, position, rng })
    }

    /// Told when there may be something to push.
    pub fn changed(&self, to: &Subscription) -> Arc<Notify> {
        self.streams.get(&to.stream).map(|s| Arc::clone(&s.changed)).unwrap_or_default()
    }

    /// What a subscription pushes now; `due`: an event is due even if nothing has changed.
    pub fn push(&mut self, to: &mut Subscription, due: bool, now_ms: i64) -> Push {
        let options = self.options.clone();
        let Some(stream) = self.streams.get_mut(&to.stream) else {
            return Push::Exception("ResourceNotFoundException");
        };
        stream.expire(now_ms, options.grain_ms);
        let turn = stream.turns.get(&(to.consumer.clone(), to.index));
        if turn.is_some_and(|turn| turn.number != to.turn.number) {
            return Push::Replaced;
        }
        if now_ms >= to.turn.since_ms + LIFE_MS {
            return Push::Over;
        }
        let tip = stream.tip(to.index, now_ms);
        let retention_ms = stream.retention_hours * 3_600_000;
        let held = &stream.shards[to.index];
        if held.gone {
            return Push::Exception("ResourceNotFoundException");
        }
        let stuck = options.stuck && held.is_expired(to.position);
        let blank = due && to.chance(options.blank_tips);
        let visible = held.visible();
        let first = visible.partition_point(|r| r.sequence < to.position);
        let (mut taken, mut bytes) = (0, 0);
        while !stuck && !blank && first + taken < visible.len() {
            bytes += visible[first + taken].data.len();
            if taken > 0 && bytes > options.page_bytes {
                break;
            }
            taken += 1;
        }
        let mut records: Vec<Record> = visible[first..first + taken].to_vec();
        let drained = !stuck && first + taken == visible.len();
        let last = drained && held.closed.is_some() && !(taken > 0 && to.chance(options.late_ends));
        if !due && records.is_empty() && !last {
            return Push::Idle;
        }
        if let Some(record) = records.last() {
            to.position = record.sequence + 1;
        }
        if drained && held.closed.is_none() {
            to.position = to.position.max(tip + 1);
        }
        let behind = match visible.get(first + taken) {
            _ if stuck => retention_ms,
            Some(_) if blank => 0,
            Some(next) => now_ms - next.arrival_ms + 1,
            None => 0,
        };
        let continuation = before(to.position, to.index, held.start);
        let what = format!(
            "{} {} records, {behind} ms behind, to {continuation}{}",
            held.id,
            records.len(),
            if last { ", the end" } else { "" }
        );
        if to.chance(options.repeats) {
            records = records.into_iter().flat_map(|r| [r.clone(), r]).collect();
        }
        let mut payload = json!({
            "Records": records.iter().map(|r| record_json(r, &options)).collect::<Vec<_>>(),
            "ContinuationSequenceNumber": sequence_number(continuation),
            "MillisBehindLatest": behind,
        });
        if last {
            payload["ChildShards"] = json!(children(stream, &stream.shards[to.index].id));
        }
        if let Some(fields) = payload.as_object_mut() {
            if last || to.chance(options.lost_ends) {
                fields.remove("ContinuationSequenceNumber");
            }
            if to.chance(options.fan_out.void) {
                match to.rng.u32(0..4) {
                    0 => fields.clear(),
                    1 => drop(fields.remove("Records")),
                    2 => drop(fields.remove("MillisBehindLatest")),
                    _ => drop(fields.remove("ContinuationSequenceNumber")),
                }
            }
        }
        Push::Event { payload, what, last }
    }
}

impl Subscription {
    /// Happens so often in a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.u32(0..1000) < per_mille
    }
}
