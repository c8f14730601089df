//! A batch under construction, and the objects it becomes.
//!
//! The objects of a batch depend on its records, their settings and the batch's time stamp, and on
//! nothing else: two workers that are given the same range arrive at the same objects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::blocks::Blocks;
use crate::delivery::body::Body;
use crate::delivery::dead_letter::{self, gap_report};
use crate::delivery::encode::{EncodeError, Encoder};
use crate::delivery::gap::Gap;
use crate::delivery::intent::Intent;
use crate::delivery::object::{
    BESIDES, META_AFTER, META_BATCH, META_FIRST, META_LAST, META_RECORDS, META_SHARD, META_STREAM,
    Object, ObjectKind,
};
use crate::delivery::object_key::{archive_key, object_name};
use crate::delivery::partition::{Partition, Partitions, frame};
use crate::delivery::recipe::Recipe;
use crate::delivery::route::{Route, route};
use crate::ids::ShardId;
use crate::stream::position::{Checkpoint, Position};
use crate::stream::{Record, Records};
use crate::upload::event::{self, Envelope};

/// When a batch is full.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Raw payload, bytes.
    pub bytes: u64,
    /// Records.
    pub records: u64,
    /// Partitions, unless the settings let records spill instead.
    pub partitions: usize,
    /// Age of its oldest record in this worker.
    pub age: Duration,
}

impl BatchLimits {
    /// A batch that is never full.
    pub const NONE: Self =
        Self { bytes: u64::MAX, records: u64::MAX, partitions: usize::MAX, age: Duration::MAX };
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
    last: Option<Position>,
    records: u64,
    bytes: u64,
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
            last: None,
            records: 0,
            bytes: 0,
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

    /// Takes records from the front of `queue` until it is empty or the batch is full.
    ///
    /// # Errors
    /// [`EncodeError`]
    pub fn fill(
        &mut self,
        queue: &mut Records,
        limits: &BatchLimits,
    ) -> Result<Option<FlushReason>, EncodeError> {
        let mut taken = 0_usize;
        let cause = loop {
            let Some(record) = queue.get(taken) else { break None };
            if self.is_full(limits) && !self.has_room(record) {
                break Some(FlushReason::Partitions);
            }
            self.add(record)?;
            taken += 1;
            if self.bytes >= limits.bytes {
                break Some(FlushReason::Size);
            }
            if self.records >= limits.records {
                break Some(FlushReason::Count);
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
        match route(record, &settings) {
            Route::Upload(envelope) => {
                let object = self.upload(*envelope, &record.position());
                self.uploads.push(object);
            }
            Route::Archive => {
                let limit = frame(self.partitions.len());
                let Partition { encoder, records, .. } = self.partitions.of(record);
                encoder.limit(limit);
                encoder.push(record, &settings.stream, &self.shard, None, &mut self.blocks)?;
                *records += 1;
            }
            Route::Dead(reject) => {
                let (encoder, count) = self
                    .dead
                    .entry(reject.kind)
                    .or_insert_with(|| (Encoder::dead_letters(&settings), 0));
                let shard = &self.shard;
                encoder.push(record, &settings.stream, shard, Some(&reject), &mut self.blocks)?;
                *count += 1;
            }
        }
        self.records += 1;
        self.bytes += record.data.len() as u64;
        if self.first.is_none() {
            self.first = Some(record.position());
        }
        Ok(())
    }

    /// The first record taken.
    pub fn first(&self) -> Option<&Position> {
        self.first.as_ref()
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
            conflict_key: None,
            accepted_ms: None,
            last: false,
        };
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
        for mut upload in self.uploads {
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
                gap: self.gap.is_some(),
                settings,
            },
            objects,
            dead,
            misplaced,
        })
    }

    fn upload(&self, envelope: Envelope, position: &Position) -> Object {
        let settings = &self.recipe.settings;
        let errors = self.recipe.errors.render(
            self.stamp_ms,
            &settings.stream,
            &self.shard,
            "upload-conflict",
        );
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
            conflict_key: Some(format!(
                "{errors}{}-{}-{position}.ndjson",
                settings.stream, self.shard
            )),
            accepted_ms: Some(envelope.received_at),
            last: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::dead_letter::upload_conflict;
    use crate::delivery::gap::GapEnd;
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
        let conflict = upload_conflict(upload).unwrap();
        assert_eq!(conflict.key, "errors/upload-conflict/events-shardId-000000000000-1.ndjson");
        assert!(
            sealed
                .objects
                .iter()
                .all(|o| o.kind == ObjectKind::Upload || upload_conflict(o).is_none())
        );
    }

    #[test]
    fn dead_letters_and_gaps_are_objects_of_the_same_plan() {
        let settings = Settings { format: Format::JsonArray, ..Settings::sample() };
        let recipe = Arc::new(Recipe::new(Arc::new(settings)).unwrap());
        let gap = Gap { after: "1".into(), end: GapEnd::Before("7".into()) };
        let mut open = OpenBatch::new(recipe, ShardId::new("shardId-000000000000"), 0, Some(gap));
        open.fill(&mut records(7, [(Some(0), "{}"), (Some(0), "{")]), &BatchLimits::NONE).unwrap();
        let sealed = seal(open);
        let keys: Vec<_> = sealed.objects.iter().map(|o| o.key.as_str()).collect();
        assert!(keys[1].starts_with("errors/invalid-json/"), "{keys:?}");
        assert!(keys[2].starts_with("errors/gap/") && keys[2].ends_with("-7-8.gap.json"));
        assert_eq!(sealed.dead, [("invalid-json", 1)]);
        assert!(sealed.intent.gap);
    }
}
