//! What any task of a worker may use, and what may be seen of a worker from outside.

use std::sync::Arc;

use crate::budget::Budget;
use crate::clock::{Clock, Jitter};
use crate::fault::CallError;
use crate::metrics::registry::Metrics;
use crate::metrics::table as metric;
use crate::task::Tasks;
use crate::worker::status::StatusStore;

/// Time, chance, spawning, metrics and status: what cuts across all tasks of a worker. Cheap to clone.
#[derive(Clone)]
pub struct TaskContext {
    /// Time.
    pub clock: Clock,
    /// Random source.
    pub jitter: Jitter,
    /// Spawning.
    pub tasks: Tasks,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What /status shows.
    pub status: Arc<StatusStore>,
}

impl TaskContext {
    /// Counts a failed call, and shows it as `text`.
    pub fn call_failed(&self, error: &CallError, text: &str) {
        let labels = [error.operation, error.fault.as_str()];
        self.metrics.add(metric::CALL_FAILURES_TOTAL, &labels, 1);
        self.status.error(self.clock.wall(), text);
    }
}

/// A worker as seen from outside: its status and its figures, but no table and no bucket.
#[derive(Clone)]
pub struct Observed {
    /// Status, metrics, and the time to show them at.
    pub ctx: TaskContext,
    /// Memory in use.
    pub budget: Budget,
}
