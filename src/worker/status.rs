//! ◆ What the worker is doing, as /status shows it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::ids::ShardId;
use crate::telemetry::metrics::ShardGauges;

/// Objects remembered.
const RECENT: usize = 20;

/// One shard we work on.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Shard {
    /// `recovering`, `reading`, `draining`.
    pub state: &'static str,
    /// Checkpoint as last written.
    pub checkpoint: String,
    /// MillisBehindLatest of the last page.
    pub behind_ms: Option<i64>,
    /// Records committed by this worker.
    pub records: u64,
    /// Payload bytes committed by this worker.
    pub bytes: u64,
    /// Batches cut and not yet durable.
    pub undelivered: usize,
    /// Seconds since something last moved (clock of the process).
    #[serde(skip)]
    pub moved_at: Duration,
    /// When the oldest record in hand was read (clock of the process).
    #[serde(skip)]
    pub oldest_at: Option<Duration>,
}

/// An object stored by this worker.
#[derive(Clone, Debug, Serialize)]
pub struct Stored {
    /// Key.
    pub key: String,
    /// Records in it.
    pub records: u64,
    /// Size.
    pub bytes: usize,
}

/// The whole picture.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// Stream name.
    pub stream: String,
    /// Worker id.
    pub worker: String,
    /// Build version.
    pub version: &'static str,
    /// Leasing works: the table was read lately.
    pub ready: bool,
    /// On the way out.
    pub draining: bool,
    /// Leases with work left, in the table.
    pub active_leases: usize,
    /// Workers seen.
    pub workers: usize,
    /// Leases with unfinished batches or records on the way, in the whole table.
    pub shards: BTreeMap<ShardId, Shard>,
    /// Latest last.
    pub recent_objects: VecDeque<Stored>,
    /// Records committed by this worker.
    pub records: u64,
    /// Payload bytes committed by this worker.
    pub bytes: u64,
    /// Objects created by this worker.
    pub objects: u64,
    /// Leases whose checkpoint overrules the configured `stream.start`.
    pub start_ignored: usize,
    /// The last failure worth telling.
    pub last_error: Option<String>,
}

/// Shared, mutable picture.
#[derive(Default)]
pub struct Board(Mutex<Snapshot>);

impl Board {
    /// An empty board with names on it.
    pub fn new(stream: &str, worker: &str) -> Self {
        Self(Mutex::new(Snapshot {
            stream: stream.to_owned(),
            worker: worker.to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            ..Snapshot::default()
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy.
    pub fn snapshot(&self) -> Snapshot {
        self.lock().clone()
    }

    /// Changes the picture.
    pub fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.lock());
    }

    /// Changes one shard, if it is on the board.
    pub fn shard(&self, shard: &ShardId, change: impl FnOnce(&mut Shard)) {
        if let Some(entry) = self.lock().shards.get_mut(shard) {
            change(entry);
        }
    }

    /// An object was created.
    pub fn object(&self, key: &str, records: u64, bytes: usize) {
        let mut state = self.lock();
        state.objects += 1;
        if state.recent_objects.len() == RECENT {
            state.recent_objects.pop_front();
        }
        state.recent_objects.push_back(Stored { key: key.to_owned(), records, bytes });
    }

    /// How each shard stands now. Ages grow while nothing happens, which is when they matter.
    pub fn gauges(&self, now: Duration) -> Vec<(ShardId, ShardGauges)> {
        let since = |at: Duration| now.saturating_sub(at).as_secs_f64();
        let gauges = |shard: &Shard| ShardGauges {
            behind: shard.behind_ms.map(|ms| ms as f64 / 1000.0),
            oldest: shard.oldest_at.map_or(0.0, since),
            still: since(shard.moved_at),
        };
        self.lock().shards.iter().map(|(id, shard)| (id.clone(), gauges(shard))).collect()
    }

    /// The shards that have work and have not moved for `limit`.
    pub fn stuck(&self, now: Duration, limit: Duration) -> Vec<ShardId> {
        let state = self.lock();
        let stuck = state.shards.iter().filter(|(_, s)| now.saturating_sub(s.moved_at) > limit);
        stuck.map(|(id, _)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_grow_while_nothing_happens() {
        let board = Board::new("clicks", "w");
        let id = ShardId::new("shardId-000000000001");
        let entry = Shard {
            behind_ms: Some(1500),
            moved_at: Duration::from_secs(10),
            oldest_at: Some(Duration::from_secs(4)),
            ..Shard::default()
        };
        board.update(|b| drop(b.shards.insert(id.clone(), entry)));
        for now in [10, 700] {
            let found = board.gauges(Duration::from_secs(now));
            let (_, gauges) = &found[0];
            let now = now as f64;
            let expected = (Some(1.5), now - 4.0, now - 10.0);
            assert_eq!((gauges.behind, gauges.oldest, gauges.still), expected);
        }
        board.shard(&id, |s| s.oldest_at = None);
        assert!(board.gauges(Duration::from_secs(700))[0].1.oldest.abs() < f64::EPSILON);
    }
}
