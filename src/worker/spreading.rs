//! Whether Kinesis spreads the records of the stream over its shards whatever their keys
//! (RecordDistributionStrategy AUTO), followed while the worker runs: it may change at any time.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// What was found last.
#[derive(Debug)]
pub struct Spreading {
    automatic: AtomicBool,
    doubted: Notify,
}

impl Spreading {
    /// As found at start.
    pub fn new(automatic: bool) -> Self {
        Self { automatic: AtomicBool::new(automatic), doubted: Notify::new() }
    }

    /// Keys mean nothing.
    pub fn is_automatic(&self) -> bool {
        self.automatic.load(Ordering::Relaxed)
    }

    /// Records are where their keys do not belong: look again soon.
    pub fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Waits until somebody doubts.
    pub async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// As found now; whether that is news.
    pub fn found(&self, automatic: bool) -> bool {
        self.automatic.swap(automatic, Ordering::Relaxed) != automatic
    }
}
