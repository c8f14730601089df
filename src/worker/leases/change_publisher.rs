//! Publishes changes of leases to the fleet, once for a batch of them.

use std::time::Duration;

use crate::worker::leases::context::LeaseDeps;

/// Attempts to publish, before `lease.full_scan` has to do.
const ATTEMPTS: u32 = 3;

/// Runs until dropped: what is raised within a moment is published together.
pub async fn run(deps: LeaseDeps) {
    let LeaseDeps { ctx, changes, table, .. } = deps;
    let moment: Duration = deps.pace.look / 4;
    loop {
        changes.marked().await;
        for _ in 0..ATTEMPTS {
            ctx.clock.sleep(ctx.jitter.spread(moment, 0.5)).await;
            if changes.publish(&table, &ctx.metrics).await {
                break;
            }
        }
    }
}
