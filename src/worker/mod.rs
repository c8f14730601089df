//! One worker: starts in order, runs until told to stop, stops in reverse.

pub mod shard;
pub mod shared;
pub mod status;
pub mod supervisor;

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
use crate::lease::row::{Lease, live_kcl3};
use crate::replay::plan::Plan;
use crate::stream::StreamInfo;
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
    /// Workers of KCL 3.x are alive on the table.
    #[error(
        "table `{table}` is in use by a KCL 3.x application: its worker `{item}` reported within the \
         last two minutes, and its leader assigns the leases. Stop that application and start again \
         (Catchment goes on at its checkpoints), or set lease.application to another name to run \
         beside it"
    )]
    Kcl3 {
        /// Table name.
        table: String,
        /// Key of the metrics item seen.
        item: String,
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
    let kinesis = Kinesis::new(clients.kinesis);
    let store = ObjectStore::new(clients.s3);
    let table = LeaseTable::new(clients.dynamodb, &config.lease.table);
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
    let bucket = &config.delivery.bucket;
    patiently(&clock, || store.check_bucket(bucket)).await.map_err(|error| match error {
        StartError::Unavailable(source, _) if !source.fault.is_passing() => {
            StartError::Bucket { bucket: bucket.clone(), source }
        }
        other => other,
    })?;
    ensure_table(&clock, &table).await?;
    check_identity(&clock, &table, &stream).await?;
    let me = WorkerId::new(match &config.lease.worker {
        Some(id) => id.clone(),
        None => format!("{}:{}", host_name(), jitter.uuid()),
    });
    let metrics = Arc::new(Metrics::new(config.telemetry.shard_labels));
    let labels = [env!("CARGO_PKG_VERSION"), &stream.name, me.as_str()];
    metrics.set("catchment_build_info", &labels, 1);
    let gauge = i64::try_from(config.budget).unwrap_or(i64::MAX);
    metrics.set("catchment_budget_bytes", &[], gauge);
    Ok(Arc::new(Shared {
        budget: Budget::new(config.budget),
        uploads: Arc::new(Semaphore::new(config.delivery.uploads_in_flight)),
        recipe: Arc::new(config.delivery.recipe(&stream.name)?),
        board: Arc::new(Board::new(&stream.name, me.as_str())),
        config,
        clock,
        jitter,
        tasks,
        kinesis,
        stream,
        table,
        store,
        replay,
        me,
        metrics,
    }))
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

async fn ensure_table(clock: &Clock, table: &LeaseTable) -> Result<(), StartError> {
    let begun = clock.now();
    loop {
        match table.ensure(clock).await {
            Ok(()) => return Ok(()),
            Err(TableError::Call(error))
                if error.fault.is_passing() && clock.now() - begun < PATIENCE =>
            {
                tracing::warn!(%error, "the lease table is not reachable yet; trying again");
                clock.sleep(Duration::from_secs(1)).await;
            }
            Err(TableError::Call(error)) if error.fault == Fault::Denied => {
                return Err(StartError::Denied(error));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn check_identity(
    clock: &Clock,
    table: &LeaseTable,
    stream: &StreamInfo,
) -> Result<(), StartError> {
    let expected = stream.identity();
    let items = patiently(clock, || table.scan()).await?;
    if let Some(item) = live_kcl3(&items, clock.wall()) {
        return Err(StartError::Kcl3 { table: table.name().to_owned(), item });
    }
    let other = items
        .iter()
        .filter_map(|item| Lease::parse(item).ok().flatten()?.stream)
        .find(|found| *found != expected);
    match other {
        Some(found) => {
            Err(StartError::OtherStream { table: table.name().to_owned(), found, expected })
        }
        None => Ok(()),
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "worker".to_owned())
}
