//! Puts the objects of one batch, create-only, until all are durable. What is stored is dropped,
//! and its share of the byte budget given back, at once: an object, or a part of one.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::aws::s3::Put;
use crate::budget::Permit;
use crate::delivery::dead_letter::{Aside, CONFLICT, Letter, REFUSED, letter, put_aside};
use crate::delivery::object::{Object, ObjectKind};
use crate::metrics::table as metric;
use crate::mutant::{self, Mutant};
use crate::upload::event;
use crate::worker::context::TaskContext;
use crate::worker::leases::held::HeldLease;
use crate::worker::shard::context::UploadDeps;
use crate::worker::shard::sending::{HeldBytes, Sending, UploadError, fence, note_failure};
use crate::worker::shard::turns::{Turn, Turns};

/// Objects of one batch put at the same time.
const PER_BATCH: usize = 16;
/// How long a store that refuses to show what stands under a key is asked again.
const LOOK: Duration = Duration::from_secs(30);

/// Puts every object. Returns only when all are durable. `permit` shrinks as they are. `turns`: of the
/// files, in the order of the objects.
///
/// # Errors
/// [`UploadError`]; some of the objects may be in place then.
pub async fn upload(
    deps: &UploadDeps,
    lease: &Arc<HeldLease>,
    objects: Vec<Object>,
    turns: Turns,
    mut permit: Permit,
) -> Result<(), UploadError> {
    permit.resize(objects.iter().map(Object::memory).sum());
    let held = HeldBytes::new(permit);
    let mut running = FuturesUnordered::new();
    let mut letters = Vec::new();
    let early = !mutant::is(Mutant::OverflowFirst);
    let (last, first): (Vec<_>, Vec<_>) = objects.into_iter().partition(|o| o.last == early);
    let mut turns = turns.into_iter();
    // Overflow is put when all else is durable: see `delivery/remains.rs`.
    for (nth, object) in first.into_iter().enumerate() {
        if running.len() == PER_BATCH
            && let Some(result) = running.next().await
        {
            letters.extend(result?);
        }
        let turn = if object.kind == ObjectKind::Upload { turns.next() } else { None };
        let put = put(deps, lease, &held, object, turn);
        running.push(async move { Ok(put.await?.map(|letter| (nth, letter))) });
    }
    while let Some(result) = running.next().await {
        letters.extend(result?);
        if mutant::is(Mutant::FirstObjectIsEnough) {
            return Ok(());
        }
    }
    for object in last.into_iter().chain(aside(&deps.ctx, lease, letters)) {
        put(deps, lease, &held, object, None).await?;
    }
    Ok(())
}

/// The dead letters of files that cannot be under their keys, and a word about them.
fn aside(ctx: &TaskContext, lease: &HeldLease, mut letters: Vec<(usize, Letter)>) -> Vec<Object> {
    letters.sort_by_key(|(nth, _)| *nth);
    for kind in [CONFLICT, REFUSED] {
        let count = letters.iter().filter(|(_, letter)| letter.kind == kind).count();
        if count > 0 {
            tracing::warn!(shard = %lease.shard, kind, count, "files were put aside");
            ctx.metrics.add(metric::DEAD_LETTERS_TOTAL, &[kind], count as u64);
        }
    }
    put_aside(letters.into_iter().map(|(_, letter)| letter).collect())
}

/// Puts one object; or says what becomes of it if it cannot be under its key.
async fn put(
    deps: &UploadDeps,
    lease: &Arc<HeldLease>,
    held: &HeldBytes,
    object: Object,
    turn: Option<Turn>,
) -> Result<Option<Letter>, UploadError> {
    if let Some(turn) = &turn {
        // Of files with the same key the first gets it.
        tokio::select! {
            biased;
            () = lease.lost.cancelled() => return Err(UploadError::Lost),
            () = turn.comes() => {}
        }
    }
    let mut sending = Sending::new(deps, held, object);
    let mut again = true;
    let mut patience = deps.deadline.min(LOOK);
    let (result, letter) = loop {
        let result = sending.until_durable(lease).await;
        let object = &sending.object;
        let letter = match &result {
            Ok(Put::Existed) if object.kind == ObjectKind::Upload => {
                match taken(deps, lease, object, patience).await? {
                    // What was there may have been another file. Once more, then it was ours in
                    // between.
                    KeyHolder::Vanished if again => {
                        again = false;
                        continue;
                    }
                    KeyHolder::Vanished | KeyHolder::ByThis => None,
                    KeyHolder::ByAnother => letter(object, Aside::Conflict),
                    // A store that refuses everything, as with credentials that have expired, says
                    // nothing of this object: that its key is taken has to be said once more.
                    KeyHolder::Unseen(_) if !patience.is_zero() => {
                        patience = Duration::ZERO;
                        continue;
                    }
                    KeyHolder::Unseen(code) => letter(object, Aside::Unseen(&code)),
                }
            }
            Err(UploadError::Refused { last, .. }) => letter(object, Aside::Refused(&last.code)),
            _ => None,
        };
        break (result, letter);
    };
    // Before the old bytes go: never less than what is there.
    held.take(letter.as_ref().map_or(0, Letter::memory));
    sending.finish(lease, &result).await;
    if letter.is_none() {
        result?;
    }
    if let Some(turn) = turn {
        turn.over();
    }
    Ok(letter)
}

/// Whose is the key of an upload that is taken?
enum KeyHolder {
    /// This very event's, when it is delivered again, or another's of the same file, a duplicate.
    ByThis,
    /// Another file's, and this one is put aside.
    ByAnother,
    /// Nobody's any more: it was deleted since.
    Vanished,
    /// The store refuses to show it, with this code.
    Unseen(String),
}

/// Looks at what is under the key of an upload, for as long as storing an object may take; where it is
/// refused, for as long as patience lasts.
async fn taken(
    deps: &UploadDeps,
    lease: &Arc<HeldLease>,
    object: &Object,
    patience: Duration,
) -> Result<KeyHolder, UploadError> {
    let begun = deps.ctx.clock.now();
    let deadline = deps.deadline;
    let there = loop {
        fence(&deps.ctx, lease).await?;
        let error = match deps.store.metadata(&object.bucket, &object.key).await {
            Ok(Some(there)) => break there,
            Ok(None) => return Ok(KeyHolder::Vanished),
            Err(error) => error,
        };
        let what = "looking at the object under a taken key failed";
        note_failure(&deps.ctx, &object.key, &error, what);
        let waited = deps.ctx.clock.now() - begun;
        if !error.fault.is_transient() && waited >= patience {
            return Ok(KeyHolder::Unseen(error.code));
        }
        if waited > deadline {
            let key = object.key.clone();
            return Err(UploadError::Deadline { key, waited, last: Box::new(error) });
        }
        let pause = deps.ctx.jitter.spread(Duration::from_secs(1), 0.5);
        tokio::select! {
            biased;
            () = lease.lost.cancelled() => return Err(UploadError::Lost),
            () = deps.ctx.clock.sleep(pause) => {}
        }
    };
    let same = |name: &str| there.get(name).map(String::as_str) == object.meta(name);
    if same(event::META_POSITION) || same(event::META_SHA256) {
        return Ok(KeyHolder::ByThis);
    }
    Ok(KeyHolder::ByAnother)
}
