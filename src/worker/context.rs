//! What every part of one worker shares.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::aws::dynamodb::LeaseTable;
use crate::aws::kinesis::Kinesis;
use crate::aws::s3::ObjectStore;
use crate::budget::Budget;
use crate::clock::{Clock, Jitter};
use crate::config::Config;
use crate::delivery::recipe::Recipe;
use crate::ids::WorkerId;
use crate::metrics::registry::Metrics;
use crate::replay::plan::Plan;
use crate::stream::StreamInfo;
use crate::task::Tasks;
use crate::worker::leases::change_signal::ChangeSignal;
use crate::worker::leases::held;
use crate::worker::reader;
use crate::worker::spreading::Spreading;
use crate::worker::status::StatusStore;

/// See the module.
pub struct WorkerContext {
    /// Validated configuration.
    pub config: Config,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub jitter: Jitter,
    /// Spawning.
    pub tasks: Tasks,
    /// The stream's API.
    pub kinesis: Kinesis,
    /// The stream.
    pub stream: StreamInfo,
    /// ARN of the fan-out consumer to read as.
    pub consumer: Option<String>,
    /// The lease table.
    pub table: LeaseTable,
    /// The bucket.
    pub store: ObjectStore,
    /// Memory.
    pub budget: Budget,
    /// Concurrent puts.
    pub uploads: Arc<Semaphore>,
    /// How new batches are encoded.
    pub recipe: Arc<Recipe>,
    /// The same where no reshard can be the cause of a foreign record.
    pub keeping: Arc<Recipe>,
    /// How the stream spreads its records.
    pub spreading: Spreading,
    /// What to deliver again; `None` in a live worker.
    pub replay: Option<Arc<Plan>>,
    /// Our id.
    pub me: WorkerId,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What /status shows.
    pub status: Arc<StatusStore>,
    /// What the fleet is to be told.
    pub changes: ChangeSignal,
}

impl WorkerContext {
    /// How a new batch is encoded, of a shard whose records are `judged` by its hash keys.
    pub fn recipe_of(&self, judged: bool) -> &Arc<Recipe> {
        if judged && !self.spreading.is_automatic() { &self.recipe } else { &self.keeping }
    }

    /// What a shard reader needs.
    pub fn reader(&self) -> reader::context::ReaderDeps {
        reader::context::ReaderDeps {
            kinesis: self.kinesis.clone(),
            arn: self.stream.arn.clone(),
            consumer: self.consumer.clone(),
            retention_ms: self.stream.retention_ms,
            pace: self.config.stream.pace,
            page_records: self.config.stream.page_records,
            budget: self.budget.clone(),
            clock: self.clock.clone(),
            jitter: self.jitter.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// What an owned lease needs.
    pub fn lease_means(&self) -> held::HeldLeaseDeps {
        held::HeldLeaseDeps {
            me: self.me.clone(),
            table: self.table.clone(),
            clock: self.clock.clone(),
            jitter: self.jitter.clone(),
            failover: self.config.lease.failover,
            metrics: Arc::clone(&self.metrics),
            changes: self.changes.clone(),
        }
    }
}
