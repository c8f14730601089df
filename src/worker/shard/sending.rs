//! One object on its way into the store, attempt after attempt.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::aws::s3::{Put, is_conflict, is_gone, refuses_key};
use crate::budget::Permit;
use crate::delivery::body::Body;
use crate::delivery::object::{Object, ObjectKind};
use crate::delivery::parts::{Parts, Step};
use crate::fault::{CallError, Fault};
use crate::metrics::table as metric;
use crate::mutant::{self, Mutant};
use crate::worker::context::TaskContext;
use crate::worker::leases::held::HeldLease;
use crate::worker::shard::context::UploadDeps;

/// Why a batch is not durable.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The lease went; whoever has it now finishes the batch.
    #[error("the lease was lost during an upload")]
    Lost,
    /// The store refused or failed for the whole deadline.
    #[error("object `{key}` could not be stored within {waited:?}: {last}")]
    Deadline {
        /// Its key.
        key: String,
        /// How long we tried since a part of it, if any, was stored.
        waited: Duration,
        /// The last failure.
        last: Box<CallError>,
    },
    /// The store takes nothing under this key.
    #[error("object `{key}` is refused: {last}")]
    Refused {
        /// The key.
        key: String,
        /// What the store said.
        last: Box<CallError>,
    },
    /// The store has lost parts that are in memory no more. They are in the stream: whoever takes
    /// the shard reads the announced batch again.
    #[error(
        "the multipart upload of object `{key}` is gone from the bucket, with parts that are no \
         longer in memory; the batch will be read again from the stream. If this repeats, look for \
         a lifecycle rule, or somebody, that aborts uploads under way: {last}"
    )]
    Gone {
        /// Its key.
        key: String,
        /// What the store said.
        last: Box<CallError>,
    },
}

/// Time to tell the store that an upload in parts is given up.
const ABORT: Duration = Duration::from_secs(5);
/// Longest time a file is believed to have been on its way, ms.
const DAY_MS: i64 = 86_400_000;
/// What a stored object still takes in the list of its batch.
const SLOT: usize = size_of::<Object>();

/// What a batch on its way holds of the budget.
pub(super) struct HeldBytes(Mutex<Permit>);

impl HeldBytes {
    /// All that `permit` is for.
    pub(super) fn new(permit: Permit) -> Self {
        Self(Mutex::new(permit))
    }

    /// So many bytes exist now.
    pub(super) fn take(&self, bytes: usize) {
        let mut permit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let more = permit.bytes().saturating_add(bytes);
        permit.resize(more);
    }

    /// So many bytes are dropped.
    fn give(&self, bytes: usize) {
        let mut permit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = permit.bytes().saturating_sub(bytes);
        permit.resize(rest);
    }
}

/// An object on its way.
pub(super) struct Sending<'a> {
    deps: &'a UploadDeps,
    held: &'a HeldBytes,
    /// Without its bytes if it goes up in parts.
    pub(super) object: Object,
    parts: Option<Parts>,
    /// Length of the whole.
    size: usize,
    begun: Duration,
}

/// Why an attempt came to nothing.
enum AttemptFailure {
    /// Another may do better.
    Passing(CallError),
    /// None can: see [`UploadError::Gone`].
    Gone(CallError),
}

impl<'a> Sending<'a> {
    pub(super) fn new(deps: &'a UploadDeps, held: &'a HeldBytes, mut object: Object) -> Self {
        let (size, part) = (object.body.len(), deps.multipart_bytes);
        // A file, 10 MiB at most, stays whole: if its key is taken, it is needed once more.
        let parts = (size > part && object.kind != ObjectKind::Upload)
            .then(|| Parts::new(std::mem::take(&mut object.body), part));
        Self { deps, held, object, parts, size, begun: deps.ctx.clock.now() }
    }

    /// Attempt after attempt, each from where the last one came to.
    pub(super) async fn until_durable(
        &mut self,
        lease: &Arc<HeldLease>,
    ) -> Result<Put, UploadError> {
        let deps = self.deps;
        let (mut since, mut done) = (self.begun, 0);
        let mut pauses = pauses();
        loop {
            fence(&deps.ctx, lease).await?;
            let attempt = {
                let _turn = deps.slots.acquire().await;
                tokio::select! {
                    biased;
                    () = lease.lost.cancelled() => return Err(UploadError::Lost),
                    attempt = self.attempt() => attempt,
                }
            };
            let error = match attempt {
                Ok(put) => {
                    self.note(put);
                    return Ok(put);
                }
                Err(_) if mutant::is(Mutant::PutErrorIsSuccess) => return Ok(Put::Created),
                Err(AttemptFailure::Passing(error)) if self.is_refused(&error) => {
                    let key = self.object.key.clone();
                    return Err(UploadError::Refused { key, last: Box::new(error) });
                }
                Err(AttemptFailure::Passing(error)) => error,
                Err(AttemptFailure::Gone(error)) => {
                    let key = self.object.key.clone();
                    return Err(UploadError::Gone { key, last: Box::new(error) });
                }
            };
            self.failed(&error);
            let now = deps.ctx.clock.now();
            // Further than ever: the store can be reached. A number of times, at most.
            let parts = self.parts.as_ref().map_or(0, Parts::done);
            if parts > done {
                (since, done, pauses) = (now, parts, self::pauses());
            }
            let waited = now - since;
            if waited > deps.deadline {
                let key = self.object.key.clone();
                return Err(UploadError::Deadline { key, waited, last: Box::new(error) });
            }
            let pause = pauses.next().unwrap_or(Duration::from_secs(10));
            tokio::select! {
                biased;
                () = lease.lost.cancelled() => return Err(UploadError::Lost),
                () = deps.ctx.clock.sleep(deps.ctx.jitter.spread(pause, 0.5)) => {}
            }
        }
    }

    /// Will this file never be under its key? If the store takes nothing at all, its dead letter will
    /// not do better, and nothing is decided.
    fn is_refused(&self, error: &CallError) -> bool {
        let waited = self.deps.ctx.clock.now() - self.begun;
        let lasting = waited > self.deps.deadline;
        self.object.kind == ObjectKind::Upload
            && error.fault == Fault::Invalid
            && (refuses_key(error) || lasting)
    }

    async fn attempt(&mut self) -> Result<Put, AttemptFailure> {
        let (store, object) = (&self.deps.store, &self.object);
        let Some(parts) = &mut self.parts else {
            return store.put(object).await.map_err(AttemptFailure::Passing);
        };
        loop {
            let failed = match parts.next() {
                Step::Begin => match store.create_multipart(object).await {
                    Ok(id) => {
                        parts.begun(id);
                        continue;
                    }
                    Err(error) => error,
                },
                Step::Part(id, number, part) => {
                    match store.upload_part_of(object, id, number, &part).await {
                        Ok(stored) => {
                            drop(part);
                            self.held.give(parts.stored(stored));
                            continue;
                        }
                        Err(error) => error,
                    }
                }
                Step::Complete(id, list) => {
                    match store.complete_multipart(object, id, list).await {
                        Ok(put) => return Ok(put),
                        Err(error) => error,
                    }
                }
            };
            let completing = matches!(parts.next(), Step::Complete(..));
            // The upload lost a race against another write of its key, and cannot be completed.
            let beaten = completing && is_conflict(&failed);
            if !is_gone(&failed) && !beaten {
                return Err(AttemptFailure::Passing(failed));
            }
            // Keys are created once, and name what is in the object: what is there is this one.
            if store.exists(&object.bucket, &object.key).await.map_err(AttemptFailure::Passing)? {
                // A reply to our own completion was lost, or to somebody's who finished the batch.
                let ours = completing && !beaten;
                return Ok(if ours { Put::Created } else { Put::Existed });
            }
            if beaten && let Some(id) = parts.id() {
                // Its parts are paid for until it is ended.
                tokio::select! {
                    biased;
                    () = store.abort_multipart(object, id) => {}
                    () = self.deps.ctx.clock.sleep(ABORT) => {}
                }
            }
            let again = parts.restart();
            return Err(if again {
                AttemptFailure::Passing(failed)
            } else {
                AttemptFailure::Gone(failed)
            });
        }
    }

    /// Drops what is left of the object, and the upload if it did not become the object. The parts
    /// of a lost lease are left to the bucket's lifecycle rule: nothing waits for them.
    pub(super) async fn finish(&mut self, lease: &HeldLease, result: &Result<Put, UploadError>) {
        let parts = self.parts.take();
        let rest = self.object.memory() + parts.as_ref().map_or(0, Parts::memory);
        let id = parts.as_ref().and_then(Parts::id).map(str::to_owned);
        drop(parts);
        self.object.body = Body::default();
        self.held.give(rest.saturating_sub(SLOT));
        if let Some(id) = id
            && !matches!(result, Ok(Put::Created) | Err(UploadError::Lost))
        {
            tokio::select! {
                biased;
                () = lease.lost.cancelled() => {}
                () = self.deps.store.abort_multipart(&self.object, &id) => {}
                () = self.deps.ctx.clock.sleep(ABORT) => {}
            }
        }
    }

    fn failed(&self, error: &CallError) {
        let class = error.fault.as_str();
        self.deps.ctx.metrics.add(metric::PUT_RETRIES_TOTAL, &[class], 1);
        let what = "storing an object failed; trying again";
        note_failure(&self.deps.ctx, &self.object.key, error, what);
    }

    fn note(&self, put: Put) {
        let (deps, object) = (self.deps, &self.object);
        match put {
            Put::Created => {
                let kind = match object.kind {
                    ObjectKind::Archive => "archive",
                    ObjectKind::Upload => "upload",
                    ObjectKind::DeadLetter => "dead_letter",
                };
                let took = deps.ctx.clock.now() - self.begun;
                deps.ctx.metrics.add(metric::OBJECTS_WRITTEN_TOTAL, &[kind], 1);
                deps.ctx.metrics.observe_bytes(metric::OBJECT_BYTES, self.size);
                deps.ctx.metrics.observe(metric::PUT_SECONDS, took);
                if let Some(accepted) = object.accepted_ms {
                    // The time is the producer's: no more than a day of it is believed.
                    let ms = deps.ctx.clock.wall().saturating_sub(accepted).clamp(0, DAY_MS);
                    let took = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
                    deps.ctx.metrics.observe(metric::UPLOAD_SECONDS, took);
                }
                deps.ctx.status.object(
                    deps.ctx.clock.wall(),
                    &object.key,
                    object.records,
                    self.size,
                );
                tracing::debug!(key = object.key, records = object.records, "object stored");
            }
            Put::Existed => {
                deps.ctx.metrics.add(metric::OBJECTS_EXISTED_TOTAL, &[], 1);
                tracing::debug!(key = object.key, "object was there already; left alone");
            }
        }
    }
}

fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(10))
        .without_max_times()
        .build()
}

pub(super) fn note_failure(ctx: &TaskContext, key: &str, error: &CallError, what: &str) {
    tracing::warn!(key, %error, "{what}");
    ctx.call_failed(error, &format!("{key}: {error}"));
}

/// Waits while the lease is too long without a heartbeat to start anything.
pub(super) async fn fence(ctx: &TaskContext, lease: &Arc<HeldLease>) -> Result<(), UploadError> {
    while !lease.may_deliver() {
        if lease.expire() {
            return Err(UploadError::Lost);
        }
        tokio::select! {
            biased;
            () = lease.lost.cancelled() => return Err(UploadError::Lost),
            () = ctx.clock.sleep(Duration::from_millis(200)) => {}
        }
    }
    Ok(())
}
