//! What a shard's work tells: metrics and status.

use crate::checkpoint::ledger::Change;
use crate::metrics::table as metric;
use crate::worker::shard::Pipeline;

impl Pipeline {
    /// A progress write is in the row: count what it committed, upload what it announced.
    pub(super) fn written(&mut self, change: Change) {
        let committed = &change.from.pending.intents()[..change.commits];
        let (records, bytes) =
            committed.iter().fold((0, 0), |(r, b), intent| (r + intent.records, b + intent.bytes));
        let label = self.deps.ctx.metrics.shard(&self.lease.shard);
        self.deps.ctx.metrics.add(metric::RECORDS_DELIVERED_TOTAL, &[label], records);
        self.deps.ctx.metrics.add(metric::BYTES_DELIVERED_TOTAL, &[label], bytes);
        if let Some(last) = committed.last() {
            while self.oldest.front().is_some_and(|(p, _)| *p <= last.last) {
                self.oldest.pop_front();
            }
        }
        let checkpoint = change.to.checkpoint.to_string();
        self.deps.ctx.status.update(|b| {
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

    pub(super) fn state(&self, state: &'static str) {
        self.deps.ctx.status.shard(&self.lease.shard, |s| s.state = state);
    }

    pub(super) fn moved(&self) {
        let now = self.deps.ctx.clock.now();
        self.deps.ctx.status.shard(&self.lease.shard, |s| s.moved_at = now);
    }

    pub(super) fn undelivered(&self) {
        let undelivered = self.ledger.undelivered();
        let oldest_at = self.oldest.front().map(|(_, at)| *at);
        self.deps.ctx.status.shard(&self.lease.shard, |s| {
            (s.undelivered, s.oldest_at) = (undelivered, oldest_at);
        });
    }
}
