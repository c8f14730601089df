//! Asks again and again what the stream is like, for what may change while the worker runs.

use std::sync::Arc;
use std::time::Duration;

use crate::worker::context::WorkerContext;

/// How often it is asked for.
const EVERY: Duration = Duration::from_secs(60);
/// The same at most, when records are met that make it likely to have changed.
const AT_MOST_EVERY: Duration = Duration::from_secs(5);

/// Runs until dropped. An answer that fails changes nothing.
pub async fn run(shared: Arc<WorkerContext>) {
    loop {
        shared.clock.sleep(AT_MOST_EVERY).await;
        tokio::select! {
            biased;
            () = shared.spreading.doubted() => {}
            () = shared.clock.sleep(shared.jitter.spread(EVERY, 0.2)) => {}
        }
        match shared.kinesis.describe(&shared.stream.arn).await {
            Ok(stream) if shared.spreading.found(stream.spreads) => {
                let strategy = if stream.spreads { "AUTO" } else { "USER_PARTITION_KEY" };
                tracing::info!(
                    strategy,
                    "the stream distributes its records otherwise from now on"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the stream could not be described"),
        }
    }
}
