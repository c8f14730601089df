//! The reader of a shard as the worker runs it, without limits to its pace.

use std::sync::Arc;
use std::time::Duration;

use catchment::aws::kinesis::Kinesis;
use catchment::budget::Budget;
use catchment::clock::{Clock, Jitter};
use catchment::metrics::registry::Metrics;
use catchment::stream::deaggregate::Aggregates;
use catchment::stream::pacing::PaceLimits;
use catchment::stream::position::StartAt;
use catchment::stream::reading::ReadRange;
use catchment::worker::reader::context::{ReaderDeps, Retention};

/// What it reads by.
pub(crate) fn means(kinesis: Kinesis, arn: &str, metrics: Arc<Metrics>) -> ReaderDeps {
    ReaderDeps {
        kinesis,
        arn: arn.into(),
        consumer: None,
        retention: Retention::new(86_400_000),
        pace: PaceLimits {
            idle: Duration::ZERO,
            calls_per_second: 1e9,
            bytes_per_second: f64::INFINITY,
        },
        page_records: 10_000,
        budget: Budget::new(256 << 20),
        clock: Clock::system(),
        jitter: Jitter::system(),
        metrics,
    }
}

/// From the beginning of the shard, all of it.
pub(crate) fn whole() -> ReadRange {
    ReadRange {
        start: StartAt::TrimHorizon,
        after: None,
        until: None,
        bound: None,
        aggregates: Aggregates::Apart,
        hash_range: None,
        through_ms: None,
        at_horizon: true,
    }
}
