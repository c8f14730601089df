//! Keeps our leases alive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;

use crate::ids::ShardId;
use crate::worker::context::WorkerContext;
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
/// of the lease, so that a progress write saves a heartbeat. A failed beat is repeated soon.
pub async fn heartbeat(shared: Arc<WorkerContext>, registry: Registry) {
    let period = shared.config.lease.failover / 3;
    loop {
        let begun = shared.clock.now();
        futures::stream::iter(registry.all())
            .for_each_concurrent(PARALLEL, |lease| async move {
                if !lease.expire() && lease.is_due(period) {
                    lease.renew().await;
                }
            })
            .await;
        let pause = shared.jitter.spread(period / LOOKS, 0.1);
        shared.clock.sleep_until(begun + pause).await;
    }
}
