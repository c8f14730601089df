//! Finishes what another owner announced.
//!
//! An intent found in the row names a range and how to encode it. Its objects may all exist, some
//! of them, or none, and its author may still be putting them. So the range is read again, exactly
//! and to its last record, encoded with the *recorded* settings, and put create-only: whatever is
//! there already is left alone.
//!
//! It counts as gone only where that is proved: see [`crate::delivery::evidence`]. Otherwise the
//! lease is given back, and the range read again.
//!
//! If part of the range has left retention, no object can be completed under its full key any
//! more. Objects that exist are whole and stay; records that can still be read and whose object
//! does not exist are kept in the dead letters; what is gone is named there, in the log and in the
//! metrics.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use crate::budget::Permit;
use crate::delivery::batch::{BatchLimits, OpenBatch};
use crate::delivery::dead_letter::gap_report;
use crate::delivery::encode::EncodeError;
use crate::delivery::evidence::{Evidence, is_gone};
use crate::delivery::gap::Gap;
use crate::delivery::intent::Intent;
use crate::delivery::object::Object;
use crate::delivery::object_key::BadTemplate;
use crate::delivery::recipe::Recipe;
use crate::delivery::remains::{Remains, RemainsError};
use crate::fault::{CallError, Fault};
use crate::lease::row::Lease;
use crate::mutant::{self, Mutant};
use crate::stream::position::{Checkpoint, Position, StartAt};
use crate::stream::reading::{ReadRange, StartCheck};
use crate::task::TaskDied;
use crate::worker::reader::poll::{self, Fetched, ReadError};
use crate::worker::shard::context::{ShardDeps, UploadDeps};

/// Empty pages in a row after which this attempt is given up.
const PAGES: u32 = 1_000;
/// Objects looked for at the same time.
const LOOKS: usize = 16;

/// A batch ready to be put again.
pub struct Recovered {
    /// Its objects.
    pub objects: Vec<Object>,
    /// Memory of the objects.
    pub permit: Permit,
    /// Part of the range is gone.
    pub gap: Option<Gap>,
}

/// Why an intent cannot be finished here and now.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The range cannot be read.
    #[error("re-reading an announced batch failed: {0}")]
    Read(#[from] ReadError),
    /// Its objects cannot be looked for.
    #[error("looking for the objects of an announced batch failed: {0}")]
    Look(#[from] CallError),
    /// Encoding failed.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// What is left of the range cannot be encoded.
    #[error(transparent)]
    Remains(#[from] RemainsError),
    /// The range begins with its first record, and is not what was announced.
    #[error(
        "an announced batch of {announced} records was read again as {read}; it will be read again"
    )]
    Incomplete {
        /// Records read.
        read: u64,
        /// Records announced.
        announced: u64,
    },
    /// Records of the range were not found, and nothing proves that they are gone.
    #[error(
        "records from {first} on, of an announced batch, were not found, and nothing proves that \
         they have left retention; they will be read again"
    )]
    Unproven {
        /// Where the range begins.
        first: Position,
    },
    /// The recorded template cannot be parsed: written by another version.
    #[error("the settings of an announced batch cannot be used: {0}")]
    Settings(#[from] BadTemplate),
    /// The encoder died.
    #[error(transparent)]
    Task(#[from] TaskDied),
}

/// Reads (`after`, `intent.last`] again and rebuilds its objects.
///
/// # Errors
/// [`RecoveryError`]
pub async fn recover(
    deps: &ShardDeps,
    lease: &Lease,
    after: &Checkpoint,
    intent: &Intent,
) -> Result<Recovered, RecoveryError> {
    let shard = &lease.shard;
    let recipe = if mutant::is(Mutant::OwnSettings) {
        Arc::clone(&deps.recipe)
    } else {
        Arc::new(Recipe::new(Arc::clone(&intent.settings))?)
    };
    let stamp_ms =
        if mutant::is(Mutant::OwnClock) { deps.ctx.clock.wall() } else { intent.stamp_ms };
    let recorded_gap = intent.gap.map(|certainty| Gap::new(after, &intent.first).of(certainty));
    let mut open =
        OpenBatch::new(Arc::clone(&recipe), shard.clone(), stamp_ms, recorded_gap).following(after);
    // Room for the whole batch, before the first record of it is held: what is read here can be
    // given back only when all of it is, so waiting for more half-way could be waiting for itself.
    let room = usize::try_from(intent.bytes).unwrap_or(usize::MAX);
    let mut permit = deps.budget.acquire(room).await;
    let (send, mut receive) = mpsc::channel(1);
    let range = ReadRange {
        // Not at the checkpoint: it may be a sentinel, and the time that it stood for is over.
        start: StartAt::At(intent.first.sequence.clone()),
        after: after.position().cloned(),
        until: Some(intent.last.clone()),
        bound: None,
        aggregates: recipe.settings.aggregates(),
        hash_range: lease.hash_keys_of(&recipe.settings),
        through_ms: None,
        at_horizon: true,
    };
    let reading = deps
        .ctx
        .tasks
        .spawn("recovery", poll::read(deps.reader.clone(), shard.clone(), range, send));
    let (mut blank, mut evidence) = (0, Evidence::Nothing);
    let mut remains: Option<Remains> = None;
    while let Some(fetched) = receive.recv().await {
        match fetched {
            Fetched::Page { mut records, beginning, .. } => {
                let now = deps.ctx.clock.now();
                deps.ctx.status.shard(shard, |s| s.moved_at = now);
                blank = if records.is_empty() { blank + 1 } else { 0 };
                evidence = evidence_of(beginning);
                let cut = open.is_empty()
                    && records.first().is_some_and(|first| first.position() != intent.first)
                    && !mutant::is(Mutant::PartIsWhole);
                if cut && remains.is_none() {
                    let (recipe, intent) = (Arc::clone(&recipe), intent.clone());
                    remains = Some(Remains::new(recipe, shard.clone(), intent));
                }
                match &mut remains {
                    Some(remains) => {
                        remains.push(records);
                        permit.resize(remains.memory().max(room));
                    }
                    None => {
                        let work =
                            move || open.fill(&mut records, &BatchLimits::NONE).map(|_| open);
                        open = deps.ctx.tasks.compute(work).await??;
                        permit.resize(open.memory().max(room));
                    }
                }
                let over = beginning.bare || blank >= PAGES;
                let hasty = mutant::is(Mutant::EmptyIsGone) && blank >= 3;
                if over || hasty || mutant::is(Mutant::OnePage) {
                    break;
                }
            }
            Fetched::End { beginning, .. } => {
                evidence = match evidence_of(beginning) {
                    Evidence::Nothing if !beginning.seen => Evidence::Ended,
                    other => other,
                };
                break;
            }
            Fetched::Bound { .. } => break,
            // The whole shard is gone, and with it the range.
            Fetched::Failed(ReadError::Call(error)) if error.fault == Fault::NotFound => {
                evidence = Evidence::Ended;
                break;
            }
            Fetched::Failed(error) => return Err(error.into()),
        }
    }
    drop(reading);
    if remains.is_none() && !open.is_empty() {
        let (first, last) = (intent.first.clone(), intent.last.clone());
        let sealed = deps.ctx.tasks.compute(move || open.seal_as(first, last)).await??;
        let (read, bytes) = (sealed.intent.records, sealed.intent.bytes);
        if (read, bytes) != (intent.records, intent.bytes) && !mutant::is(Mutant::PartIsWhole) {
            // The next attempt finds that the beginning has gone meanwhile, or all of it.
            return Err(RecoveryError::Incomplete { read, announced: intent.records });
        }
        permit.resize(sealed.objects.iter().map(Object::memory).sum());
        return Ok(Recovered { objects: sealed.objects, permit, gap: None });
    }
    let (now_ms, retention_ms) = (deps.ctx.clock.wall(), deps.reader.retention.ms());
    // Its beginning is gone; was its end read?
    let ends = remains.as_ref().is_none_or(|r| r.last().as_ref() == Some(&intent.last));
    if !ends || !is_gone(evidence, intent.since_ms(), now_ms, retention_ms) {
        return Err(RecoveryError::Unproven { first: intent.first.clone() });
    }
    // Retention takes the oldest first: what was not read at the end of the range is gone with all
    // before it.
    let gap = match remains.as_ref().and_then(|r| Some((r.first()?, r.last()?))) {
        Some((first, last)) if last == intent.last => Gap::new(after, &first),
        _ => Gap::through(after, &intent.last),
    };
    let mut objects = match remains {
        Some(remains) => keep(&deps.upload, &recipe, remains).await?,
        None => Vec::new(),
    };
    let (Recipe { settings, errors, .. }, name) = (&*recipe, gap.name());
    objects.push(gap_report(settings, errors, shard, &name, intent.stamp_ms, &gap));
    permit.resize(objects.iter().map(Object::memory).sum());
    Ok(Recovered { objects, permit, gap: Some(gap) })
}

/// What the reader has found of the beginning of the range.
fn evidence_of(beginning: StartCheck) -> Evidence {
    match beginning {
        StartCheck { gone: true, first_ms, .. } => Evidence::Behind(first_ms),
        StartCheck { bare: true, seen: false, .. } => Evidence::Empty,
        _ => Evidence::Nothing,
    }
}

/// Looks which objects of the batch exist, and makes dead letters of what is in none of them.
async fn keep(
    deps: &UploadDeps,
    recipe: &Recipe,
    remains: Remains,
) -> Result<Vec<Object>, RecoveryError> {
    let (keys, remains) = deps.ctx.tasks.compute(move || (remains.keys(), remains)).await?;
    let bucket = &recipe.settings.bucket;
    let looks = keys.into_iter().map(|key| async move {
        let exists = deps.store.exists(bucket, &key).await?;
        Ok::<_, CallError>(exists.then_some(key))
    });
    let exist = futures::stream::iter(looks).buffer_unordered(LOOKS);
    let exist: BTreeSet<String> =
        exist.try_filter_map(|key| async { Ok(key) }).try_collect().await?;
    Ok(deps.ctx.tasks.compute(move || remains.seal(&exist)).await??)
}
