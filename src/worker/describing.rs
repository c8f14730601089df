//! Asks again and again what the stream is like, for what may change while the worker runs.

use std::sync::Arc;
use std::time::Duration;

use crate::aws::kinesis::Kinesis;
use crate::worker::context::TaskContext;
use crate::worker::spreading::Spreading;

/// How often it is asked for.
const EVERY: Duration = Duration::from_secs(60);
/// The same at most, when records are met that make it likely to have changed.
const AT_MOST_EVERY: Duration = Duration::from_secs(5);

/// Runs until dropped. An answer that fails changes nothing.
pub async fn run(ctx: TaskContext, kinesis: Kinesis, arn: String, spreading: Arc<Spreading>) {
    let TaskContext { clock, jitter, .. } = ctx;
    loop {
        clock.sleep(AT_MOST_EVERY).await;
        tokio::select! {
            biased;
            () = spreading.doubted() => {}
            () = clock.sleep(jitter.spread(EVERY, 0.2)) => {}
        }
        match kinesis.describe(&arn).await {
            Ok(stream) if spreading.found(stream.spreads) => {
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
