//! The open batch of a shard: takes records, is cut, waits to be announced.

use std::sync::Arc;
use std::time::Duration;

use crate::budget::Permit;
use crate::config::OnGap;
use crate::delivery::batch::{BatchLimits, FlushReason, OpenBatch, SealedBatch};
use crate::delivery::encode::EncodeError;
use crate::delivery::gap::{Certainty, Gap};
use crate::delivery::object::Object;
use crate::delivery::route;
use crate::lease::parking;
use crate::metrics::table as metric;
use crate::mutant::{self, Mutant};
use crate::stream::Records;
use crate::stream::position::Position;
use crate::worker::shard::stop::Stop;
use crate::worker::shard::uploader::upload;
use crate::worker::shard::{CutBatch, Pipeline, Rest};

/// Bytes before compression between two looks at the budget.
const STEP: u64 = 16 << 20;
/// Log lines about records come no more often than this, of one shard.
const TELL_EVERY: Duration = Duration::from_secs(60);

impl Pipeline {
    /// May another batch begin?
    pub(super) fn has_room(&self) -> bool {
        self.ledger.undelivered() <= self.deps.inflight_batches
    }

    /// Encodes a page into the open batch, cutting where it is full.
    pub(super) async fn take(&mut self, records: Records, permit: Permit) -> Result<(), Stop> {
        let now = self.deps.ctx.clock.now();
        self.lease.carried(records.payload() as u64);
        if let Some(last) = records.last() {
            self.oldest.push_back((last.position(), now));
            self.undelivered();
        }
        self.rest = Some(Rest { records, permit });
        self.take_rest().await
    }

    /// The same for what is left of a page, until all of it is in a batch or there is no room for
    /// another one.
    pub(super) async fn take_rest(&mut self) -> Result<(), Stop> {
        let Some(Rest { mut records, permit }) = self.rest.take() else { return Ok(()) };
        let limits = BatchLimits { step: STEP, ..self.deps.limits };
        let now = self.deps.ctx.clock.now();
        while let Some(first) = records.first() {
            let (mut open, mut held, at) = match self.open.take() {
                Some(open) => open,
                None => {
                    let gap = self.start_gap(&first.position())?;
                    let stamp = self.deps.ctx.clock.wall();
                    let recipe = Arc::clone(self.deps.recipe_of(self.judged));
                    let open = OpenBatch::new(recipe, self.lease.shard.clone(), stamp, gap)
                        .following(&self.ledger.reached());
                    (open, self.deps.budget.force_acquire(0), now)
                }
            };
            let work = move || {
                let cause = open.fill(&mut records, &limits)?;
                Ok::<_, EncodeError>((open, records, cause))
            };
            let (open, rest, cause) = self.deps.ctx.tasks.compute(work).await??;
            records = rest;
            held.resize(open.memory());
            self.deps.budget.opened(&self.lease.shard, at, &self.cut);
            self.open = Some((open, held, at));
            // More than fits has come of this page, and it is not through.
            let crowded = !records.is_empty() && self.deps.budget.is_over();
            if let Some(cause) = cause.or_else(|| crowded.then_some(FlushReason::Pressure)) {
                self.cut(cause).await?;
                if !records.is_empty() && !self.has_room() {
                    self.rest = Some(Rest { records, permit });
                    return Ok(());
                }
            }
        }
        drop(permit);
        Ok(())
    }

    /// The gap in front of the next batch, if there is one.
    pub(super) fn start_gap(&mut self, first: &Position) -> Result<Option<Gap>, Stop> {
        if std::mem::take(&mut self.lost) {
            return Ok(Some(Gap::new(&self.ledger.reached(), first)));
        }
        if !std::mem::take(&mut self.start_gone) || !std::mem::take(&mut self.suspect) {
            return Ok(None);
        }
        let gap = Gap::new(&self.ledger.reached(), first).of(self.certainty);
        self.gap(&gap)?;
        Ok(Some(gap))
    }

    /// Retention passed the reader: what it read before is delivered, and the gap stands before the
    /// batch that begins with `first`. True if the shard stops there instead.
    pub(super) async fn passed(&mut self, first: &Position) -> Result<bool, Stop> {
        self.cut(FlushReason::ShardEnd).await?;
        let gap = Gap::new(&self.ledger.reached(), first);
        let stops = self.stops_at(&gap).await?;
        self.lost = !stops;
        Ok(stops)
    }

    /// Tells of lost records behind those in hand. True if the shard stops there, once what is in
    /// hand is delivered.
    pub(super) async fn stops_at(&mut self, gap: &Gap) -> Result<bool, Stop> {
        match self.gap(gap) {
            Ok(()) => Ok(false),
            Err(Stop::Gap(gap)) => {
                self.stopped = Some(gap);
                self.drain().await?;
                Ok(true)
            }
            Err(other) => Err(other),
        }
    }

    /// Tells of lost records; stops if the policy says so, and nobody has accepted them as lost.
    pub(super) fn gap(&self, gap: &Gap) -> Result<(), Stop> {
        let accepted = parking::is_accepted(self.accepted.as_deref(), gap);
        let (policy, counter) = match gap.certainty {
            Certainty::Known => (self.deps.gaps.known, metric::GAPS_TOTAL),
            Certainty::Possible => (self.deps.gaps.possible, metric::POSSIBLE_GAPS_TOTAL),
        };
        if !accepted {
            self.deps.ctx.metrics.add(counter, &[], 1);
        }
        match gap.certainty {
            Certainty::Known => tracing::error!(shard = %self.lease.shard, %gap, accepted,
                "records left the stream's retention before they were delivered"),
            Certainty::Possible => {
                let wall = self.deps.ctx.clock.wall();
                self.deps.ctx.status.update(|b| {
                    b.possible_gaps += 1;
                    b.possible_gap_ms = Some(wall);
                });
                tracing::warn!(shard = %self.lease.shard, %gap, accepted,
                    "records may have left the stream's retention undelivered: the checkpointed one \
                     is gone, and nothing says when the shard was last read to its tip; perhaps it \
                     was idle");
            }
        }
        match policy {
            OnGap::Stop if !accepted => Err(Stop::Gap(gap.clone())),
            OnGap::Stop | OnGap::Continue => Ok(()),
        }
    }

    /// Tells of foreign records, not more often than somebody can read it.
    fn foreign(&mut self, count: u64) {
        self.deps.spreading.doubt();
        let (now, wall) = (self.deps.ctx.clock.now(), self.deps.ctx.clock.wall());
        self.deps.ctx.status.update(|b| {
            b.foreign_records += count;
            b.foreign_ms = Some(wall);
        });
        let (waiting, told) = &mut self.foreign;
        *waiting += count;
        if told.is_none_or(|told| now - told >= TELL_EVERY) {
            tracing::warn!(shard = %self.lease.shard, count = *waiting,
                "user records of aggregates belong to other shards by their hash keys; put aside, \
                 see delivery.foreign_records");
            self.foreign = (0, Some(now));
        }
    }

    /// Closes the open batch and queues its intent.
    pub(super) async fn cut(&mut self, cause: FlushReason) -> Result<(), Stop> {
        let Some((open, mut permit, _)) = self.open.take() else {
            return Ok(());
        };
        self.deps.budget.closed(&self.lease.shard);
        let sealed = self.deps.ctx.tasks.compute(move || open.seal()).await??;
        let Some(SealedBatch { intent, objects, dead, misplaced }) = sealed else {
            return Ok(());
        };
        permit.resize(objects.iter().map(Object::memory).sum());
        self.deps.ctx.metrics.add(metric::BATCHES_TOTAL, &[cause.as_str()], 1);
        for (kind, count) in dead {
            self.deps.ctx.metrics.add(metric::DEAD_LETTERS_TOTAL, &[kind], count);
            if kind == route::FOREIGN {
                self.foreign(count);
            }
        }
        for (reason, count) in misplaced {
            self.deps.ctx.metrics.add(metric::RECORDS_FALLBACK_PARTITION_TOTAL, &[reason], count);
        }
        if mutant::is(Mutant::PutBeforeIntent) {
            let twice = self.deps.budget.force_acquire(0);
            let turns = self.files.enter(&objects);
            Box::pin(upload(&self.deps.upload, &self.lease, objects.clone(), turns, twice)).await?;
        }
        self.batches.insert(intent.last.clone(), CutBatch { objects, permit });
        self.ledger.cut(intent);
        self.undelivered();
        Ok(())
    }
}
