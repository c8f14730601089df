//! What was checked at start, divided among the parts of a worker: each gets what it uses.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::aws::dynamodb::LeaseTable;
use crate::aws::kinesis::Kinesis;
use crate::aws::s3::ObjectStore;
use crate::budget::Budget;
use crate::config::Config;
use crate::delivery::object_key::BadTemplate;
use crate::ids::WorkerId;
use crate::lease::scan_schedule::ScanPace;
use crate::replay::plan::Plan;
use crate::stream::StreamInfo;
use crate::worker::context::{Observed, TaskContext};
use crate::worker::leases::change_signal::ChangeSignal;
use crate::worker::leases::context::{self, LeaseDeps, SyncDeps};
use crate::worker::reader::context::{ReaderDeps, Retention};
use crate::worker::shard::context::{ShardDeps, UploadDeps};
use crate::worker::spreading::Spreading;

/// A worker that is ready to run, in parts. The supervisor takes it apart: no task gets all of it.
pub struct Worker {
    /// Time, chance, spawning, metrics, status.
    pub ctx: TaskContext,
    /// For the tasks that deal with leases.
    pub leases: LeaseDeps,
    /// For the comparison of shards with leases.
    pub sync: SyncDeps,
    /// How often they are compared.
    pub shard_sync: Duration,
    /// For the shards.
    pub shard: Arc<ShardDeps>,
    /// Time to drain.
    pub shutdown_deadline: Duration,
}

impl Worker {
    /// What telemetry shows of it.
    pub fn observed(&self) -> Observed {
        Observed { ctx: self.ctx.clone(), budget: self.shard.budget.clone() }
    }
}

/// What was found to be there and usable.
pub(super) struct Checked {
    pub(super) kinesis: Kinesis,
    pub(super) stream: StreamInfo,
    /// ARN of the fan-out consumer to read as.
    pub(super) consumer: Option<String>,
    pub(super) table: LeaseTable,
    pub(super) store: ObjectStore,
    pub(super) replay: Option<Arc<Plan>>,
    pub(super) me: WorkerId,
}

/// Divides it.
///
/// # Errors
/// Only for templates that the configuration would have refused.
pub(super) fn assemble(
    ctx: TaskContext,
    config: &Config,
    checked: Checked,
) -> Result<Worker, BadTemplate> {
    let Checked { kinesis, stream, consumer, table, store, replay, me } = checked;
    let Config { stream: reading, lease, delivery, .. } = config;
    let recipe = delivery.recipe(&stream.name)?;
    let budget = Budget::new(config.budget);
    let changes = ChangeSignal::default();
    // Leases: the table, and no stream.
    let leases = LeaseDeps {
        ctx: ctx.clone(),
        me,
        table: table.clone(),
        changes: changes.clone(),
        pace: ScanPace { look: lease.scan, full: lease.full_scan, failover: lease.failover },
        max: lease.max,
        identity: stream.identity(),
        start: reading.start,
        waits_at_gaps: delivery.gaps.waits(),
        places: context::places(),
    };
    // A shard's two ends: the stream it is read from, the bucket it is put into.
    let reader = ReaderDeps {
        kinesis: kinesis.clone(),
        arn: stream.arn.clone(),
        consumer,
        retention: Retention::new(stream.retention_ms),
        pace: reading.pace,
        page_records: reading.page_records,
        budget: budget.clone(),
        clock: ctx.clock.clone(),
        jitter: ctx.jitter.clone(),
        metrics: Arc::clone(&ctx.metrics),
    };
    let upload = UploadDeps {
        ctx: ctx.clone(),
        store,
        slots: Arc::new(Semaphore::new(delivery.concurrent_puts)),
        multipart_bytes: delivery.multipart_bytes,
        deadline: delivery.upload_deadline,
    };
    // Where both meet the table: children get leases before their parent is finished.
    let spreading = Arc::new(Spreading::new(stream.spreads));
    let sync = SyncDeps {
        ctx: ctx.clone(),
        kinesis,
        stream,
        table,
        changes,
        start: reading.start,
        replay,
    };
    let shard = ShardDeps {
        ctx: ctx.clone(),
        reader,
        upload,
        sync: sync.clone(),
        budget,
        keeping: Arc::new(recipe.keeping()?),
        recipe: Arc::new(recipe),
        spreading,
        limits: delivery.limits,
        inflight_batches: delivery.inflight_batches,
        gaps: delivery.gaps,
    };
    Ok(Worker {
        ctx,
        leases,
        sync,
        shard_sync: lease.shard_sync,
        shard: Arc::new(shard),
        shutdown_deadline: config.shutdown_deadline,
    })
}
