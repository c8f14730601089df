//! The open batch of a shard: takes records, is cut, waits to be announced.

use std::sync::Arc;

use crate::budget::Permit;
use crate::config::OnGap;
use crate::delivery::batch::{BatchLimits, FlushReason, OpenBatch, SealedBatch};
use crate::delivery::encode::EncodeError;
use crate::delivery::gap::Gap;
use crate::delivery::object::Object;
use crate::metrics::table as metric;
use crate::mutant::{self, Mutant};
use crate::stream::Records;
use crate::stream::position::Position;
use crate::worker::shard::stop::Stop;
use crate::worker::shard::uploader::upload;
use crate::worker::shard::{CutBatch, Pipeline};

impl Pipeline {
    /// Encodes a page into the open batch, cutting where it is full.
    pub(super) async fn take(&mut self, mut records: Records, permit: Permit) -> Result<(), Stop> {
        let limits: BatchLimits = self.shared.config.delivery.limits;
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
                    let open = OpenBatch::new(recipe, self.lease.shard.clone(), stamp, gap)
                        .following(&self.ledger.reached());
                    (open, self.shared.budget.force_acquire(0), now)
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
    pub(super) fn start_gap(&mut self, first: &Position) -> Result<Option<Gap>, Stop> {
        if !std::mem::take(&mut self.start_gone) || !std::mem::take(&mut self.suspect) {
            return Ok(None);
        }
        let gap = Gap::new(&self.ledger.progress().checkpoint, first);
        self.gap(&gap)?;
        Ok(Some(gap))
    }

    /// Tells of lost records; stops if the policy says so.
    pub(super) fn gap(&self, gap: &Gap) -> Result<(), Stop> {
        self.shared.metrics.add(metric::GAPS_TOTAL, &[], 1);
        tracing::error!(shard = %self.lease.shard, %gap,
            "records left the stream's retention before they were delivered");
        match self.shared.config.delivery.on_gap {
            OnGap::Stop => Err(Stop::Gap(gap.clone())),
            OnGap::Continue => Ok(()),
        }
    }

    /// Closes the open batch and queues its intent.
    pub(super) async fn cut(&mut self, cause: FlushReason) -> Result<(), Stop> {
        let Some((open, mut permit, _)) = self.open.take() else {
            return Ok(());
        };
        self.shared.budget.closed(&self.lease.shard);
        let sealed = self.shared.tasks.compute(move || open.seal()).await??;
        let Some(SealedBatch { intent, objects, dead, misplaced }) = sealed else {
            return Ok(());
        };
        permit.resize(objects.iter().map(Object::memory).sum());
        self.shared.metrics.add(metric::BATCHES_TOTAL, &[cause.as_str()], 1);
        for (kind, count) in dead {
            self.shared.metrics.add(metric::DEAD_LETTERS_TOTAL, &[kind], count);
        }
        for (reason, count) in misplaced {
            self.shared.metrics.add(metric::RECORDS_FALLBACK_PARTITION_TOTAL, &[reason], count);
        }
        if mutant::is(Mutant::PutBeforeIntent) {
            let twice = self.shared.budget.force_acquire(0);
            Box::pin(upload(&self.shared, &self.lease, objects.clone(), twice)).await?;
        }
        self.batches.insert(intent.last.clone(), CutBatch { objects, permit });
        self.ledger.cut(intent);
        self.undelivered();
        Ok(())
    }
}
