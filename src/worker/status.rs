//! What the worker is doing, as /status and the status page show it.
//!
//! Everything here is bounded: what is remembered by rings, what is listed by [`View`](super::view::View).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::ids::ShardId;
use crate::lease::parked::Parked;
use crate::metrics::registry::ShardGauges;
use crate::worker::fleet::Fleet;

/// Objects and errors remembered.
const RECENT: usize = 20;
/// Parked leases listed.
pub const PARKED: usize = 20;
/// Characters of an error remembered: services repeat requests in their messages.
const ERROR_CHARS: usize = 400;
/// How often lag and rate are sampled.
pub const SAMPLE: Duration = Duration::from_secs(2);
/// Samples remembered: ten minutes.
const SAMPLES: usize = 300;
/// What was read so long ago says how far behind the shard was then, not how far it is now.
const STALE: Duration = Duration::from_secs(15);

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
    /// When something last moved (clock of the process).
    #[serde(skip)]
    pub moved_at: Duration,
    /// When `behind_ms` was told (clock of the process).
    #[serde(skip)]
    pub read_at: Duration,
    /// When the oldest record in hand was read (clock of the process).
    #[serde(skip)]
    pub oldest_at: Option<Duration>,
}

impl Shard {
    /// How far behind it is: what the last page said, and if that is long ago, the time since.
    pub fn lag_ms(&self, now: Duration) -> Option<i64> {
        let since = now.saturating_sub(self.read_at);
        let unread = if since > STALE { i64::try_from(since.as_millis()).ok()? } else { 0 };
        Some(self.behind_ms?.saturating_add(unread))
    }
}

/// An object stored by this worker.
#[derive(Clone, Debug, Serialize)]
pub struct StoredObject {
    /// When, ms since the epoch.
    pub at_ms: i64,
    /// Key.
    pub key: String,
    /// Records in it.
    pub records: u64,
    /// Size.
    pub bytes: usize,
}

/// Something that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecentFailure {
    /// When last, ms since the epoch.
    pub at_ms: i64,
    /// What.
    pub text: String,
    /// How often in a row.
    pub times: u64,
}

/// Lag and rate over time, oldest first.
#[derive(Clone, Debug, Default, Serialize)]
pub struct History {
    /// Seconds between samples.
    pub every_s: u64,
    /// Lag of the slowest shard of this worker, ms.
    pub lag_ms: VecDeque<Option<i64>>,
    /// User records read per second.
    pub records_per_s: VecDeque<f64>,
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
    /// Lease table.
    pub table: String,
    /// Destination bucket.
    pub bucket: String,
    /// Retention of the stream, ms.
    pub retention_ms: i64,
    /// When the worker started, ms since the epoch.
    pub started_ms: i64,
    /// Leasing works: the table was read lately.
    pub ready: bool,
    /// On the way out.
    pub draining: bool,
    /// Leases with work left, in the table.
    pub active_leases: usize,
    /// Workers seen.
    pub workers: usize,
    /// The shards this worker works on.
    pub shards: BTreeMap<ShardId, Shard>,
    /// Latest last.
    pub recent_objects: VecDeque<StoredObject>,
    /// Latest last.
    pub recent_errors: VecDeque<RecentFailure>,
    /// User records read by this worker.
    pub records_read: u64,
    /// Records committed by this worker.
    pub records: u64,
    /// Payload bytes committed by this worker.
    pub bytes: u64,
    /// Objects created by this worker.
    pub objects: u64,
    /// User records of aggregates put aside because another shard takes their hash key.
    pub foreign_records: u64,
    /// When the last of them was met, ms since the epoch.
    pub foreign_ms: Option<i64>,
    /// Ranges whose records may have been lost before they were read.
    pub possible_gaps: u64,
    /// When the last of them was met, ms since the epoch.
    pub possible_gap_ms: Option<i64>,
    /// Leases whose checkpoint overrules the configured `stream.start`.
    pub start_ignored: usize,
    /// Open shards whose leases are at SHARD_END.
    pub open_ends: BTreeSet<ShardId>,
    /// Leases parked at a gap, the first of them; `fleet.parked` counts all.
    pub parked: BTreeMap<ShardId, Parked>,
    /// The last failure worth telling.
    pub last_error: Option<String>,
    /// Everybody's leases, as the table was last read.
    pub fleet: Fleet,
    /// Lag and rate lately.
    pub history: History,
    /// Time and `records_read` of the last sample.
    #[serde(skip)]
    sampled: Option<(Duration, u64)>,
}

/// Shared, mutable picture.
#[derive(Default)]
pub struct StatusStore(Mutex<Snapshot>);

impl StatusStore {
    /// An empty picture with names on it.
    pub fn new(stream: &str, worker: &str) -> Self {
        Self(Mutex::new(Snapshot {
            stream: stream.to_owned(),
            worker: worker.to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            history: History { every_s: SAMPLE.as_secs(), ..History::default() },
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

    /// Changes one shard, if it is in the picture.
    pub fn shard(&self, shard: &ShardId, change: impl FnOnce(&mut Shard)) {
        if let Some(entry) = self.lock().shards.get_mut(shard) {
            change(entry);
        }
    }

    /// An object was created.
    pub fn object(&self, at_ms: i64, key: &str, records: u64, bytes: usize) {
        let mut state = self.lock();
        state.objects += 1;
        if state.recent_objects.len() == RECENT {
            state.recent_objects.pop_front();
        }
        state.recent_objects.push_back(StoredObject { at_ms, key: key.to_owned(), records, bytes });
    }

    /// Something failed. The same again is counted, not listed.
    pub fn error(&self, at_ms: i64, text: &str) {
        let text: String = text.chars().take(ERROR_CHARS).collect();
        let mut state = self.lock();
        state.last_error = Some(text.clone());
        let last = state.recent_errors.back_mut();
        if let Some(last) =
            last.filter(|last| without_request(&last.text) == without_request(&text))
        {
            (last.at_ms, last.text) = (at_ms, text);
            last.times += 1;
            return;
        }
        if state.recent_errors.len() == RECENT {
            state.recent_errors.pop_front();
        }
        state.recent_errors.push_back(RecentFailure { at_ms, text, times: 1 });
    }

    /// Notes lag and rate; called every [`SAMPLE`].
    pub fn sample(&self, now: Duration) {
        let mut state = self.lock();
        let lag = state.shards.values().filter_map(|s| s.lag_ms(now)).max();
        let read = state.records_read;
        let rate = match state.sampled.replace((now, read)) {
            Some((before, was)) if now > before => {
                read.saturating_sub(was) as f64 / (now - before).as_secs_f64()
            }
            _ => 0.0,
        };
        let History { lag_ms, records_per_s, .. } = &mut state.history;
        lag_ms.push_back(lag);
        records_per_s.push_back((rate * 10.0).round() / 10.0);
        for _ in SAMPLES..lag_ms.len() {
            lag_ms.pop_front();
            records_per_s.pop_front();
        }
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
        self.lock().stuck(now, limit)
    }
}

/// Each attempt has its own request id.
fn without_request(text: &str) -> &str {
    text.split(" (request ").next().unwrap_or(text)
}

impl Snapshot {
    /// See [`StatusStore::stuck`].
    pub fn stuck(&self, now: Duration, limit: Duration) -> Vec<ShardId> {
        let stuck = self.shards.iter().filter(|(_, s)| now.saturating_sub(s.moved_at) > limit);
        stuck.map(|(id, _)| id.clone()).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const S: fn(u64) -> Duration = Duration::from_secs;

    pub(crate) fn id(n: usize) -> ShardId {
        ShardId::new(format!("shardId-{n:012}"))
    }

    #[test]
    fn rings_are_bounded_and_repeated_errors_are_counted() {
        let board = StatusStore::new("s", "w");
        for n in 0..100 {
            board.object(n, &format!("k{n}"), 1, 2);
            let what = if n < 50 { "same" } else { "other" };
            board.error(n, &format!("{what} (request {n})"));
        }
        board.error(100, &"x".repeat(10_000));
        let state = board.snapshot();
        assert_eq!((state.recent_objects.len(), state.objects), (RECENT, 100));
        assert_eq!(state.recent_objects.back().unwrap().key, "k99");
        let told: Vec<_> = state.recent_errors.iter().map(|e| (e.at_ms, e.times)).collect();
        assert_eq!(told, [(49, 50), (99, 50), (100, 1)]);
        assert_eq!(state.last_error.unwrap().len(), ERROR_CHARS);
        for n in 0..100 {
            board.error(n, &format!("{n}"));
        }
        assert_eq!(board.snapshot().recent_errors.len(), RECENT);
    }

    #[test]
    fn history_is_bounded_and_rates_are_per_second() {
        let board = StatusStore::new("s", "w");
        board.update(|b| {
            b.shards.insert(id(1), Shard { behind_ms: Some(70), ..Shard::default() });
        });
        for n in 0..1000_u64 {
            board.update(|b| b.records_read = n * 30);
            board.sample(S(2 * n));
        }
        let history = board.snapshot().history;
        assert_eq!((history.lag_ms.len(), history.records_per_s.len()), (SAMPLES, SAMPLES));
        assert!(history.records_per_s.iter().all(|rate| (*rate - 15.0).abs() < 0.01));
    }

    #[test]
    fn lag_grows_while_nothing_is_read() {
        let shard = Shard { behind_ms: Some(500), read_at: S(10), ..Shard::default() };
        assert_eq!(shard.lag_ms(S(20)), Some(500));
        assert_eq!(shard.lag_ms(S(70)), Some(60_500));
        assert_eq!(Shard::default().lag_ms(S(70)), None);
    }

    #[test]
    fn ages_grow_while_nothing_happens() {
        let board = StatusStore::new("clicks", "w");
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
