//! Signs of a KCL 3.x application on a table, in either layout.
//!
//! There, a leader assigns the leases, and a worker that takes them by itself would fight it; so
//! Catchment does not start beside one. A KCL 2.x application is another matter: its workers take
//! leases as ours do, and both can share a table. Its leader (a choice every worker computes from
//! the owners in the table) does nothing but compare shards with leases; when the choice falls on
//! one of ours nothing is missing, because every Catchment worker does that all the time. So the
//! leader is not computed here.
//!
//! Where the items are: 3.0 to 3.4 keep them in `<application>-CoordinatorState` (key `key`) and
//! `<application>-WorkerMetricStats` (key `wid`); 3.5 and later in the lease table (`leaseKey`),
//! with `entityType`.

use crate::lease::row::{Attr, Item, attr};

/// A metrics item this fresh belongs to a live worker, seconds: they are refreshed every 30 s, by
/// wall clock.
const FRESH_SECONDS: i64 = 120;
/// A live leader changes its lock every 30 s; this is long enough to see it, seconds.
pub const LOCK_SECONDS: u64 = 40;

/// The two tables of the layout of 3.0 to 3.4: coordinator items, metrics items.
pub fn legacy_tables(application: &str) -> [String; 2] {
    [format!("{application}-CoordinatorState"), format!("{application}-WorkerMetricStats")]
}

/// A worker that reported lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Its id, which is the key of its metrics item.
    pub worker: String,
    /// Age of the report, seconds.
    pub age: i64,
    /// It holds the leader lock.
    pub leads: bool,
}

/// The leader lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Worker that holds it. A worker that crashed leaves it behind.
    pub owner: String,
    /// Changes with each heartbeat of the leader.
    pub version: String,
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    match item.get(name) {
        Some(Attr::S(text)) => Some(text),
        _ => None,
    }
}

/// The leader lock among these items.
pub fn lock(items: &[Item]) -> Option<Lock> {
    items.iter().find_map(|item| {
        let key = text(item, "key").or_else(|| text(item, attr::KEY))?;
        let kind = text(item, attr::ENTITY).unwrap_or("LEADER");
        (key == "Leader" && kind == "LEADER").then_some(())?;
        let version = text(item, "recordVersionNumber").unwrap_or_default();
        Some(Lock { owner: text(item, "ownerName")?.to_owned(), version: version.to_owned() })
    })
}

/// A live worker among these items, the leader if it is one of them.
pub fn live(items: &[Item], now_ms: i64) -> Option<Live> {
    let leader = lock(items).map(|lock| lock.owner);
    let reports = items.iter().filter_map(|item| {
        let worker = match text(item, "wid") {
            Some(worker) => worker,
            None if text(item, attr::ENTITY) == Some("WORKER_METRIC_STATS") => {
                text(item, attr::KEY)?
            }
            None => return None,
        };
        let Some(Attr::N(updated)) = item.get("lut") else { return None };
        let age = now_ms / 1000 - updated.parse::<i64>().ok()?;
        let leads = leader.as_deref() == Some(worker);
        (age < FRESH_SECONDS).then(|| Live { worker: worker.to_owned(), age, leads })
    });
    reports.max_by_key(|live| (live.leads, -live.age))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;

    fn s(text: &str) -> Attr {
        Attr::S(text.into())
    }

    fn report(key: &str, worker: &str, age: i64) -> Item {
        let mut item = Item::from([
            (key.to_owned(), s(worker)),
            ("lut".to_owned(), Attr::N((NOW_MS / 1000 - age).to_string())),
        ]);
        if key == attr::KEY {
            item.insert(attr::ENTITY.into(), s("WORKER_METRIC_STATS"));
        }
        item
    }

    fn leader(key: &str, worker: &str, version: &str) -> Item {
        Item::from([
            (key.to_owned(), s("Leader")),
            ("ownerName".to_owned(), s(worker)),
            ("recordVersionNumber".to_owned(), s(version)),
            ("leaseDuration".to_owned(), s("120000")),
        ])
    }

    #[test]
    fn workers_that_report_are_live_in_both_layouts() {
        for (key, lock) in [("wid", "key"), (attr::KEY, attr::KEY)] {
            let items = [report(key, "a", 10), report(key, "b", 25), leader(lock, "b", "1")];
            let found = live(&items, NOW_MS);
            assert_eq!(found, Some(Live { worker: "b".into(), age: 25, leads: true }), "{key}");
            let alone = live(&items[..1], NOW_MS).unwrap();
            assert_eq!((alone.worker.as_str(), alone.leads), ("a", false));
        }
    }

    #[test]
    fn workers_that_stopped_are_not_and_their_lock_says_nothing() {
        let items = [report("wid", "a", 900), leader("key", "a", "1")];
        assert_eq!(live(&items, NOW_MS), None);
        assert_eq!(lock(&items), Some(Lock { owner: "a".into(), version: "1".into() }));
    }

    #[test]
    fn leases_and_other_items_are_no_workers() {
        let lease = Item::from([(attr::KEY.to_owned(), s("shardId-000000000000"))]);
        let mut migration = Item::from([(attr::KEY.to_owned(), s("Migration3.0"))]);
        migration.insert(attr::ENTITY.into(), s("CLIENT_VERSION_MIGRATION"));
        migration.insert("lut".into(), Attr::N("1800000000".into()));
        assert_eq!(live(&[lease.clone(), migration.clone()], NOW_MS), None);
        assert_eq!(lock(&[lease, migration]), None);
    }
}
