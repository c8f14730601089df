//! Reading a shard: the vocabulary of pages and records.

pub mod arena;
pub mod bound;
pub mod cbor;
pub mod deaggregate;
mod digests;
pub mod ending;
pub mod eventstream;
pub mod pacing;
mod patience;
pub mod position;
pub mod reading;
pub mod records;
pub mod scan;
pub mod wire;

use crate::ids::ShardId;
pub use records::{Record, Records};

/// One answer of the stream.
#[derive(Debug, Default)]
pub struct Page {
    /// In shard order; may be empty while the shard has more.
    pub records: Records,
    /// The SDK's own parser read the reply.
    pub strict: bool,
    /// Iterator of the next page; `None` at the end of a closed shard.
    pub next: Option<String>,
    /// MillisBehindLatest: how far the end of this page is behind the tip of the shard.
    pub behind_ms: Option<i64>,
    /// Shards that follow a finished one, when the reply names them.
    pub children: Vec<ShardInfo>,
}

/// A shard as ListShards describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardInfo {
    /// Its id.
    pub id: ShardId,
    /// Zero, one (split) or two (merge) parents.
    pub parents: Vec<ShardId>,
    /// Inclusive range of 128-bit hash keys, decimal.
    pub hash_range: Option<(String, String)>,
    /// No longer written to.
    pub closed: bool,
}

/// A registered fan-out consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Its ARN.
    pub arn: String,
    /// It may subscribe.
    pub active: bool,
}

/// What DescribeStreamSummary says that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Name without the ARN.
    pub name: String,
    /// Full ARN.
    pub arn: String,
    /// Creation time, milliseconds since the epoch: tells a recreated stream from its namesake.
    pub created_ms: i64,
    /// Retention, milliseconds.
    pub retention_ms: i64,
    /// The stream can be read (ACTIVE or UPDATING).
    pub readable: bool,
    /// RecordDistributionStrategy is AUTO: Kinesis spreads records over the shards as it likes,
    /// whatever their keys. May change at any time.
    pub spreads: bool,
}

/// What DescribeStreamSummary says to a person, in the service's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSummary {
    /// `ACTIVE`, `UPDATING`, `CREATING`, `DELETING`.
    pub status: String,
    /// `PROVISIONED` or `ON_DEMAND`.
    pub mode: String,
    /// Hours.
    pub retention_hours: i32,
    /// `NONE` or `KMS`.
    pub encryption: String,
    /// Shards that are written to.
    pub open_shards: i32,
    /// Registered enhanced fan-out consumers.
    pub consumers: i32,
}

impl StreamInfo {
    /// What a lease table is bound to: `<arn>@<creation ms>`.
    pub fn identity(&self) -> String {
        format!("{}@{}", self.arn, self.created_ms)
    }
}
