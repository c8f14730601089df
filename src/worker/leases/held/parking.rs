//! The owner's part of stopping at a gap: see `lease::parking`.

use crate::aws::dynamodb::Written;
use crate::delivery::gap::Gap;
use crate::lease::parking;
use crate::metrics::table as metric;

use super::HeldLease;

impl HeldLease {
    /// Gives the lease back, parked. Best effort: if it fails the lease expires, and the next owner
    /// meets the same gap.
    pub async fn park(&self, gap: &Gap) {
        let _place = self.place().await;
        let row = self.row.lock().await;
        if self.lost.is_cancelled() {
            return;
        }
        let update = parking::park(&row, &self.me, gap, self.clock.wall());
        match self.table.update(&self.shard, update).await {
            Ok(Written::Done(_)) => {
                self.metrics.add(metric::LEASES_RELEASED_TOTAL, &[], 1);
                self.changes.raise();
            }
            Ok(Written::Refused(_)) => {}
            Err(error) => self.note(&error, "parking a lease failed; it will expire"),
        }
        self.lost.cancel();
    }
}
