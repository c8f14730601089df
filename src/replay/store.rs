//! The table of a replay: its plan, and the leases that its workers share.
//!
//! The table is the replay's alone, so the plan can stand in it as an item of its own; workers pass
//! over it as over every item that is no lease.

use futures::StreamExt;

use crate::aws::clients::Clients;
use crate::aws::dynamodb::admin::TableError;
use crate::aws::dynamodb::{LeaseTable, Written};
use crate::aws::tables::Tables;
use crate::clock::Clock;
use crate::fault::{CallError, Fault};
use crate::ids::ShardId;
use crate::lease::row::{Attr, BadLease, Item, Lease, NewLease, attr};
use crate::lease::write::Update;
use crate::replay::plan::{BadRange, LAYOUT, Plan};
use crate::replay::progress::ReplayProgress;
use crate::stream::ShardInfo;

/// Key of the plan's item.
const KEY: &str = "catchment-replay-plan";
/// Attribute with the plan, JSON.
const PLAN: &str = "catchment_plan";
/// Attribute that says all leases were created.
const READY: &str = "catchment_ready";
/// Leases created at once.
const PARALLEL: usize = 32;

/// Why the table of a replay cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Not a lease table, or not ready.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The plan is another version's.
    #[error(
        "the plan of the replay in table `{table}` cannot be read: {reason}; use the version that \
         made it, or upgrade"
    )]
    Plan {
        /// The table.
        table: String,
        /// What is wrong.
        reason: String,
    },
    /// The range does not fit the stream.
    #[error(transparent)]
    Range(#[from] BadRange),
    /// A row is damaged.
    #[error(transparent)]
    Lease(#[from] BadLease),
}

/// See the module.
#[derive(Clone)]
pub struct Store {
    table: LeaseTable,
    tables: Tables,
}

/// A plan as it stands in the table.
pub struct StoredReplay {
    /// The plan.
    pub plan: Plan,
    /// All its leases exist, or existed.
    pub ready: bool,
}

/// Tables of replays begin with this.
pub fn table_prefix(live_table: &str) -> String {
    format!("{live_table}-replay-")
}

impl Store {
    /// The table of one replay, beside the table of the live application.
    pub fn new(clients: &Clients, live_table: &str, id: &str) -> Self {
        let name = format!("{}{id}", table_prefix(live_table));
        Self {
            table: LeaseTable::new(clients.dynamodb.clone(), name),
            tables: Tables::new(clients.dynamodb.clone()),
        }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        self.table.name()
    }

    /// The plan, if there is one.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn load(&self) -> Result<Option<StoredReplay>, StoreError> {
        let item = match self.table.get(&ShardId::new(KEY)).await {
            Ok(item) => item,
            Err(error) if error.fault == Fault::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let Some(item) = item else { return Ok(None) };
        let bad = |reason: String| StoreError::Plan { table: self.name().to_owned(), reason };
        let Some(Attr::S(text)) = item.get(PLAN) else {
            return Err(bad(format!("it has no {PLAN}")));
        };
        let version = serde_json::from_str::<serde_json::Value>(text)
            .map_err(|e| bad(e.to_string()))?["catchment"]
            .as_u64();
        if version != Some(u64::from(LAYOUT)) {
            return Err(bad(format!("layout {version:?}, this build knows {LAYOUT}")));
        }
        let plan = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        Ok(Some(StoredReplay { plan, ready: item.contains_key(READY) }))
    }

    /// Stores a plan unless there is one; says whether it did.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn create(&self, plan: &Plan, clock: &Clock) -> Result<bool, StoreError> {
        self.table.ensure(clock).await?;
        let text = serde_json::to_string(plan).unwrap_or_default();
        let item = Item::from([
            (attr::KEY.to_owned(), Attr::S(KEY.into())),
            (attr::ENTITY.to_owned(), Attr::S("CATCHMENT_REPLAY".into())),
            (PLAN.to_owned(), Attr::S(text)),
        ]);
        Ok(self.table.create(item).await?)
    }

    /// Creates the leases, parents before children, and notes that they are all there. Done again
    /// after a crash it creates what is missing: rows follow from the plan alone, and none is ever
    /// removed.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn fill(
        &self,
        plan: &Plan,
        shards: &[ShardInfo],
        clock: &Clock,
    ) -> Result<(), StoreError> {
        let mut generation: Vec<NewLease> = Vec::new();
        for row in plan.rows(shards)? {
            if generation.iter().any(|r| row.parents.contains(&r.shard)) {
                self.put(plan, std::mem::take(&mut generation), clock).await?;
            }
            generation.push(row);
        }
        self.put(plan, generation, clock).await?;
        let update = Update {
            update: format!("SET {READY} = :one"),
            condition: format!("attribute_exists({})", attr::KEY),
            values: vec![(":one", Attr::N("1".into()))],
        };
        match self.table.update(&ShardId::new(KEY), update).await? {
            Written::Done(_) => Ok(()),
            Written::Refused(_) => Err(StoreError::Plan {
                table: self.name().to_owned(),
                reason: "it was deleted in the meantime".into(),
            }),
        }
    }

    async fn put(&self, plan: &Plan, rows: Vec<NewLease>, clock: &Clock) -> Result<(), CallError> {
        let now = clock.wall();
        let puts = rows.iter().map(|row| self.table.create(plan.item(row, &plan.stream, now)));
        let mut puts = futures::stream::iter(puts).buffer_unordered(PARALLEL);
        while let Some(put) = puts.next().await {
            put?;
        }
        Ok(())
    }

    /// The leases.
    ///
    /// # Errors
    /// [`StoreError`]; one damaged row is enough, for nothing may be called complete without it.
    pub async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        let mut leases = Vec::new();
        for item in self.table.scan(true).await? {
            leases.extend(Lease::parse(&item)?);
        }
        Ok(leases)
    }

    /// How far it is. `ready` as the plan's item says.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn progress(&self, ready: bool) -> Result<ReplayProgress, StoreError> {
        Ok(ReplayProgress::of(&self.leases().await?, ready))
    }

    /// Deletes the table; says whether it was there.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn delete(&self) -> Result<bool, CallError> {
        self.tables.delete(self.name()).await
    }
}

/// The ids of the replays beside a lease table.
///
/// # Errors
/// [`CallError`]
pub async fn list(clients: &Clients, live_table: &str) -> Result<Vec<String>, CallError> {
    let prefix = table_prefix(live_table);
    let names = Tables::new(clients.dynamodb.clone()).list(&prefix).await?;
    Ok(names.into_iter().filter_map(|n| n.strip_prefix(&prefix).map(str::to_owned)).collect())
}
