//! The end of a shard: read to its end, read to a replay's bound, or gone from the stream.

use super::{Pipeline, Stop};
use crate::delivery::batch::FlushReason;
use crate::delivery::dead_letter::gap_report;
use crate::delivery::gap::Gap;
use crate::delivery::recipe::Recipe;
use crate::fault::{CallError, Fault};
use crate::ids::ShardId;
use crate::lease::graph;
use crate::lease::row::{Lease, NewLease};
use crate::metrics::table as metric;
use crate::stream::ShardInfo;
use crate::worker::leases::context::SyncDeps;
use crate::worker::shard::uploader::upload;

impl Pipeline {
    /// The range of a replay is read to its end: the lease is finished, whatever the shard has left.
    pub(super) async fn over(&mut self) -> Result<(), Stop> {
        self.reader = None;
        self.cut(FlushReason::ShardEnd).await?;
        tracing::info!(shard = %self.lease.shard, "range read to its end");
        self.ending = true;
        self.ledger.end();
        Ok(())
    }

    /// The shard is read to its end: its children get their leases before it gets SHARD_END.
    pub(super) async fn shard_end(&mut self, named: Vec<ShardInfo>) -> Result<(), Stop> {
        self.reader = None;
        self.cut(FlushReason::ShardEnd).await?;
        let id = &self.lease.shard;
        let mut children = named;
        if children.is_empty() {
            let shards = self.deps.sync.list_shards().await?;
            children = shards.into_iter().filter(|s| s.parents.contains(id)).collect();
        }
        let (identity, now) = (self.deps.sync.stream.identity(), self.deps.ctx.clock.wall());
        let leases = match &self.deps.sync.replay {
            Some(replay) => replay.children(&children),
            None => {
                let first = unleased_parents(&self.deps.sync, id, &children).await?;
                [first, graph::children(&children)].concat()
            }
        };
        for lease in leases {
            let item = match &self.deps.sync.replay {
                Some(replay) => replay.item(&lease, &identity, now),
                None => lease.item(&identity, now),
            };
            if self.deps.sync.table.create(item).await? {
                self.deps.ctx.metrics.add(metric::LEASES_CREATED_TOTAL, &[], 1);
                tracing::info!(parent = %id, child = %lease.shard, "lease of a child created");
            }
        }
        let ids: Vec<_> = children.iter().map(|c| c.id.clone()).collect();
        self.lease.name_children(&ids).await;
        tracing::info!(shard = %id, children = ?ids, "shard read to its end");
        self.ending = true;
        self.ledger.end();
        Ok(())
    }

    /// The shard is not there. If the stream still is, it left retention as a whole.
    pub(super) async fn gone(&mut self, error: CallError) -> Result<(), Stop> {
        let same = match self.deps.sync.describe().await {
            Ok(stream) => stream.identity() == self.deps.sync.stream.identity(),
            Err(gone) if gone.fault == Fault::NotFound => false,
            Err(other) => return Err(other.into()),
        };
        if !same {
            // Nobody can read these records again.
            self.vanished = Some(error);
            return self.drain().await;
        }
        let shards = self.deps.sync.list_shards().await?;
        if shards.iter().any(|s| s.id == self.lease.shard) {
            return Err(error.into());
        }
        self.cut(FlushReason::ShardEnd).await?;
        self.suspect = true;
        if self.lost_tail().await? {
            return Ok(());
        }
        let children: Vec<_> =
            shards.into_iter().filter(|s| s.parents.contains(&self.lease.shard)).collect();
        self.shard_end(children).await
    }

    /// The end was reached, and neither the checkpointed record nor any to deliver after it was
    /// there: what stood between may have left retention, and no batch will tell of it. True if the
    /// shard stops there instead.
    pub(super) async fn lost_tail(&mut self) -> Result<bool, Stop> {
        if !self.suspect {
            return Ok(false);
        }
        self.cut(FlushReason::ShardEnd).await?;
        let reached = self.ledger.reached();
        let gap = Gap::to_end(&reached).of(self.certainty);
        let stamp = self.deps.sync.stream.created_ms;
        if self.stops_at(&gap).await? {
            return Ok(true);
        }
        let Recipe { settings, errors, .. } = &*self.deps.recipe;
        let report = gap_report(settings, errors, &self.lease.shard, &gap.name(), stamp, &gap);
        let permit = self.deps.budget.force_acquire(report.memory());
        upload(&self.deps.upload, &self.lease, vec![report], Vec::new(), permit).await?;
        self.suspect = false;
        Ok(false)
    }
}

/// The leases that merged children wait for, if nobody has created them yet: a parent without a
/// lease passes for one that is over, and its records would come after those of the child.
async fn unleased_parents(
    sync: &SyncDeps,
    ended: &ShardId,
    children: &[ShardInfo],
) -> Result<Vec<NewLease>, CallError> {
    let others = children.iter().flat_map(|c| &c.parents).filter(|p| *p != ended);
    let mut unleased = false;
    for parent in others {
        unleased |= sync.table.get(parent).await?.is_none();
    }
    if !unleased {
        return Ok(Vec::new());
    }
    let shards = sync.list_shards().await?;
    let items = sync.table.scan(true).await?;
    let leases: Vec<Lease> =
        items.iter().filter_map(|item| Lease::parse(item).ok().flatten()).collect();
    let missing = graph::missing(&shards, &leases, sync.start);
    Ok(missing.into_iter().filter(|l| children.iter().all(|c| c.id != l.shard)).collect())
}
