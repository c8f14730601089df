//! `catchment run`: one worker.

use crate::aws::clients::Clients;
use crate::clock::{Clock, Jitter};
use crate::config::Config;
use crate::config::raw::Layers;
use crate::shutdown::Shutdown;
use crate::telemetry::{http, logs};
use crate::worker::supervisor::Exit;
use crate::worker::{self, Node, StartError, Worker, supervisor};

use super::{Failure, SettingsArgs, runtime};

pub(super) fn run(settings: &SettingsArgs) -> Result<(), Failure> {
    let config = settings.load(Layers::default())?;
    logs::install(config.telemetry.logs, "info");
    let (runtime, tasks) = runtime(config.threads)?;
    runtime.block_on(async {
        let shutdown = Shutdown::default();
        let _signals = tasks.spawn("signals", shutdown.clone().on_signals());
        let clients = Clients::from_environment(&config.aws).await.map_err(|e| Failure::new(2, e))?;
        let node = Node { clock: Clock::system(), jitter: Jitter::system(), tasks };
        let exit = tokio::select! {
            biased;
            exit = worker(&node, config, clients, shutdown.clone()) => exit?,
            // A second signal leaves at once, also where nothing listens to the first.
            () = shutdown.abort.cancelled() => {
                return Err(Failure::new(1, "left at once on a second signal; announced batches are finished by the next owner"));
            }
        };
        judge(&exit)
    })
}

/// Prepares and runs a worker with its HTTP endpoint.
pub(super) async fn worker(
    node: &Node,
    config: Config,
    clients: Clients,
    shutdown: Shutdown,
) -> Result<Exit, Failure> {
    let listener = match config.telemetry.listen {
        Some(address) => Some(http::listen(address).await.map_err(|e| Failure::new(2, e))?),
        None => None,
    };
    let prepared = tokio::select! {
        biased;
        prepared = worker::prepare(node, config, clients) => prepared,
        // Stopped before there was anything to drain.
        () = shutdown.drain.cancelled() => return Ok(Exit::Drained),
    };
    let worker = prepared.map_err(|e| Failure::new(start_code(&e), e))?;
    Ok(serve(worker, listener, shutdown).await)
}

/// 1 for what a later start may find healed, so that an init system tries again; 2 for a person.
fn start_code(error: &StartError) -> u8 {
    if error.may_heal() { 1 } else { 2 }
}

/// Runs a prepared worker, and its endpoint if it has one, to the end.
pub(super) async fn serve(
    worker: Worker,
    listener: Option<tokio::net::TcpListener>,
    shutdown: Shutdown,
) -> Exit {
    let stop = tokio_util::sync::CancellationToken::new();
    let endpoint = listener.map(|listener| {
        let serving = http::serve(listener, worker.observed(), stop.clone());
        worker.ctx.tasks.spawn("http", serving)
    });
    let (stream, me) = (&worker.sync.stream.name, &worker.leases.me);
    tracing::info!(%stream, worker = %me, table = worker.leases.table.name(), "worker started");
    let exit = Box::pin(supervisor::run(worker, shutdown)).await;
    // The endpoint lives as long as the worker, so that the last figures can be scraped; open
    // connections must not keep the process.
    stop.cancel();
    if let Some(endpoint) = endpoint {
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), endpoint).await;
    }
    exit
}

/// Parked shards named one by one at the end.
const NAMED: usize = 5;

/// Exit codes of design: 0 drained, 1 failure, 2 configuration, 3 data would be skipped.
pub(super) fn judge(exit: &Exit) -> Result<(), Failure> {
    match exit {
        Exit::Drained => {
            tracing::info!("drained");
            Ok(())
        }
        Exit::Late(shards) => Err(Failure::new(
            1,
            format!(
                "the shutdown deadline passed with {} shard(s) not drained: {shards:?}; nothing is \
                 lost, the next owner finishes their batches. Raise shutdown.deadline (and the \
                 container's stop timeout above it) if this happens often",
                shards.len()
            ),
        )),
        Exit::OtherStream { was, is } => Err(Failure::new(
            2,
            format!(
                "the stream was deleted and created again ({was}, now {is}): its leases and \
                 checkpoints are not those of the new one. What was read was delivered. Set \
                 lease.application to a new name, or delete the table if its checkpoints are not \
                 needed, and start again"
            ),
        )),
        Exit::Parked(parked) => {
            let lost: Vec<String> = parked
                .iter()
                .take(NAMED)
                .map(|(shard, parked)| format!("{shard}: records {}", parked.gap))
                .collect();
            let more = match parked.len().saturating_sub(NAMED) {
                0 => String::new(),
                n => format!("; and {n} more shards, see `catchment leases list`"),
            };
            Err(Failure::new(
                3,
                format!(
                    "nothing is left but shards that are parked, because records left the stream's \
                     retention before they were delivered. {}{more}. To record the gap under the \
                     error prefix and go on: `catchment leases resume SHARD` (or --all), or set \
                     delivery.on_gap = \"continue\" and start again. To notice earlier, alert on \
                     catchment_behind_latest_seconds and raise the retention",
                    lost.join("; ")
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::dynamodb::admin::TableError;
    use crate::fault::{CallError, Detail, Fault};

    #[test]
    fn a_start_that_may_heal_is_told_apart_from_one_that_will_not() {
        let call = |fault| CallError {
            operation: "DescribeStreamSummary",
            fault,
            detail: Detail::Plain,
            code: "x".into(),
            message: String::new(),
            request_id: None,
        };
        let waited = std::time::Duration::from_secs(61);
        let away = StartError::Unavailable(call(Fault::Unavailable), waited);
        assert_eq!(start_code(&away), 1);
        assert_eq!(start_code(&TableError::Call(call(Fault::Throttled)).into()), 1);
        let invalid = StartError::Unavailable(call(Fault::Invalid), waited);
        assert_eq!(start_code(&invalid), 2);
        assert_eq!(start_code(&StartError::Denied(call(Fault::Denied))), 2);
        assert_eq!(start_code(&StartError::NotReadable("s".into())), 1);
    }
}
