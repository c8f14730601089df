//! What the tasks need that deal with leases.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::aws::dynamodb::LeaseTable;
use crate::aws::kinesis::Kinesis;
use crate::fault::CallError;
use crate::ids::WorkerId;
use crate::lease::scan_schedule::ScanPace;
use crate::replay::plan::Plan;
use crate::stream::position::InitialPosition;
use crate::stream::{ShardInfo, StreamInfo};
use crate::worker::context::TaskContext;
use crate::worker::leases::change_signal::ChangeSignal;
use crate::worker::leases::held::HeldLeaseDeps;

/// Writes to the lease table in flight at once, of one task.
pub(super) const PARALLEL: usize = 32;

/// What taking leases and giving them back needs: the table, and no stream.
#[derive(Clone)]
pub struct LeaseDeps {
    /// Time, chance, metrics, status.
    pub ctx: TaskContext,
    /// Our id.
    pub me: WorkerId,
    /// The table.
    pub table: LeaseTable,
    /// Tells other workers of changes.
    pub changes: ChangeSignal,
    /// How often the table is looked at, and when a lease expires.
    pub pace: ScanPace,
    /// Most leases held.
    pub max: usize,
    /// Identity of the stream, noted in a lease that is taken.
    pub identity: String,
    /// Start of shards without a checkpoint; a lease that is taken is pinned to it.
    pub start: InitialPosition,
    /// Whether leases parked at a gap are left alone.
    pub waits_at_gaps: bool,
    /// Places for progress writes and releases of all leases, see [`places`].
    pub places: Arc<Semaphore>,
}

/// Batches of a thousand shards that received something at the same time are cut at the same time,
/// and a worker that stops releases all of its leases at once. So many writes together would open
/// as many connections, outlast the time of an attempt, and begin anew, heartbeats among them.
pub fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(PARALLEL))
}

impl LeaseDeps {
    /// What a lease needs once it is ours.
    pub fn held(&self) -> HeldLeaseDeps {
        HeldLeaseDeps {
            me: self.me.clone(),
            table: self.table.clone(),
            clock: self.ctx.clock.clone(),
            jitter: self.ctx.jitter.clone(),
            failover: self.pace.failover,
            metrics: Arc::clone(&self.ctx.metrics),
            changes: self.changes.clone(),
            places: Arc::clone(&self.places),
        }
    }
}

/// What making leases for shards needs: the list of shards and the table. The end of a shard does it
/// for the children, shard sync for what is missing.
#[derive(Clone)]
pub struct SyncDeps {
    /// Time, chance, metrics, status.
    pub ctx: TaskContext,
    /// The stream's API.
    pub kinesis: Kinesis,
    /// The stream, as it was when the worker started.
    pub stream: StreamInfo,
    /// The table.
    pub table: LeaseTable,
    /// Tells other workers of changes.
    pub changes: ChangeSignal,
    /// Start of shards without a checkpoint.
    pub start: InitialPosition,
    /// What to deliver again, whose leases are fixed when it is planned; `None` in a live worker.
    pub replay: Option<Arc<Plan>>,
}

impl SyncDeps {
    /// The shards of the stream now.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn list_shards(&self) -> Result<Vec<ShardInfo>, CallError> {
        self.kinesis.list_shards(&self.stream.arn).await
    }

    /// The stream now, which may be another one under the same ARN.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn describe(&self) -> Result<StreamInfo, CallError> {
        self.kinesis.describe(&self.stream.arn).await
    }
}
