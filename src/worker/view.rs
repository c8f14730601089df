//! The status as /status and the page show it: judged, and cut to a size that can be sent often.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::ids::ShardId;
use crate::worker::health::{self, Health};
use crate::worker::status::{Snapshot, StatusStore};

/// Shards of this worker listed by a view; those furthest behind, if there are more.
const LISTED: usize = 256;

/// A snapshot as it is told: judged, and cut to a size that can be told often.
#[derive(Debug, Serialize)]
pub struct View {
    /// Is it well?
    pub health: Health,
    /// When this was told, ms since the epoch.
    pub now_ms: i64,
    /// How many shards this worker works on.
    pub shards_owned: usize,
    /// How many of them are not listed: those least behind.
    pub shards_omitted: usize,
    /// Lag of each listed shard, ms, counting the time since it was last read.
    pub lag_ms: BTreeMap<ShardId, Option<i64>>,
    /// The rest.
    #[serde(flatten)]
    pub snapshot: Snapshot,
}

impl StatusStore {
    /// What to tell now: the clock of the process, and UTC in ms since the epoch.
    pub fn view(&self, now: Duration, wall_ms: i64) -> View {
        self.snapshot().view(now, wall_ms)
    }
}

impl Snapshot {
    fn view(mut self, now: Duration, now_ms: i64) -> View {
        let health = health::assess(&self, now, now_ms);
        let shards_owned = self.shards.len();
        if shards_owned > LISTED {
            let mut order: Vec<ShardId> = self.shards.keys().cloned().collect();
            // Unknown lag is a reason to look.
            let lag = |id: &ShardId| self.shards[id].lag_ms(now).unwrap_or(i64::MAX);
            order.sort_by_key(|id| std::cmp::Reverse(lag(id)));
            for id in &order[LISTED..] {
                self.shards.remove(id);
            }
        }
        let lag_ms = self.shards.iter().map(|(id, s)| (id.clone(), s.lag_ms(now))).collect();
        let shards_omitted = shards_owned - self.shards.len();
        View { health, now_ms, shards_owned, shards_omitted, lag_ms, snapshot: self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::status::Shard;
    use crate::worker::status::tests::{S, id};

    #[test]
    fn of_five_thousand_shards_those_furthest_behind_are_listed() {
        let board = StatusStore::new("s", "w");
        board.update(|b| {
            for n in 0..5000 {
                let behind_ms = Some(i64::try_from(n % 1000).unwrap());
                b.shards.insert(
                    id(n),
                    Shard { behind_ms, checkpoint: "4".repeat(56), ..Shard::default() },
                );
            }
            b.shards.get_mut(&id(7)).unwrap().behind_ms = None;
        });
        let view = board.view(S(1), 0);
        assert_eq!((view.shards_owned, view.shards_omitted), (5000, 5000 - LISTED));
        assert_eq!(view.snapshot.shards.len(), LISTED);
        assert!(
            view.snapshot.shards.contains_key(&id(4999))
                && view.snapshot.shards.contains_key(&id(7))
        );
        assert!(!view.snapshot.shards.contains_key(&id(1000)));
        let text = serde_json::to_string(&view).unwrap();
        assert!(text.len() < 100_000, "{} bytes", text.len());
    }
}
