//! What the work on a shard needs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::aws::s3::ObjectStore;
use crate::budget::Budget;
use crate::config::GapPolicy;
use crate::delivery::batch::BatchLimits;
use crate::delivery::recipe::Recipe;
use crate::worker::context::TaskContext;
use crate::worker::leases::context::SyncDeps;
use crate::worker::reader::context::ReaderDeps;
use crate::worker::spreading::Spreading;

/// What putting the objects of a batch needs: the bucket, and neither stream nor table.
#[derive(Clone)]
pub struct UploadDeps {
    /// Time, chance, metrics, status.
    pub ctx: TaskContext,
    /// The bucket.
    pub store: ObjectStore,
    /// Concurrent puts of the process.
    pub slots: Arc<Semaphore>,
    /// Size of a part, bytes; larger objects go up in parts.
    pub multipart_bytes: usize,
    /// How long the store may fail before the shard is given up.
    pub deadline: Duration,
}

/// What the life of a shard needs. All shards of a worker share one.
pub struct ShardDeps {
    /// Time, chance, spawning, metrics, status.
    pub ctx: TaskContext,
    /// For its reader.
    pub reader: ReaderDeps,
    /// For its objects.
    pub upload: UploadDeps,
    /// For the leases of its children.
    pub sync: SyncDeps,
    /// Memory.
    pub budget: Budget,
    /// How new batches are encoded.
    pub recipe: Arc<Recipe>,
    /// The same where no reshard can be the cause of a foreign record.
    pub keeping: Arc<Recipe>,
    /// How the stream spreads its records.
    pub spreading: Arc<Spreading>,
    /// When a batch is cut.
    pub limits: BatchLimits,
    /// Announced batches of a shard.
    pub inflight_batches: usize,
    /// What to do when records are lost to retention.
    pub gaps: GapPolicy,
}

impl ShardDeps {
    /// How a new batch is encoded, of a shard whose records are `judged` by its hash keys.
    pub fn recipe_of(&self, judged: bool) -> &Arc<Recipe> {
        if judged && !self.spreading.is_automatic() { &self.recipe } else { &self.keeping }
    }
}
