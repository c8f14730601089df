//! Compares the shards of the stream with the leases: creates what is missing, removes what is over.

use std::collections::BTreeSet;

use futures::future::join_all;

use crate::fault::CallError;
use crate::lease::graph;
use crate::lease::row::NewLease;
use crate::metrics::table as metric;
use crate::stream::ShardInfo;
use crate::worker::leases::taker::{LeaseTaker, PARALLEL};

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

impl LeaseTaker {
    /// Creates the leases that are missing and removes those that are over. The shards were listed
    /// before: a lease that disappears in between belongs to a shard that is gone.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn sync(&mut self, shards: &[ShardInfo]) -> Result<Synced, CallError> {
        let start = self.shared.config.stream.start;
        // The table as last read tells whether there is anything to do; what, only a fresh one.
        if let Some(known) = &self.known
            && graph::missing(shards, known, start).is_empty()
            && graph::deletable(shards, known).is_empty()
            && graph::unranged(shards, known).is_empty()
        {
            return Ok(Synced::Same);
        }
        let leases = self.leases(true).await?;
        let missing = graph::missing(shards, &leases, start);
        let again = self.create(missing).await?;
        for some in graph::unranged(shards, &leases).chunks(PARALLEL) {
            let writes =
                some.iter().map(|(shard, range)| self.shared.table.update(shard, range.clone()));
            for written in join_all(writes).await {
                written?;
            }
        }
        for shard in graph::deletable(shards, &leases) {
            if self.shared.table.delete_finished(&shard).await? {
                tracing::info!(%shard, "lease of an expired shard deleted");
            }
        }
        self.hurry();
        Ok(if again { Synced::Again } else { Synced::Changed })
    }

    /// Creates leases, parents before children, as parallel as that allows; stops and says so where
    /// a peer is found to be creating the same ones.
    async fn create(&self, missing: Vec<NewLease>) -> Result<bool, CallError> {
        let identity = self.shared.stream.identity();
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
                let wall = self.shared.clock.wall();
                let writes = some.iter().map(|l| self.shared.table.create(l.item(&identity, wall)));
                let mut new = 0;
                for written in join_all(writes).await {
                    new += usize::from(written?);
                }
                self.shared.metrics.add(metric::LEASES_CREATED_TOTAL, &[], new as u64);
                created += new;
                if new > 0 {
                    self.shared.changes.raise();
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
}
