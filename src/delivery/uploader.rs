//! ▶ Puts the objects of one batch, create-only, until all are durable.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::aws::s3::Put;
use crate::delivery::batch::{Kind, Object};
use crate::fault::CallError;
use crate::lease::owned::Owned;
use crate::mutant::{self, Mutant};
use crate::upload::event;
use crate::worker::shared::Shared;

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
        /// How long we tried.
        waited: Duration,
        /// The last failure.
        last: Box<CallError>,
    },
}

/// Objects of one batch put at the same time.
const PER_BATCH: usize = 16;

/// Puts every object. Returns only when all are durable.
///
/// # Errors
/// [`UploadError`]; some of the objects may be in place then.
pub async fn upload(
    shared: &Shared,
    lease: &Arc<Owned>,
    objects: &[Object],
) -> Result<(), UploadError> {
    let mut running = FuturesUnordered::new();
    for object in objects {
        if running.len() == PER_BATCH
            && let Some(result) = running.next().await
        {
            result?;
        }
        running.push(put(shared, lease, object));
    }
    while let Some(result) = running.next().await {
        result?;
        if mutant::is(Mutant::FirstObjectIsEnough) {
            break;
        }
    }
    Ok(())
}

async fn put(shared: &Shared, lease: &Arc<Owned>, object: &Object) -> Result<(), UploadError> {
    let begun = shared.clock.now();
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(10))
        .without_max_times()
        .build();
    loop {
        fence(shared, lease).await?;
        let attempt = {
            let _turn = shared.uploads.acquire().await;
            let part_bytes = shared.config.delivery.multipart_bytes;
            tokio::select! {
                biased;
                () = lease.lost.cancelled() => return Err(UploadError::Lost),
                attempt = shared.store.put(object, part_bytes) => attempt,
            }
        };
        let waited = shared.clock.now() - begun;
        match attempt {
            Ok(put) => {
                note(shared, object, put, waited);
                if put == Put::Existed && object.kind == Kind::Upload {
                    return taken(shared, lease, object).await;
                }
                return Ok(());
            }
            Err(_) if mutant::is(Mutant::PutErrorIsSuccess) => return Ok(()),
            Err(error) => {
                let class = error.fault.as_str();
                shared.metrics.add("catchment_put_retries_total", &[class], 1);
                shared.metrics.add("catchment_call_failures_total", &[error.operation, class], 1);
                tracing::warn!(key = object.key, %error, "storing an object failed; trying again");
                let told = format!("{}: {error}", object.key);
                shared.board.error(shared.clock.wall(), &told);
                if waited > shared.config.delivery.upload_deadline {
                    return Err(UploadError::Deadline {
                        key: object.key.clone(),
                        waited,
                        last: Box::new(error),
                    });
                }
            }
        }
        let pause = pauses.next().unwrap_or(Duration::from_secs(10));
        tokio::select! {
            biased;
            () = lease.lost.cancelled() => return Err(UploadError::Lost),
            () = shared.clock.sleep(shared.jitter.spread(pause, 0.5)) => {}
        }
    }
}

/// The key of an upload is taken. By this very event, when it is delivered again; by another event
/// of the same file, which is a duplicate; or by another file, and then this one is put aside.
async fn taken(shared: &Shared, lease: &Arc<Owned>, object: &Object) -> Result<(), UploadError> {
    let there = loop {
        fence(shared, lease).await?;
        match shared.store.metadata(&object.bucket, &object.key).await {
            Ok(Some(there)) => break there,
            // Deleted since: the file was stored, and somebody is done with it.
            Ok(None) => return Ok(()),
            Err(error) => tracing::warn!(key = object.key, %error, "reading metadata failed"),
        }
        shared.clock.sleep(shared.jitter.spread(Duration::from_secs(1), 0.5)).await;
    };
    let same = |name: &str| there.get(name).map(String::as_str) == object.meta(name);
    if same(event::META_POSITION) || same(event::META_SHA256) {
        return Ok(());
    }
    let Some(conflict) = object.as_conflict() else { return Ok(()) };
    tracing::warn!(key = object.key, "the key of an upload belongs to another file; put aside");
    shared.metrics.add("catchment_dead_letters_total", &["upload-conflict"], 1);
    Box::pin(put(shared, lease, &conflict)).await
}

/// Waits while the lease is too long without a heartbeat to start anything.
async fn fence(shared: &Shared, lease: &Arc<Owned>) -> Result<(), UploadError> {
    while !lease.may_deliver() {
        if lease.expire() {
            return Err(UploadError::Lost);
        }
        tokio::select! {
            biased;
            () = lease.lost.cancelled() => return Err(UploadError::Lost),
            () = shared.clock.sleep(Duration::from_millis(200)) => {}
        }
    }
    Ok(())
}

fn note(shared: &Shared, object: &Object, put: Put, took: Duration) {
    match put {
        Put::Created => {
            let kind = match object.kind {
                Kind::Archive => "archive",
                Kind::Upload => "upload",
                Kind::DeadLetter => "dead_letter",
            };
            shared.metrics.add("catchment_objects_written_total", &[kind], 1);
            shared.metrics.observe("catchment_object_bytes", object.body.len() as f64);
            shared.metrics.observe("catchment_put_seconds", took.as_secs_f64());
            if let Some(accepted) = object.accepted_ms {
                let ms = shared.clock.wall().saturating_sub(accepted).max(0);
                shared.metrics.observe("catchment_upload_seconds", ms as f64 / 1000.0);
            }
            shared.board.object(
                shared.clock.wall(),
                &object.key,
                object.records,
                object.body.len(),
            );
            tracing::debug!(key = object.key, records = object.records, "object stored");
        }
        Put::Existed => {
            shared.metrics.add("catchment_objects_existed_total", &[], 1);
            tracing::info!(key = object.key, "object was there already; left alone");
        }
    }
}
