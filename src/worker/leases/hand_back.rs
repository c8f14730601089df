//! Leases that are on their way to a worker that stops.

use std::collections::BTreeSet;

use futures::future::join_all;

use crate::aws::dynamodb::Written;
use crate::ids::ShardId;
use crate::lease::row::Lease;
use crate::lease::write;
use crate::metrics::table as metric;
use crate::worker::leases::context::LeaseDeps;

/// Gives back what bears our name in the table and is not among the leases `held`: handed over to
/// us and not started yet, or asked for and not handed over yet. Nobody else would touch those
/// before they expire. Best effort.
pub async fn give_back(deps: &LeaseDeps, held: BTreeSet<ShardId>) {
    let items = match deps.table.scan(true).await {
        Ok(items) => items,
        Err(error) => {
            tracing::warn!(%error, "leases on their way to this worker will have to expire");
            return;
        }
    };
    let me = &deps.me;
    let coming = items.iter().filter_map(|item| Lease::parse(item).ok().flatten());
    let coming = coming.filter(|l| l.owner.as_ref() == Some(me) && !held.contains(&l.shard));
    let writes = coming.map(|lease| async move {
        let update = match &lease.checkpoint_owner {
            Some(owner) => write::withdraw(me, owner),
            None => write::release(me),
        };
        let mut written = deps.table.update(&lease.shard, update).await;
        if let (Ok(Written::Refused(_)), Some(_)) = (&written, &lease.checkpoint_owner) {
            // It was handed over in this moment.
            written = deps.table.update(&lease.shard, write::release(me)).await;
        }
        match written {
            Ok(Written::Done(_)) => {
                deps.ctx.metrics.add(metric::LEASES_RELEASED_TOTAL, &[], 1);
                deps.changes.raise();
            }
            Ok(Written::Refused(_)) => {}
            Err(error) => {
                tracing::warn!(shard = %lease.shard, %error, "a lease will have to expire")
            }
        }
    });
    join_all(writes).await;
}
