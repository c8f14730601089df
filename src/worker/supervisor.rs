//! One task per owned shard; takes leases, follows reshards, drains on request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::fault::CallError;
use crate::ids::ShardId;
use crate::lease::open_ends::OpenEnds;
use crate::lease::parked::Parked;
use crate::metrics::table as metric;
use crate::shutdown::Shutdown;
use crate::stream::ShardInfo;
use crate::task::{Handle, TaskDied};
use crate::worker::context::TaskContext;
use crate::worker::describing;
use crate::worker::leases::change_publisher;
use crate::worker::leases::context::{LeaseDeps, SyncDeps};
use crate::worker::leases::hand_back;
use crate::worker::leases::heartbeat::{Registry, heartbeat};
use crate::worker::leases::held::HeldLease;
use crate::worker::leases::shard_sync::{self, Seen, Synced};
use crate::worker::leases::taker::LeaseTaker;
use crate::worker::shard::context::ShardDeps;
use crate::worker::shard::{self, Ended};
use crate::worker::start::Worker;

/// Time for the last writes to the lease table.
const LEAVING: Duration = Duration::from_secs(2);

/// How a worker ended.
#[derive(Debug)]
pub enum Exit {
    /// Everything in hand was delivered and committed, every lease released.
    Drained,
    /// The deadline passed with shards still draining.
    Late(Vec<ShardId>),
    /// Records were lost to retention, the policy is to stop, and no other shard has work left.
    Parked(BTreeMap<ShardId, Parked>),
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
    Parked(BTreeMap<ShardId, Parked>),
    OtherStream(String),
}

type Joined = (ShardId, Result<Ended, TaskDied>);

/// What is done with the lease table.
enum Duty {
    Look,
    Sync(Result<Option<Vec<ShardInfo>>, CallError>),
}

struct Supervisor {
    ctx: TaskContext,
    leases: LeaseDeps,
    sync: SyncDeps,
    shard: Arc<ShardDeps>,
    /// How often shards are compared with leases.
    shard_sync: Duration,
    shutdown_deadline: Duration,
    taker: LeaseTaker,
    registry: Registry,
    drain: CancellationToken,
    running: FuturesUnordered<futures::future::BoxFuture<'static, Joined>>,
    held: BTreeMap<ShardId, Arc<HeldLease>>,
    /// Shards finished by the table and open in the stream.
    ends: OpenEnds,
    /// Shards were compared with leases since the worker started.
    compared: bool,
    /// What the control plane is being asked: it may take its time, nothing waits for it.
    asking: Option<futures::future::BoxFuture<'static, Seen>>,
    /// When the table was last looked at.
    looked: Duration,
    next_look: Duration,
    next_sync: Duration,
}

/// Runs a prepared worker until it is told to stop.
pub async fn run(worker: Worker, shutdown: Shutdown) -> Exit {
    let Worker { ctx, leases, sync, shard, shard_sync, shutdown_deadline } = worker;
    let registry = Registry::default();
    let beats = heartbeat(ctx.clone(), leases.pace.failover, registry.clone());
    let beating = ctx.tasks.spawn("heartbeat", beats);
    let publishing = ctx.tasks.spawn("change publisher", change_publisher::run(leases.clone()));
    let describes = describing::run(
        ctx.clone(),
        sync.kinesis.clone(),
        sync.stream.arn.clone(),
        Arc::clone(&shard.spreading),
    );
    let describing = ctx.tasks.spawn("describing", describes);
    // A fleet that starts together does not look together, but all look once before any looks twice.
    let begin = ctx.clock.now() + ctx.jitter.up_to(leases.pace.look / 2);
    let supervisor = Supervisor {
        taker: LeaseTaker::new(leases.clone(), registry.clone()),
        registry,
        drain: CancellationToken::new(),
        running: FuturesUnordered::new(),
        held: BTreeMap::new(),
        ends: OpenEnds::default(),
        compared: false,
        asking: None,
        looked: begin,
        next_look: begin,
        next_sync: begin,
        ctx,
        leases,
        sync,
        shard,
        shard_sync,
        shutdown_deadline,
    };
    supervisor.run(shutdown, [beating, publishing, describing]).await
}

/// What is being asked, or nothing ever.
async fn answer(asking: &mut Option<futures::future::BoxFuture<'static, Seen>>) -> Seen {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

/// Says so, once.
fn begin_draining(ctx: &TaskContext, drain: &CancellationToken, shards: usize) {
    if drain.is_cancelled() {
        return;
    }
    drain.cancel();
    ctx.status.update(|b| b.draining = true);
    tracing::info!(shards, "draining");
}

impl Supervisor {
    async fn run(mut self, shutdown: Shutdown, helpers: [Handle<()>; 3]) -> Exit {
        let clock = self.ctx.clock.clone();
        let mut told = Duration::MAX;
        let stopped = loop {
            tokio::select! {
                biased;
                () = shutdown.drain.cancelled() => break None,
                Some(joined) = self.running.next(), if !self.running.is_empty() => {
                    self.ended(joined);
                }
                // Leases first: whatever the control plane says, they can be taken.
                () = clock.sleep_until(self.next_look) => {
                    if let Some(at) = self.until_told(&shutdown, Duty::Look).await {
                        told = at;
                        break None;
                    }
                    if let Some(parked) = self.stuck() {
                        break Some(StopCause::Parked(parked));
                    }
                }
                seen = answer(&mut self.asking), if self.asking.is_some() => {
                    self.asking = None;
                    match seen {
                        Ok((stream, _)) if stream.identity() != self.sync.stream.identity() => {
                            break Some(StopCause::OtherStream(stream.identity()));
                        }
                        seen => {
                            if let Ok((stream, _)) = &seen {
                                self.keeps(stream.retention_ms);
                            }
                            let duty = Duty::Sync(seen.map(|(_, shards)| shards));
                            if let Some(at) = self.until_told(&shutdown, duty).await {
                                told = at;
                                break None;
                            }
                        }
                    }
                }
                () = clock.sleep_until(self.next_sync), if self.asking.is_none() => {
                    self.asking = Some(shard_sync::ask(self.sync.clone()).boxed());
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
        let (ctx, drain) = (self.ctx.clone(), self.drain.clone());
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
        let told = ctx.clock.now();
        begin_draining(&ctx, &drain, shards);
        tokio::select! {
            biased;
            () = shutdown.abort.cancelled() => {}
            () = work => {}
            () = ctx.clock.sleep(LEAVING) => {}
        }
        Some(told)
    }

    /// A look at the leases.
    async fn look(&mut self) {
        let mut won = Vec::new();
        let looked = self.taker.look(&mut won).await;
        self.looked = self.ctx.clock.now();
        let pause = self.leases.pace.look;
        self.next_look = self.looked + self.ctx.jitter.spread(pause, 0.2);
        self.told(looked, "reading the lease table failed");
        for lease in won {
            self.start(lease);
        }
    }

    /// Compares what the control plane said with the leases.
    async fn sync(&mut self, shards: Result<Option<Vec<ShardInfo>>, CallError>) {
        let (look, sync) = (self.leases.pace.look, self.shard_sync);
        let done = match shards {
            Ok(Some(shards)) => {
                let (scanner, ends) = (self.taker.scanner(), &mut self.ends);
                shard_sync::sync(&self.sync, scanner, ends, &shards).await
            }
            Ok(None) => Ok(Synced::Same),
            Err(error) => Err(error),
        };
        let now = self.ctx.clock.now();
        self.compared |= done.is_ok();
        let again = matches!(done, Ok(Synced::Again) | Err(_));
        let pause = if again { look } else { sync };
        self.next_sync = now + self.ctx.jitter.spread(pause, 0.2);
        if matches!(done, Ok(Synced::Changed | Synced::Again)) {
            self.taker.hurry();
            self.next_look = now;
        }
        self.told(done, "comparing shards with leases failed");
    }

    /// The stream keeps records for so long now, milliseconds.
    fn keeps(&self, ms: i64) {
        // An answer without the field.
        if ms <= 0 {
            return;
        }
        let before = self.shard.reader.retention.set(ms);
        if before != ms {
            tracing::warn!(
                before_hours = before / 3_600_000,
                hours = ms / 3_600_000,
                "the stream's retention has changed"
            );
            self.ctx.metrics.set(metric::RETENTION_SECONDS, &[], ms / 1000);
            self.ctx.status.update(|b| b.retention_ms = ms);
        }
    }

    fn told<T>(&self, result: Result<T, CallError>, what: &str) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.ctx.call_failed(&error, &error.to_string());
                tracing::warn!(%error, "{what}");
                None
            }
        }
    }

    fn start(&mut self, lease: Arc<HeldLease>) {
        let id = lease.shard.clone();
        let work = shard::run(Arc::clone(&self.shard), Arc::clone(&lease), self.drain.clone());
        let handle = self.ctx.tasks.spawn("shard", work);
        self.held.insert(id.clone(), lease);
        self.running.push(async move { (id, handle.await) }.boxed());
        self.count();
    }

    /// What waits at a gap, if there is nothing else to do.
    fn stuck(&self) -> Option<BTreeMap<ShardId, Parked>> {
        // Before the first comparison shards may be without leases.
        let idle = self.running.is_empty() && self.compared;
        self.taker.stuck().filter(|_| idle).cloned()
    }

    /// A shard task ended.
    fn ended(&mut self, (id, ended): Joined) {
        self.registry.remove(&id);
        self.held.remove(&id);
        self.ctx.status.update(|b| {
            b.shards.remove(&id);
        });
        self.count();
        match ended {
            // Children may start now, here or elsewhere.
            Ok(Ended::Finished) => {
                self.leases.changes.raise();
                self.taker.hurry();
                self.next_look = self.looked + self.leases.pace.look / 4;
            }
            Ok(Ended::Released) => {}
            // Perhaps only for a moment.
            Ok(Ended::Lost) => self.taker.hurry(),
            Ok(Ended::Failed(_)) => self.taker.cool(&id),
            // Another stream may stand under the name: look before anything is taken again.
            Ok(Ended::Vanished(_)) => {
                self.taker.cool(&id);
                self.asking = None;
                self.next_sync = Duration::ZERO;
                let soon = self.ctx.clock.now() + self.leases.pace.look;
                self.next_look = self.next_look.max(soon);
            }
            Ok(Ended::Parked) => {
                self.ctx.status.error(self.ctx.clock.wall(), &format!("{id}: parked at a gap"));
                self.taker.cool(&id);
                self.taker.hurry();
            }
            Err(error) => {
                tracing::error!(shard = %id, %error, "the task of a shard died");
                self.ctx.metrics.add(metric::SHARD_FAILURES_TOTAL, &[], 1);
                self.taker.cool(&id);
            }
        }
    }

    fn count(&self) {
        self.ctx.metrics.set(metric::LEASES_OWNED, &[], self.held.len());
    }

    /// Drains every shard within the deadline, which counts from when the worker was `told`.
    async fn stop(mut self, shutdown: &Shutdown, cause: Option<StopCause>, told: Duration) -> Exit {
        begin_draining(&self.ctx, &self.drain, self.running.len());
        let deadline = told + self.shutdown_deadline;
        let clock = self.ctx.clock.clone();
        let held = self.held.keys().cloned().collect();
        tokio::select! {
            biased;
            () = shutdown.abort.cancelled() => {}
            () = hand_back::give_back(&self.leases, held) => {}
            () = clock.sleep(LEAVING) => {}
        }
        while !self.running.is_empty() {
            tokio::select! {
                biased;
                () = shutdown.abort.cancelled() => break,
                Some(joined) = self.running.next() => {
                    self.ended(joined);
                }
                () = clock.sleep_until(deadline) => break,
            }
        }
        // What is still running is cut off here. Its announced batches stand in the table: whoever
        // takes the leases finishes them.
        self.running.clear();
        let late: Vec<Arc<HeldLease>> = std::mem::take(&mut self.held).into_values().collect();
        let last = async {
            futures::future::join_all(late.iter().map(|lease| lease.release())).await;
            self.leases.changes.publish(&self.leases.table, &self.ctx.metrics).await
        };
        tokio::select! {
            biased;
            _ = last => {}
            () = clock.sleep(LEAVING) => {}
        }
        match (cause, late.is_empty()) {
            (Some(StopCause::Parked(parked)), _) => Exit::Parked(parked),
            (Some(StopCause::OtherStream(is)), _) => {
                Exit::OtherStream { was: self.sync.stream.identity(), is }
            }
            (None, true) => Exit::Drained,
            (None, false) => Exit::Late(late.iter().map(|l| l.shard.clone()).collect()),
        }
    }
}
