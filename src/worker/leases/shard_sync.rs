//! Compares the shards of the stream with the leases: creates what is missing, removes what is over.

use std::collections::BTreeSet;

use futures::future::join_all;

use crate::fault::CallError;
use crate::ids::ShardId;
use crate::lease::graph;
use crate::lease::open_ends::{OpenEnds, open_ends};
use crate::lease::row::NewLease;
use crate::metrics::table as metric;
use crate::stream::{ShardInfo, StreamInfo};
use crate::worker::leases::context::{PARALLEL, SyncDeps};
use crate::worker::leases::scanner::LeaseScanner;

/// What came of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synced {
    /// There was nothing to do.
    Same,
    /// The table is another now.
    Changed,
    /// Somebody else is at it: it should be looked at again soon.
    Again,
}

/// The stream and its shards as the control plane tells them; no shards in a replay, whose leases
/// are fixed when it is planned.
pub type Seen = Result<(StreamInfo, Option<Vec<ShardInfo>>), CallError>;

/// Describes the stream and lists its shards.
pub async fn ask(deps: SyncDeps) -> Seen {
    let stream = deps.describe().await?;
    if deps.replay.is_some() || stream.identity() != deps.stream.identity() {
        return Ok((stream, None));
    }
    let shards = deps.list_shards().await?;
    Ok((stream, Some(shards)))
}

/// Creates the leases that are missing and removes those that are over. The shards were listed
/// before: a lease that disappears in between belongs to a shard that is gone.
///
/// # Errors
/// [`CallError`]
pub async fn sync(
    deps: &SyncDeps,
    scanner: &mut LeaseScanner,
    ends: &mut OpenEnds,
    shards: &[ShardInfo],
) -> Result<Synced, CallError> {
    let start = deps.start;
    if let Some(known) = scanner.known() {
        look_at_ends(deps, ends, &open_ends(shards, known));
    }
    // The table as last read tells whether there is anything to do; what, only a fresh one.
    if let Some(known) = scanner.known()
        && graph::missing(shards, known, start).is_empty()
        && graph::deletable(shards, known).is_empty()
        && graph::unranged(shards, known).is_empty()
    {
        return Ok(Synced::Same);
    }
    let leases = scanner.scan(true).await?;
    let missing = graph::missing(shards, &leases, start);
    let again = create(deps, missing).await?;
    for some in graph::unranged(shards, &leases).chunks(PARALLEL) {
        let writes = some.iter().map(|(shard, range)| deps.table.update(shard, range.clone()));
        for written in join_all(writes).await {
            written?;
        }
    }
    for shard in graph::deletable(shards, &leases) {
        if deps.table.delete_finished(&shard).await? {
            tracing::info!(%shard, "lease of an expired shard deleted");
        }
    }
    Ok(if again { Synced::Again } else { Synced::Changed })
}

/// Tells of shards that are finished by the table and open in the stream.
fn look_at_ends(deps: &SyncDeps, ends: &mut OpenEnds, found: &BTreeSet<&ShardId>) {
    for shard in ends.compared(found) {
        tracing::error!(%shard, "the lease table says that this shard was read to its end, the \
            stream says that it is open: nobody reads it. Set it back: catchment leases rewind \
            --shard {shard} --from-trim-horizon, or from the last record delivered");
    }
    deps.ctx.metrics.set(metric::LEASES_OPEN_ENDS, &[], ends.certain().len());
    deps.ctx.status.update(|b| b.open_ends.clone_from(ends.certain()));
}

/// Creates leases, parents before children, as parallel as that allows; stops and says so where
/// a peer is found to be creating the same ones.
async fn create(deps: &SyncDeps, missing: Vec<NewLease>) -> Result<bool, CallError> {
    let identity = deps.stream.identity();
    let mut rest = missing.as_slice();
    let mut created = 0_usize;
    let mut peer = false;
    while !rest.is_empty() && !peer {
        let mut ids = BTreeSet::new();
        let generation = rest
            .iter()
            .take_while(|lease| {
                let free = !lease.parents.iter().any(|p| ids.contains(p));
                ids.insert(lease.shard.clone());
                free
            })
            .count()
            .max(1);
        let (now, later) = rest.split_at(generation);
        for some in now.chunks(PARALLEL) {
            let wall = deps.ctx.clock.wall();
            let writes = some.iter().map(|l| deps.table.create(l.item(&identity, wall)));
            let mut new = 0;
            for written in join_all(writes).await {
                new += usize::from(written?);
            }
            deps.ctx.metrics.add(metric::LEASES_CREATED_TOTAL, &[], new as u64);
            created += new;
            if new > 0 {
                deps.changes.raise();
            } else {
                peer = true;
                break;
            }
        }
        rest = later;
    }
    if created > 0 {
        tracing::info!(created, "leases created for shards found");
    }
    Ok(peer)
}
