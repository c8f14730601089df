//! ▶ The life of one owned shard: finish what was announced, then read, batch, announce, put and
//! commit until the shard ends, the lease goes, or the worker stops.

mod end;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::checkpoint::ledger::{Change, Ledger};
use crate::checkpoint::recovery::{self, Recovered, RecoveryError};
use crate::config::OnGap;
use crate::delivery::batch::{Cause, Gap, Limits, Object, Open, Sealed};
use crate::delivery::budget::Permit;
use crate::delivery::encode::EncodeError;
use crate::delivery::uploader::{UploadError, upload};
use crate::fault::{CallError, Fault};
use crate::lease::expiry::HANDOFF;
use crate::lease::owned::{Lost, Owned};
use crate::lease::row::{Pending, Progress};
use crate::mutant::{self, Mutant};
use crate::stream::Records;
use crate::stream::poll::{self, Fetched};
use crate::stream::position::{Checkpoint, Position, StartAt, may_have_lost};
use crate::stream::reading::{Beginning, Range};
use crate::task::{Handle, TaskDied};
use crate::worker::shared::Shared;

/// How the work on a shard ended.
#[derive(Debug)]
pub enum Ended {
    /// Delivered to SHARD_END.
    Finished,
    /// Drained and released.
    Released,
    /// The lease went to somebody else.
    Lost,
    /// Records were lost to retention and the policy is to stop.
    Gap(Gap),
    /// Something failed; the lease was released, somebody tries again.
    Failed(String),
    /// The same, and the stream itself is not the one it was.
    Vanished(String),
}

#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("lost")]
    Lost,
    #[error("gap")]
    Gap(Gap),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the stream was deleted, or deleted and created again: {0}")]
    Vanished(CallError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Task(#[from] TaskDied),
    #[error(transparent)]
    Upload(Box<UploadError>),
}

impl From<Lost> for Stop {
    fn from(_: Lost) -> Self {
        Self::Lost
    }
}

impl From<UploadError> for Stop {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Lost => Self::Lost,
            error @ (UploadError::Deadline { .. } | UploadError::Gone { .. }) => {
                Self::Upload(Box::new(error))
            }
        }
    }
}

/// Works on one shard until it ends. `drain` asks to finish what is in hand and release the lease.
pub async fn run(shared: Arc<Shared>, lease: Arc<Owned>, drain: CancellationToken) -> Ended {
    let shard = lease.shard.clone();
    tracing::info!(%shard, "shard taken");
    // What is rare is boxed: an owned shard holds the memory of the largest state of this future.
    let begun = Box::pin(Pipeline::new(Arc::clone(&shared), Arc::clone(&lease))).await;
    let mut pipeline = match begun {
        Ok(pipeline) => pipeline,
        Err(stop) => return Box::pin(end(&shared, &lease, stop)).await,
    };
    let wanted = lease.wanted.clone();
    let patience = shared.clock.clone();
    let result = tokio::select! {
        biased;
        result = pipeline.run(&drain) => result,
        // The worker that asked has waited long enough. Announced batches are finished by it.
        () = async { wanted.cancelled().await; patience.sleep(HANDOFF).await } => Ok(Ended::Released),
    };
    shared.budget.closed(&shard);
    drop(pipeline);
    shared.metrics.leave(shared.clock.now(), &shard);
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
        Err(stop) => Box::pin(end(&shared, &lease, stop)).await,
    }
}

async fn end(shared: &Shared, lease: &Owned, stop: Stop) -> Ended {
    let ended = match stop {
        Stop::Lost => return Ended::Lost,
        Stop::Gap(gap) => Ended::Gap(gap),
        error => {
            tracing::error!(shard = %lease.shard, %error, "shard given up; it will be tried again");
            shared.metrics.add("catchment_shard_failures_total", &[], 1);
            shared.board.error(shared.clock.wall(), &format!("{}: {error}", lease.shard));
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
struct Batch {
    objects: Vec<Object>,
    permit: Permit,
}

type Write = Pin<Box<dyn Future<Output = Result<Change, Lost>> + Send>>;
type Upload = Pin<Box<dyn Future<Output = Result<Position, Stop>> + Send>>;

struct Pipeline {
    shared: Arc<Shared>,
    lease: Arc<Owned>,
    ledger: Ledger,
    /// Batches that wait to be announced, by the end of their range; then their upload has them.
    batches: BTreeMap<Position, Batch>,
    uploads: FuturesUnordered<Upload>,
    write: Option<Write>,
    open: Option<(Open, Permit, Duration)>,
    cut: Arc<Notify>,
    pages: mpsc::Receiver<Fetched>,
    reader: Option<Handle<()>>,
    /// A checkpoint whose record was not found where reading began.
    start_gone: bool,
    /// When reading began, the shard had not been read to its tip for as long as retention reaches:
    /// if the checkpointed record turns out to be gone, others may be. Until that is known, the
    /// row keeps the old time: a tip that is empty now says nothing about what was there before.
    suspect: bool,
    /// The oldest record in hand: when it was read.
    oldest: VecDeque<(Position, Duration)>,
    ending: bool,
    draining: bool,
    /// The stream is gone: what is in hand is delivered, and then this is told.
    vanished: Option<CallError>,
}

impl Pipeline {
    async fn new(shared: Arc<Shared>, lease: Arc<Owned>) -> Result<Self, Stop> {
        let row = lease.row().await;
        let now = shared.clock.now();
        shared.board.update(|b| {
            let entry = b.shards.entry(lease.shard.clone()).or_default();
            entry.state = "recovering";
            entry.checkpoint = row.progress.checkpoint.to_string();
            (entry.moved_at, entry.read_at) = (now, now);
        });
        let (_, pages) = mpsc::channel(1);
        let mut this = Self {
            ledger: Ledger::new(row.progress, shared.config.delivery.pipeline),
            batches: BTreeMap::new(),
            uploads: FuturesUnordered::new(),
            write: None,
            open: None,
            cut: Arc::new(Notify::new()),
            pages,
            reader: None,
            start_gone: false,
            suspect: false,
            oldest: VecDeque::new(),
            ending: false,
            draining: false,
            vanished: None,
            shared,
            lease,
        };
        this.recover().await?;
        Ok(this)
    }

    /// Finishes the intents found in the row, oldest first. Nothing else happens before.
    async fn recover(&mut self) -> Result<(), Stop> {
        let row = self.lease.row().await;
        while let Some(intent) = self.ledger.progress().pending.intents().first().cloned() {
            let after = self.ledger.progress().checkpoint.clone();
            if mutant::is(Mutant::IgnorePending) {
                let none = Progress { checkpoint: after, pending: Pending::None };
                self.lease.progress(self.ledger.progress(), &none).await?;
                self.ledger = Ledger::new(none, self.shared.config.delivery.pipeline);
                break;
            }
            tracing::info!(shard = %self.lease.shard, first = %intent.first, last = %intent.last,
                "finishing an announced batch");
            let Some(start) = row.start(&after, self.shared.config.stream.start) else {
                break;
            };
            let lost = self.lease.lost.clone();
            let Recovered { objects, permit, gap } = tokio::select! {
                biased;
                () = lost.cancelled() => return Err(Stop::Lost),
                recovered =
                    recovery::recover(&self.shared, &row, &after, start, &intent) =>
                    recovered?,
            };
            if let Some(gap) = gap {
                self.gap(&gap)?;
            }
            upload(&self.shared, &self.lease, objects, permit).await?;
            self.ledger.durable(&intent.last);
            if let Some(change) = self.ledger.next() {
                self.lease.progress(&change.from, &change.to).await?;
                self.written(change);
            }
            self.shared.metrics.add("catchment_intents_recovered_total", &[], 1);
        }
        Ok(())
    }

    /// Tells of lost records; stops if the policy says so.
    fn gap(&self, gap: &Gap) -> Result<(), Stop> {
        self.shared.metrics.add("catchment_gaps_total", &[], 1);
        tracing::error!(shard = %self.lease.shard, %gap,
            "records left the stream's retention before they were delivered");
        match self.shared.config.delivery.on_gap {
            OnGap::Stop => Err(Stop::Gap(gap.clone())),
            OnGap::Continue => Ok(()),
        }
    }

    async fn run(&mut self, drain: &CancellationToken) -> Result<Ended, Stop> {
        let row = self.lease.row().await;
        let checkpoint = self.ledger.progress().checkpoint.clone();
        if self.lease.is_asked_back() {
            // Everything announced is delivered, nothing is read: the lease can go back now.
            return Ok(Ended::Released);
        }
        let Some(start) = row.start(&checkpoint, self.shared.config.stream.start) else {
            return Ok(Ended::Finished);
        };
        let (now, retention) = (self.shared.clock.wall(), self.shared.stream.retention_ms);
        let exact = matches!(start, StartAt::At(_));
        self.suspect = exact && may_have_lost(row.read_through_ms, now, retention);
        if let Some(replay) = &self.shared.replay
            && replay.begins_too_late(&row, &self.shared.stream, now)
        {
            (self.suspect, self.start_gone) = (true, true);
        }
        let range = Range {
            start,
            after: checkpoint.position().cloned(),
            until: None,
            bound: self.shared.replay.as_ref().and_then(|replay| replay.bound(&row.shard)),
            deaggregate: self.shared.recipe.settings.deaggregate,
            hash_range: row.hash_keys(),
        };
        let (send, pages) = mpsc::channel(1);
        self.pages = pages;
        let read = poll::read(self.shared.reader(), self.lease.shard.clone(), range, send);
        self.reader = Some(self.shared.tasks.spawn("reader", read));
        self.state("reading");
        loop {
            if self.write.is_none()
                && let Some(change) = self.ledger.next()
            {
                self.write = Some(self.begin(change));
            }
            if self.write.is_none() && self.ledger.is_idle() && self.open.is_none() {
                if self.ledger.progress().checkpoint == Checkpoint::ShardEnd {
                    self.shared.metrics.add("catchment_shards_finished_total", &[], 1);
                    return Ok(Ended::Finished);
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
        let clock = self.shared.clock.clone();
        let due = self.open.as_ref().map(|(_, _, at)| *at + self.shared.config.delivery.limits.age);
        // Backpressure: one batch open, a bounded number cut. Reading goes on when one is durable.
        let room = self.ledger.undelivered() <= self.shared.config.delivery.pipeline;
        let reading = room && !self.draining && !self.ending;
        let (lost, cut) = (self.lease.lost.clone(), Arc::clone(&self.cut));
        let (wanted, rewind) = (self.lease.wanted.clone(), self.lease.rewind.clone());
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
            () = cut.notified(), if self.open.is_some() => self.cut(Cause::Pressure).await?,
            () = sleep_until(&clock, due), if due.is_some() => self.cut(Cause::Time).await?,
            fetched = self.pages.recv(), if reading => match fetched {
                Some(fetched) => self.fetched(fetched).await?,
                None => return Err(Stop::Call(CallError {
                    operation: "GetRecords",
                    fault: Fault::Unavailable,
                    code: "ReaderStopped".into(),
                    message: "the reader of the shard ended unexpectedly".into(),
                    request_id: None,
                })),
            },
        }
        Ok(())
    }

    /// Stops reading; what is in hand is delivered and committed, then the lease is given back.
    async fn drain(&mut self) -> Result<(), Stop> {
        self.draining = true;
        self.reader = None;
        self.state("draining");
        self.cut(Cause::Drain).await
    }

    /// Is the checkpointed record still there? If so, nothing after it was lost.
    fn began(&mut self, beginning: Beginning) {
        self.start_gone |= beginning.gone;
        self.suspect &= self.start_gone || !beginning.seen;
    }

    async fn fetched(&mut self, fetched: Fetched) -> Result<(), Stop> {
        match fetched {
            Fetched::Page { records, permit, behind_ms, beginning } => {
                self.began(beginning);
                let (now, count) = (self.shared.clock.now(), records.len() as u64);
                self.shared.board.update(|b| {
                    b.records_read += count;
                    if let Some(entry) = b.shards.get_mut(&self.lease.shard) {
                        (entry.behind_ms, entry.read_at) = (behind_ms, now);
                    }
                });
                self.moved();
                if records.is_empty() {
                    if self.open.is_none() && self.ledger.is_idle() && !self.suspect {
                        self.lease.caught_up(self.shared.clock.wall());
                    }
                    return Ok(());
                }
                self.take(records, permit).await
            }
            Fetched::End { children, beginning } => {
                self.began(beginning);
                Box::pin(self.lost_tail()).await?;
                Box::pin(self.shard_end(children)).await
            }
            Fetched::Bound(beginning) => {
                self.began(beginning);
                Box::pin(self.lost_tail()).await?;
                Box::pin(self.over()).await
            }
            Fetched::Failed(error) if error.fault == Fault::NotFound => {
                Box::pin(self.gone(error)).await
            }
            Fetched::Failed(error) => Err(error.into()),
        }
    }

    /// Encodes a page into the open batch, cutting where it is full.
    async fn take(&mut self, mut records: Records, permit: Permit) -> Result<(), Stop> {
        let limits: Limits = self.shared.config.delivery.limits;
        let now = self.shared.clock.now();
        self.lease.carried(records.payload() as u64);
        if let Some(last) = records.last() {
            self.oldest.push_back((last.position(), now));
            self.undelivered();
        }
        while let Some(first) = records.first() {
            let (mut open, mut held, at) = match self.open.take() {
                Some(open) => open,
                None => {
                    let gap = self.start_gap(&first.position())?;
                    let stamp = self.shared.clock.wall();
                    let recipe = Arc::clone(&self.shared.recipe);
                    let open = Open::new(recipe, self.lease.shard.clone(), stamp, gap)
                        .following(&self.ledger.reached());
                    (open, self.shared.budget.overdraw(0), now)
                }
            };
            let work = move || {
                let cause = open.fill(&mut records, &limits)?;
                Ok::<_, EncodeError>((open, records, cause))
            };
            let (open, rest, cause) = self.shared.tasks.compute(work).await??;
            records = rest;
            held.resize(open.memory());
            self.shared.budget.opened(&self.lease.shard, at, &self.cut);
            self.open = Some((open, held, at));
            if let Some(cause) = cause {
                self.cut(cause).await?;
            }
        }
        drop(permit);
        Ok(())
    }

    /// The gap in front of the first batch, if there is one.
    fn start_gap(&mut self, first: &Position) -> Result<Option<Gap>, Stop> {
        if !std::mem::take(&mut self.start_gone) || !std::mem::take(&mut self.suspect) {
            return Ok(None);
        }
        let gap = Gap::new(&self.ledger.progress().checkpoint, first);
        self.gap(&gap)?;
        Ok(Some(gap))
    }

    /// Closes the open batch and queues its intent.
    async fn cut(&mut self, cause: Cause) -> Result<(), Stop> {
        let Some((open, mut permit, _)) = self.open.take() else {
            return Ok(());
        };
        self.shared.budget.closed(&self.lease.shard);
        let sealed = self.shared.tasks.compute(move || open.seal()).await??;
        let Some(Sealed { intent, objects, dead, misplaced }) = sealed else {
            return Ok(());
        };
        permit.resize(objects.iter().map(Object::memory).sum());
        self.shared.metrics.add("catchment_batches_total", &[cause.as_str()], 1);
        for (kind, count) in dead {
            self.shared.metrics.add("catchment_dead_letters_total", &[kind], count);
        }
        for (reason, count) in misplaced {
            self.shared.metrics.add("catchment_records_misplaced_total", &[reason], count);
        }
        if mutant::is(Mutant::PutBeforeIntent) {
            let twice = self.shared.budget.overdraw(0);
            Box::pin(upload(&self.shared, &self.lease, objects.clone(), twice)).await?;
        }
        self.batches.insert(intent.last.clone(), Batch { objects, permit });
        self.ledger.cut(intent);
        self.undelivered();
        Ok(())
    }

    fn begin(&self, change: Change) -> Write {
        let lease = Arc::clone(&self.lease);
        Box::pin(async move {
            lease.progress(&change.from, &change.to).await?;
            Ok(change)
        })
    }

    /// A progress write is in the row: count what it committed, upload what it announced.
    fn written(&mut self, change: Change) {
        let committed = &change.from.pending.intents()[..change.commits];
        let (records, bytes) =
            committed.iter().fold((0, 0), |(r, b), intent| (r + intent.records, b + intent.bytes));
        let label = self.shared.metrics.shard(&self.lease.shard);
        self.shared.metrics.add("catchment_records_delivered_total", &[label], records);
        self.shared.metrics.add("catchment_bytes_delivered_total", &[label], bytes);
        if let Some(last) = committed.last() {
            while self.oldest.front().is_some_and(|(p, _)| *p <= last.last) {
                self.oldest.pop_front();
            }
        }
        let checkpoint = change.to.checkpoint.to_string();
        self.shared.board.update(|b| {
            b.records += records;
            b.bytes += bytes;
            if let Some(entry) = b.shards.get_mut(&self.lease.shard) {
                entry.checkpoint = checkpoint;
                entry.records += records;
                entry.bytes += bytes;
            }
        });
        for last in self.ledger.written(change) {
            if let Some(batch) = self.batches.remove(&last) {
                let upload = self.upload(batch, last);
                self.uploads.push(upload);
            }
        }
        self.moved();
        self.undelivered();
    }

    fn upload(&self, Batch { objects, permit }: Batch, last: Position) -> Upload {
        let (shared, lease) = (Arc::clone(&self.shared), Arc::clone(&self.lease));
        let tasks = self.shared.tasks.clone();
        Box::pin(async move {
            let work = async move { upload(&shared, &lease, objects, permit).await };
            tasks.spawn("upload", work).await??;
            Ok(last)
        })
    }

    fn state(&self, state: &'static str) {
        self.shared.board.shard(&self.lease.shard, |s| s.state = state);
    }

    fn moved(&self) {
        let now = self.shared.clock.now();
        self.shared.board.shard(&self.lease.shard, |s| s.moved_at = now);
    }

    fn undelivered(&self) {
        let undelivered = self.ledger.undelivered();
        let oldest_at = self.oldest.front().map(|(_, at)| *at);
        self.shared.board.shard(&self.lease.shard, |s| {
            (s.undelivered, s.oldest_at) = (undelivered, oldest_at);
        });
    }
}

async fn sleep_until(clock: &crate::clock::Clock, at: Option<Duration>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
