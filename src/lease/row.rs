//! One item of the lease table, as the Kinesis Client Library lays it out.
//!
//! Attribute names and types are the KCL's; our own state stands beside them in attributes that
//! start with `catchment_`, which every KCL keeps and ignores. Sequence numbers are text: DynamoDB
//! numbers end at 38 digits, sequence numbers have 56.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::progress::{Pending, Progress};
use crate::delivery::intent::{BadIntent, IntentList};
use crate::delivery::settings::{ForeignRecords, Settings};
use crate::ids::{SequenceNumber, ShardId, WorkerId};
use crate::lease::parked::Parked;
use crate::lease::rewind_request::Request;
use crate::stream::deaggregate::HashRange;
use crate::stream::position::{BadCheckpoint, Checkpoint, InitialPosition, StartAt, start_at};

/// A DynamoDB attribute value, as far as lease items use them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attr {
    /// String.
    S(String),
    /// Number, as text.
    N(String),
    /// Bytes.
    B(Vec<u8>),
    /// Set of strings, never empty.
    Ss(BTreeSet<String>),
    /// A type that no lease item has; kept out of our way.
    Other,
}

/// A whole item.
pub type Item = BTreeMap<String, Attr>;

/// Names of the attributes, spelled as the KCL spells them.
pub mod attr {
    /// Partition key: the shard id.
    pub const KEY: &str = "leaseKey";
    /// Worker that owns the lease; absent when free.
    pub const OWNER: &str = "leaseOwner";
    /// Heartbeat.
    pub const COUNTER: &str = "leaseCounter";
    /// Owner changes since the last checkpoint.
    pub const SWITCHES: &str = "ownerSwitchesSinceCheckpoint";
    /// Checkpoint and its sub-sequence number.
    pub const CHECKPOINT: &str = "checkpoint";
    /// See [`CHECKPOINT`].
    pub const CHECKPOINT_SUB: &str = "checkpointSubSequenceNumber";
    /// End of the last intent.
    pub const PENDING: &str = "pendingCheckpoint";
    /// See [`PENDING`].
    pub const PENDING_SUB: &str = "pendingCheckpointSubSequenceNumber";
    /// The intents themselves.
    pub const PENDING_STATE: &str = "pendingCheckpointState";
    /// Parent shards.
    pub const PARENTS: &str = "parentShardId";
    /// Child shards.
    pub const CHILDREN: &str = "childShardIds";
    /// First hash key, decimal.
    pub const HASH_START: &str = "startingHashKey";
    /// Last hash key, decimal.
    pub const HASH_END: &str = "endingHashKey";
    /// Smoothed throughput.
    pub const THROUGHPUT: &str = "throughputKBps";
    /// Previous owner during a graceful handoff.
    pub const CHECKPOINT_OWNER: &str = "checkpointOwner";
    /// Kind of item; `LEASE` or absent for leases.
    pub const ENTITY: &str = "entityType";
    /// Multi-stream tables: the stream identifier, see [`crate::lease::keys`].
    pub const STREAM_NAME: &str = "streamName";
    /// Multi-stream tables: the shard id.
    pub const SHARD_ID: &str = "shardId";
    /// Ours: the stream the lease belongs to, see `StreamInfo::identity`.
    pub const STREAM: &str = "catchment_stream";
    /// Ours: the time that LATEST or AT_TIMESTAMP means for this lease, ms since the epoch.
    pub const STARTED: &str = "catchment_started_ms";
    /// Ours: when the shard was last known to be read to its tip, ms since the epoch.
    pub const READ_THROUGH: &str = "catchment_read_through_ms";
    /// Ours: the checkpoint we wrote last, its end (see [`super::mark`]). Where another stands, somebody
    /// else has moved on, and when we last read the shard to its tip says nothing any more.
    pub const COMMITTED: &str = "catchment_committed";
    /// Ours: who gave the lease back, so that it goes to others; means something only while it is
    /// free.
    pub const LEFT: &str = "catchment_left";
    /// Ours: how often the change signal was raised; see `change_marker`.
    pub const CHANGE_SIGNALS: &str = "catchment_news";
    /// Ours: the first record to deliver, where TRIM_HORIZON stands in the checkpoint.
    pub const START_SEQUENCE: &str = "catchment_start_sequence";
    /// Ours: a request to go back, see `lease::rewind`.
    pub const REWIND: &str = "catchment_rewind";
    /// Ours: how often the shard has gone back.
    pub const REWINDS: &str = "catchment_rewinds";
    /// Ours: the last position delivered before SHARD_END.
    pub const DELIVERED: &str = "catchment_delivered";
    /// Ours: a gap that the shard waits at, see `lease::parking`.
    pub const PARKED: &str = "catchment_parked";
    /// Ours: where the gap begins that an operator accepted last.
    pub const GAP_ACCEPTED: &str = "catchment_gap_accepted";
    /// Ours, in rows of a replay: records committed.
    pub const RECORDS: &str = "catchment_records";
    /// Ours, in rows of a replay: payload bytes committed.
    pub const BYTES: &str = "catchment_bytes";
}

/// What tells a checkpoint of a shard from another: its last digits. The row is written often, and
/// paid by its size.
pub fn mark(checkpoint: &Checkpoint) -> String {
    let text = checkpoint.to_string();
    text.chars().skip(text.chars().count().saturating_sub(12)).collect()
}

/// A parsed lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// The shard.
    pub shard: ShardId,
    /// `leaseOwner`.
    pub owner: Option<WorkerId>,
    /// `leaseCounter`.
    pub counter: u64,
    /// `checkpointOwner`: set while the previous owner is draining.
    pub checkpoint_owner: Option<WorkerId>,
    /// Checkpoint and intents.
    pub progress: Progress,
    /// `parentShardId`.
    pub parents: Vec<ShardId>,
    /// `childShardIds`.
    pub children: Vec<ShardId>,
    /// `startingHashKey`, `endingHashKey`.
    pub hash_range: Option<(String, String)>,
    /// `throughputKBps`: payload the shard carries, KiB/s, smoothed.
    pub throughput_kbps: Option<f64>,
    /// `catchment_stream`.
    pub stream: Option<String>,
    /// `catchment_started_ms`.
    pub started_ms: Option<i64>,
    /// `catchment_read_through_ms`, unless somebody else has moved the checkpoint since; 0 if we have
    /// read the shard, and never to its tip.
    pub read_through_ms: Option<i64>,
    /// `catchment_left`, of a free lease.
    pub left: Option<WorkerId>,
    /// `catchment_start_sequence`.
    pub start_sequence: Option<SequenceNumber>,
    /// `catchment_rewind`.
    pub rewind: Option<Request>,
    /// `catchment_rewinds`.
    pub rewinds: u64,
    /// `catchment_delivered`.
    pub delivered: Option<String>,
    /// `catchment_parked`, see [`Self::parked`].
    pub gap: Option<Parked>,
    /// `catchment_gap_accepted`.
    pub gap_accepted: Option<String>,
    /// `catchment_records` and `catchment_bytes`, where the row counts them.
    pub counted: Option<(u64, u64)>,
}

/// Why an item cannot be used as a lease.
#[derive(Debug, thiserror::Error)]
pub enum BadLease {
    /// A column every KCL writes is missing or of another type.
    #[error("lease `{key}`: attribute `{attribute}` is missing or not of type {expected}")]
    Attribute {
        /// The item.
        key: String,
        /// The column.
        attribute: &'static str,
        /// The expected DynamoDB type.
        expected: &'static str,
    },
    /// The checkpoint column cannot be read.
    #[error("lease `{key}`: {source}")]
    Checkpoint {
        /// The item.
        key: String,
        /// What is wrong.
        source: BadCheckpoint,
    },
    /// A request to go back that this version does not understand.
    #[error("lease `{key}`: its catchment_rewind cannot be read: {raw}; upgrade, or remove it")]
    Rewind {
        /// The item.
        key: String,
        /// The attribute.
        raw: String,
    },
    /// An intent of ours that this version cannot finish.
    #[error("lease `{key}`: {source}")]
    Intent {
        /// The item.
        key: String,
        /// What is wrong.
        source: BadIntent,
    },
}

impl Lease {
    /// Reads an item; `None` for items of the table that are not leases.
    ///
    /// # Errors
    /// [`BadLease`] names the item and what about it cannot be read.
    pub fn parse(item: &Item) -> Result<Option<Self>, BadLease> {
        if let Some(Attr::S(entity)) = item.get(attr::ENTITY)
            && entity != "LEASE"
        {
            return Ok(None);
        }
        let key = text(item, attr::KEY).unwrap_or_default();
        let missing =
            |attribute, expected| BadLease::Attribute { key: key.clone(), attribute, expected };
        if key.is_empty() {
            return Err(missing(attr::KEY, "S"));
        }
        let counter = number(item, attr::COUNTER).ok_or_else(|| missing(attr::COUNTER, "N"))?;
        let checkpoint =
            text(item, attr::CHECKPOINT).ok_or_else(|| missing(attr::CHECKPOINT, "S"))?;
        let sub = number(item, attr::CHECKPOINT_SUB).unwrap_or(0);
        let checkpoint = Checkpoint::parse(&checkpoint, sub)
            .map_err(|source| BadLease::Checkpoint { key: key.clone(), source })?;
        let pending =
            parse_pending(item).map_err(|source| BadLease::Intent { key: key.clone(), source })?;
        let rewind = match text(item, attr::REWIND) {
            Some(raw) => Some(
                Request::parse(&raw).ok_or_else(|| BadLease::Rewind { key: key.clone(), raw })?,
            ),
            None => None,
        };
        // Builds before 0.2 do not write it.
        let committed = text(item, attr::COMMITTED);
        let read_through_ms = number(item, attr::READ_THROUGH)
            .filter(|_| committed.is_none_or(|ours| ours == mark(&checkpoint)));
        let range = (text(item, attr::HASH_START), text(item, attr::HASH_END));
        Ok(Some(Self {
            left: text(item, attr::LEFT)
                .filter(|_| !item.contains_key(attr::OWNER))
                .map(WorkerId::new),
            owner: text(item, attr::OWNER).map(WorkerId::new),
            counter,
            checkpoint_owner: text(item, attr::CHECKPOINT_OWNER).map(WorkerId::new),
            gap: text(item, attr::PARKED).and_then(|raw| Parked::parse(raw, &checkpoint)),
            gap_accepted: text(item, attr::GAP_ACCEPTED),
            progress: Progress { checkpoint, pending },
            parents: shards(item, attr::PARENTS),
            children: shards(item, attr::CHILDREN),
            hash_range: if let (Some(a), Some(b)) = range { Some((a, b)) } else { None },
            throughput_kbps: number(item, attr::THROUGHPUT),
            stream: text(item, attr::STREAM),
            started_ms: number(item, attr::STARTED),
            read_through_ms,
            start_sequence: text(item, attr::START_SEQUENCE)
                .and_then(|digits| SequenceNumber::parse(&digits).ok()),
            rewind,
            rewinds: number(item, attr::REWINDS).unwrap_or(0),
            delivered: text(item, attr::DELIVERED),
            counted: number(item, attr::RECORDS).zip(number(item, attr::BYTES)),
            shard: ShardId::new(key),
        }))
    }

    /// Nobody owns it and nobody is handing it over.
    pub fn is_free(&self) -> bool {
        self.owner.is_none()
    }

    /// Delivered to its end, and not asked to go back.
    pub fn is_finished(&self) -> bool {
        self.progress.checkpoint == Checkpoint::ShardEnd && self.rewind.is_none()
    }

    /// The gap that the shard waits at. A request to go back ends the waiting, but where the gap is in
    /// what is announced: that is finished before a shard goes back.
    pub fn parked(&self) -> Option<&Parked> {
        let goes_back = self.rewind.is_some() && self.progress.pending.intents().is_empty();
        self.gap.as_ref().filter(|_| !goes_back)
    }

    /// Where reading begins for a checkpoint this row holds or held; `None` at SHARD_END.
    pub fn start(&self, checkpoint: &Checkpoint, initial: InitialPosition) -> Option<StartAt> {
        match (&self.start_sequence, checkpoint) {
            (Some(first), Checkpoint::TrimHorizon) => Some(StartAt::At(first.clone())),
            _ => start_at(checkpoint, self.started_ms, initial),
        }
    }

    /// The range of hash keys, parsed.
    pub fn hash_keys(&self) -> Option<HashRange> {
        let (first, last) = self.hash_range.as_ref()?;
        HashRange::parse(first, last)
    }

    /// The range whose strangers may have come by a producer's map from before a reshard: of a shard
    /// without parents there is no such map.
    pub fn hash_keys_to_judge(&self) -> Option<HashRange> {
        self.hash_keys().filter(|range| !self.parents.is_empty() && !range.is_everything())
    }

    /// The range by which a batch was read that was announced with these settings.
    pub fn hash_keys_of(&self, settings: &Settings) -> Option<HashRange> {
        match settings.foreign_records {
            ForeignRecords::LeftOut => {
                Some(self.hash_keys().unwrap_or(HashRange::EVERYTHING).earlier())
            }
            ForeignRecords::Keep => None,
            ForeignRecords::DeadLetter | ForeignRecords::Drop => self.hash_keys(),
        }
    }

    /// The worker that may still deliver: the old one during a handoff.
    pub fn effective_owner(&self) -> Option<&WorkerId> {
        self.checkpoint_owner.as_ref().or(self.owner.as_ref())
    }
}

fn text(item: &Item, name: &str) -> Option<String> {
    match item.get(name) {
        Some(Attr::S(text)) => Some(text.clone()),
        _ => None,
    }
}

/// A number of an item, if it is there and one.
pub fn number<T: std::str::FromStr>(item: &Item, name: &str) -> Option<T> {
    match item.get(name) {
        Some(Attr::N(text)) => text.parse().ok(),
        _ => None,
    }
}

fn shards(item: &Item, name: &str) -> Vec<ShardId> {
    match item.get(name) {
        Some(Attr::Ss(ids)) => ids.iter().map(|id| ShardId::new(id.as_str())).collect(),
        _ => Vec::new(),
    }
}

fn parse_pending(item: &Item) -> Result<Pending, BadIntent> {
    let raw = match item.get(attr::PENDING_STATE) {
        Some(Attr::B(raw)) => Some(raw.clone()),
        _ => None,
    };
    let checkpoint = text(item, attr::PENDING);
    Ok(match raw {
        Some(raw) if IntentList::is_ours(&raw) => {
            Pending::Ours { intents: IntentList::decode(&raw)?, raw }
        }
        None if checkpoint.is_none() => Pending::None,
        raw => Pending::Foreign { checkpoint, raw },
    })
}

/// A lease about to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLease {
    /// The shard.
    pub shard: ShardId,
    /// Where it starts: a sentinel.
    pub checkpoint: Checkpoint,
    /// The time that LATEST or AT_TIMESTAMP means, ms since the epoch; LATEST without it means the
    /// moment the lease is made.
    pub pin_ms: Option<i64>,
    /// Its parents.
    pub parents: Vec<ShardId>,
    /// Its range.
    pub hash_range: Option<(String, String)>,
}

impl NewLease {
    /// The item to put (KCL operation 1: createLeaseIfNotExists).
    pub fn item(&self, stream: &str, now_ms: i64) -> Item {
        let mut item = Item::from([
            (attr::KEY.into(), Attr::S(self.shard.as_str().into())),
            (attr::COUNTER.into(), Attr::N("0".into())),
            (attr::SWITCHES.into(), Attr::N("0".into())),
            (attr::CHECKPOINT.into(), Attr::S(self.checkpoint.text().into())),
            (attr::CHECKPOINT_SUB.into(), Attr::N("0".into())),
            (attr::STREAM.into(), Attr::S(stream.into())),
        ]);
        let pin = match self.checkpoint {
            Checkpoint::Latest => Some(self.pin_ms.unwrap_or(now_ms)),
            Checkpoint::AtTimestamp => self.pin_ms,
            Checkpoint::TrimHorizon | Checkpoint::At(_) | Checkpoint::ShardEnd => None,
        };
        if let Some(pin) = pin {
            item.insert(attr::STARTED.into(), Attr::N(pin.to_string()));
        }
        if !self.parents.is_empty() {
            let parents = self.parents.iter().map(|p| p.as_str().to_owned()).collect();
            item.insert(attr::PARENTS.into(), Attr::Ss(parents));
        }
        if let Some((start, end)) = &self.hash_range {
            item.insert(attr::HASH_START.into(), Attr::S(start.clone()));
            item.insert(attr::HASH_END.into(), Attr::S(end.clone()));
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> Item {
        NewLease {
            shard: ShardId::new("shardId-000000000001"),
            checkpoint: Checkpoint::Latest,
            pin_ms: None,
            parents: vec![ShardId::new("shardId-000000000000")],
            hash_range: Some(("0".into(), "340282366920938463463374607431768211455".into())),
        }
        .item("arn@1", 7)
    }

    #[test]
    fn a_new_lease_reads_back() {
        let lease = Lease::parse(&fresh()).unwrap().unwrap();
        assert_eq!(lease.progress.checkpoint, Checkpoint::Latest);
        assert_eq!(lease.parents, [ShardId::new("shardId-000000000000")]);
        assert_eq!(lease.started_ms, Some(7));
        assert!(lease.is_free());
    }

    #[test]
    fn other_items_of_the_table_are_passed_over() {
        let mut item = fresh();
        item.insert(attr::ENTITY.into(), Attr::S("LEADER".into()));
        assert!(Lease::parse(&item).unwrap().is_none());
        item.insert(attr::ENTITY.into(), Attr::S("LEASE".into()));
        assert!(Lease::parse(&item).unwrap().is_some());
    }

    #[test]
    fn a_broken_item_is_named() {
        let mut item = fresh();
        item.remove(attr::COUNTER);
        let error = Lease::parse(&item).unwrap_err().to_string();
        assert!(error.contains("shardId-000000000001") && error.contains("leaseCounter"));
    }

    #[test]
    fn a_prepared_checkpoint_of_the_kcl_is_foreign() {
        let mut item = fresh();
        item.insert(attr::PENDING.into(), Attr::S("12".into()));
        item.insert(attr::PENDING_STATE.into(), Attr::B(b"java".to_vec()));
        let lease = Lease::parse(&item).unwrap().unwrap();
        assert!(matches!(lease.progress.pending, Pending::Foreign { .. }));
        assert!(lease.progress.pending.intents().is_empty());
    }

    #[test]
    fn only_where_a_reshard_may_be_the_cause_hash_keys_are_judged() {
        let range = |first: &str, last: &str| (Attr::S(first.into()), Attr::S(last.into()));
        let whole = u128::MAX.to_string();
        let lease = |(first, last): (Attr, Attr), parents: &[&str]| {
            let mut item = fresh();
            item.insert(attr::HASH_START.into(), first);
            item.insert(attr::HASH_END.into(), last);
            item.remove(attr::PARENTS);
            if !parents.is_empty() {
                let parents = parents.iter().map(|p| (*p).to_owned()).collect();
                item.insert(attr::PARENTS.into(), Attr::Ss(parents));
            }
            Lease::parse(&item).unwrap().unwrap()
        };
        let half = || range("0", "7");
        assert_eq!(lease(half(), &[]).hash_keys_to_judge(), None);
        assert_eq!(lease(range("0", &whole), &["a", "b"]).hash_keys_to_judge(), None);
        let judged = lease(half(), &["a"]);
        assert_eq!(judged.hash_keys_to_judge(), HashRange::parse("0", "7"));
        // What is announced is read by what was recorded, whatever the row says of parents by then.
        let of = |lease: &Lease, foreign_records| {
            lease.hash_keys_of(&Settings { foreign_records, ..Settings::sample() })
        };
        let orphan = lease(half(), &[]);
        assert_eq!(of(&orphan, ForeignRecords::DeadLetter), HashRange::parse("0", "7"));
        assert_eq!(of(&orphan, ForeignRecords::Drop), HashRange::parse("0", "7"));
        assert_eq!(of(&judged, ForeignRecords::Keep), None);
        let earlier = HashRange::parse("0", "7").map(HashRange::earlier);
        assert_eq!(of(&orphan, ForeignRecords::LeftOut), earlier);
    }
}
