//! The life of one owned shard: finish what was announced, then read, batch, announce, put and
//! commit until the shard ends, the lease goes, or the worker stops.
//!
//! ```text
//!            checkpoint                                        tip of the shard
//!                │                                                     │
//!   …──delivered─┤──announced──┤──announced──┤──cut──┤──open──┤──read──┤
//!                │  objects are being put    │ waits │ takes  │ one page
//!                │                           │ for a │ records│ in the
//!                └─ in the row: checkpoint ──┘ write │        │ channel
//!                   and intents, as one value        │        │
//! ```
//!
//! Positions only move to the right. A batch is *open* while it takes records, is *cut* when it is
//! full, old or in the way, *announced* when its intent is known to be in the lease row, *durable*
//! when all of its objects are, and *delivered* when the checkpoint has passed it; commits happen in
//! order, so a durable batch waits for those before it. At most `delivery.inflight_batches` are
//! announced, one is open, and reading stops while there is no room: that is the backpressure.
//!
//! The order of the writes is decided in [`crate::checkpoint::ledger`], what a batch becomes in
//! [`crate::delivery`], what a page means in [`crate::stream::reading`]. Here is one loop that waits
//! for whichever of these comes first: a write, an upload, a page, a timer, a request to hand over.

mod announced;
mod batching;
pub mod context;
mod end;
pub mod recovery;
mod report;
pub mod sending;
pub mod stop;
pub mod turns;
pub mod uploader;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::budget::Permit;
use crate::checkpoint::ledger::{Change, Ledger};
use crate::delivery::batch::{FlushReason, OpenBatch};
use crate::delivery::gap::{Certainty, Gap};
use crate::delivery::object::Object;
use crate::fault::{CallError, Fault};
use crate::lease::expiry::HANDOFF;
use crate::metrics::table as metric;
use crate::mutant::{self, Mutant};
use crate::stream::Records;
use crate::stream::deaggregate::HashRange;
use crate::stream::position::{Checkpoint, Position, StartAt, may_have_lost};
use crate::stream::reading::{ReadRange, StartCheck};
use crate::task::Handle;
use crate::worker::context::TaskContext;
use crate::worker::leases::held::{HeldLease, Lost};
use crate::worker::reader::poll::{self, Fetched, ReadError};
use crate::worker::shard::context::ShardDeps;
use crate::worker::shard::uploader::upload;
pub use stop::Ended;
use stop::Stop;

/// Works on one shard until it ends. `drain` asks to finish what is in hand and release the lease.
pub async fn run(deps: Arc<ShardDeps>, lease: Arc<HeldLease>, drain: CancellationToken) -> Ended {
    let shard = lease.shard.clone();
    tracing::info!(%shard, "shard taken");
    // What is rare is boxed: an owned shard holds the memory of the largest state of this future.
    let begun = Box::pin(Pipeline::new(Arc::clone(&deps), Arc::clone(&lease))).await;
    let mut pipeline = match begun {
        Ok(pipeline) => pipeline,
        Err(stop) => return Box::pin(end(&deps.ctx, &lease, stop)).await,
    };
    let wanted = lease.handoff_requested.clone();
    let patience = deps.ctx.clock.clone();
    let result = tokio::select! {
        biased;
        result = pipeline.run(&drain) => result,
        // The worker that asked has waited long enough. Announced batches are finished by it.
        () = async { wanted.cancelled().await; patience.sleep(HANDOFF).await } => Ok(Ended::Released),
        () = lease.rewind_requested.cancelled(), if mutant::is(Mutant::BackAtOnce) => Ok(Ended::Released),
    };
    deps.budget.closed(&shard);
    drop(pipeline);
    deps.ctx.metrics.leave(deps.ctx.clock.now(), &shard);
    match result {
        Ok(ended) => {
            // Of a finished shard too: a dead name in the table misleads people and the KCL.
            if matches!(ended, Ended::Released | Ended::Finished) {
                if matches!(ended, Ended::Released) {
                    Box::pin(lease.go_back()).await;
                }
                Box::pin(lease.release()).await;
            }
            tracing::info!(%shard, ?ended, "shard done");
            ended
        }
        Err(stop) => Box::pin(end(&deps.ctx, &lease, stop)).await,
    }
}

async fn end(ctx: &TaskContext, lease: &HeldLease, stop: Stop) -> Ended {
    let ended = match stop {
        Stop::Lost => return Ended::Lost,
        Stop::Gap(gap) => {
            Box::pin(lease.park(&gap)).await;
            tracing::error!(shard = %lease.shard, %gap,
                "the shard is parked until somebody accepts the gap: `catchment leases resume {}`; \
                 the others go on", lease.shard);
            return Ended::Parked;
        }
        error => {
            tracing::error!(shard = %lease.shard, %error, "shard given up; it will be tried again");
            ctx.metrics.add(metric::SHARD_FAILURES_TOTAL, &[], 1);
            ctx.status.error(ctx.clock.wall(), &format!("{}: {error}", lease.shard));
            match error {
                Stop::Vanished(error) => Ended::Vanished(error.to_string()),
                error => Ended::Failed(error.to_string()),
            }
        }
    };
    lease.release().await;
    ended
}

/// A cut batch that is not announced yet.
struct CutBatch {
    objects: Vec<Object>,
    permit: Permit,
}

/// What is not in a batch yet of a page.
struct Rest {
    records: Records,
    /// Memory of the page.
    permit: Permit,
}

type Write = Pin<Box<dyn Future<Output = Result<Change, Lost>> + Send>>;
type PendingUpload = Pin<Box<dyn Future<Output = Result<Position, Stop>> + Send>>;

struct Pipeline {
    deps: Arc<ShardDeps>,
    lease: Arc<HeldLease>,
    ledger: Ledger,
    /// Batches that wait to be announced, by the end of their range; then their upload has them.
    batches: BTreeMap<Position, CutBatch>,
    uploads: FuturesUnordered<PendingUpload>,
    files: turns::Queue,
    write: Option<Write>,
    open: Option<(OpenBatch, Permit, Duration)>,
    cut: Arc<Notify>,
    pages: mpsc::Receiver<Fetched>,
    /// Waits for room: a page may become more than its own size, and more batches than one.
    rest: Option<Rest>,
    /// The records of aggregates are judged by the hash keys of the shard.
    judged: bool,
    /// Foreign records since they were last told of, and when that was.
    foreign: (u64, Option<Duration>),
    reader: Option<Handle<()>>,
    /// Records behind those in hand left retention before they were read.
    lost: bool,
    /// A gap that the shard stops at, once what is in hand is delivered.
    stopped: Option<Gap>,
    /// Where the gap begins that an operator accepted.
    accepted: Option<String>,
    /// A checkpoint whose record was not found where reading began.
    start_gone: bool,
    /// When reading began, the shard had not been read to its tip for as long as retention reaches:
    /// if the checkpointed record turns out to be gone, others may be. Until that is known, the
    /// row keeps the old time: a tip that is empty now says nothing about what was there before.
    suspect: bool,
    /// Of the gap that there may be where reading began.
    certainty: Certainty,
    /// The oldest record in hand: when it was read.
    oldest: VecDeque<(Position, Duration)>,
    ending: bool,
    draining: bool,
    /// The stream is gone: what is in hand is delivered, and then this is told.
    vanished: Option<CallError>,
}

impl Pipeline {
    async fn new(deps: Arc<ShardDeps>, lease: Arc<HeldLease>) -> Result<Self, Stop> {
        let row = lease.row().await;
        let now = deps.ctx.clock.now();
        deps.ctx.status.update(|b| {
            let entry = b.shards.entry(lease.shard.clone()).or_default();
            entry.state = "recovering";
            entry.checkpoint = row.progress.checkpoint.to_string();
            (entry.moved_at, entry.read_at) = (now, now);
        });
        let (_, pages) = mpsc::channel(1);
        let mut this = Self {
            ledger: Ledger::new(row.progress, deps.inflight_batches),
            batches: BTreeMap::new(),
            uploads: FuturesUnordered::new(),
            files: turns::Queue::default(),
            write: None,
            open: None,
            cut: Arc::new(Notify::new()),
            pages,
            rest: None,
            judged: false,
            foreign: (0, None),
            reader: None,
            lost: false,
            stopped: None,
            accepted: row.gap_accepted,
            start_gone: false,
            suspect: false,
            certainty: Certainty::Known,
            oldest: VecDeque::new(),
            ending: false,
            draining: false,
            vanished: None,
            deps,
            lease,
        };
        this.recover().await?;
        Ok(this)
    }

    async fn run(&mut self, drain: &CancellationToken) -> Result<Ended, Stop> {
        let row = self.lease.row().await;
        let checkpoint = self.ledger.progress().checkpoint.clone();
        if self.lease.is_rewind_requested() {
            // Everything announced is delivered, nothing is read: the lease can go back now.
            return Ok(Ended::Released);
        }
        let Some(start) = row.start(&checkpoint, self.deps.sync.start) else {
            return Ok(Ended::Finished);
        };
        // What is known of the beginning: may records after the checkpoint have expired?
        let (now, retention) = (self.deps.ctx.clock.wall(), self.deps.reader.retention.ms());
        let exact = matches!(start, StartAt::At(_));
        self.suspect = exact && may_have_lost(row.read_through_ms, now, retention);
        // (A shard that is to begin at a record which is gone has lost it, whatever was read before.)
        if self.suspect && row.read_through_ms.is_none() && checkpoint.position().is_some() {
            self.certainty = Certainty::Possible;
        }
        if let Some(replay) = &self.deps.sync.replay
            && replay.begins_too_late(&row, &self.deps.sync.stream, now)
        {
            (self.suspect, self.start_gone) = (true, true);
            self.certainty = Certainty::Known;
        }
        let hash_range = match mutant::is(Mutant::ForeignLeftOut) {
            true => row.hash_keys().map(HashRange::earlier),
            false => row.hash_keys_to_judge(),
        };
        self.judged = hash_range.is_some();
        let range = ReadRange {
            start,
            after: checkpoint.position().cloned(),
            until: None,
            bound: self.deps.sync.replay.as_ref().and_then(|replay| replay.bound(&row.shard)),
            aggregates: self.deps.recipe.settings.aggregates(),
            hash_range,
            through_ms: row.read_through_ms.filter(|_| exact && !self.suspect),
            at_horizon: self.suspect,
        };
        // The reader works one page ahead.
        let (send, pages) = mpsc::channel(1);
        self.pages = pages;
        let read = poll::read(self.deps.reader.clone(), self.lease.shard.clone(), range, send);
        self.reader = Some(self.deps.ctx.tasks.spawn("reader", read));
        self.state("reading");
        loop {
            // One write at a time: what the ledger allows next, commits and intents together.
            if self.write.is_none()
                && let Some(change) = self.ledger.next()
            {
                self.write = Some(self.begin(change));
            }
            // Nothing in hand: is there a reason to end?
            if self.write.is_none() && self.ledger.is_idle() && self.open.is_none() {
                if self.ledger.progress().checkpoint == Checkpoint::ShardEnd {
                    self.deps.ctx.metrics.add(metric::SHARDS_FINISHED_TOTAL, &[], 1);
                    return Ok(Ended::Finished);
                }
                if let Some(gap) = self.stopped.take() {
                    return Err(Stop::Gap(gap));
                }
                if let Some(error) = self.vanished.take() {
                    return Err(Stop::Vanished(error));
                }
                if self.draining {
                    return Ok(Ended::Released);
                }
            }
            self.step(drain).await?;
        }
    }

    /// Waits for the next thing to happen, and does it.
    async fn step(&mut self, drain: &CancellationToken) -> Result<(), Stop> {
        let clock = self.deps.ctx.clock.clone();
        let due = self.open.as_ref().map(|(_, _, at)| *at + self.deps.limits.age);
        // Backpressure: one batch open, a bounded number cut. Reading goes on when one is durable.
        let room = self.has_room();
        let rest = room && self.rest.is_some();
        let reading = room && self.rest.is_none() && !self.draining && !self.ending;
        let (lost, cut) = (self.lease.lost.clone(), Arc::clone(&self.cut));
        let (wanted, rewind) =
            (self.lease.handoff_requested.clone(), self.lease.rewind_requested.clone());
        tokio::select! {
            biased;
            () = lost.cancelled() => return Err(Stop::Lost),
            change = async { match &mut self.write { Some(w) => w.await, None => std::future::pending().await } } => {
                self.write = None;
                self.written(change?);
            }
            Some(durable) = self.uploads.next(), if !self.uploads.is_empty() => {
                let last = durable?;
                // The upload gave its memory back to the budget: before the commit.
                self.ledger.durable(&last);
                self.moved();
            }
            () = drain.cancelled(), if !self.draining => self.drain().await?,
            () = wanted.cancelled(), if !self.draining => self.drain().await?,
            () = rewind.cancelled(), if !self.draining => self.drain().await?,
            () = cut.notified(), if self.open.is_some() => self.cut(FlushReason::Pressure).await?,
            () = sleep_until(&clock, due), if due.is_some() => self.cut(FlushReason::Time).await?,
            () = std::future::ready(()), if rest => self.take_rest().await?,
            fetched = self.pages.recv(), if reading => match fetched {
                Some(fetched) => self.fetched(fetched).await?,
                None => return Err(Stop::ReaderStopped),
            },
        }
        Ok(())
    }

    /// Stops reading; what is in hand is delivered and committed, then the lease is given back.
    async fn drain(&mut self) -> Result<(), Stop> {
        self.draining = true;
        self.reader = None;
        self.rest = None;
        self.state("draining");
        self.cut(FlushReason::Drain).await
    }

    /// Is the checkpointed record still there? If so, nothing after it was lost.
    fn began(&mut self, beginning: StartCheck) {
        self.start_gone |= beginning.gone;
        self.suspect &= self.start_gone || !beginning.seen;
    }

    /// Retention passed the reader at the end of the range: that is known, whatever was before.
    fn passed_by(&mut self, lost: bool) {
        if lost {
            (self.suspect, self.certainty) = (true, Certainty::Known);
        }
    }

    async fn fetched(&mut self, fetched: Fetched) -> Result<(), Stop> {
        match fetched {
            Fetched::Page { records, permit, behind_ms, caught_up_ms, lost, beginning } => {
                self.began(beginning);
                let (now, count) = (self.deps.ctx.clock.now(), records.len() as u64);
                self.deps.ctx.status.update(|b| {
                    b.records_read += count;
                    if let Some(entry) = b.shards.get_mut(&self.lease.shard) {
                        (entry.behind_ms, entry.read_at) = (behind_ms, now);
                    }
                });
                self.moved();
                let Some(first) = records.first().map(|first| first.position()) else {
                    if let Some(at) = caught_up_ms
                        && self.open.is_none()
                        && self.ledger.is_idle()
                        && !self.suspect
                    {
                        self.lease.caught_up(at);
                    }
                    return Ok(());
                };
                if lost && self.passed(&first).await? {
                    return Ok(());
                }
                self.take(records, permit).await
            }
            Fetched::End { children, lost, beginning } => {
                self.began(beginning);
                self.passed_by(lost);
                if Box::pin(self.lost_tail()).await? {
                    return Ok(());
                }
                Box::pin(self.shard_end(children)).await
            }
            Fetched::Bound { lost, beginning } => {
                self.began(beginning);
                self.passed_by(lost);
                if Box::pin(self.lost_tail()).await? {
                    return Ok(());
                }
                Box::pin(self.over()).await
            }
            Fetched::Failed(ReadError::Call(error)) if error.fault == Fault::NotFound => {
                Box::pin(self.gone(error)).await
            }
            Fetched::Failed(error) => Err(error.into()),
        }
    }

    fn begin(&self, change: Change) -> Write {
        let lease = Arc::clone(&self.lease);
        Box::pin(async move {
            lease.progress(&change.from, &change.to).await?;
            Ok(change)
        })
    }

    fn upload(&self, CutBatch { objects, permit }: CutBatch, last: Position) -> PendingUpload {
        let (deps, lease) = (Arc::clone(&self.deps), Arc::clone(&self.lease));
        let tasks = self.deps.ctx.tasks.clone();
        let turns = self.files.enter(&objects);
        Box::pin(async move {
            let work = async move { upload(&deps.upload, &lease, objects, turns, permit).await };
            tasks.spawn("upload", work).await??;
            Ok(last)
        })
    }
}

async fn sleep_until(clock: &crate::clock::Clock, at: Option<Duration>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
