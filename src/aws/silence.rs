//! A time-out that counts silence, not size.
//!
//! The SDK's time-outs count from the start of an attempt to the last byte of its reply: 14 MB over
//! a slow path are cut off for ever, however steadily they arrive. Here every sign of life begins
//! the count again.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use crate::fault::{CallError, Detail, Fault};

/// The longest a call may take that never falls silent. Kinesis takes an iterator for five minutes.
const LONGEST: Duration = Duration::from_secs(240);

/// Signs of life of one call. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Something arrived, or an attempt began.
    pub(super) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What `call` brings, unless it says nothing for as long as `patience`.
///
/// # Errors
/// `Unavailable`, code `Timeout`: see [`is_timeout`].
pub(super) async fn unless_silent<F: Future>(
    operation: &'static str,
    patience: Duration,
    pulse: &Pulse,
    call: F,
) -> Result<F::Output, CallError> {
    let mut call = pin!(call);
    let mut silence = pin!(tokio::time::sleep(patience));
    let mut longest = pin!(tokio::time::sleep(LONGEST.max(patience)));
    let mut heard = pulse.beats();
    poll_fn(|context| {
        if let Poll::Ready(done) = call.as_mut().poll(context) {
            return Poll::Ready(Ok(done));
        }
        // What arrives is taken in by the call itself, so this is seen at once.
        if heard != pulse.beats() {
            heard = pulse.beats();
            silence.set(tokio::time::sleep(patience));
        }
        let why = if silence.as_mut().poll(context).is_ready() {
            format!("nothing arrived for {patience:?} (aws.attempt_timeout)")
        } else if longest.as_mut().poll(context).is_ready() {
            format!("the reply was still arriving after {LONGEST:?}")
        } else {
            return Poll::Pending;
        };
        Poll::Ready(Err(CallError {
            operation,
            fault: Fault::Unavailable,
            detail: Detail::Plain,
            code: "Timeout".into(),
            message: why,
            request_id: None,
        }))
    })
    .await
}
