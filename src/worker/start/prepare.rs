//! Checks everything a worker needs and assembles it.

use crate::aws::clients::Clients;
use crate::aws::dynamodb::LeaseTable;
use crate::aws::kinesis::Kinesis;
use crate::aws::s3::ObjectStore;
use crate::clock::Clock;
use crate::config::Config;
use crate::fault::Fault;
use crate::ids::WorkerId;
use crate::lease::graph;
use crate::lease::row::Lease;
use crate::metrics::registry::Metrics;
use crate::metrics::table as metric;
use crate::replay::plan::Plan;
use crate::stream::StreamInfo;
use crate::worker::context::TaskContext;
use crate::worker::node::Node;
use crate::worker::start::assemble::{Checked, Worker, assemble};
use crate::worker::start::error::{PATIENCE, StartError, retry_transient};
use crate::worker::start::{fan_out_consumer, lease_table};
use crate::worker::status::StatusStore;
use std::sync::Arc;
use std::time::Duration;

/// Checks everything a worker needs and assembles it.
///
/// # Errors
/// [`StartError`]
pub async fn prepare(node: &Node, config: Config, clients: Clients) -> Result<Worker, StartError> {
    prepare_for(node, config, clients, None).await
}

/// The same for a worker of a replay.
///
/// # Errors
/// [`StartError`]
pub async fn prepare_for(
    node: &Node,
    config: Config,
    clients: Clients,
    replay: Option<Arc<Plan>>,
) -> Result<Worker, StartError> {
    let Node { clock, jitter, tasks } = node.clone();
    let store = ObjectStore::new(clients.s3);
    // The name of a stream given by its ARN is the last part of it.
    let name = config.stream.name.rsplit('/').next().unwrap_or_default();
    let metrics = Arc::new(Metrics::new(name, config.telemetry.shard_labels));
    let kinesis = Kinesis::over(clients.kinesis, &clients.transport)
        .with_wire_format(config.stream.wire, &metrics);
    let table = LeaseTable::new(clients.dynamodb, &config.lease.table).counting(&metrics);
    let name = &config.stream.name;
    let stream = readable(&clock, &kinesis, name).await?;
    // Nothing is made of the answer; a permission that is missing should be told now, not by a
    // worker that never finds a shard.
    retry_transient(&clock, || kinesis.list_shards(&stream.arn)).await?;
    // The consumer of the live application is not for replays: each shard takes one subscription.
    let consumer = match replay {
        None => fan_out_consumer::find(&clock, &kinesis, &stream, &config.stream).await?,
        Some(_) => None,
    };
    let bucket = &config.delivery.settings.bucket;
    retry_transient(&clock, || store.check_bucket(bucket)).await.map_err(|error| match error {
        StartError::Unavailable(source, _) if !source.fault.is_transient() => {
            StartError::Bucket { bucket: bucket.clone(), source }
        }
        other => other,
    })?;
    let (table, leases) = lease_table::open(&clock, table, &config.lease, &stream).await?;
    let me = WorkerId::new(match &config.lease.worker {
        Some(id) => id.clone(),
        None => format!("{}:{}", host_name(), jitter.uuid()),
    });
    let labels = [env!("CARGO_PKG_VERSION"), me.as_str()];
    metrics.set(metric::BUILD_INFO, &labels, 1);
    metrics.set(metric::BUDGET_BYTES, &[], config.budget);
    metrics.set(metric::RETENTION_SECONDS, &[], stream.retention_ms / 1000);
    let status = StatusStore::new(&stream.name, me.as_str());
    let overruled = overruled(&leases, &config, table.name());
    metrics.set(metric::START_IGNORED, &[], overruled);
    status.update(|b| {
        b.start_ignored = overruled;
        b.table = table.name().to_owned();
        b.bucket.clone_from(&config.delivery.settings.bucket);
        b.retention_ms = stream.retention_ms;
        b.started_ms = clock.wall();
    });
    let ctx = TaskContext { clock, jitter, tasks, metrics, status: Arc::new(status) };
    let checked = Checked { kinesis, stream, consumer, table, store, replay, me };
    Ok(assemble(ctx, &config, checked)?)
}

/// The stream, once it can be read: deployed together with its workers, it may be CREATING yet.
async fn readable(clock: &Clock, kinesis: &Kinesis, name: &str) -> Result<StreamInfo, StartError> {
    let begun = clock.now();
    loop {
        let stream = retry_transient(clock, || kinesis.describe(name)).await;
        let stream = stream.map_err(|error| match error {
            StartError::Unavailable(source, _) if source.fault == Fault::NotFound => {
                StartError::NoStream { name: name.to_owned(), source }
            }
            other => other,
        })?;
        if stream.readable {
            return Ok(stream);
        }
        if clock.now() - begun > PATIENCE {
            return Err(StartError::NotReadable(stream.name));
        }
        tracing::warn!(stream = stream.name, "the stream is not ACTIVE yet; waiting");
        clock.sleep(Duration::from_secs(1)).await;
    }
}

/// Tells of a configured start that has no effect; the number of leases that overrule it.
fn overruled(leases: &[Lease], config: &Config, table: &str) -> usize {
    let start = config.stream.start;
    let overruled = graph::overruled(leases, start);
    if let Some(first) = overruled.first() {
        tracing::warn!(
            shards = overruled.len(),
            "stream.start = \"{start}\" is ignored: table `{table}` has checkpoints of these shards, \
             for instance {} at {}; it counts only for shards without a lease. To start them there, \
             stop all workers and run `catchment leases reset --all --to {start}`, or set \
             lease.application to a new name",
            first.shard,
            first.progress.checkpoint,
        );
    }
    overruled.len()
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "worker".to_owned())
}
