//! What a reader of a shard needs.

use std::sync::Arc;

use crate::aws::kinesis::Kinesis;
use crate::budget::Budget;
use crate::clock::{Clock, Jitter};
use crate::metrics::registry::Metrics;
use crate::stream::pacing::PaceLimits;

/// What a reader needs.
#[derive(Clone)]
pub struct ReaderDeps {
    /// The stream.
    pub kinesis: Kinesis,
    /// Its ARN.
    pub arn: String,
    /// ARN of the consumer to subscribe as; `None` to poll.
    pub consumer: Option<String>,
    /// How long the stream keeps a record, milliseconds.
    pub retention_ms: i64,
    /// Pace.
    pub pace: PaceLimits,
    /// Records per call.
    pub page_records: i32,
    /// Memory.
    pub budget: Budget,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub jitter: Jitter,
    /// Counters.
    pub metrics: Arc<Metrics>,
}
