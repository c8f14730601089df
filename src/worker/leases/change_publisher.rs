//! Publishes changes of leases to the fleet, once for a batch of them.

use std::sync::Arc;
use std::time::Duration;

use crate::worker::context::WorkerContext;

/// Attempts to tell, before `lease.full_scan` has to do.
const ATTEMPTS: u32 = 3;

/// Tells, until dropped: what is marked within a moment is told together.
pub async fn run(shared: Arc<WorkerContext>) {
    let moment: Duration = shared.config.lease.scan / 4;
    loop {
        shared.changes.marked().await;
        for _ in 0..ATTEMPTS {
            shared.clock.sleep(shared.jitter.spread(moment, 0.5)).await;
            if shared.changes.publish(&shared.table, &shared.metrics).await {
                break;
            }
        }
    }
}
