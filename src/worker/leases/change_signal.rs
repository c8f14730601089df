//! Tells the fleet that there is something to take, once for a batch of changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::aws::dynamodb::{LeaseTable, Written};
use crate::ids::ShardId;
use crate::lease::change_marker;
use crate::metrics::registry::Metrics;
use crate::metrics::table as metric;

/// What is to be told, and where.
#[derive(Clone, Default)]
pub struct ChangeSignal {
    state: Arc<Mutex<SignalState>>,
    marked: Arc<Notify>,
}

#[derive(Default)]
struct SignalState {
    /// There is something to tell.
    marked: bool,
    board: Option<ShardId>,
    /// Where the board was before: others may still read there.
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

    /// Waits until there may be something to tell.
    pub(super) async fn marked(&self) {
        self.marked.notified().await;
    }

    /// A scan saw the board here.
    pub fn marker_at(&self, board: Option<&ShardId>) {
        let mut state = self.lock();
        if state.board.as_ref() != board {
            let before = state.board.take();
            state.before = before.or(state.before.take());
            state.board = board.cloned();
        }
        if state.marked && state.board.is_some() {
            self.marked.notify_one();
        }
    }

    /// Tells what was marked; says whether nothing is left to tell.
    pub async fn publish(&self, table: &LeaseTable, metrics: &Metrics) -> bool {
        let boards: Vec<ShardId> = {
            let mut state = self.lock();
            if !state.marked {
                return true;
            }
            if state.board.is_none() {
                // Nobody reads a board, everybody scans.
                return true;
            }
            state.marked = false;
            let before = state.before.take();
            state.board.iter().cloned().chain(before).collect()
        };
        let mut told = true;
        for shard in boards {
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
