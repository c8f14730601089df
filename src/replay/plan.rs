//! What a replay delivers: which shards, from where, to where. Made once, stored with the leases of
//! the replay, and never changed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::delivery::settings::Settings;
use crate::ids::{SequenceNumber, ShardId};
use crate::lease::row::{Attr, Item, Lease, NewLease, attr};
use crate::stream::bound::Bound;
use crate::stream::position::Checkpoint;
use crate::stream::{ShardInfo, StreamInfo};

/// Layout version of the stored plan.
pub const LAYOUT: u32 = 1;

/// Where a replay begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    /// The oldest record kept, in every shard.
    TrimHorizon,
    /// The first record that arrived at or after this time, in every shard; ms since the epoch.
    Timestamp(i64),
    /// This record of this shard; descendants of the shard from their first record.
    Sequence(ShardId, SequenceNumber),
}

/// Where a replay ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// Each shard ends before its first record that arrived at or after this time.
    Timestamp(i64),
    /// This record of this shard; its ancestors are read to their end.
    Sequence(ShardId, SequenceNumber),
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`LAYOUT`].
    pub catchment: u32,
    /// Name of the replay.
    pub id: String,
    /// `StreamInfo::identity`.
    pub stream: String,
    /// When it was planned, ms since the epoch.
    pub planned_ms: i64,
    /// Begin.
    pub from: From,
    /// End.
    pub until: Until,
    /// Only this shard and its descendants.
    pub shard: Option<ShardId>,
    /// Only these shards: those on the way to the shard that `until` names.
    pub path: Option<Vec<ShardId>>,
    /// In front of every key.
    pub prefix: String,
    /// How its objects are encoded and named.
    pub settings: Settings,
    /// What was asked for, by name, to compare with what is asked later.
    pub asked: BTreeMap<String, String>,
}

/// A range that cannot be planned.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRange {
    /// Ends before it begins.
    #[error("the range is empty: it begins at {from} and ends at {until}")]
    Empty {
        /// Begin.
        from: String,
        /// End.
        until: String,
    },
    /// A shard that is not listed.
    #[error(
        "the stream lists no shard `{0}` (any more): `aws kinesis list-shards` shows what there is"
    )]
    NoShard(ShardId),
    /// The end is in a shard that the begin does not lead to.
    #[error(
        "the range ends in {until}, which is not {from} or one of its descendants: a record of \
         another shard cannot end it"
    )]
    Apart {
        /// Shard of the begin.
        from: ShardId,
        /// Shard of the end.
        until: ShardId,
    },
}

impl Plan {
    /// The shards a range covers: the descendants of `root` (all, without one) that lead to `end`
    /// (all, without one).
    ///
    /// # Errors
    /// [`BadRange`] for shards that are not listed, or an end that is not reached.
    pub fn scope(
        shards: &[ShardInfo],
        root: Option<&ShardId>,
        end: Option<&ShardId>,
    ) -> Result<BTreeSet<ShardId>, BadRange> {
        for named in root.iter().chain(end.iter()) {
            if !shards.iter().any(|s| s.id == **named) {
                return Err(BadRange::NoShard((*named).clone()));
            }
        }
        let descendants = match root {
            Some(root) => closure(root, |id| children_of(shards, id)),
            None => shards.iter().map(|s| s.id.clone()).collect(),
        };
        let Some(end) = end else { return Ok(descendants) };
        if let Some(root) = root
            && !descendants.contains(end)
        {
            return Err(BadRange::Apart { from: root.clone(), until: end.clone() });
        }
        let ancestors = closure(end, |id| parents_of(shards, id));
        Ok(descendants.intersection(&ancestors).cloned().collect())
    }

    /// The shard whose lineage this is, if it is not the whole stream.
    pub fn root(&self) -> Option<&ShardId> {
        match &self.from {
            From::Sequence(shard, _) => Some(shard),
            From::TrimHorizon | From::Timestamp(_) => self.shard.as_ref(),
        }
    }

    /// Checks what can be checked without the stream.
    ///
    /// # Errors
    /// [`BadRange::Empty`]
    pub fn check(&self) -> Result<(), BadRange> {
        let empty = match (&self.from, &self.until) {
            (From::Timestamp(from), Until::Timestamp(until)) => from >= until,
            (From::Sequence(a, from), Until::Sequence(b, until)) => a == b && from > until,
            _ => false,
        };
        if empty {
            return Err(BadRange::Empty {
                from: self.from.to_string(),
                until: self.until.to_string(),
            });
        }
        Ok(())
    }

    /// The leases to create, parents before children.
    ///
    /// # Errors
    /// [`BadRange`]
    pub fn rows(&self, shards: &[ShardInfo]) -> Result<Vec<NewLease>, BadRange> {
        let end = match &self.until {
            Until::Sequence(shard, _) => Some(shard),
            Until::Timestamp(_) => None,
        };
        let scope = Self::scope(shards, self.root(), end)?;
        let inside: Vec<&ShardInfo> = shards.iter().filter(|s| scope.contains(&s.id)).collect();
        let mut rows: Vec<NewLease> = Vec::with_capacity(inside.len());
        let mut placed = BTreeSet::new();
        while rows.len() < inside.len() {
            let before = rows.len();
            for shard in &inside {
                let parents: Vec<_> =
                    shard.parents.iter().filter(|p| scope.contains(*p)).cloned().collect();
                if !placed.contains(&shard.id) && parents.iter().all(|p| placed.contains(p)) {
                    placed.insert(shard.id.clone());
                    rows.push(self.row(shard, parents));
                }
            }
            if rows.len() == before {
                break; // Shards that are their own ancestors: no stream has them.
            }
        }
        Ok(rows)
    }

    /// The leases of the children of a shard read to its end, as far as they are in the range.
    pub fn children(&self, children: &[ShardInfo]) -> Vec<NewLease> {
        let inside = |s: &&ShardInfo| self.path.as_ref().is_none_or(|path| path.contains(&s.id));
        children.iter().filter(inside).map(|s| self.row(s, s.parents.clone())).collect()
    }

    fn row(&self, shard: &ShardInfo, parents: Vec<ShardId>) -> NewLease {
        let (checkpoint, pin_ms) = match self.from {
            From::Timestamp(ms) => (Checkpoint::AtTimestamp, Some(ms)),
            From::TrimHorizon | From::Sequence(..) => (Checkpoint::TrimHorizon, None),
        };
        NewLease {
            shard: shard.id.clone(),
            checkpoint,
            pin_ms,
            parents,
            hash_range: shard.hash_range.clone(),
        }
    }

    /// A lease as it is stored.
    pub fn item(&self, lease: &NewLease, identity: &str, now_ms: i64) -> Item {
        let mut item = lease.item(identity, now_ms);
        if let From::Sequence(shard, first) = &self.from
            && *shard == lease.shard
        {
            item.insert(attr::START_SEQUENCE.into(), Attr::S(first.as_str().into()));
        }
        for total in [attr::RECORDS, attr::BYTES] {
            item.insert(total.into(), Attr::N("0".into()));
        }
        item
    }

    /// Where reading of a shard ends; `None` for the end of the shard.
    pub fn bound(&self, shard: &ShardId) -> Option<Bound> {
        match &self.until {
            Until::Timestamp(ms) => Some(Bound::Before(*ms)),
            Until::Sequence(at, last) if at == shard => {
                Some(Bound::Sequence { last: last.clone(), known_ms: self.planned_ms })
            }
            Until::Sequence(..) => None,
        }
    }

    /// No record of the range arrived after this time, ms since the epoch.
    pub fn end_ms(&self) -> i64 {
        match self.until {
            Until::Timestamp(ms) => ms,
            Until::Sequence(..) => self.planned_ms,
        }
    }

    /// How much of the range is outside the stream's retention, ms.
    pub fn outside_ms(&self, stream: &StreamInfo, now_ms: i64) -> Option<i64> {
        let From::Timestamp(from) = self.from else { return None };
        let lost = now_ms - stream.retention_ms - from.max(stream.created_ms);
        (lost > 0).then_some(lost)
    }

    /// A shard without parents whose first records have left retention by the time it is begun: where
    /// a time stands for the position, the records themselves cannot tell.
    pub fn begins_too_late(&self, row: &Lease, stream: &StreamInfo, now_ms: i64) -> bool {
        row.progress.checkpoint == Checkpoint::AtTimestamp
            && row.parents.is_empty()
            && self.outside_ms(stream, now_ms).is_some()
    }

    /// What is asked for now and is not what this plan was made for: name, asked, planned.
    pub fn differences(&self, asked: &BTreeMap<String, String>) -> Vec<(String, String, String)> {
        let differs = |(name, now): (&String, &String)| {
            let then = self.asked.get(name).map_or("", String::as_str);
            (then != now).then(|| (name.clone(), now.clone(), then.to_owned()))
        };
        asked.iter().filter_map(differs).collect()
    }
}

fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |t| t.to_string())
}

impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TrimHorizon => f.write_str("the oldest record kept"),
            Self::Timestamp(ms) => f.write_str(&time(*ms)),
            Self::Sequence(shard, first) => write!(f, "record {first} of {shard}"),
        }
    }
}

impl std::fmt::Display for Until {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Timestamp(ms) => f.write_str(&time(*ms)),
            Self::Sequence(shard, last) => write!(f, "record {last} of {shard}, included"),
        }
    }
}

fn closure<'a>(root: &ShardId, next: impl Fn(&ShardId) -> Vec<&'a ShardId>) -> BTreeSet<ShardId> {
    let mut seen = BTreeSet::from([root.clone()]);
    let mut open = vec![root.clone()];
    while let Some(id) = open.pop() {
        for other in next(&id) {
            if seen.insert(other.clone()) {
                open.push(other.clone());
            }
        }
    }
    seen
}

fn children_of<'a>(shards: &'a [ShardInfo], id: &ShardId) -> Vec<&'a ShardId> {
    shards.iter().filter(|s| s.parents.contains(id)).map(|s| &s.id).collect()
}

/// Parents that are still listed.
fn parents_of<'a>(shards: &'a [ShardInfo], id: &ShardId) -> Vec<&'a ShardId> {
    let shard = shards.iter().find(|s| s.id == *id);
    let parents = shard.into_iter().flat_map(|s| s.parents.iter());
    parents.filter(|p| shards.iter().any(|s| s.id == **p)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> ShardId {
        ShardId::new(text)
    }

    fn number(text: &str) -> SequenceNumber {
        SequenceNumber::parse(text).unwrap()
    }

    fn shard(name: &str, parents: &[&str]) -> ShardInfo {
        ShardInfo {
            id: id(name),
            parents: parents.iter().map(|p| id(p)).collect(),
            hash_range: None,
            closed: false,
        }
    }

    /// a and b; a splits into c and d; d and b merge into e.
    fn lineage() -> Vec<ShardInfo> {
        vec![
            shard("e", &["d", "b"]),
            shard("c", &["a"]),
            shard("d", &["a"]),
            shard("a", &["expired"]),
            shard("b", &[]),
        ]
    }

    fn plan(from: From, until: Until) -> Plan {
        Plan {
            catchment: LAYOUT,
            id: "x".into(),
            stream: "arn@1".into(),
            planned_ms: 1_000,
            from,
            until,
            shard: None,
            path: None,
            prefix: "replays/x/".into(),
            settings: Settings::sample(),
            asked: BTreeMap::new(),
        }
    }

    fn names(plan: &Plan) -> String {
        let rows = plan.rows(&lineage()).unwrap();
        rows.iter().map(|r| r.shard.as_str().to_owned()).collect::<Vec<_>>().join("")
    }

    #[test]
    fn the_whole_stream_goes_parents_first_and_forgets_parents_that_are_gone() {
        let plan = plan(From::Timestamp(5), Until::Timestamp(9));
        let rows = plan.rows(&lineage()).unwrap();
        let at = |name: &str| rows.iter().position(|r| r.shard == id(name)).unwrap();
        assert_eq!(rows.len(), 5);
        assert!(at("a") < at("c") && at("a") < at("d") && at("d") < at("e") && at("b") < at("e"));
        assert!(rows[at("a")].parents.is_empty());
        assert!(rows.iter().all(|r| r.pin_ms == Some(5)));
    }

    #[test]
    fn a_record_leads_into_its_descendants_and_stops_on_the_way_to_another() {
        let from = || From::Sequence(id("a"), number("7"));
        assert_eq!(names(&plan(from(), Until::Timestamp(9))), "acde");
        assert_eq!(names(&plan(from(), Until::Sequence(id("e"), number("9")))), "ade");
        assert_eq!(names(&plan(from(), Until::Sequence(id("a"), number("9")))), "a");
        let whole = plan(From::TrimHorizon, Until::Sequence(id("e"), number("9")));
        assert_eq!(names(&whole), "abde");
        let apart = plan(from(), Until::Sequence(id("b"), number("9"))).rows(&lineage());
        assert_eq!(apart.unwrap_err(), BadRange::Apart { from: id("a"), until: id("b") });
        let mut none = plan(From::TrimHorizon, Until::Timestamp(9));
        none.shard = Some(id("z"));
        assert_eq!(none.rows(&lineage()).unwrap_err(), BadRange::NoShard(id("z")));
    }

    #[test]
    fn only_the_named_shard_starts_and_ends_in_the_middle() {
        let plan =
            plan(From::Sequence(id("a"), number("7")), Until::Sequence(id("e"), number("9")));
        for row in plan.rows(&lineage()).unwrap() {
            let item = plan.item(&row, "arn@1", 0);
            let lease = Lease::parse(&item).unwrap().unwrap();
            assert_eq!(lease.start_sequence.is_some(), row.shard == id("a"));
            assert_eq!(lease.counted, Some((0, 0)));
            assert_eq!(plan.bound(&row.shard).is_some(), row.shard == id("e"));
        }
    }

    #[test]
    fn children_outside_the_path_are_not_followed() {
        let mut plan = plan(From::TrimHorizon, Until::Sequence(id("e"), number("9")));
        plan.path = Some(vec![id("a"), id("b"), id("d"), id("e")]);
        let children = plan.children(&[shard("c", &["a"]), shard("d", &["a"])]);
        assert_eq!(children.iter().map(|c| c.shard.as_str()).collect::<Vec<_>>(), ["d"]);
    }

    #[test]
    fn empty_ranges_and_lost_records_are_noticed() {
        assert!(plan(From::Timestamp(5), Until::Timestamp(5)).check().is_err());
        assert!(plan(From::Timestamp(5), Until::Timestamp(6)).check().is_ok());
        let sequence = |n| Until::Sequence(id("a"), number(n));
        assert!(plan(From::Sequence(id("a"), number("7")), sequence("6")).check().is_err());
        assert!(plan(From::Sequence(id("a"), number("7")), sequence("7")).check().is_ok());
        let stream = StreamInfo {
            name: "s".into(),
            arn: "arn".into(),
            created_ms: 50,
            retention_ms: 100,
            readable: true,
            spreads: false,
        };
        let of = |from| plan(From::Timestamp(from), Until::Timestamp(i64::MAX));
        assert_eq!(of(90).outside_ms(&stream, 200), Some(10));
        assert_eq!(of(100).outside_ms(&stream, 200), None);
        // Nothing was lost from before the stream was there.
        assert_eq!(of(0).outside_ms(&stream, 140), None);
    }

    #[test]
    fn what_is_asked_differently_is_named_with_both_values() {
        let mut plan = plan(From::TrimHorizon, Until::Timestamp(9));
        plan.asked.insert("from".into(), "--from-trim-horizon".into());
        let asked = |value: &str| BTreeMap::from([("from".to_owned(), value.to_owned())]);
        assert!(plan.differences(&asked("--from-trim-horizon")).is_empty());
        assert!(plan.differences(&BTreeMap::new()).is_empty());
        let differences = plan.differences(&asked("--from-timestamp x"));
        assert_eq!(differences[0].2, "--from-trim-horizon");
    }

    #[test]
    fn plans_round_trip() {
        for until in [Until::Timestamp(9), Until::Sequence(id("a"), number("9"))] {
            let plan = plan(From::Sequence(id("a"), number("7")), until);
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        }
    }

    proptest! {
        /// In any lineage: the rows are exactly the shards both below the root and above the end,
        /// each after its parents.
        #[test]
        fn rows_are_the_lineage_between_root_and_end(
            parents in prop::collection::vec(prop::collection::btree_set(0_usize..20, 0..3), 1..20),
            root in 0_usize..20,
            end in prop::option::of(0_usize..20),
        ) {
            let name = |n: usize| format!("s{n}");
            let shards: Vec<ShardInfo> = parents.iter().enumerate().map(|(n, above)| {
                let above: Vec<String> = above.iter().filter(|p| **p < n).map(|p| name(*p)).collect();
                shard(&name(n), &above.iter().map(String::as_str).collect::<Vec<_>>())
            }).collect();
            let (root, end) = (root % shards.len(), end.map(|e| e % shards.len()));
            // Reachability the slow way: n is reached from m along edges to later numbers.
            let reaches = |from: usize, to: usize| {
                let mut seen = vec![false; shards.len()];
                seen[from] = true;
                for n in from + 1..shards.len() {
                    seen[n] = shards[n].parents.iter().any(|p| (from..n).any(|m| seen[m] && *p == id(&name(m))));
                }
                seen[to]
            };
            let until = match end {
                Some(end) => Until::Sequence(id(&name(end)), number("1")),
                None => Until::Timestamp(1),
            };
            let mut plan = plan(From::TrimHorizon, until);
            plan.shard = Some(id(&name(root)));
            let rows = plan.rows(&shards);
            if let Some(end) = end && !reaches(root, end) {
                prop_assert!(rows.is_err());
                return Ok(());
            }
            let rows = rows.unwrap();
            for n in 0..shards.len() {
                let wanted = reaches(root, n) && end.is_none_or(|end| reaches(n, end));
                let at = rows.iter().position(|r| r.shard == id(&name(n)));
                prop_assert_eq!(at.is_some(), wanted, "shard {}", n);
                if let Some(at) = at {
                    for parent in &rows[at].parents {
                        prop_assert!(rows[..at].iter().any(|r| r.shard == *parent));
                    }
                }
            }
        }
    }
}
