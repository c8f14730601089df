//! Looks at the table and takes what is ours to take.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::aws::dynamodb::Written;
use crate::fault::CallError;
use crate::ids::ShardId;
use crate::lease::assign::{self, Bounds, Round};
use crate::lease::change_marker::{self, ChangeMarker};
use crate::lease::expiry::{HANDOFF, Watch};
use crate::lease::parked::Parked;
use crate::lease::parking;
use crate::lease::row::{Item, Lease};
use crate::lease::scan_schedule::{ScanSchedule, ScanScope};
use crate::lease::write::{self, Notes};
use crate::metrics::table as metric;
use crate::mutant::{self, Mutant};
use crate::stream::position::pin;
use crate::worker::fleet::Fleet;
use crate::worker::leases::context::{LeaseDeps, PARALLEL};
use crate::worker::leases::heartbeat::Registry;
use crate::worker::leases::held::HeldLease;
use crate::worker::leases::scanner::LeaseScanner;
use crate::worker::status::PARKED;

/// A shard that failed here is left to others for this long.
const COOL_DOWN: Duration = Duration::from_secs(5);

/// Reads the table, decides with [`assign::decide`], and takes or asks for leases.
pub struct LeaseTaker {
    deps: LeaseDeps,
    registry: Registry,
    scanner: LeaseScanner,
    watch: Watch,
    schedule: ScanSchedule,
    cooling: BTreeMap<ShardId, Duration>,
    /// Leases asked for, and since when: their rows are read until they are ours.
    coming: BTreeMap<ShardId, Duration>,
    /// Rounds in which there was something to take.
    rounds: u32,
    /// Leases that wait at a gap, where nothing else is left in the table.
    stuck: BTreeMap<ShardId, Parked>,
}

impl LeaseTaker {
    /// Nothing seen yet.
    pub fn new(deps: LeaseDeps, registry: Registry) -> Self {
        Self {
            scanner: LeaseScanner::new(deps.table.clone(), Arc::clone(&deps.ctx.metrics)),
            watch: Watch::new(deps.pace.failover),
            schedule: ScanSchedule::new(deps.pace),
            deps,
            registry,
            cooling: BTreeMap::new(),
            coming: BTreeMap::new(),
            rounds: 0,
            stuck: BTreeMap::new(),
        }
    }

    /// What reads the table, for shard sync.
    pub fn scanner(&mut self) -> &mut LeaseScanner {
        &mut self.scanner
    }

    /// The leases that wait at a gap, if by the last reading of the table no other has work left.
    pub fn stuck(&self) -> Option<&BTreeMap<ShardId, Parked>> {
        Some(&self.stuck).filter(|stuck| !stuck.is_empty())
    }

    /// A shard failed here: let others try first.
    pub fn cool(&mut self, shard: &ShardId) {
        let until = self.deps.ctx.clock.now() + COOL_DOWN;
        self.cooling.insert(shard.clone(), until);
        self.schedule.wish(until);
    }

    /// Something changed that may be for us: look at the whole table next time.
    pub fn hurry(&mut self) {
        self.schedule.wish(self.deps.ctx.clock.now());
    }

    /// One look: at the rows we wait for, and at the change marker or the whole table, whichever is due.
    /// Leases that became ours are added to `won`.
    ///
    /// # Errors
    /// [`CallError`] when the table cannot be read.
    pub async fn look(&mut self, won: &mut Vec<Arc<HeldLease>>) -> Result<(), CallError> {
        self.arrivals(won).await?;
        let sweeper = self.schedule.marker().is_some_and(|marker| self.registry.holds(marker));
        let everywhere = match self.schedule.next(self.deps.ctx.clock.now(), sweeper) {
            ScanScope::Everywhere => true,
            ScanScope::Rest => false,
            ScanScope::At(shard) => {
                let item = self.deps.table.peek(&shard).await?;
                let marker = item.as_ref().and_then(ChangeMarker::read);
                let now = self.deps.ctx.clock.now();
                if let Some(marker) = &marker {
                    self.watch.observe_row(now, &marker.lease);
                }
                self.schedule.saw(now, marker.as_ref())
            }
        };
        if everywhere { self.round(won).await } else { Ok(()) }
    }

    /// Leases we asked for: are they handed over?
    async fn arrivals(&mut self, won: &mut Vec<Arc<HeldLease>>) -> Result<(), CallError> {
        let patience = self.deps.pace.failover + HANDOFF;
        for (shard, asked) in self.coming.clone() {
            let row = match self.deps.table.get(&shard).await? {
                Some(item) => Lease::parse(&item).ok().flatten(),
                None => None,
            };
            let now = self.deps.ctx.clock.now();
            let ours = row.filter(|row| row.owner.as_ref() == Some(&self.deps.me));
            if let Some(row) = &ours
                && row.checkpoint_owner.is_some()
                && now.saturating_sub(asked) <= patience
            {
                continue;
            }
            self.coming.remove(&shard);
            // Is there more to ask for?
            self.schedule.wish(now);
            if let Some(row) = ours.filter(|row| row.checkpoint_owner.is_none())
                && !self.registry.holds(&shard)
            {
                won.extend(self.adopt(&row).await);
            }
        }
        Ok(())
    }

    /// Reads the table, decides, takes.
    async fn round(&mut self, won: &mut Vec<Arc<HeldLease>>) -> Result<(), CallError> {
        let begun = self.deps.ctx.clock.now();
        // Rows may be seconds old, each of another age: all that follows is conditional on them.
        let mut leases = self.scanner.scan(false).await?;
        if !self.deps.waits_at_gaps {
            // What others stopped for, this worker passes.
            leases.iter_mut().for_each(|lease| lease.gap = None);
        }
        let now = self.deps.ctx.clock.now();
        self.deps.ctx.metrics.add(metric::LEASE_SCANS_TOTAL, &[], 1);
        self.watch.observe(now, &leases);
        self.cooling.retain(|_, until| *until > now);
        let active = leases.iter().filter(|l| !l.is_finished()).count();
        let bounds = Bounds { hold: self.deps.max, take: assign::ramp(self.rounds, active) };
        let round = assign::decide(&leases, &self.watch, &self.deps.me, bounds, begun);
        let Round { take, ask, ours, coming, free, more, workers, active, waiting } = round;
        let parked = parking::parked(&leases);
        self.show(workers, active, waiting, &parked, &leases);
        self.stuck = if parking::is_stuck(&leases) { parked } else { BTreeMap::new() };
        let rows: BTreeMap<&ShardId, &Lease> = leases.iter().map(|l| (&l.shard, l)).collect();
        let marker = change_marker::place(&leases);
        let rest = self.deps.ctx.jitter.spread(self.deps.pace.rest(workers), 0.2);
        let marker_row = marker.as_ref().and_then(|marker| rows.get(marker)).copied();
        self.schedule.scanned(begun, now, marker_row, rest);
        self.deps.changes.marker_at(marker.as_ref());
        for owned in self.registry.all() {
            if let Some(row) = rows.get(&owned.shard) {
                owned.see_requests(row);
            }
        }
        if !take.is_empty() {
            self.rounds = self.rounds.saturating_add(1);
        }
        for until in take.iter().filter_map(|shard| self.cooling.get(shard)) {
            self.schedule.wish(*until);
        }
        let row = |shard: &ShardId| rows.get(shard).copied();
        let open =
            |l: &&Lease| !self.registry.holds(&l.shard) && !self.cooling.contains_key(&l.shard);
        // At most TAKE_PER_ROUND of them.
        let wanted: Vec<&Lease> = take.iter().filter_map(row).filter(open).collect();
        let taken = join_all(wanted.into_iter().map(|lease| self.take(lease, &rows))).await;
        let missed = taken.iter().any(Option::is_none);
        won.extend(taken.into_iter().flatten());
        let arrived: Vec<&Lease> = ours.iter().filter_map(row).filter(open).collect();
        for some in arrived.chunks(PARALLEL) {
            let adopted = join_all(some.iter().map(|lease| self.adopt(lease))).await;
            won.extend(adopted.into_iter().flatten());
        }
        let asked = join_all(ask.iter().filter_map(row).map(|lease| self.ask(lease))).await;
        for shard in asked.iter().flatten() {
            self.watch.asked(now, shard);
        }
        for shard in asked.into_iter().flatten().chain(coming) {
            self.coming.entry(shard).or_insert(now);
        }
        let sweeper = marker.as_ref().is_some_and(|marker| self.registry.holds(marker));
        if sweeper {
            self.free(free.iter().filter_map(row).filter(open).collect()).await;
        }
        if more || missed {
            self.schedule.wish(now);
        }
        self.scanner.remember(leases);
        Ok(())
    }

    /// The sweeper's duty: leases of the dead are free for all, who need not each watch them expire.
    async fn free(&self, dead: Vec<&Lease>) {
        for some in dead.chunks(PARALLEL) {
            let writes = some.iter().map(|lease| async {
                match self.deps.table.update(&lease.shard, write::free(lease)).await {
                    Ok(Written::Done(_)) => {
                        tracing::info!(shard = %lease.shard, from = ?lease.effective_owner(),
                            "lease of a dead worker freed");
                        self.deps.ctx.metrics.add(metric::LEASES_FREED_TOTAL, &[], 1);
                        self.deps.changes.raise();
                    }
                    // It lives, or somebody was faster.
                    Ok(Written::Refused(_)) => {}
                    Err(error) => {
                        tracing::warn!(shard = %lease.shard, %error, "freeing a lease failed");
                    }
                }
            });
            join_all(writes).await;
        }
    }

    /// Asks the owner of a lease to hand it over; names the lease if it may do so.
    async fn ask(&self, lease: &Lease) -> Option<ShardId> {
        let update = write::request_handoff(lease, &self.deps.me)?;
        match self.deps.table.update(&lease.shard, update).await {
            Ok(Written::Done(_)) => {
                self.deps.ctx.metrics.add(metric::LEASE_HANDOFFS_TOTAL, &["asked"], 1);
                tracing::info!(shard = %lease.shard, from = ?lease.owner, "asked for a lease");
            }
            // Somebody else asked first, or it moved on.
            Ok(Written::Refused(_)) => return None,
            Err(error) => {
                tracing::warn!(shard = %lease.shard, %error, "asking for a lease failed");
            }
        }
        Some(lease.shard.clone())
    }

    /// Starts a lease that was handed over to us; the first heartbeat makes sure it still is.
    async fn adopt(&self, lease: &Lease) -> Option<Arc<HeldLease>> {
        let asked = self.deps.ctx.clock.now();
        let update = write::renew(lease, &self.deps.me, &Notes::default());
        let item = match self.deps.table.update(&lease.shard, update).await {
            Ok(Written::Done(item)) => item,
            Ok(Written::Refused(_)) => return None,
            Err(error) => {
                tracing::warn!(shard = %lease.shard, %error, "starting a lease handed over failed");
                return None;
            }
        };
        self.deps.ctx.metrics.add(metric::LEASE_HANDOFFS_TOTAL, &["received"], 1);
        self.own(&item, asked)
    }

    /// A row that names us becomes a lease we work on.
    fn own(&self, item: &Item, asked: Duration) -> Option<Arc<HeldLease>> {
        let row = Lease::parse(item).ok().flatten()?;
        if row.owner.as_ref() != Some(&self.deps.me) || row.checkpoint_owner.is_some() {
            return None;
        }
        let owned = Arc::new(HeldLease::new(self.deps.held(), row, asked));
        self.registry.insert(&owned);
        Some(owned)
    }

    async fn take(
        &self,
        lease: &Lease,
        rows: &BTreeMap<&ShardId, &Lease>,
    ) -> Option<Arc<HeldLease>> {
        // A parent the scan does not show may be gone, or younger than what the scan read.
        for parent in change_marker::unseen_parents(lease, rows) {
            match self.deps.table.get(parent).await {
                Ok(None) => {}
                Ok(Some(item)) => {
                    let parent = Lease::parse(&item).ok().flatten();
                    if !parent.is_some_and(|parent| parent.is_finished()) {
                        return None;
                    }
                }
                Err(error) => {
                    tracing::warn!(shard = %lease.shard, %error, "reading its parent's lease failed");
                    return None;
                }
            }
        }
        let asked = self.deps.ctx.clock.now();
        let wall = self.deps.ctx.clock.wall();
        let pin = pin(&lease.progress.checkpoint, self.deps.start, wall)
            .filter(|_| !mutant::is(Mutant::NoPin));
        let update = write::take(lease, &self.deps.me, &self.deps.identity, pin);
        let item = match self.deps.table.update(&lease.shard, update).await {
            // Also after a refusal the row decides: an earlier attempt of ours may have won.
            Ok(Written::Done(item) | Written::Refused(Some(item))) => item,
            Ok(Written::Refused(None)) => return None,
            Err(error) => {
                tracing::warn!(shard = %lease.shard, %error, "taking a lease failed");
                return None;
            }
        };
        let owned = self.own(&item, asked)?;
        self.deps.ctx.metrics.add(metric::LEASES_TAKEN_TOTAL, &[], 1);
        Some(owned)
    }

    fn show(
        &self,
        workers: usize,
        active: usize,
        waiting: usize,
        parked: &BTreeMap<ShardId, Parked>,
        leases: &[Lease],
    ) {
        let metrics = &self.deps.ctx.metrics;
        metrics.set(metric::WORKERS, &[], workers);
        metrics.set(metric::LEASES, &["active"], active - waiting);
        metrics.set(metric::LEASES, &["waiting"], waiting);
        metrics.set(metric::LEASES, &["parked"], parked.len());
        metrics.set(metric::LEASES, &["finished"], leases.len() - active - parked.len());
        let wall = self.deps.ctx.clock.wall();
        self.deps.ctx.status.update(|b| {
            b.ready = true;
            b.workers = workers;
            b.active_leases = active;
            b.parked = parked.iter().take(PARKED).map(|(s, p)| (s.clone(), p.clone())).collect();
            b.fleet = Fleet::of(leases, wall, &b.fleet);
        });
    }
}
