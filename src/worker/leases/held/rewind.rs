//! The owner's part of going back in place: see `lease::rewind`.

use crate::aws::dynamodb::Written;
use crate::checkpoint::progress::Pending;
use crate::lease::row::Lease;
use crate::lease::{rewind, write};
use crate::metrics::table as metric;
use crate::mutant::{self, Mutant};

use super::HeldLease;

impl HeldLease {
    /// The row asks to go back.
    pub fn is_rewind_requested(&self) -> bool {
        self.rewind_requested.is_cancelled()
    }

    /// Somebody read the row: is it asked to go back?
    pub(super) fn see_rewind_request(&self, row: &Lease) {
        if let Some(request) = &row.rewind
            && !self.rewind_requested.is_cancelled()
        {
            tracing::info!(shard = %self.shard, to = %request.to, "asked to go back");
            self.rewind_requested.cancel();
        }
    }

    /// Moves the checkpoint back if the row asks for it. Called when everything in hand is committed,
    /// and before the lease is released. If it fails the request stays, for the next owner.
    pub async fn go_back(&self) {
        if !self.is_rewind_requested() || self.lost.is_cancelled() {
            return;
        }
        let mut row = self.row.lock().await;
        let found = match self.table.get(&self.shard).await {
            Ok(item) => self.parse(item),
            Err(error) => {
                self.note(&error, "reading the row failed; going back is left to the next owner");
                return;
            }
        };
        let Some(found) = found else { return };
        let Some(request) = found.rewind.clone() else { return };
        let announced = matches!(found.progress.pending, Pending::Ours { .. });
        if announced && !mutant::is(Mutant::BackAtOnce)
            || write::classify_renewal(Some(&found), &self.me) == write::Verdict::Lost
        {
            return;
        }
        let update = rewind::go_back(&found.progress, &request, Some(&self.me));
        match self.table.update(&self.shard, update).await {
            Ok(Written::Done(item)) => {
                tracing::warn!(shard = %self.shard, from = %found.progress.checkpoint,
                    to = %request.to, "gone back; records from there on are delivered again");
                self.metrics.add(metric::REWINDS_TOTAL, &[], 1);
                if let Some(new) = self.parse(Some(item)) {
                    *row = new;
                }
            }
            Ok(Written::Refused(_)) => {
                tracing::warn!(shard = %self.shard, "the row moved before it could go back");
            }
            Err(error) => self.note(&error, "going back failed; the next owner tries again"),
        }
    }
}
