//! The change signal: other workers have something to take; raised once for a batch of changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::aws::dynamodb::{LeaseTable, Written};
use crate::ids::ShardId;
use crate::lease::change_marker;
use crate::metrics::registry::Metrics;
use crate::metrics::table as metric;

/// Whether the signal is to be raised in the table, and in which row.
#[derive(Clone, Default)]
pub struct ChangeSignal {
    state: Arc<Mutex<SignalState>>,
    marked: Arc<Notify>,
}

#[derive(Default)]
struct SignalState {
    /// There is something to publish.
    marked: bool,
    marker: Option<ShardId>,
    /// Where the marker was before: others may still read there.
    before: Option<ShardId>,
}

impl ChangeSignal {
    fn lock(&self) -> MutexGuard<'_, SignalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Others may have something to do now.
    pub fn raise(&self) {
        self.lock().marked = true;
        self.marked.notify_one();
    }

    /// Waits until there may be something to publish.
    pub(super) async fn marked(&self) {
        self.marked.notified().await;
    }

    /// A scan saw the change marker here.
    pub fn marker_at(&self, marker: Option<&ShardId>) {
        let mut state = self.lock();
        if state.marker.as_ref() != marker {
            let before = state.marker.take();
            state.before = before.or(state.before.take());
            state.marker = marker.cloned();
        }
        if state.marked && state.marker.is_some() {
            self.marked.notify_one();
        }
    }

    /// Publishes what was raised; says whether nothing is left to publish.
    pub async fn publish(&self, table: &LeaseTable, metrics: &Metrics) -> bool {
        let markers: Vec<ShardId> = {
            let mut state = self.lock();
            if !state.marked {
                return true;
            }
            if state.marker.is_none() {
                // Without a marker to read, every worker scans.
                return true;
            }
            state.marked = false;
            let before = state.before.take();
            state.marker.iter().cloned().chain(before).collect()
        };
        let mut told = true;
        for shard in markers {
            match table.update(&shard, change_marker::bump()).await {
                Ok(Written::Done(_)) => {
                    metrics.add(metric::LEASE_CHANGE_SIGNALS_TOTAL, &["told"], 1)
                }
                // The row is gone: whoever reads it scans, and so do we.
                Ok(Written::Refused(_)) => {}
                Err(error) => {
                    tracing::debug!(%error, "telling the fleet failed");
                    metrics.add(metric::LEASE_CHANGE_SIGNALS_TOTAL, &["failed"], 1);
                    told = false;
                }
            }
        }
        if !told {
            self.lock().marked = true;
        }
        told
    }
}
