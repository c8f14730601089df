//! ▶ One task per owned shard; takes leases, follows reshards, drains on request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::delivery::batch::Gap;
use crate::fault::CallError;
use crate::ids::ShardId;
use crate::lease::keeper::{Keeper, Registry, heartbeat};
use crate::lease::owned::Owned;
use crate::shutdown::Shutdown;
use crate::task::{Handle, TaskDied};
use crate::worker::shard::{self, Ended};
use crate::worker::shared::Shared;

/// How a worker ended.
#[derive(Debug)]
pub enum Exit {
    /// Everything in hand was delivered and committed, every lease released.
    Drained,
    /// The deadline passed with shards still draining.
    Late(Vec<ShardId>),
    /// Records were lost to retention and the policy is to stop.
    Gap(ShardId, Gap),
}

type Joined = (ShardId, Result<Ended, TaskDied>);

struct Supervisor {
    shared: Arc<Shared>,
    keeper: Keeper,
    registry: Registry,
    drain: CancellationToken,
    running: FuturesUnordered<futures::future::BoxFuture<'static, Joined>>,
    leases: BTreeMap<ShardId, Arc<Owned>>,
    next_scan: Duration,
    next_sync: Duration,
}

/// Runs a prepared worker until it is told to stop.
pub async fn run(shared: Arc<Shared>, shutdown: Shutdown) -> Exit {
    let registry = Registry::default();
    let beating = shared.tasks.spawn("heartbeat", heartbeat(Arc::clone(&shared), registry.clone()));
    let supervisor = Supervisor {
        keeper: Keeper::new(Arc::clone(&shared), registry.clone()),
        registry,
        drain: CancellationToken::new(),
        running: FuturesUnordered::new(),
        leases: BTreeMap::new(),
        next_scan: Duration::ZERO,
        next_sync: Duration::ZERO,
        shared,
    };
    supervisor.run(shutdown, beating).await
}

impl Supervisor {
    async fn run(mut self, shutdown: Shutdown, beating: Handle<()>) -> Exit {
        let stopped = loop {
            let clock = self.shared.clock.clone();
            let due = self.next_scan.min(self.next_sync);
            tokio::select! {
                biased;
                () = shutdown.drain.cancelled() => break None,
                Some(joined) = self.running.next(), if !self.running.is_empty() => {
                    if let Some(gap) = self.ended(joined) {
                        break Some(gap);
                    }
                }
                () = clock.sleep_until(due) => self.tick().await,
            }
        };
        let exit = self.stop(&shutdown, stopped).await;
        drop(beating);
        exit
    }

    /// Shard sync and lease round, whichever is due.
    async fn tick(&mut self) {
        let (scan, sync) = (self.shared.config.lease.scan, self.shared.config.lease.shard_sync);
        if self.shared.clock.now() >= self.next_sync {
            // The leases of a replay are fixed when it is planned.
            let done = match self.shared.replay {
                Some(_) => Ok(()),
                None => self.keeper.sync().await,
            };
            let pause = if done.is_ok() { sync } else { scan };
            self.next_sync = self.shared.clock.now() + self.shared.jitter.spread(pause, 0.2);
            self.next_scan = Duration::ZERO;
            self.told(done, "comparing shards with leases failed");
        }
        let round = self.keeper.round().await;
        self.next_scan = self.shared.clock.now() + self.shared.jitter.spread(scan, 0.2);
        if let Some(won) = self.told(round, "reading the lease table failed") {
            for lease in won {
                self.start(lease);
            }
        }
    }

    fn told<T>(&self, result: Result<T, CallError>, what: &str) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let labels = [error.operation, error.fault.as_str()];
                self.shared.metrics.add("catchment_call_failures_total", &labels, 1);
                self.shared.board.update(|b| b.last_error = Some(error.to_string()));
                tracing::warn!(%error, "{what}");
                None
            }
        }
    }

    fn start(&mut self, lease: Arc<Owned>) {
        let id = lease.shard.clone();
        let work = shard::run(Arc::clone(&self.shared), Arc::clone(&lease), self.drain.clone());
        let handle = self.shared.tasks.spawn("shard", work);
        self.leases.insert(id.clone(), lease);
        self.running.push(async move { (id, handle.await) }.boxed());
        self.count();
    }

    /// A shard task ended; says so if the worker has to stop for it.
    fn ended(&mut self, (id, ended): Joined) -> Option<(ShardId, Gap)> {
        self.registry.remove(&id);
        self.leases.remove(&id);
        self.shared.board.update(|b| {
            b.shards.remove(&id);
        });
        self.count();
        match ended {
            // Children may start now; do not wait for the next round.
            Ok(Ended::Finished) => self.next_scan = Duration::ZERO,
            Ok(Ended::Released | Ended::Lost) => {}
            Ok(Ended::Failed(_)) => self.keeper.cool(&id),
            Ok(Ended::Gap(gap)) => return Some((id, gap)),
            Err(error) => {
                tracing::error!(shard = %id, %error, "the task of a shard died");
                self.shared.metrics.add("catchment_shard_failures_total", &[], 1);
                self.keeper.cool(&id);
            }
        }
        None
    }

    fn count(&self) {
        let owned = i64::try_from(self.leases.len()).unwrap_or(i64::MAX);
        self.shared.metrics.set("catchment_leases_owned", &[], owned);
    }

    /// Drains every shard within the deadline.
    async fn stop(mut self, shutdown: &Shutdown, gap: Option<(ShardId, Gap)>) -> Exit {
        self.drain.cancel();
        self.shared.board.update(|b| b.draining = true);
        let deadline = self.shared.clock.now() + self.shared.config.shutdown_deadline;
        let clock = self.shared.clock.clone();
        tracing::info!(shards = self.running.len(), "draining");
        let mut found = gap;
        while !self.running.is_empty() {
            tokio::select! {
                biased;
                () = shutdown.abort.cancelled() => break,
                Some(joined) = self.running.next() => {
                    let gap = self.ended(joined);
                    found = found.or(gap);
                }
                () = clock.sleep_until(deadline) => break,
            }
        }
        // What is still running is cut off here. Its announced batches stand in the table: whoever
        // takes the leases finishes them.
        self.running.clear();
        let late: Vec<Arc<Owned>> = std::mem::take(&mut self.leases).into_values().collect();
        let releases = futures::future::join_all(late.iter().map(|lease| lease.release()));
        tokio::select! {
            biased;
            _ = releases => {}
            () = clock.sleep(Duration::from_secs(2)) => {}
        }
        match (found, late.is_empty()) {
            (Some((shard, gap)), _) => Exit::Gap(shard, gap),
            (None, true) => Exit::Drained,
            (None, false) => Exit::Late(late.iter().map(|l| l.shard.clone()).collect()),
        }
    }
}
