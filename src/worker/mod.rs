//! One worker: starts in order, runs until told to stop, stops in reverse.

mod consumer;
pub mod fleet;
pub mod health;
pub mod shard;
pub mod shared;
pub mod status;
pub mod supervisor;
mod table;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::aws::clients::Clients;
use crate::aws::dynamodb::{LeaseTable, TableError};
use crate::aws::kinesis::Kinesis;
use crate::aws::s3::ObjectStore;
use crate::clock::{Clock, Jitter};
use crate::config::Config;
use crate::delivery::budget::Budget;
use crate::delivery::object_key::BadTemplate;
use crate::fault::{CallError, Fault};
use crate::ids::WorkerId;
use crate::lease::graph;
use crate::lease::keys::BadKeys;
use crate::lease::news::News;
use crate::lease::row::Lease;
use crate::replay::plan::Plan;
use crate::task::Tasks;
use crate::telemetry::metrics::Metrics;
use shared::Shared;
use status::Board;

/// Time, chance and tasks of one worker.
#[derive(Clone)]
pub struct Node {
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub jitter: Jitter,
    /// Spawning.
    pub tasks: Tasks,
}

/// Why a worker cannot start. All of these are for a person to mend.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No such stream.
    #[error(
        "stream `{name}` does not exist in this account and region: check stream.name, AWS_REGION \
         and the credentials' account ({source})"
    )]
    NoStream {
        /// As configured.
        name: String,
        /// What the service said.
        source: CallError,
    },
    /// Being created or deleted.
    #[error(
        "stream `{0}` is not ACTIVE: wait until it is created, or check that it is not being deleted"
    )]
    NotReadable(String),
    /// No such bucket, or elsewhere.
    #[error("bucket `{bucket}` cannot be used: {source}; create it, or correct delivery.bucket")]
    Bucket {
        /// As configured.
        bucket: String,
        /// What the service said.
        source: CallError,
    },
    /// The table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The table belongs to another stream.
    #[error(
        "table `{table}` holds the leases of another stream ({found}), not of {expected}: a stream \
         that was deleted and created again counts as another; set lease.application to a new \
         name, or delete the table if its checkpoints are not needed"
    )]
    OtherStream {
        /// Table name.
        table: String,
        /// Identity found.
        found: String,
        /// Identity of the configured stream.
        expected: String,
    },
    /// Rows that contradict each other or the configuration.
    #[error("lease table `{table}`: {source}")]
    Keys {
        /// Table name.
        table: String,
        /// What is wrong.
        source: BadKeys,
    },
    /// Workers of KCL 3.x are alive on the table.
    #[error(
        "a KCL 3.x application is alive on this lease table: in table `{table}`, its {item}, and its \
         leader assigns the leases. Stop that application and start again two minutes later \
         (Catchment goes on at its checkpoints), or set lease.application to another name to run \
         beside it"
    )]
    Kcl3 {
        /// Table of the item.
        table: String,
        /// The item seen.
        item: String,
    },
    /// No such fan-out consumer, and none can be registered.
    #[error(
        "the fan-out consumer `{consumer}` cannot be used: {source}; name one with stream.consumer, \
         set stream.reader = \"auto\" to poll without it, or deregister one of the stream's 20"
    )]
    NoConsumer {
        /// As configured.
        consumer: String,
        /// What Kinesis says.
        source: CallError,
    },
    /// Not allowed.
    #[error("{0}; {remedy}", remedy = remedy(.0))]
    Denied(CallError),
    /// Kept failing.
    #[error("{0}; gave up after {1:?}")]
    Unavailable(CallError, Duration),
    /// Templates.
    #[error(transparent)]
    Template(#[from] BadTemplate),
}

fn remedy(error: &CallError) -> &'static str {
    match error.code.as_str() {
        "NoCredentials" => "set AWS_PROFILE or AWS_ACCESS_KEY_ID, or run where a role is attached",
        "ExpiredToken" | "ExpiredTokenException" => {
            "renew the session token, or run where a role is attached, which renews its own"
        }
        _ => "grant the permission to the worker's role (docs/RUNBOOK.md lists what it needs)",
    }
}

/// How long passing failures are tried again at start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Checks everything a worker needs and assembles it.
///
/// # Errors
/// [`StartError`]
pub async fn prepare(
    node: &Node,
    config: Config,
    clients: Clients,
) -> Result<Arc<Shared>, StartError> {
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
) -> Result<Arc<Shared>, StartError> {
    let Node { clock, jitter, tasks } = node.clone();
    let store = ObjectStore::new(clients.s3);
    // The name of a stream given by its ARN is the last part of it.
    let name = config.stream.name.rsplit('/').next().unwrap_or_default();
    let metrics = Arc::new(Metrics::new(name, config.telemetry.shard_labels));
    let kinesis = Kinesis::new(clients.kinesis).speaking(config.stream.wire, &metrics);
    let table = LeaseTable::new(clients.dynamodb, &config.lease.table).counting(&metrics);
    let name = &config.stream.name;
    let stream = patiently(&clock, || kinesis.describe(name)).await;
    let stream = stream.map_err(|error| match error {
        StartError::Unavailable(source, _) if source.fault == Fault::NotFound => {
            StartError::NoStream { name: name.clone(), source }
        }
        other => other,
    })?;
    if !stream.readable {
        return Err(StartError::NotReadable(stream.name));
    }
    // Nothing is made of the answer; a permission that is missing should be told now, not by a
    // worker that never finds a shard.
    patiently(&clock, || kinesis.list_shards(&stream.arn)).await?;
    // The consumer of the live application is not for replays: each shard takes one subscription.
    let consumer = match replay {
        None => consumer::find(&clock, &kinesis, &stream, &config.stream).await?,
        Some(_) => None,
    };
    let bucket = &config.delivery.settings.bucket;
    patiently(&clock, || store.check_bucket(bucket)).await.map_err(|error| match error {
        StartError::Unavailable(source, _) if !source.fault.is_passing() => {
            StartError::Bucket { bucket: bucket.clone(), source }
        }
        other => other,
    })?;
    let (table, leases) = table::open(&clock, table, &config.lease, &stream).await?;
    let me = WorkerId::new(match &config.lease.worker {
        Some(id) => id.clone(),
        None => format!("{}:{}", host_name(), jitter.uuid()),
    });
    let labels = [env!("CARGO_PKG_VERSION"), me.as_str()];
    metrics.set("catchment_build_info", &labels, 1);
    let gauge = i64::try_from(config.budget).unwrap_or(i64::MAX);
    metrics.set("catchment_budget_bytes", &[], gauge);
    metrics.set("catchment_retention_seconds", &[], stream.retention_ms / 1000);
    let board = Board::new(&stream.name, me.as_str());
    let overruled = overruled(&leases, &config, table.name());
    metrics.set("catchment_start_ignored", &[], i64::try_from(overruled).unwrap_or(i64::MAX));
    board.update(|b| {
        b.start_ignored = overruled;
        b.table = table.name().to_owned();
        b.bucket.clone_from(&config.delivery.settings.bucket);
        b.retention_ms = stream.retention_ms;
        b.started_ms = clock.wall();
    });
    Ok(Arc::new(Shared {
        budget: Budget::new(config.budget),
        uploads: Arc::new(Semaphore::new(config.delivery.uploads_in_flight)),
        recipe: Arc::new(config.delivery.recipe(&stream.name)?),
        board: Arc::new(board),
        config,
        clock,
        jitter,
        tasks,
        kinesis,
        stream,
        consumer,
        table,
        store,
        replay,
        me,
        metrics,
        news: News::default(),
    }))
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

/// Tries a call again while its failure may pass.
async fn patiently<T, F: Future<Output = Result<T, CallError>>>(
    clock: &Clock,
    mut call: impl FnMut() -> F,
) -> Result<T, StartError> {
    let begun = clock.now();
    loop {
        let error = match call().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let waited = clock.now() - begun;
        if error.fault == Fault::Denied {
            return Err(StartError::Denied(error));
        }
        if !error.fault.is_passing() || waited > PATIENCE {
            return Err(StartError::Unavailable(error, waited));
        }
        tracing::warn!(%error, "not reachable yet; trying again");
        clock.sleep(Duration::from_secs(1)).await;
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "worker".to_owned())
}
