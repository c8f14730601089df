//! One task per owned shard; takes leases, follows reshards, drains on request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::delivery::gap::Gap;
use crate::fault::CallError;
use crate::ids::ShardId;
use crate::metrics::table as metric;
use crate::shutdown::Shutdown;
use crate::task::{Handle, TaskDied};
use crate::worker::context::WorkerContext;
use crate::worker::describing;
use crate::worker::leases::change_publisher;
use crate::worker::leases::hand_back;
use crate::worker::leases::heartbeat::{Registry, heartbeat};
use crate::worker::leases::held::HeldLease;
use crate::worker::leases::taker::LeaseTaker;
use crate::worker::shard::{self, Ended};

/// Time for the last writes to the lease table.
const LEAVING: Duration = Duration::from_secs(2);

/// How a worker ended.
#[derive(Debug)]
pub enum Exit {
    /// Everything in hand was delivered and committed, every lease released.
    Drained,
    /// The deadline passed with shards still draining.
    Late(Vec<ShardId>),
    /// Records were lost to retention and the policy is to stop.
    Gap(ShardId, Gap),
    /// The stream was deleted and created again: its leases are not ours to use.
    OtherStream {
        /// Identity it had when the worker started.
        was: String,
        /// Identity now.
        is: String,
    },
}

/// Why a worker stops by itself.
enum StopCause {
    Gap(ShardId, Gap),
    OtherStream(String),
}

type Joined = (ShardId, Result<Ended, TaskDied>);

struct Supervisor {
    shared: Arc<WorkerContext>,
    keeper: LeaseTaker,
    registry: Registry,
    drain: CancellationToken,
    running: FuturesUnordered<futures::future::BoxFuture<'static, Joined>>,
    leases: BTreeMap<ShardId, Arc<HeldLease>>,
    /// When the table was last looked at.
    looked: Duration,
    next_look: Duration,
    next_sync: Duration,
}

/// Runs a prepared worker until it is told to stop.
pub async fn run(shared: Arc<WorkerContext>, shutdown: Shutdown) -> Exit {
    let registry = Registry::default();
    let beating = shared.tasks.spawn("heartbeat", heartbeat(Arc::clone(&shared), registry.clone()));
    let telling = shared.tasks.spawn("news", change_publisher::run(Arc::clone(&shared)));
    let describing = shared.tasks.spawn("describing", describing::run(Arc::clone(&shared)));
    // A fleet that starts together does not look together, but all look once before any looks twice.
    let begin = shared.clock.now() + shared.jitter.up_to(shared.config.lease.scan / 2);
    let supervisor = Supervisor {
        keeper: LeaseTaker::new(Arc::clone(&shared), registry.clone()),
        registry,
        drain: CancellationToken::new(),
        running: FuturesUnordered::new(),
        leases: BTreeMap::new(),
        looked: begin,
        next_look: begin,
        next_sync: begin,
        shared,
    };
    supervisor.run(shutdown, [beating, telling, describing]).await
}

impl Supervisor {
    async fn run(mut self, shutdown: Shutdown, helpers: [Handle<()>; 3]) -> Exit {
        let stopped = loop {
            let clock = self.shared.clock.clone();
            let due = self.next_look.min(self.next_sync);
            tokio::select! {
                biased;
                () = shutdown.drain.cancelled() => break None,
                Some(joined) = self.running.next(), if !self.running.is_empty() => {
                    if let Some((shard, gap)) = self.ended(joined) {
                        break Some(StopCause::Gap(shard, gap));
                    }
                }
                () = clock.sleep_until(due) => {
                    if let Some(is) = self.tick().await {
                        break Some(StopCause::OtherStream(is));
                    }
                }
            }
        };
        let exit = self.stop(&shutdown, stopped).await;
        drop(helpers);
        exit
    }

    /// Shard sync and a look at the leases, whichever is due. Returns the identity of the stream if
    /// it is another one now.
    async fn tick(&mut self) -> Option<String> {
        let (look, sync) = (self.shared.config.lease.scan, self.shared.config.lease.shard_sync);
        if self.shared.clock.now() >= self.next_sync {
            let done = match self.shared.kinesis.describe(&self.shared.stream.arn).await {
                Ok(stream) if stream.identity() != self.shared.stream.identity() => {
                    return Some(stream.identity());
                }
                // The leases of a replay are fixed when it is planned.
                Ok(_) if self.shared.replay.is_some() => Ok(false),
                Ok(_) => self.keeper.sync().await,
                Err(error) => Err(error),
            };
            let again = *done.as_ref().unwrap_or(&true);
            let pause = if again { look } else { sync };
            self.next_sync = self.shared.clock.now() + self.shared.jitter.spread(pause, 0.2);
            self.told(done, "comparing shards with leases failed");
        }
        let mut won = Vec::new();
        let looked = self.keeper.look(&mut won).await;
        self.looked = self.shared.clock.now();
        self.next_look = self.looked + self.shared.jitter.spread(look, 0.2);
        self.told(looked, "reading the lease table failed");
        for lease in won {
            self.start(lease);
        }
        None
    }

    fn told<T>(&self, result: Result<T, CallError>, what: &str) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let labels = [error.operation, error.fault.as_str()];
                self.shared.metrics.add(metric::CALL_FAILURES_TOTAL, &labels, 1);
                self.shared.status.error(self.shared.clock.wall(), &error.to_string());
                tracing::warn!(%error, "{what}");
                None
            }
        }
    }

    fn start(&mut self, lease: Arc<HeldLease>) {
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
        self.shared.status.update(|b| {
            b.shards.remove(&id);
        });
        self.count();
        match ended {
            // Children may start now, here or elsewhere.
            Ok(Ended::Finished) => {
                self.shared.changes.raise();
                self.keeper.hurry();
                self.next_look = self.looked + self.shared.config.lease.scan / 4;
            }
            Ok(Ended::Released) => {}
            // Perhaps only for a moment.
            Ok(Ended::Lost) => self.keeper.hurry(),
            Ok(Ended::Failed(_)) => self.keeper.cool(&id),
            // Another stream may stand under the name: look before anything is taken again.
            Ok(Ended::Vanished(_)) => {
                self.keeper.cool(&id);
                self.next_sync = Duration::ZERO;
            }
            Ok(Ended::Gap(gap)) => return Some((id, gap)),
            Err(error) => {
                tracing::error!(shard = %id, %error, "the task of a shard died");
                self.shared.metrics.add(metric::SHARD_FAILURES_TOTAL, &[], 1);
                self.keeper.cool(&id);
            }
        }
        None
    }

    fn count(&self) {
        self.shared.metrics.set(metric::LEASES_OWNED, &[], self.leases.len());
    }

    /// Drains every shard within the deadline.
    async fn stop(mut self, shutdown: &Shutdown, cause: Option<StopCause>) -> Exit {
        self.drain.cancel();
        self.shared.status.update(|b| b.draining = true);
        let deadline = self.shared.clock.now() + self.shared.config.shutdown_deadline;
        let clock = self.shared.clock.clone();
        tracing::info!(shards = self.running.len(), "draining");
        let held = self.leases.keys().cloned().collect();
        tokio::select! {
            biased;
            () = shutdown.abort.cancelled() => {}
            () = hand_back::give_back(&self.shared, held) => {}
            () = clock.sleep(LEAVING) => {}
        }
        let mut found = cause;
        while !self.running.is_empty() {
            tokio::select! {
                biased;
                () = shutdown.abort.cancelled() => break,
                Some(joined) = self.running.next() => {
                    let gap = self.ended(joined);
                    found = found.or(gap.map(|(shard, gap)| StopCause::Gap(shard, gap)));
                }
                () = clock.sleep_until(deadline) => break,
            }
        }
        // What is still running is cut off here. Its announced batches stand in the table: whoever
        // takes the leases finishes them.
        self.running.clear();
        let late: Vec<Arc<HeldLease>> = std::mem::take(&mut self.leases).into_values().collect();
        let last = async {
            futures::future::join_all(late.iter().map(|lease| lease.release())).await;
            self.shared.changes.publish(&self.shared.table, &self.shared.metrics).await
        };
        tokio::select! {
            biased;
            _ = last => {}
            () = clock.sleep(LEAVING) => {}
        }
        match (found, late.is_empty()) {
            (Some(StopCause::Gap(shard, gap)), _) => Exit::Gap(shard, gap),
            (Some(StopCause::OtherStream(is)), _) => {
                Exit::OtherStream { was: self.shared.stream.identity(), is }
            }
            (None, true) => Exit::Drained,
            (None, false) => Exit::Late(late.iter().map(|l| l.shard.clone()).collect()),
        }
    }
}
