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
use crate::stream::{ShardInfo, StreamInfo};
use crate::task::{Handle, TaskDied};
use crate::worker::context::WorkerContext;
use crate::worker::describing;
use crate::worker::leases::change_publisher;
use crate::worker::leases::hand_back;
use crate::worker::leases::heartbeat::{Registry, heartbeat};
use crate::worker::leases::held::HeldLease;
use crate::worker::leases::shard_sync::Synced;
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

/// The stream and its shards as the control plane tells them; no shards in a replay, whose leases
/// are fixed when it is planned.
type Seen = Result<(StreamInfo, Option<Vec<ShardInfo>>), CallError>;

/// What is done with the lease table.
enum Duty {
    Look,
    Sync(Result<Option<Vec<ShardInfo>>, CallError>),
}

struct Supervisor {
    shared: Arc<WorkerContext>,
    keeper: LeaseTaker,
    registry: Registry,
    drain: CancellationToken,
    running: FuturesUnordered<futures::future::BoxFuture<'static, Joined>>,
    leases: BTreeMap<ShardId, Arc<HeldLease>>,
    /// What the control plane is being asked: it may take its time, nothing waits for it.
    asking: Option<futures::future::BoxFuture<'static, Seen>>,
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
        asking: None,
        looked: begin,
        next_look: begin,
        next_sync: begin,
        shared,
    };
    supervisor.run(shutdown, [beating, telling, describing]).await
}

/// Describes the stream and lists its shards.
async fn ask(shared: Arc<WorkerContext>) -> Seen {
    let stream = shared.kinesis.describe(&shared.stream.arn).await?;
    if shared.replay.is_some() || stream.identity() != shared.stream.identity() {
        return Ok((stream, None));
    }
    let shards = shared.kinesis.list_shards(&shared.stream.arn).await?;
    Ok((stream, Some(shards)))
}

/// What is being asked, or nothing ever.
async fn answer(asking: &mut Option<futures::future::BoxFuture<'static, Seen>>) -> Seen {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

/// Says so, once.
fn begin_draining(shared: &WorkerContext, drain: &CancellationToken, shards: usize) {
    if drain.is_cancelled() {
        return;
    }
    drain.cancel();
    shared.status.update(|b| b.draining = true);
    tracing::info!(shards, "draining");
}

impl Supervisor {
    async fn run(mut self, shutdown: Shutdown, helpers: [Handle<()>; 3]) -> Exit {
        let clock = self.shared.clock.clone();
        let mut told = Duration::MAX;
        let stopped = loop {
            tokio::select! {
                biased;
                () = shutdown.drain.cancelled() => break None,
                Some(joined) = self.running.next(), if !self.running.is_empty() => {
                    if let Some((shard, gap)) = self.ended(joined) {
                        break Some(StopCause::Gap(shard, gap));
                    }
                }
                // Leases first: whatever the control plane says, they can be taken.
                () = clock.sleep_until(self.next_look) => {
                    if let Some(at) = self.until_told(&shutdown, Duty::Look).await {
                        told = at;
                        break None;
                    }
                }
                seen = answer(&mut self.asking), if self.asking.is_some() => {
                    self.asking = None;
                    match seen {
                        Ok((stream, _)) if stream.identity() != self.shared.stream.identity() => {
                            break Some(StopCause::OtherStream(stream.identity()));
                        }
                        seen => {
                            let duty = Duty::Sync(seen.map(|(_, shards)| shards));
                            if let Some(at) = self.until_told(&shutdown, duty).await {
                                told = at;
                                break None;
                            }
                        }
                    }
                }
                () = clock.sleep_until(self.next_sync), if self.asking.is_none() => {
                    self.asking = Some(ask(Arc::clone(&self.shared)).boxed());
                }
            }
        };
        self.asking = None;
        let told = told.min(clock.now());
        let exit = self.stop(&shutdown, stopped, told).await;
        drop(helpers);
        exit
    }

    /// Does something with the lease table, which may hang. Told to stop, the worker drains from
    /// that moment on and lets what was begun come to its end, for a moment: a lease whose row says
    /// that it is ours should be given back, not left to expire. Returns when it was told.
    async fn until_told(&mut self, shutdown: &Shutdown, duty: Duty) -> Option<Duration> {
        let (shared, drain) = (Arc::clone(&self.shared), self.drain.clone());
        let shards = self.running.len();
        let work = async {
            match duty {
                Duty::Look => self.look().await,
                Duty::Sync(shards) => self.sync(shards).await,
            }
        };
        tokio::pin!(work);
        tokio::select! {
            biased;
            () = shutdown.drain.cancelled() => {}
            () = &mut work => return None,
        }
        let told = shared.clock.now();
        begin_draining(&shared, &drain, shards);
        tokio::select! {
            biased;
            () = shutdown.abort.cancelled() => {}
            () = work => {}
            () = shared.clock.sleep(LEAVING) => {}
        }
        Some(told)
    }

    /// A look at the leases.
    async fn look(&mut self) {
        let mut won = Vec::new();
        let looked = self.keeper.look(&mut won).await;
        self.looked = self.shared.clock.now();
        let pause = self.shared.config.lease.scan;
        self.next_look = self.looked + self.shared.jitter.spread(pause, 0.2);
        self.told(looked, "reading the lease table failed");
        for lease in won {
            self.start(lease);
        }
    }

    /// Compares what the control plane said with the leases.
    async fn sync(&mut self, shards: Result<Option<Vec<ShardInfo>>, CallError>) {
        let (look, sync) = (self.shared.config.lease.scan, self.shared.config.lease.shard_sync);
        let done = match shards {
            Ok(Some(shards)) => self.keeper.sync(&shards).await,
            Ok(None) => Ok(Synced::Same),
            Err(error) => Err(error),
        };
        let now = self.shared.clock.now();
        let again = matches!(done, Ok(Synced::Again) | Err(_));
        let pause = if again { look } else { sync };
        self.next_sync = now + self.shared.jitter.spread(pause, 0.2);
        if matches!(done, Ok(Synced::Changed | Synced::Again)) {
            self.next_look = now;
        }
        self.told(done, "comparing shards with leases failed");
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
                self.asking = None;
                self.next_sync = Duration::ZERO;
                let soon = self.shared.clock.now() + self.shared.config.lease.scan;
                self.next_look = self.next_look.max(soon);
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

    /// Drains every shard within the deadline, which counts from when the worker was `told`.
    async fn stop(mut self, shutdown: &Shutdown, cause: Option<StopCause>, told: Duration) -> Exit {
        begin_draining(&self.shared, &self.drain, self.running.len());
        let deadline = told + self.shared.config.shutdown_deadline;
        let clock = self.shared.clock.clone();
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
