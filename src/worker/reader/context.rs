//! What a reader of a shard needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::aws::kinesis::Kinesis;
use crate::budget::Budget;
use crate::clock::{Clock, Jitter};
use crate::metrics::registry::Metrics;
use crate::stream::pacing::PaceLimits;

/// How long the stream keeps a record: changes while we run.
#[derive(Clone, Debug)]
pub struct Retention(Arc<AtomicI64>);

impl Retention {
    /// So many milliseconds.
    pub fn new(ms: i64) -> Self {
        Self(Arc::new(AtomicI64::new(ms)))
    }

    /// Milliseconds.
    pub fn ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// It is so many milliseconds now. Returns what it was.
    pub fn set(&self, ms: i64) -> i64 {
        self.0.swap(ms, Ordering::Relaxed)
    }
}

/// What a reader needs.
#[derive(Clone)]
pub struct ReaderDeps {
    /// The stream.
    pub kinesis: Kinesis,
    /// Its ARN.
    pub arn: String,
    /// ARN of the consumer to subscribe as; `None` to poll.
    pub consumer: Option<String>,
    /// How long the stream keeps a record.
    pub retention: Retention,
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
