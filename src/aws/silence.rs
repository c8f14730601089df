//! A time-out that counts silence, not size.
//!
//! The SDK's time-outs count from the start of an attempt to the last byte of its reply: 14 MB over
//! a slow path are cut off for ever, however steadily they arrive. Here every sign of life begins
//! the count again.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use crate::fault::{CallError, Detail, Fault};

/// The longest a call may take that never falls silent. Kinesis takes an iterator for five minutes.
const LONGEST: Duration = Duration::from_secs(240);

/// Signs of life of one call. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulse(Arc<PulseState>);

#[derive(Debug, Default)]
struct PulseState {
    beats: AtomicU64,
    resting: AtomicBool,
}

impl Pulse {
    /// Something arrived, or an attempt began.
    pub(super) fn beat(&self) {
        self.0.resting.store(false, Ordering::Relaxed);
        self.0.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// An attempt is over: until the next one begins nobody is waited for.
    pub(super) fn rest(&self) {
        self.0.resting.store(true, Ordering::Relaxed);
    }

    fn beats(&self) -> u64 {
        self.0.beats.load(Ordering::Relaxed)
    }

    fn is_resting(&self) -> bool {
        self.0.resting.load(Ordering::Relaxed)
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
        while pulse.is_resting() && silence.as_mut().poll(context).is_ready() {
            silence.set(tokio::time::sleep(patience));
        }
        let why = if silence.as_mut().poll(context).is_ready() {
            format!("nothing arrived for {patience:?} (aws.attempt_timeout)")
        } else if longest.as_mut().poll(context).is_ready() {
            format!("the call was not over after {LONGEST:?}")
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

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    /// What comes of a call that makes an attempt, gets a refusal, pauses, and tries again.
    async fn after(pause: Duration, second: Duration) -> Result<(), CallError> {
        let pulse = Pulse::default();
        unless_silent("GetRecords", PATIENCE, &pulse, async {
            pulse.beat();
            tokio::time::sleep(PATIENCE / 2).await;
            pulse.rest();
            tokio::time::sleep(pause).await;
            pulse.beat();
            tokio::time::sleep(second).await;
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_between_attempts_is_no_silence() {
        assert!(after(PATIENCE * 5, PATIENCE / 2).await.is_ok());
        let silent = after(PATIENCE * 5, PATIENCE * 2).await.unwrap_err();
        assert!(silent.message.contains("nothing arrived for 3s"), "{silent}");
        let late = after(LONGEST * 2, PATIENCE / 2).await.unwrap_err();
        assert!(late.message.contains("not over after 240s"), "{late}");
    }
}
