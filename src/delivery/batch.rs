//! A batch under construction, and the objects it becomes.
//!
//! The objects of a batch depend on its records, their settings and the batch's time stamp, and on
//! nothing else: two workers that are given the same range arrive at the same objects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::blocks::Blocks;
use crate::delivery::body::Body;
use crate::delivery::dead_letter::{self, CONFLICT, REFUSED, gap_report};
use crate::delivery::encode::{EncodeError, Encoder};
use crate::delivery::gap::Gap;
use crate::delivery::intent::Intent;
use crate::delivery::object::{
    AsideKeys, BESIDES, META_AFTER, META_BATCH, META_FIRST, META_LAST, META_RECORDS, META_SHARD,
    META_STREAM, Object, ObjectKind,
};
use crate::delivery::object_key::{archive_key, object_name};
use crate::delivery::partition::{Partition, Partitions, frame};
use crate::delivery::recipe::Recipe;
use crate::delivery::route::{self, Route, route};
use crate::delivery::settings::ForeignRecords;
use crate::ids::ShardId;
use crate::stream::position::{Checkpoint, Position};
use crate::stream::{Record, Records};
use crate::upload::event::{self, Envelope};

/// When a batch is full.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Raw payload, bytes. What becomes of it before compression counts as well: see [`EXPANSION`].
    pub bytes: u64,
    /// Records.
    pub records: u64,
    /// Partitions, unless the settings let records spill instead.
    pub partitions: usize,
    /// Age of its oldest record in this worker.
    pub age: Duration,
    /// Bytes before compression after which [`OpenBatch::fill`] comes back, so that somebody can look at
    /// the memory it takes.
    pub step: u64,
}

/// So many bytes before compression count as one of payload. Lines repeat the key of a record, and
/// thousands of records of an aggregate may share one: payload alone does not bound an object.
pub const EXPANSION: u64 = 4;

impl BatchLimits {
    /// A batch that is never full.
    pub const NONE: Self = Self {
        bytes: u64::MAX,
        records: u64::MAX,
        partitions: usize::MAX,
        age: Duration::MAX,
        step: u64::MAX,
    };
}

/// Why a batch was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushReason {
    /// `batch_bytes` reached.
    Size,
    /// `batch_records` reached.
    Count,
    /// A record needs one partition more than a batch may have.
    Partitions,
    /// `batch_seconds` passed.
    Time,
    /// The byte budget ran short.
    Pressure,
    /// The shard ended.
    ShardEnd,
    /// The worker is stopping or handing the lease over.
    Drain,
}

impl FlushReason {
    /// Label of the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Count => "count",
            Self::Partitions => "partitions",
            Self::Time => "time",
            Self::Pressure => "pressure",
            Self::ShardEnd => "shard_end",
            Self::Drain => "drain",
        }
    }
}

/// A batch that takes records.
#[derive(Debug)]
pub struct OpenBatch {
    recipe: Arc<Recipe>,
    shard: ShardId,
    stamp_ms: i64,
    gap: Option<Gap>,
    after: Option<String>,
    first: Option<Position>,
    /// When the first record arrived that says so.
    first_ms: Option<i64>,
    last: Option<Position>,
    records: u64,
    bytes: u64,
    /// The same before compression, as it stands in objects.
    laid_out: u64,
    partitions: Partitions,
    blocks: Blocks,
    dead: BTreeMap<&'static str, (Encoder, u64)>,
    uploads: Vec<Object>,
}

/// A finished batch.
#[derive(Debug)]
pub struct SealedBatch {
    /// What to announce.
    pub intent: Intent,
    /// What to put, in key order.
    pub objects: Vec<Object>,
    /// Dead letters by kind.
    pub dead: Vec<(&'static str, u64)>,
    /// Records in another partition than their data asks for, by reason.
    pub misplaced: Vec<(&'static str, u64)>,
}

impl OpenBatch {
    /// An empty batch. `stamp_ms` is used where a record has no arrival time.
    pub fn new(recipe: Arc<Recipe>, shard: ShardId, stamp_ms: i64, gap: Option<Gap>) -> Self {
        Self {
            partitions: Partitions::new(Arc::clone(&recipe), shard.clone(), stamp_ms),
            recipe,
            shard,
            stamp_ms,
            gap,
            after: None,
            first: None,
            first_ms: None,
            last: None,
            records: 0,
            bytes: 0,
            laid_out: 0,
            blocks: Blocks::default(),
            dead: BTreeMap::new(),
            uploads: Vec::new(),
        }
    }

    /// The batch follows this checkpoint: noted in the metadata of its objects, so that a missing
    /// neighbour can be told from sequence numbers that are not dense.
    #[must_use]
    pub fn following(mut self, after: &Checkpoint) -> Self {
        self.after = Some(after.to_string());
        self
    }

    /// No record yet.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Memory held, bytes.
    pub fn memory(&self) -> usize {
        let archive = self.partitions.iter().map(|p| &p.encoder);
        let encoders = archive.chain(self.dead.values().map(|(encoder, _)| encoder));
        let uploads = self.uploads.iter().map(Object::memory).sum::<usize>();
        let encoders = encoders.map(|encoder| encoder.memory() + BESIDES).sum::<usize>();
        encoders + self.blocks.memory() + uploads
    }

    /// Takes records from the front of `queue` until it is empty, the batch is full, or a step is
    /// done.
    ///
    /// # Errors
    /// [`EncodeError`]
    pub fn fill(
        &mut self,
        queue: &mut Records,
        limits: &BatchLimits,
    ) -> Result<Option<FlushReason>, EncodeError> {
        let mut taken = 0_usize;
        let step = self.laid_out.saturating_add(limits.step);
        let cause = loop {
            let Some(record) = queue.get(taken) else { break None };
            if self.is_full(limits) && !self.has_room(record) {
                break Some(FlushReason::Partitions);
            }
            self.add(record)?;
            taken += 1;
            if self.bytes.max(self.laid_out / EXPANSION) >= limits.bytes {
                break Some(FlushReason::Size);
            }
            if self.records >= limits.records {
                break Some(FlushReason::Count);
            }
            if self.laid_out >= step {
                break None;
            }
        };
        if let Some(last) = taken.checked_sub(1).and_then(|last| queue.get(last)) {
            self.last = Some(last.position());
        }
        queue.skip(taken);
        Ok(cause)
    }

    /// Has it as many partitions as it may have, where the next one means another batch?
    fn is_full(&self, limits: &BatchLimits) -> bool {
        self.recipe.settings.spill == 0 && self.partitions.len() >= limits.partitions
    }

    /// Can this record join without another partition?
    fn has_room(&mut self, record: Record<'_>) -> bool {
        !matches!(route(record, &self.recipe.settings), Route::Archive)
            || self.partitions.has(record)
    }

    /// Takes one record.
    ///
    /// # Errors
    /// [`EncodeError`]
    pub fn push(&mut self, record: Record<'_>) -> Result<(), EncodeError> {
        self.add(record)?;
        self.last = Some(record.position());
        Ok(())
    }

    /// Takes a record; that it is the last is told by the caller.
    fn add(&mut self, record: Record<'_>) -> Result<(), EncodeError> {
        let settings = Arc::clone(&self.recipe.settings);
        let laid_out = match route(record, &settings) {
            Route::Upload(envelope) => {
                let object = self.upload(*envelope, &record.position());
                let size = object.memory();
                self.uploads.push(object);
                size
            }
            Route::Archive => {
                let limit = frame(self.partitions.len());
                let Partition { encoder, records, .. } = self.partitions.of(record);
                encoder.limit(limit);
                *records += 1;
                encoder.push(record, &settings.stream, &self.shard, None, &mut self.blocks)?
            }
            Route::Dead(reject) => {
                let (encoder, count) = self
                    .dead
                    .entry(reject.kind)
                    .or_insert_with(|| (Encoder::dead_letters(&settings), 0));
                *count += 1;
                let dropped = reject.kind == route::FOREIGN
                    && settings.foreign_records == ForeignRecords::Drop;
                let record = if dropped { record.without_data() } else { record };
                let shard = &self.shard;
                encoder.push(record, &settings.stream, shard, Some(&reject), &mut self.blocks)?
            }
        };
        self.laid_out += laid_out as u64;
        self.records += 1;
        self.bytes += record.data.len() as u64;
        self.first_ms = self.first_ms.or(record.arrival_ms);
        if self.first.is_none() {
            self.first = Some(record.position());
        }
        Ok(())
    }

    /// The last record taken.
    pub fn last(&self) -> Option<&Position> {
        self.last.as_ref()
    }

    /// Closes the batch; `None` if it is empty.
    ///
    /// # Errors
    /// [`EncodeError`]
    pub fn seal(self) -> Result<Option<SealedBatch>, EncodeError> {
        match (self.first.clone(), self.last.clone()) {
            (Some(first), Some(last)) => Ok(Some(self.seal_as(first, last)?)),
            _ => Ok(None),
        }
    }

    /// Closes the batch under the name of another range: for what is left of a batch that was
    /// announced with that range.
    ///
    /// # Errors
    /// [`EncodeError`]
    pub fn seal_as(mut self, first: Position, last: Position) -> Result<SealedBatch, EncodeError> {
        // What every object of the batch says of it: the range, and how many records to expect in all.
        let settings = Arc::clone(&self.recipe.settings);
        let dead: Vec<_> = self.dead.iter().map(|(kind, (_, n))| (*kind, *n)).collect();
        let name = object_name(&settings.stream, &self.shard, &first, &last);
        let misplaced = self.partitions.misplaced();
        let archived = self.partitions.iter().map(|p| p.records).sum::<u64>();
        let batch = archived + self.dead.values().map(|(_, n)| n).sum::<u64>();
        let mut range = vec![
            (META_STREAM.to_owned(), settings.stream.clone()),
            (META_SHARD.to_owned(), self.shard.to_string()),
            (META_FIRST.to_owned(), first.to_string()),
            (META_LAST.to_owned(), last.to_string()),
            (META_BATCH.to_owned(), batch.to_string()),
        ];
        range.extend(self.after.map(|after| (META_AFTER.to_owned(), after)));
        let mut objects = Vec::with_capacity(self.partitions.len() + self.dead.len());
        let object = |key, kind, body, content_type: &str, records| Object {
            bucket: settings.bucket.clone(),
            key,
            kind,
            body,
            content_type: content_type.to_owned(),
            metadata: range
                .iter()
                .cloned()
                .chain([(META_RECORDS.to_owned(), u64::to_string(&records))])
                .collect(),
            records,
            aside: None,
            accepted_ms: None,
            last: false,
        };
        // The archive in the order of its keys, then dead letters by kind: the same batch always makes
        // the same list.
        for Partition { prefix, encoder, records, overflow } in self.partitions.into_sorted() {
            let key = archive_key(&prefix, &name, &settings);
            let content_type = settings.format.content_type();
            let body = encoder.finish(&mut self.blocks)?;
            let archive = object(key, ObjectKind::Archive, body, content_type, records);
            objects.push(Object { last: overflow, ..archive });
        }
        for (kind, (encoder, records)) in self.dead {
            let key = dead_letter::key(&self.recipe, &self.shard, self.stamp_ms, kind, &name);
            let body = encoder.finish(&mut self.blocks)?;
            objects.push(object(
                key,
                ObjectKind::DeadLetter,
                body,
                "application/x-ndjson",
                records,
            ));
        }
        // A file whose key is taken, or refused, goes under one of these; which is known at the put.
        let aside = |kind| {
            let prefix =
                self.recipe.errors.render(self.stamp_ms, &settings.stream, &self.shard, kind);
            format!("{prefix}{name}.ndjson")
        };
        let aside = AsideKeys { conflict: aside(CONFLICT), refused: aside(REFUSED) };
        for mut upload in self.uploads {
            upload.aside = Some(aside.clone());
            upload.metadata.extend(range.iter().cloned());
            objects.push(upload);
        }
        if let Some(gap) = &self.gap {
            let range = format!("{first}-{last}");
            let errors = &self.recipe.errors;
            objects.push(gap_report(&settings, errors, &self.shard, &range, self.stamp_ms, gap));
        }
        Ok(SealedBatch {
            intent: Intent {
                first,
                last,
                records: self.records,
                bytes: self.bytes,
                stamp_ms: self.stamp_ms,
                arrived_ms: Intent::arrived(self.first_ms, self.stamp_ms),
                gap: self.gap.as_ref().map(|gap| gap.certainty),
                settings,
            },
            objects,
            dead,
            misplaced,
        })
    }

    fn upload(&self, envelope: Envelope, position: &Position) -> Object {
        let settings = &self.recipe.settings;
        let meta = |name: &str, value: String| (name.to_owned(), value);
        Object {
            bucket: settings.bucket.clone(),
            key: format!("{}{}", settings.uploads_prefix, envelope.file_key),
            kind: ObjectKind::Upload,
            content_type: envelope.content_type,
            metadata: vec![
                meta(event::META_REQUEST_ID, envelope.request_id),
                meta(event::META_SUBJECT, envelope.subject),
                meta(event::META_SHA256, envelope.sha256),
                meta(event::META_POSITION, format!("{}/{position}", self.shard)),
            ],
            body: Body::of(envelope.body),
            records: 1,
            aside: None,
            accepted_ms: Some(envelope.received_at),
            last: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::delivery::dead_letter::{Aside, letter, put_aside};
    use crate::delivery::gap::{Certainty, GapEnd};
    use crate::delivery::settings::{Format, Settings};

    const DAY: i64 = 86_400_000;

    /// Records with numbers from `first` on.
    fn records<'a>(first: u64, all: impl IntoIterator<Item = (Option<i64>, &'a str)>) -> Records {
        let all: Vec<_> = (first..).zip(all).map(|(n, record)| (n.to_string(), record)).collect();
        let each = all.iter().map(|(n, (arrival_ms, data))| {
            Record::new(n, *arrival_ms, None, data.as_bytes()).unwrap()
        });
        Records::copy(&each.collect::<Vec<_>>()).unwrap()
    }

    fn open(settings: Settings) -> OpenBatch {
        let recipe = Arc::new(Recipe::new(Arc::new(settings)).unwrap());
        OpenBatch::new(recipe, ShardId::new("shardId-000000000000"), 5 * DAY, None)
    }

    fn seal(open: OpenBatch) -> SealedBatch {
        open.seal().unwrap().unwrap()
    }

    #[test]
    fn days_become_objects_of_one_batch() {
        let mut open = open(Settings::sample());
        for record in records(1, [Some(0), Some(DAY), Some(1), None].map(|ms| (ms, "x"))).iter() {
            open.push(record).unwrap();
        }
        let sealed = seal(open);
        let keys: Vec<_> = sealed.objects.iter().map(|o| (o.key.as_str(), o.records)).collect();
        assert_eq!(
            keys,
            [
                ("events/dt=1970-01-01/events-shardId-000000000000-1-4.ndjson", 2),
                ("events/dt=1970-01-02/events-shardId-000000000000-1-4.ndjson", 1),
                ("events/dt=1970-01-06/events-shardId-000000000000-1-4.ndjson", 1),
            ]
        );
        assert_eq!((sealed.intent.records, sealed.intent.bytes), (4, 4));
    }

    #[test]
    fn the_same_range_gives_the_same_objects_however_it_came() {
        let records = records(1, (1..50).map(|n| (Some(n * 3_600_000), "abc")));
        let mut one = open(Settings::sample());
        one.fill(&mut records.clone(), &BatchLimits::NONE).unwrap();
        let (mut other, mut rest) = (open(Settings::sample()), records);
        while !rest.is_empty() {
            let mut chunk = rest.clone();
            chunk.truncate(7);
            other.fill(&mut chunk, &BatchLimits::NONE).unwrap();
            assert!(chunk.is_empty());
            rest.skip(7);
        }
        assert_eq!(one.last(), other.last());
        let bytes = |s: SealedBatch| -> Vec<_> {
            s.objects.into_iter().map(|o| (o.key, o.body.concat())).collect()
        };
        assert_eq!(bytes(seal(one)), bytes(seal(other)));
    }

    #[test]
    fn limits_cut_after_the_record_that_reaches_them() {
        let mut queue = records(1, [(None, "1234"); 9]);
        let limits = BatchLimits { bytes: 8, records: 100, ..BatchLimits::NONE };
        let mut batch = open(Settings::sample());
        assert_eq!(batch.fill(&mut queue, &limits).unwrap(), Some(FlushReason::Size));
        assert_eq!(queue.len(), 7);
        assert_eq!(seal(batch).intent.records, 2);
        assert!(open(Settings::sample()).seal().unwrap().is_none());
    }

    #[test]
    fn a_batch_is_cut_before_it_has_too_many_partitions() {
        let settings = Settings { prefix: "!{field:k}/".into(), ..Settings::sample() };
        let data = ["a", "b", "a", "c"].map(|k| format!("{{\"k\":\"{k}\"}}"));
        let mut queue = records(1, data.iter().map(|data| (None, data.as_str())));
        let limits = BatchLimits { partitions: 2, ..BatchLimits::NONE };
        let mut first = open(settings.clone());
        assert_eq!(first.fill(&mut queue, &limits).unwrap(), Some(FlushReason::Partitions));
        let keys: Vec<_> = seal(first).objects.into_iter().map(|o| (o.key, o.records)).collect();
        assert_eq!(
            keys,
            [
                ("a/events-shardId-000000000000-1-3.ndjson".to_owned(), 2),
                ("b/events-shardId-000000000000-1-3.ndjson".to_owned(), 1),
            ]
        );
        let mut second = open(settings);
        assert_eq!(second.fill(&mut queue, &limits).unwrap(), None);
        assert_eq!(seal(second).objects[0].key, "c/events-shardId-000000000000-4-4.ndjson");
    }

    #[test]
    fn an_upload_event_becomes_its_own_object_and_a_broken_one_a_dead_letter() {
        let envelope = Envelope {
            file_key: event::validate_file_key("uploads/a.txt").unwrap(),
            content_type: "text/plain".into(),
            sha256: event::sha256_hex(b"hello"),
            subject: event::subject_hash("iss", "sub"),
            request_id: "r-1".into(),
            received_at: 1,
            body: b"hello".to_vec(),
        };
        let good = String::from_utf8(envelope.encode()).unwrap();
        let bad = good.replace("uploads/a.txt", "uploads/../a");
        let mut open = open(Settings::sample());
        let mut queue = records(1, [good.as_str(), &bad, "plain"].map(|data| (Some(0), data)));
        open.fill(&mut queue, &BatchLimits::NONE).unwrap();
        let sealed = seal(open);
        assert_eq!(sealed.objects.len(), 3);
        assert_eq!(sealed.dead, [("upload-key", 1)]);
        let upload = sealed.objects.iter().find(|o| o.kind == ObjectKind::Upload).unwrap();
        assert_eq!(
            (upload.key.as_str(), upload.body.concat().as_ref()),
            ("uploads/a.txt", &b"hello"[..])
        );
        assert_eq!(upload.meta(event::META_POSITION), Some("shardId-000000000000/1"));
        let aside = |why| letter(upload, why).unwrap();
        let asides = [Aside::Conflict, Aside::Refused("KeyTooLong"), Aside::Unseen("AccessDenied")];
        let objects = put_aside(asides.map(aside).into());
        let told: Vec<_> = objects.iter().map(|o| (o.key.as_str(), o.records)).collect();
        let name = "events-shardId-000000000000-1-3.ndjson";
        let conflict = format!("errors/upload-conflict/{name}");
        assert_eq!(told, [(conflict.as_str(), 2), (&format!("errors/upload-refused/{name}"), 1)]);
        assert_eq!(objects[0].body.concat().iter().filter(|b| **b == b'\n').count(), 2);
        assert!(
            sealed
                .objects
                .iter()
                .all(|o| { o.kind == ObjectKind::Upload || letter(o, Aside::Conflict).is_none() })
        );
    }

    #[test]
    fn dead_letters_and_gaps_are_objects_of_the_same_plan() {
        let settings = Settings { format: Format::JsonArray, ..Settings::sample() };
        let recipe = Arc::new(Recipe::new(Arc::new(settings)).unwrap());
        let gap = Gap {
            after: "1".into(),
            end: GapEnd::Before("7".into()),
            certainty: Certainty::Possible,
        };
        let mut open = OpenBatch::new(recipe, ShardId::new("shardId-000000000000"), 0, Some(gap));
        open.fill(&mut records(7, [(Some(0), "{}"), (Some(0), "{")]), &BatchLimits::NONE).unwrap();
        let sealed = seal(open);
        let keys: Vec<_> = sealed.objects.iter().map(|o| o.key.as_str()).collect();
        assert!(keys[1].starts_with("errors/invalid-json/"), "{keys:?}");
        assert!(keys[2].starts_with("errors/gap/") && keys[2].ends_with("-7-8.gap.json"));
        assert_eq!(sealed.dead, [("invalid-json", 1)]);
        assert_eq!(sealed.intent.gap, Some(Certainty::Possible));
    }

    /// Payload, key length and count of user records that share a key: what anybody may put.
    fn hostile() -> impl Strategy<Value = (Vec<(String, String)>, Format, ForeignRecords)> {
        let payload = prop_oneof![
            Just(String::new()),
            Just("{\"catchment\":\"upload\",\"v\":".to_owned()),
            "[a-z]{0,40}",
        ];
        let group = (payload, 0..260_usize, 1..300_usize)
            .prop_map(|(data, key, count)| vec![("k".repeat(key), data); count]);
        let format = prop_oneof![
            Just(Format::Envelope),
            Just(Format::Ndjson),
            Just(Format::JsonArray),
            Just(Format::Raw)
        ];
        let foreign = prop_oneof![Just(ForeignRecords::DeadLetter), Just(ForeignRecords::Drop)];
        (prop::collection::vec(group, 1..4).prop_map(|groups| groups.concat()), format, foreign)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever lines records become: a batch is cut, and a step ends, one line late at most.
        #[test]
        fn what_is_laid_out_is_bounded((users, format, foreign) in hostile(), limit in 1..5_000_u64) {
            const LINE: usize = 2_048;
            let settings = Settings { format, foreign_records: foreign, ..Settings::sample() };
            let all = users.iter().enumerate().map(|(n, (key, data))| {
                let mut record = Record::new("7", Some(0), Some(key), data.as_bytes()).unwrap();
                (record.sub, record.foreign) = (n as u64, n % 5 == 0);
                record
            });
            let mut queue = Records::copy(&all.collect::<Vec<_>>()).unwrap();
            let limits = BatchLimits { bytes: limit, step: 4_096, ..BatchLimits::NONE };
            let most = (limit * EXPANSION) as usize + LINE;
            let (mut batch, mut records) = (open(settings.clone()), 0);
            while !queue.is_empty() {
                let before = batch.memory();
                let cause = batch.fill(&mut queue, &limits).unwrap();
                // Buffers grow by doubling.
                prop_assert!(batch.memory() <= before + 2 * (4_096 + LINE) + most);
                if cause.is_some() || queue.is_empty() {
                    let sealed = seal(std::mem::replace(&mut batch, open(settings.clone())));
                    let size: usize = sealed.objects.iter().map(|o| o.body.len()).sum();
                    prop_assert!(size <= most, "{size} of {most}");
                    records += sealed.intent.records;
                }
            }
            prop_assert_eq!(records, users.len() as u64);
        }
    }

    #[test]
    fn foreign_records_go_where_the_settings_say() {
        let of = |foreign_records, foreign| {
            let mut record = Record::new("7", Some(0), Some("k"), b"data").unwrap();
            record.foreign = foreign;
            let mut open = open(Settings { foreign_records, ..Settings::sample() });
            open.push(record).unwrap();
            let sealed = seal(open);
            let [object] = sealed.objects.as_slice() else { panic!("{:?}", sealed.objects) };
            (object.kind, String::from_utf8(object.body.concat().to_vec()).unwrap())
        };
        let archived = (ObjectKind::Archive, "data\n".to_owned());
        assert_eq!(of(ForeignRecords::DeadLetter, false), archived);
        assert_eq!(of(ForeignRecords::Keep, true), archived);
        let (kind, line) = of(ForeignRecords::DeadLetter, true);
        assert!(kind == ObjectKind::DeadLetter && line.contains("\"data\":\"ZGF0YQ==\""), "{line}");
        let (kind, line) = of(ForeignRecords::Drop, true);
        assert!(kind == ObjectKind::DeadLetter && line.contains("\"data\":\"\""), "{line}");
    }
}
