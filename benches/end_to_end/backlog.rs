//! The stream that is replayed: records made once, pages put together on the fly.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Digits of a sequence number: what stands before the index of the record, and the index.
const FIXED: &str = "495903382714902566085596925383615710";
const INDEX: usize = 20;
/// Different records, which then repeat: not within a frame, also of one partition of many, where
/// they would compress too well.
const RING: u64 = 24_000;
/// The service's iterators have about this length.
const ITERATOR: usize = 220;

/// As `records`: shards that never end.
pub(crate) const FOREVER: u64 = 1 << 40;

/// A stream of closed shards with records, each with an empty open child; or of open shards, empty
/// or without end.
pub(crate) struct Backlog {
    /// Shards with records; their children follow.
    pub(crate) shards: u64,
    /// Records in each; 0 for a stream that stands still, or [`FOREVER`].
    pub(crate) records: u64,
    /// Payload of a record, bytes.
    pub(crate) size: u64,
    /// One after the other, all of `stride` bytes.
    ring: Vec<u8>,
    stride: usize,
    /// Where the index stands in each.
    index_at: usize,
    created_s: i64,
}

impl Backlog {
    /// `size`: payload of a record, bytes, at least 60; `now_ms`: when they arrived.
    pub(crate) fn new(shards: u64, records: u64, size: usize, now_ms: i64) -> Self {
        let (mut ring, mut stride, mut index_at) = (Vec::new(), 0, 0);
        for n in 0..if records > 0 { RING } else { 0 } {
            let mut random = fastrand::Rng::with_seed(n);
            let mut text = format!(
                "{{\"ApproximateArrivalTimestamp\":{}.{:03},\"Data\":\"{}\",\"PartitionKey\":\
                 \"{:012x}\",\"SequenceNumber\":\"{FIXED}",
                now_ms / 1000,
                n % 1000,
                STANDARD.encode(line(&mut random, n, size)),
                random.u64(..) >> 16,
            );
            index_at = text.len();
            let _ = write!(text, "{n:0INDEX$}\"}}");
            stride = text.len();
            ring.extend_from_slice(text.as_bytes());
        }
        let created_s = now_ms / 1000;
        Self { shards, records, size: size as u64, ring, stride, index_at, created_s }
    }

    /// Shards in all.
    pub(crate) fn all(&self) -> u64 {
        if self.closes() { 2 * self.shards } else { self.shards }
    }

    fn closes(&self) -> bool {
        0 < self.records && self.records < FOREVER
    }

    fn holds(&self, shard: u64) -> u64 {
        if shard < self.shards { self.records } else { 0 }
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "{{\"StreamDescriptionSummary\":{{\"StreamName\":\"events\",\"StreamARN\":\
             \"arn:aws:kinesis:us-east-1:000000000000:stream/events\",\"StreamStatus\":\"ACTIVE\",\
             \"RetentionPeriodHours\":24,\"StreamCreationTimestamp\":{},\"EnhancedMonitoring\":[],\
             \"OpenShardCount\":{},\"ConsumerCount\":0,\"StreamModeDetails\":{{\"StreamMode\":\
             \"PROVISIONED\"}}}}}}",
            self.created_s, self.shards
        )
    }

    /// A page of ListShards that begins at a shard.
    pub(crate) fn list(&self, from: u64) -> String {
        let end = self.all().min(from + 1000);
        let each = u128::MAX / u128::from(self.shards);
        let mut body = String::from("{\"Shards\":[");
        for shard in from..end {
            let (start, child) = (u128::from(shard % self.shards) * each, shard >= self.shards);
            let comma = if shard == from { "" } else { "," };
            let _ = write!(body, "{comma}{{\"ShardId\":\"{}\",\"HashKeyRange\":{{", id(shard));
            // The last one has what a division leaves.
            let highest = shard % self.shards == self.shards - 1;
            let last = if highest { u128::MAX } else { start + (each - 1) };
            let _ = write!(
                body,
                "\"StartingHashKey\":\"{start}\",\"EndingHashKey\":\"{last}\"}},\
                 \"SequenceNumberRange\":{{\"StartingSequenceNumber\":\"{FIXED}{:0INDEX$}\"",
                0
            );
            if self.closes() && !child {
                let last = self.records + 1;
                let _ = write!(body, ",\"EndingSequenceNumber\":\"{FIXED}{last:0INDEX$}\"");
            }
            body.push('}');
            if child {
                let _ = write!(body, ",\"ParentShardId\":\"{}\"", id(shard - self.shards));
            }
            body.push('}');
        }
        body.push(']');
        if end < self.all() {
            let _ = write!(body, ",\"NextToken\":\"{end}\"");
        }
        body.push('}');
        body
    }

    /// GetShardIterator; `sequence` is that of the request.
    pub(crate) fn iterator(&self, shard: u64, kind: &str, sequence: &str) -> String {
        let index = sequence.get(FIXED.len()..).and_then(|i| i.parse().ok()).unwrap_or(0_u64);
        let index = match kind {
            "AT_SEQUENCE_NUMBER" => index,
            "AFTER_SEQUENCE_NUMBER" => index + 1,
            "LATEST" => self.holds(shard),
            _ => 0,
        };
        format!("{{\"ShardIterator\":\"{}\"}}", iterator(shard, index))
    }

    /// GetRecords: the shard, how many records, the reply.
    pub(crate) fn page(&self, iterator_text: &str, limit: u64) -> Option<(u64, u64, Vec<u8>)> {
        let mut parts = iterator_text.split('.');
        let (shard, from): (u64, u64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let end = self.holds(shard).min(from + limit);
        let count = end.saturating_sub(from);
        let mut body = Vec::with_capacity(512 + count as usize * (self.stride + 1));
        let left = self.holds(shard).saturating_sub(end);
        let behind = if left == 0 { 0 } else { 1000 + left };
        body.extend_from_slice(format!("{{\"MillisBehindLatest\":{behind},").as_bytes());
        if !self.closes() || shard >= self.shards || left > 0 {
            let next = iterator(shard, end);
            body.extend_from_slice(format!("\"NextShardIterator\":\"{next}\",").as_bytes());
        } else {
            let child = shard + self.shards;
            let text = format!(
                "\"ChildShards\":[{{\"ShardId\":\"{}\",\"ParentShards\":[\"{}\"],\"HashKeyRange\":\
                 {{\"StartingHashKey\":\"0\",\"EndingHashKey\":\"1\"}}}}],",
                id(child),
                id(shard)
            );
            body.extend_from_slice(text.as_bytes());
        }
        body.extend_from_slice(b"\"Records\":[");
        for index in from..end {
            let at = (index % RING) as usize * self.stride;
            let record = body.len() + usize::from(index > from);
            if index > from {
                body.push(b',');
            }
            body.extend_from_slice(&self.ring[at..at + self.stride]);
            let (mut rest, mut digit) = (index, record + self.index_at + INDEX);
            for _ in 0..INDEX {
                digit -= 1;
                body[digit] = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        body.extend_from_slice(b"]}");
        Some((shard, count, body))
    }
}

fn id(shard: u64) -> String {
    format!("shardId-{shard:012}")
}

fn iterator(shard: u64, index: u64) -> String {
    let mut text = format!("{shard}.{index}.");
    text.extend(std::iter::repeat_n('A', ITERATOR.saturating_sub(text.len())));
    text
}

/// Fields of a record by which it can be partitioned: `of_10` has ten values, and so on.
pub(crate) const PARTITIONS: [u64; 5] = [1, 10, 100, 500, 2000];
/// Records that are long enough have them.
const FIELDS: usize = 300;

/// A JSON event of exactly this size: ids that do not compress, and words and numbers that do.
fn line(random: &mut fastrand::Rng, number: u64, size: usize) -> String {
    let words = ["red", "large", "shirt", "winter", "sale", "cotton", "delivery", "express"];
    let mut line = format!("{{\"id\":\"{:016x}\",", random.u64(..));
    for values in PARTITIONS.iter().filter(|_| size >= FIELDS) {
        let _ = write!(line, "\"of_{values}\":{},", number % values);
    }
    line.push_str("\"tags\":[");
    while line.len() + 40 < size {
        let word = words[random.usize(0..words.len())];
        let value = random.u16(..);
        if random.u8(0..4) == 0 {
            let _ = write!(line, "{{\"trace\":\"{:08x}\"}},", random.u32(..));
        } else {
            let _ = write!(line, "{{\"{word}\":{value}}},");
        }
    }
    let room = size.saturating_sub(line.len() + 4);
    let _ = write!(line, "\"{}\"]}}", "-".repeat(room));
    line
}
