//! ▶ Keeps our leases alive and looks for more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;

use crate::aws::dynamodb::Written;
use crate::fault::CallError;
use crate::ids::ShardId;
use crate::lease::assign::{self, Round};
use crate::lease::expiry::Watch;
use crate::lease::graph;
use crate::lease::owned::Owned;
use crate::lease::row::{Item, Lease, NewLease};
use crate::lease::write;
use crate::worker::shared::Shared;

/// Heartbeats and takes in flight at once.
const PARALLEL: usize = 32;
/// A shard that failed here is left to others for this long.
const COOL_DOWN: Duration = Duration::from_secs(5);

/// The leases we hold, shared between the supervisor and the heartbeat.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<BTreeMap<ShardId, Arc<Owned>>>>);

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Arc<Owned>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a lease.
    pub fn insert(&self, lease: &Arc<Owned>) {
        self.lock().insert(lease.shard.clone(), Arc::clone(lease));
    }

    /// Forgets a lease.
    pub fn remove(&self, shard: &ShardId) {
        self.lock().remove(shard);
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Owned>> {
        self.lock().values().cloned().collect()
    }
}

/// Beats for every lease, until dropped: three times per failover time, so that two lost beats do
/// not lose a lease.
pub async fn heartbeat(shared: Arc<Shared>, registry: Registry) {
    let period = shared.config.lease.failover / 3;
    loop {
        let begun = shared.clock.now();
        futures::stream::iter(registry.all())
            .for_each_concurrent(PARALLEL, |lease| async move {
                // A progress write was a heartbeat too.
                if !lease.expire() && lease.silence() > period / 2 {
                    lease.renew().await;
                }
            })
            .await;
        shared.clock.sleep_until(begun + shared.jitter.spread(period, 0.1)).await;
    }
}

/// Looks at the table and takes what is ours to take.
pub struct Keeper {
    shared: Arc<Shared>,
    registry: Registry,
    watch: Watch,
    cooling: BTreeMap<ShardId, Duration>,
    unreadable: BTreeSet<String>,
}

impl Keeper {
    /// Nothing seen yet.
    pub fn new(shared: Arc<Shared>, registry: Registry) -> Self {
        let watch = Watch::new(shared.config.lease.failover);
        Self { shared, registry, watch, cooling: BTreeMap::new(), unreadable: BTreeSet::new() }
    }

    /// A shard failed here: let others try first.
    pub fn cool(&mut self, shard: &ShardId) {
        self.cooling.insert(shard.clone(), self.shared.clock.now() + COOL_DOWN);
    }

    /// The readable leases of the table. What cannot be read is told once, counted, and left alone.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn leases(&mut self) -> Result<Vec<Lease>, CallError> {
        let items = self.shared.table.scan().await?;
        let mut unreadable = BTreeSet::new();
        let mut leases = Vec::with_capacity(items.len());
        for item in &items {
            match Lease::parse(item) {
                Ok(lease) => leases.extend(lease),
                Err(error) => {
                    unreadable.insert(error.to_string());
                }
            }
        }
        for error in unreadable.difference(&self.unreadable) {
            tracing::error!(%error, "an item of the lease table cannot be read; it is left alone");
        }
        let count = i64::try_from(unreadable.len()).unwrap_or(i64::MAX);
        self.shared.metrics.set("catchment_leases_unreadable", &[], count);
        self.unreadable = unreadable;
        Ok(leases)
    }

    /// One round: read the table, decide, take. Returns the leases won.
    ///
    /// # Errors
    /// [`CallError`] when the table cannot be read.
    pub async fn round(&mut self) -> Result<Vec<Arc<Owned>>, CallError> {
        let mut leases = self.leases().await?;
        let now = self.shared.clock.now();
        self.watch.observe(now, &leases);
        self.cooling.retain(|_, until| *until > now);
        // Each worker looks in its own order, or all would race for the same leases.
        self.shared.jitter.shuffle(&mut leases);
        let held: BTreeSet<ShardId> = self.registry.all().iter().map(|o| o.shard.clone()).collect();
        let Round { take, ask, ours, workers, active, .. } = assign::decide(
            &leases,
            &self.watch,
            &self.shared.me,
            self.shared.config.lease.max,
            now,
        );
        self.show(workers, active, leases.len() - active);
        let rows: BTreeMap<&ShardId, &Lease> = leases.iter().map(|l| (&l.shard, l)).collect();
        for owned in self.registry.all() {
            if let Some(row) = rows.get(&owned.shard) {
                owned.wanted(row);
            }
        }
        let row = |shard: &ShardId| rows.get(shard).copied();
        let free = |l: &&Lease| !held.contains(&l.shard) && !self.cooling.contains_key(&l.shard);
        let wanted = take.iter().filter_map(row).filter(free);
        // At most TAKE_PER_ROUND of them.
        let mut won = join_all(wanted.map(|lease| self.take(lease))).await;
        let arrived = ours.iter().filter_map(row).filter(free);
        won.extend(join_all(arrived.map(|lease| self.adopt(lease))).await);
        join_all(ask.iter().filter_map(row).map(|lease| self.ask(lease))).await;
        Ok(won.into_iter().flatten().collect())
    }

    /// Asks the owner of a lease to hand it over.
    async fn ask(&self, lease: &Lease) {
        let Some(update) = write::request_handoff(lease, &self.shared.me) else { return };
        match self.shared.table.update(&lease.shard, update).await {
            Ok(Written::Done(_)) => {
                self.shared.metrics.add("catchment_lease_handoffs_total", &["asked"], 1);
                tracing::info!(shard = %lease.shard, from = ?lease.owner, "asked for a lease");
            }
            // Somebody else asked first, or it moved on.
            Ok(Written::Refused(_)) => {}
            Err(error) => {
                tracing::warn!(shard = %lease.shard, %error, "asking for a lease failed");
            }
        }
    }

    /// Starts a lease that was handed over to us; the first heartbeat makes sure it still is.
    async fn adopt(&self, lease: &Lease) -> Option<Arc<Owned>> {
        let asked = self.shared.clock.now();
        let update = write::renew(lease, &self.shared.me, None);
        let item = match self.shared.table.update(&lease.shard, update).await {
            Ok(Written::Done(item)) => item,
            Ok(Written::Refused(_)) => return None,
            Err(error) => {
                tracing::warn!(shard = %lease.shard, %error, "starting a lease handed over failed");
                return None;
            }
        };
        self.shared.metrics.add("catchment_lease_handoffs_total", &["received"], 1);
        self.own(&item, asked)
    }

    /// A row that names us becomes a lease we work on.
    fn own(&self, item: &Item, asked: Duration) -> Option<Arc<Owned>> {
        let row = Lease::parse(item).ok().flatten()?;
        if row.owner.as_ref() != Some(&self.shared.me) || row.checkpoint_owner.is_some() {
            return None;
        }
        let owned = Arc::new(Owned::new(self.shared.lease_means(), row, asked));
        self.registry.insert(&owned);
        Some(owned)
    }

    async fn take(&self, lease: &Lease) -> Option<Arc<Owned>> {
        let asked = self.shared.clock.now();
        let update = write::take(lease, &self.shared.me, &self.shared.stream.identity());
        let item = match self.shared.table.update(&lease.shard, update).await {
            // Also after a refusal the row decides: an earlier attempt of ours may have won.
            Ok(Written::Done(item) | Written::Refused(Some(item))) => item,
            Ok(Written::Refused(None)) => return None,
            Err(error) => {
                tracing::warn!(shard = %lease.shard, %error, "taking a lease failed");
                return None;
            }
        };
        let owned = self.own(&item, asked)?;
        self.shared.metrics.add("catchment_leases_taken_total", &[], 1);
        Some(owned)
    }

    fn show(&self, workers: usize, active: usize, finished: usize) {
        let metrics = &self.shared.metrics;
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        metrics.set("catchment_workers", &[], gauge(workers));
        metrics.set("catchment_leases", &["active"], gauge(active));
        metrics.set("catchment_leases", &["finished"], gauge(finished));
        self.shared.board.update(|b| {
            b.ready = true;
            b.workers = workers;
            b.active_leases = active;
        });
    }

    /// Creates the leases that are missing and removes those that are over.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn sync(&mut self) -> Result<(), CallError> {
        // Shards first: a lease that disappears in between belongs to a shard that is gone.
        let shards = self.shared.kinesis.list_shards(&self.shared.stream.arn).await?;
        let leases = self.leases().await?;
        let missing = graph::missing(&shards, &leases, self.shared.config.stream.start);
        self.create(missing).await?;
        for some in graph::unranged(&shards, &leases).chunks(PARALLEL) {
            let writes =
                some.iter().map(|(shard, range)| self.shared.table.update(shard, range.clone()));
            for written in join_all(writes).await {
                written?;
            }
        }
        for shard in graph::deletable(&shards, &leases) {
            if self.shared.table.delete_finished(&shard).await? {
                tracing::info!(%shard, "lease of an expired shard deleted");
            }
        }
        Ok(())
    }

    /// Creates leases, parents before children, as parallel as that allows.
    async fn create(&self, missing: Vec<NewLease>) -> Result<(), CallError> {
        let identity = self.shared.stream.identity();
        let mut rest = missing.as_slice();
        while !rest.is_empty() {
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
                for created in join_all(writes).await {
                    if created? {
                        self.shared.metrics.add("catchment_leases_created_total", &[], 1);
                    }
                }
            }
            rest = later;
        }
        if !missing.is_empty() {
            tracing::info!(count = missing.len(), "leases created for shards found");
        }
        Ok(())
    }
}
