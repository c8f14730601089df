//! Keeps our leases alive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::ids::ShardId;
use crate::worker::context::TaskContext;
use crate::worker::leases::held::HeldLease;

/// Heartbeats in flight at once.
const PARALLEL: usize = 32;
/// Looks per heartbeat period: a lease is renewed when it is due, not when a clock ticks.
const LOOKS: u32 = 8;

/// The leases we hold, shared between the supervisor and the heartbeat.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<BTreeMap<ShardId, Arc<HeldLease>>>>);

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Arc<HeldLease>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a lease.
    pub fn insert(&self, lease: &Arc<HeldLease>) {
        self.lock().insert(lease.shard.clone(), Arc::clone(lease));
    }

    /// Forgets a lease.
    pub fn remove(&self, shard: &ShardId) {
        self.lock().remove(shard);
    }

    /// Do we hold it?
    pub fn holds(&self, shard: &ShardId) -> bool {
        self.lock().contains_key(shard)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<HeldLease>> {
        self.lock().values().cloned().collect()
    }
}

/// Beats for every lease, until dropped: three times per failover time, counted from the last write
/// of the lease, so that a progress write saves a heartbeat. A failed beat is repeated soon. No beat
/// waits for another, but for one of `PARALLEL` places: a write that hangs is one lease's trouble.
pub async fn heartbeat(ctx: TaskContext, failover: Duration, registry: Registry) {
    let TaskContext { clock, jitter, .. } = ctx;
    let period = failover / 3;
    let mut beating = FuturesUnordered::new();
    let mut busy = BTreeSet::new();
    loop {
        let pause = jitter.spread(period / LOOKS, 0.1);
        let again = clock.now() + pause;
        let mut due: Vec<_> =
            registry.all().into_iter().filter(|l| !l.expire() && l.is_due(period)).collect();
        // Popped from the end: those longest without a beat go first.
        due.sort_by_key(|lease| lease.silence());
        loop {
            while beating.len() < PARALLEL
                && let Some(lease) = due.pop()
            {
                // A progress write may have done its work since.
                if lease.is_due(period) && busy.insert(lease.shard.clone()) {
                    beating.push(async move {
                        lease.renew().await;
                        lease.shard.clone()
                    });
                }
            }
            tokio::select! {
                biased;
                Some(shard) = beating.next(), if !beating.is_empty() => {
                    busy.remove(&shard);
                }
                () = clock.sleep_until(again) => break,
            }
        }
    }
}
