//! One way to stop: drain first; a second word, or the deadline, ends it.

use tokio_util::sync::CancellationToken;

/// Tells every part of the process to stop. Cheap to clone.
#[derive(Clone, Default)]
pub struct Shutdown {
    /// Finish what is in hand, then stop.
    pub drain: CancellationToken,
    /// Stop now.
    pub abort: CancellationToken,
}

impl Shutdown {
    /// Follows SIGTERM and SIGINT: the first drains, the second aborts.
    ///
    /// # Errors
    /// When the signals cannot be listened to.
    pub async fn on_signals(self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        for token in [&self.drain, &self.abort] {
            let name = tokio::select! {
                biased;
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, now = token.is_cancelled(), "signal received");
            token.cancel();
        }
        Ok(())
    }
}
