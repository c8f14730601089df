//! What the row announces when a shard is taken: finished before anything else is read.

use super::{Pipeline, Stop};
use crate::checkpoint::ledger::Ledger;
use crate::checkpoint::progress::{Pending, Progress};
use crate::metrics::table as metric;
use crate::mutant::{self, Mutant};
use crate::stream::position::Checkpoint;
use crate::worker::shard::recovery::{Recovered, recover};
use crate::worker::shard::uploader::upload;

impl Pipeline {
    /// Finishes the intents found in the row, oldest first. Nothing else happens before.
    pub(super) async fn recover(&mut self) -> Result<(), Stop> {
        let row = self.lease.row().await;
        while let Some(intent) = self.ledger.progress().pending.intents().first().cloned() {
            let after = self.ledger.progress().checkpoint.clone();
            if mutant::is(Mutant::IgnorePending) {
                let none = Progress { checkpoint: after, pending: Pending::None };
                self.lease.progress(self.ledger.progress(), &none).await?;
                self.ledger = Ledger::new(none, self.deps.inflight_batches);
                break;
            }
            let configured = &self.deps.recipe.settings.bucket;
            if intent.settings.bucket != *configured {
                // Instructions of a table to write elsewhere are not obeyed.
                return Err(Stop::OtherBucket {
                    announced: intent.settings.bucket.clone(),
                    configured: configured.clone(),
                });
            }
            tracing::info!(shard = %self.lease.shard, first = %intent.first, last = %intent.last,
                "finishing an announced batch");
            if after == Checkpoint::ShardEnd {
                break;
            }
            let lost = self.lease.lost.clone();
            let Recovered { objects, permit, gap } = tokio::select! {
                biased;
                () = lost.cancelled() => return Err(Stop::Lost),
                recovered =
                    recover(&self.deps, &row, &after, &intent) =>
                    recovered?,
            };
            if let Some(gap) = gap {
                self.gap(&gap)?;
            }
            let turns = self.files.enter(&objects);
            upload(&self.deps.upload, &self.lease, objects, turns, permit).await?;
            self.ledger.durable(&intent.last);
            if let Some(change) = self.ledger.next() {
                self.lease.progress(&change.from, &change.to).await?;
                self.written(change);
            }
            self.deps.ctx.metrics.add(metric::INTENTS_RECOVERED_TOTAL, &[], 1);
        }
        Ok(())
    }
}
