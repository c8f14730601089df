//! Kinesis Data Streams: streams, shards, records. The wire is in [`super::kinesis_api`].
//!
//! Records are never forgotten here, only trimmed from view, so that an oracle can compare what was
//! produced with what was delivered. Sequence numbers have 56 digits and rise with time; the shard
//! is part of the number, so a number of another shard is recognised.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use md5::{Digest, Md5};
use tokio::sync::Notify;

use super::Refusal;
use super::fan_out::{Consumer, FanOutOptions, Turn};
use crate::load::Produced;

/// What a stream does beyond the rules, per run.
#[derive(Clone, Debug)]
pub struct KinesisOptions {
    /// A page of records ends at this many bytes (10 MiB in the service).
    pub page_bytes: usize,
    /// The largest page of ListShards.
    pub list_page: usize,
    /// Empty pages with a moving iterator, in a thousand.
    pub empty_pages: u32,
    /// Readers learn of the end of a shard one page late, in a thousand.
    pub late_ends: u32,
    /// 5 calls and 2 MB per shard and second.
    pub limits: bool,
    /// Records come without a partition key, in a thousand.
    pub no_partition_key: u32,
    /// Records come without an arrival time, in a thousand.
    pub no_arrival_time: u32,
    /// Pages of open shards without NextShardIterator, in a thousand.
    pub lost_ends: u32,
    /// Answers without any field, in a thousand.
    pub void_pages: u32,
    /// Empty pages that say there is nothing more, in a thousand.
    pub blank_tips: u32,
    /// Pages that come twice, or hold every record twice, in a thousand.
    pub repeats: u32,
    /// Positions that left retention give empty pages, and nothing else.
    pub stuck: bool,
    /// Retention takes records all the time, those of so many milliseconds at once.
    pub grain_ms: Option<i64>,
    /// Consumers and what is pushed to them.
    pub fan_out: FanOutOptions,
}

impl Default for KinesisOptions {
    fn default() -> Self {
        Self {
            page_bytes: 10 * 1024 * 1024,
            list_page: 1000,
            empty_pages: 0,
            late_ends: 0,
            limits: true,
            no_partition_key: 0,
            no_arrival_time: 0,
            lost_ends: 0,
            void_pages: 0,
            blank_tips: 0,
            repeats: 0,
            stuck: false,
            grain_ms: None,
            fan_out: FanOutOptions::default(),
        }
    }
}

/// A record.
#[derive(Clone, Debug)]
pub struct Record {
    pub sequence: u128,
    pub arrival_ms: i64,
    pub partition_key: Option<String>,
    pub data: Bytes,
    /// What a consumer must find in it: index inside the aggregate (0 for a plain record), payload.
    pub users: Vec<(u64, Bytes)>,
    /// The file it carries: key and content.
    pub file: Option<(String, Bytes)>,
}

impl Record {
    /// The sequence number as on the wire.
    pub fn sequence_number(&self) -> String {
        sequence_number(self.sequence)
    }
}

/// The fixed head of every sequence number.
const PREFIX: &str = "49590338271490256608";
/// The last decimal digits of a number name the shard.
const SHARDS: u128 = 10_000;

/// The wire form: 56 digits.
pub fn sequence_number(n: u128) -> String {
    format!("{PREFIX}{n:036}")
}

/// Undoes [`sequence_number`].
pub fn parse_sequence_number(text: &str) -> Option<u128> {
    let digits = text.strip_prefix(PREFIX).filter(|d| d.len() == 36)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// A shard.
#[derive(Debug)]
pub struct Shard {
    pub id: String,
    pub parents: Vec<String>,
    pub range: (u128, u128),
    pub start: u128,
    /// The ending sequence number and the time, once closed.
    pub closed: Option<(u128, i64)>,
    /// Everything ever put.
    pub records: Vec<Record>,
    /// Retention has taken the whole shard.
    pub gone: bool,
    /// How many of them retention has taken.
    pub trimmed: usize,
    pub(super) calls: Vec<i64>,
    pub(super) busy_until: i64,
}

impl Shard {
    /// Has retention taken a record at or behind this position?
    pub fn is_expired(&self, position: u128) -> bool {
        position > 0 && self.records[..self.trimmed].last().is_some_and(|r| r.sequence >= position)
    }

    /// The records a reader can still get.
    pub fn visible(&self) -> &[Record] {
        &self.records[self.trimmed..]
    }
}

/// A stream.
#[derive(Debug)]
pub struct Stream {
    pub name: String,
    pub created_ms: i64,
    pub retention_hours: i64,
    pub shards: Vec<Shard>,
    /// Registered consumers, by name.
    pub(super) consumers: BTreeMap<String, Consumer>,
    /// The latest subscription of each consumer to each shard.
    pub(super) turns: BTreeMap<(String, usize), Turn>,
    /// A record came, a shard was closed, a subscription was replaced.
    pub changed: Arc<Notify>,
    ticket: u128,
}

impl Stream {
    fn next_sequence(&mut self, now_ms: i64, shard: usize) -> u128 {
        let base = u128::try_from(now_ms).unwrap_or(0) * 1_000_000;
        self.ticket = (self.ticket + 1).max(base);
        self.ticket * SHARDS + shard as u128
    }

    /// A number behind all that was ever put into a shard, and before what will be.
    pub(super) fn tip(&mut self, shard: usize, now_ms: i64) -> u128 {
        let base = u128::try_from(now_ms).unwrap_or(0) * 1_000_000;
        self.ticket = self.ticket.max(base);
        self.ticket * SHARDS + shard as u128
    }

    pub fn index(&self, shard: &str) -> Option<usize> {
        self.shards.iter().position(|s| s.id == shard && !s.gone)
    }

    /// The shard a sequence number belongs to.
    pub fn shard_of(&self, n: u128) -> usize {
        usize::try_from(n % SHARDS).unwrap_or(usize::MAX)
    }

    /// Shards that ListShards still shows: open, or closed within retention.
    pub fn listed(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter(|s| !s.gone)
    }

    /// Shards that were closed longer ago than retention are gone, for lists and readers alike.
    pub fn expire(&mut self, now_ms: i64, grain_ms: Option<i64>) {
        let horizon = now_ms - self.retention_hours * 3_600_000;
        self.trim(grain_ms.map_or(i64::MIN, |grain| horizon - horizon.rem_euclid(grain)), horizon);
    }

    fn open(&mut self, parents: Vec<String>, range: (u128, u128), now_ms: i64) -> usize {
        let index = self.shards.len();
        let start = self.next_sequence(now_ms, index);
        self.shards.push(Shard {
            id: format!("shardId-{index:012}"),
            parents,
            range,
            start,
            closed: None,
            records: Vec::new(),
            gone: false,
            trimmed: 0,
            calls: Vec::new(),
            busy_until: 0,
        });
        index
    }

    fn close(&mut self, index: usize, now_ms: i64) {
        let end = self.next_sequence(now_ms, index);
        self.shards[index].closed = Some((end, now_ms));
        self.changed.notify_waiters();
    }

    fn open_shard(&self, id: &str) -> Result<usize, Refusal> {
        let index = self.index(id).ok_or_else(|| {
            Refusal::new(400, "ResourceNotFoundException", format!("Could not find shard {id}"))
        })?;
        match self.shards[index].closed {
            None => Ok(index),
            Some(_) => {
                Err(Refusal::new(400, "ResourceInUseException", format!("Shard {id} is closed")))
            }
        }
    }

    /// Splits an open shard at `at`, the first hash key of the second child; the middle by default.
    pub fn split(
        &mut self,
        id: &str,
        at: Option<u128>,
        now_ms: i64,
    ) -> Result<[String; 2], Refusal> {
        let index = self.open_shard(id)?;
        let (low, high) = self.shards[index].range;
        let at = at.unwrap_or(low + (high - low) / 2 + 1);
        if at <= low || at > high {
            return Err(Refusal::new(400, "InvalidArgumentException", "NewStartingHashKey"));
        }
        self.close(index, now_ms);
        let a = self.open(vec![id.to_owned()], (low, at - 1), now_ms);
        let b = self.open(vec![id.to_owned()], (at, high), now_ms);
        Ok([self.shards[a].id.clone(), self.shards[b].id.clone()])
    }

    /// Merges two adjacent open shards.
    pub fn merge(&mut self, a: &str, b: &str, now_ms: i64) -> Result<String, Refusal> {
        let (a, b) = (self.open_shard(a)?, self.open_shard(b)?);
        let (mut low, mut high) = (self.shards[a].range, self.shards[b].range);
        if low.0 > high.0 {
            std::mem::swap(&mut low, &mut high);
        }
        if low.1.checked_add(1) != Some(high.0) {
            return Err(Refusal::new(
                400,
                "InvalidArgumentException",
                "The shards are not adjacent",
            ));
        }
        self.close(a, now_ms);
        self.close(b, now_ms);
        let parents = vec![self.shards[a].id.clone(), self.shards[b].id.clone()];
        let child = self.open(parents, (low.0, high.1), now_ms);
        Ok(self.shards[child].id.clone())
    }

    /// Puts a plain record; returns shard and sequence number.
    pub fn put(
        &mut self,
        partition_key: Option<String>,
        hash_key: Option<u128>,
        data: Bytes,
        now_ms: i64,
    ) -> (String, u128) {
        let routed = partition_key.as_deref().unwrap_or_default();
        let hash = hash_key.unwrap_or_else(|| u128::from_be_bytes(Md5::digest(routed).into()));
        let users = vec![(None, data.clone())];
        self.produce(partition_key, Produced { data, users, file: None, hash }, now_ms)
    }

    /// Puts a record of which is known what a consumer must find in it: its user records, wherever
    /// their hash keys belong.
    pub fn produce(
        &mut self,
        partition_key: Option<String>,
        produced: Produced,
        now_ms: i64,
    ) -> (String, u128) {
        let Produced { data, users, file, hash } = produced;
        let index = self
            .shards
            .iter()
            .position(|s| s.closed.is_none() && (s.range.0..=s.range.1).contains(&hash))
            .unwrap();
        let sequence = self.next_sequence(now_ms, index);
        let users = (0..).zip(users);
        self.shards[index].records.push(Record {
            sequence,
            arrival_ms: now_ms,
            partition_key,
            data,
            users: users.map(|(sub, (_, payload))| (sub, payload)).collect(),
            file,
        });
        self.changed.notify_waiters();
        (self.shards[index].id.clone(), sequence)
    }

    /// Retention: takes records that arrived before `up_to_ms`, and shards closed before
    /// `closed_ms`.
    pub fn trim(&mut self, up_to_ms: i64, closed_ms: i64) {
        for shard in &mut self.shards {
            let kept = shard.records.partition_point(|r| r.arrival_ms < up_to_ms);
            shard.trimmed = shard.trimmed.max(kept);
            if shard.closed.is_some_and(|(_, at)| at < closed_ms) {
                shard.gone = true;
                shard.trimmed = shard.records.len();
            }
        }
    }
}

/// The service.
pub struct Kinesis {
    pub streams: BTreeMap<String, Stream>,
    pub options: KinesisOptions,
    pub(super) rng: fastrand::Rng,
}

impl Kinesis {
    pub fn new(seed: u64, options: KinesisOptions) -> Self {
        Self { streams: BTreeMap::new(), options, rng: fastrand::Rng::with_seed(seed) }
    }

    /// Creates a stream of evenly divided shards. Also re-creates one that was deleted.
    pub fn create(&mut self, name: &str, shards: u32, now_ms: i64) {
        let mut stream = Stream {
            name: name.to_owned(),
            created_ms: now_ms,
            retention_hours: 24,
            shards: Vec::new(),
            consumers: BTreeMap::new(),
            turns: BTreeMap::new(),
            changed: Arc::default(),
            ticket: 0,
        };
        // 2^128 divided by the number of shards, which does not fit for a single one.
        let n = u128::from(shards);
        let width = (u128::MAX / n).wrapping_add(u128::from(u128::MAX % n == n - 1));
        for i in 0..n {
            let high = if i + 1 == n { u128::MAX } else { (i + 1) * width - 1 };
            stream.open(Vec::new(), (i * width, high), now_ms);
        }
        self.streams.insert(name.to_owned(), stream);
    }

    pub fn stream(&mut self, name: &str) -> Result<&mut Stream, Refusal> {
        self.streams.get_mut(name).ok_or_else(|| {
            Refusal::new(400, "ResourceNotFoundException", format!("Stream {name} not found."))
        })
    }

    pub(super) fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.u32(0..1000) < per_mille
    }
}
