//! One lease we hold: its heartbeat, its progress writes, and the word that it is lost.
//!
//! At most one counter-bumping write of a lease is in flight, or a worker would fail its own
//! conditions; the mutex around the row sees to that. A write of unknown outcome is never guessed:
//! the row is read again, consistently, and what it holds is the truth.

mod parking;
mod rewind;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::aws::dynamodb::{LeaseTable, Written};
use crate::checkpoint::progress::Progress;
use crate::clock::{Clock, Jitter};
use crate::fault::CallError;
use crate::ids::{ShardId, WorkerId};
use crate::lease::row::{Item, Lease};
use crate::lease::throughput::Meter;
use crate::lease::write::{self, Notes, Verdict};
use crate::metrics::registry::Metrics;
use crate::metrics::table as metric;
use crate::mutant::{self, Mutant};
use crate::worker::leases::change_signal::ChangeSignal;

/// The lease is another worker's now, or has not been renewed for so long that it may be.
#[derive(Debug, thiserror::Error)]
#[error("the lease is no longer ours")]
pub struct Lost;

/// See the module.
pub struct HeldLease {
    /// The shard.
    pub shard: ShardId,
    /// Cancelled when the lease is lost.
    pub lost: CancellationToken,
    /// Cancelled when another worker asks for the lease: drain, commit, transfer.
    pub handoff_requested: CancellationToken,
    /// Cancelled when the row asks to go back: drain, commit, move the checkpoint.
    pub rewind_requested: CancellationToken,
    me: WorkerId,
    table: LeaseTable,
    clock: Clock,
    jitter: Jitter,
    failover: Duration,
    metrics: Arc<Metrics>,
    changes: ChangeSignal,
    places: Arc<Semaphore>,
    row: Mutex<Lease>,
    meter: std::sync::Mutex<Meter>,
    /// Clock milliseconds of the start of the last heartbeat tried.
    tried_ms: AtomicU64,
    /// Clock milliseconds of the start of the last write known to be in the row.
    alive_ms: AtomicU64,
    /// When the shard was last read to its tip, ms since the epoch; 0 for never.
    read_through_ms: AtomicI64,
}

/// What an [`HeldLease`] needs from its worker.
#[derive(Clone)]
pub struct HeldLeaseDeps {
    /// Our id.
    pub me: WorkerId,
    /// The table.
    pub table: LeaseTable,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub jitter: Jitter,
    /// Expiry of the fleet.
    pub failover: Duration,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The fleet's ear.
    pub changes: ChangeSignal,
    /// Places for progress writes and releases, shared by all leases of the worker.
    pub places: Arc<Semaphore>,
}

/// Part of the failover time after which delivery stops until the lease is renewed.
const SAFE: f64 = 0.8;
/// `read_through` is refreshed in the row at most this often by heartbeats.
const READ_THROUGH_EVERY_MS: i64 = 600_000;

impl HeldLease {
    /// A lease just taken: `row` as the write returned it, `asked` when that write began.
    pub fn new(means: HeldLeaseDeps, row: Lease, asked: Duration) -> Self {
        let rewind = CancellationToken::new();
        if row.rewind.is_some() {
            rewind.cancel();
        }
        Self {
            shard: row.shard.clone(),
            lost: CancellationToken::new(),
            handoff_requested: CancellationToken::new(),
            rewind_requested: rewind,
            me: means.me,
            table: means.table,
            clock: means.clock,
            jitter: means.jitter,
            failover: means.failover,
            metrics: means.metrics,
            changes: means.changes,
            places: means.places,
            meter: std::sync::Mutex::new(Meter::new(asked, row.throughput_kbps)),
            tried_ms: AtomicU64::new(millis(asked)),
            alive_ms: AtomicU64::new(millis(asked)),
            read_through_ms: AtomicI64::new(row.read_through_ms.unwrap_or(0)),
            row: Mutex::new(row),
        }
    }

    /// A copy of the row as last seen.
    pub async fn row(&self) -> Lease {
        self.row.lock().await.clone()
    }

    /// Time since the start of the last write known to be in the row.
    pub fn silence(&self) -> Duration {
        let alive = Duration::from_millis(self.alive_ms.load(Ordering::Relaxed));
        self.clock.now().saturating_sub(alive)
    }

    /// Time for a heartbeat: nothing was written for `period`, nor tried a moment ago.
    pub fn is_due(&self, period: Duration) -> bool {
        let tried = Duration::from_millis(self.tried_ms.load(Ordering::Relaxed));
        self.silence() >= period && self.clock.now().saturating_sub(tried) >= period / 3
    }

    /// Payload bytes of the shard were read.
    pub fn carried(&self, bytes: u64) {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner).read(bytes);
    }

    fn throughput(&self, row: &Lease) -> Option<f64> {
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.tell(self.clock.now(), row.throughput_kbps)
    }

    /// Recent enough a heartbeat to start an upload. Saves work, not correctness.
    pub fn may_deliver(&self) -> bool {
        !self.lost.is_cancelled() && self.silence() < self.failover.mul_f64(SAFE)
    }

    /// The shard was read to its tip at this time.
    pub fn caught_up(&self, now_ms: i64) {
        self.read_through_ms.store(now_ms, Ordering::Relaxed);
    }

    fn alive(&self, asked: Duration) {
        self.alive_ms.fetch_max(millis(asked), Ordering::Relaxed);
    }

    fn lose(&self, why: &str) {
        if !self.lost.is_cancelled() {
            tracing::warn!(shard = %self.shard, why, "lease lost");
            self.metrics.add(metric::LEASES_LOST_TOTAL, &[], 1);
            self.lost.cancel();
        }
    }

    /// Gives up silently held hopes: a lease not renewed for the failover time is not ours.
    pub fn expire(&self) -> bool {
        if self.silence() > self.failover {
            self.lose("not renewed within the failover time");
        }
        self.lost.is_cancelled()
    }

    /// One heartbeat, with its judgement.
    pub async fn renew(&self) {
        // Progress writes are heartbeats too: if one is under way, it does our work.
        if let Ok(mut row) = self.row.try_lock() {
            self.beat(&mut row).await;
        }
    }

    async fn beat(&self, row: &mut Lease) {
        for _ in 0..3 {
            if self.lost.is_cancelled() {
                return;
            }
            let asked = self.clock.now();
            self.tried_ms.store(millis(asked), Ordering::Relaxed);
            let read = self.read_through_ms.load(Ordering::Relaxed);
            let stale = read - row.read_through_ms.unwrap_or(0) >= READ_THROUGH_EVERY_MS;
            let notes = Notes {
                read_through_ms: stale.then_some(read),
                throughput_kbps: self.throughput(row),
            };
            let update = write::renew(row, &self.me, &notes);
            match self.table.update(&self.shard, update).await {
                Ok(Written::Done(item)) => {
                    self.adopt(row, &item);
                    self.alive(asked);
                    self.metrics.add(metric::LEASE_RENEWALS_TOTAL, &["ok"], 1);
                    return;
                }
                Ok(Written::Refused(image)) => {
                    let seen = self.parse(image);
                    match write::classify_renewal(seen.as_ref(), &self.me) {
                        Verdict::Again | Verdict::Done => {
                            if let Some(seen) = seen {
                                self.see_requests(&seen);
                                *row = seen;
                            }
                            self.metrics.add(metric::LEASE_RENEWALS_TOTAL, &["retry"], 1);
                        }
                        Verdict::Lost => {
                            self.metrics.add(metric::LEASE_RENEWALS_TOTAL, &["lost"], 1);
                            self.lose("another worker holds it");
                            return;
                        }
                    }
                }
                Err(error) => {
                    self.note(&error, "renewing a lease failed");
                    return;
                }
            }
        }
    }

    /// A place among the writes of all leases; `None` when the lease is lost meanwhile. Asked for
    /// before the row is held: heartbeats have places of their own, and go on beating.
    async fn place(&self) -> Option<SemaphorePermit<'_>> {
        tokio::select! {
            biased;
            () = self.lost.cancelled() => None,
            place = self.places.acquire() => place.ok(),
        }
    }

    /// Moves progress from one exact state to the next, and returns only when the row is known to
    /// hold it.
    ///
    /// # Errors
    /// [`Lost`]
    pub async fn progress(&self, from: &Progress, to: &Progress) -> Result<(), Lost> {
        let _place = self.place().await;
        let mut row = self.row.lock().await;
        let mut pause = Duration::from_millis(50);
        loop {
            if self.expire() {
                return Err(Lost);
            }
            let asked = self.clock.now();
            let now_ms = match self.read_through_ms.load(Ordering::Relaxed) {
                0 => row.read_through_ms.unwrap_or(0),
                read => read,
            };
            let mut update = write::progress(from, to, &self.me, now_ms, self.throughput(&row));
            if row.counted.is_some() {
                write::count(&mut update, from, to);
            }
            let found = match self.table.update(&self.shard, update).await {
                Ok(Written::Done(item)) => {
                    self.adopt(&mut row, &item);
                    self.alive(asked);
                    self.metrics.add(metric::COMMITS_TOTAL, &[], 1);
                    return Ok(());
                }
                Ok(Written::Refused(image)) => self.parse(image),
                Err(_) if mutant::is(Mutant::AmbiguousIsWritten) => return Ok(()),
                Err(error) => {
                    self.note(&error, "writing progress failed; reading the row again");
                    self.clock.sleep(self.jitter.spread(pause, 0.5)).await;
                    pause = (pause * 2).min(self.failover / 4);
                    // A table that throttles may still take a heartbeat, which costs less.
                    if self.silence() > self.failover / 3 {
                        self.beat(&mut row).await;
                    }
                    match self.table.get(&self.shard).await {
                        Ok(item) => self.parse(item),
                        Err(error) => {
                            self.note(&error, "reading the row failed");
                            continue;
                        }
                    }
                }
            };
            match write::classify_progress(found.as_ref(), from, to, &self.me) {
                Verdict::Done => {
                    if let Some(found) = found {
                        *row = found;
                    }
                    self.metrics.add(metric::COMMITS_TOTAL, &[], 1);
                    return Ok(());
                }
                Verdict::Again => {}
                Verdict::Lost => {
                    self.lose("its row was moved by another worker");
                    return Err(Lost);
                }
            }
        }
    }

    /// Somebody read the row: is the lease asked for?
    pub fn see_requests(&self, row: &Lease) {
        if row.checkpoint_owner.as_ref() == Some(&self.me) && !self.handoff_requested.is_cancelled()
        {
            tracing::info!(shard = %self.shard, to = ?row.owner, "asked to hand the lease over");
            self.handoff_requested.cancel();
        }
        self.see_rewind_request(row);
    }

    /// Gives the lease back, or over to the worker that asked for it. Best effort: if it fails, the
    /// lease expires.
    pub async fn release(&self) {
        let _place = self.place().await;
        let _row = self.row.lock().await;
        if self.lost.is_cancelled() {
            return;
        }
        let mut written = self.table.update(&self.shard, write::release(&self.me)).await;
        // Refused because it was asked for: then it goes there.
        if let Ok(Written::Refused(Some(_))) = written {
            written = self.table.update(&self.shard, write::transfer(&self.me)).await;
            if let Ok(Written::Done(_)) = written {
                self.metrics.add(metric::LEASE_HANDOFFS_TOTAL, &["given"], 1);
            }
        }
        match written {
            Ok(Written::Done(_)) => {
                self.metrics.add(metric::LEASES_RELEASED_TOTAL, &[], 1);
                self.changes.raise();
            }
            Ok(Written::Refused(_)) => {}
            Err(error) => self.note(&error, "releasing a lease failed; it will expire"),
        }
        self.lost.cancel();
    }

    /// Names the children of the finished shard, for the KCL's clean-up.
    pub async fn name_children(&self, children: &[ShardId]) {
        if children.is_empty() {
            return;
        }
        if let Err(error) = self.table.update(&self.shard, write::children(children)).await {
            self.note(&error, "recording child shards failed");
        }
    }

    fn adopt(&self, row: &mut Lease, item: &Item) {
        if let Some(new) = self.parse(Some(item.clone())) {
            self.see_requests(&new);
            *row = new;
        }
    }

    fn parse(&self, item: Option<Item>) -> Option<Lease> {
        match Lease::parse(&item?) {
            Ok(lease) => lease,
            Err(error) => {
                tracing::error!(shard = %self.shard, %error, "the lease row cannot be read");
                None
            }
        }
    }

    fn note(&self, error: &CallError, what: &str) {
        self.metrics.add(metric::CALL_FAILURES_TOTAL, &[error.operation, error.fault.as_str()], 1);
        tracing::warn!(shard = %self.shard, %error, "{what}");
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
