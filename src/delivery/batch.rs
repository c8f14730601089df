//! ◆ A batch under construction, and the objects it becomes.
//!
//! The objects of a batch depend on its records, their settings and the batch's time stamp, and on
//! nothing else: two workers that are given the same range arrive at the same objects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::checkpoint::intent::Intent;
use crate::delivery::blocks::Blocks;
use crate::delivery::encode::{Body, EncodeError, Encoder};
use crate::delivery::field::Path;
use crate::delivery::object_key::{BadTemplate, Template, object_name};
use crate::delivery::partition::{Partition, Partitions, frame};
use crate::delivery::route::{Route, route};
use crate::delivery::settings::Settings;
use crate::ids::ShardId;
use crate::stream::position::{Checkpoint, Position};
use crate::stream::{Record, Records};
use crate::upload::event::{self, Envelope};

/// Settings with their templates parsed: what encoding needs at hand.
#[derive(Debug)]
pub struct Recipe {
    /// What goes into the intent.
    pub settings: Arc<Settings>,
    /// Where archive objects go.
    pub prefix: Template,
    /// Where dead letters go.
    pub errors: Template,
    /// The field that holds a record's time; the time of arrival counts if there is none.
    pub time_field: Option<Path>,
}

impl Recipe {
    /// Parses the templates.
    ///
    /// # Errors
    /// The template that is wrong, and why.
    pub fn new(settings: Arc<Settings>) -> Result<Self, BadTemplate> {
        let time_field = match settings.time_field.as_str() {
            "" => None,
            path => Some(
                Path::parse(path)
                    .map_err(|why| BadTemplate::Field(settings.time_field.clone(), why))?,
            ),
        };
        Ok(Self {
            time_field,
            prefix: Template::parse(&settings.prefix, false)?,
            errors: Template::parse(&settings.errors, true)?,
            settings,
        })
    }
}

/// When a batch is full.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Raw payload, bytes.
    pub bytes: u64,
    /// Records.
    pub records: u64,
    /// Partitions, unless the settings let records spill instead.
    pub partitions: usize,
    /// Age of its oldest record in this worker.
    pub age: Duration,
}

impl Limits {
    /// A batch that is never full.
    pub const NONE: Self =
        Self { bytes: u64::MAX, records: u64::MAX, partitions: usize::MAX, age: Duration::MAX };
}

/// Why a batch was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
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

impl Cause {
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

/// Kind of an object, for metrics and conflict rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Records of one partition.
    Archive,
    /// One uploaded file.
    Upload,
    /// Dead letters of one kind.
    DeadLetter,
}

/// Metadata: the stream.
pub const META_STREAM: &str = "catchment-stream";
/// Metadata: the shard whose records are in the object.
pub const META_SHARD: &str = "catchment-shard";
/// Metadata: first position of the batch.
pub const META_FIRST: &str = "catchment-first";
/// Metadata: last position of the batch.
pub const META_LAST: &str = "catchment-last";
/// Metadata: the checkpoint the batch follows; absent in objects of version 0.1.
pub const META_AFTER: &str = "catchment-after";
/// Metadata: records in the object.
pub const META_RECORDS: &str = "catchment-records";
/// Metadata: records in all archive and dead-letter objects of the batch.
pub const META_BATCH: &str = "catchment-batch-records";

/// Metadata that place an object in its shard.
fn is_range(name: &str) -> bool {
    [META_STREAM, META_SHARD, META_FIRST, META_LAST, META_AFTER, META_BATCH].contains(&name)
}

/// One object to put, create-only.
#[derive(Clone, Debug)]
pub struct Object {
    /// Destination bucket.
    pub bucket: String,
    /// Full key.
    pub key: String,
    /// What is in it.
    pub kind: Kind,
    /// Its bytes.
    pub body: Body,
    /// Content type.
    pub content_type: String,
    /// User metadata.
    pub metadata: Vec<(String, String)>,
    /// Records in it.
    pub records: u64,
    /// Where it goes, as a dead letter, if another file has taken its key. Uploads only.
    pub conflict_key: Option<String>,
    /// When the front door took it, in milliseconds since the epoch. Uploads only.
    pub accepted_ms: Option<i64>,
    /// To be put when all other objects of the batch are durable: it takes overflow, and its
    /// existence says that every partition which had room exists.
    pub last: bool,
}

/// What an object holds in memory besides its bytes, about: key, metadata, and its entries in the
/// batch's tables. Of thousands of small objects it is as much as the bytes.
const BESIDES: usize = 2048;

impl Object {
    /// Memory held, bytes.
    pub fn memory(&self) -> usize {
        self.body.len() + BESIDES
    }

    /// A metadata value.
    pub fn meta(&self, name: &str) -> Option<&str> {
        self.metadata.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The dead letter of an upload whose key belongs to another file. The same for everyone who
    /// meets the conflict.
    pub fn as_conflict(&self) -> Option<Self> {
        let key = self.conflict_key.clone()?;
        let line = serde_json::json!({
            "kind": "upload-conflict",
            "reason": "the file key belongs to another upload with other content",
            "file_key": self.key,
            "position": self.meta(event::META_POSITION),
            "request_id": self.meta(event::META_REQUEST_ID),
            "sha256": self.meta(event::META_SHA256),
            "data": STANDARD.encode(self.body.concat()),
        });
        Some(Self {
            bucket: self.bucket.clone(),
            key,
            kind: Kind::DeadLetter,
            body: Body::of(format!("{line}\n")),
            content_type: "application/x-ndjson".into(),
            metadata: self.metadata.iter().filter(|(name, _)| is_range(name)).cloned().collect(),
            records: 1,
            conflict_key: None,
            accepted_ms: None,
            last: false,
        })
    }
}

/// Records missing after a position: they left retention before anybody delivered them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Delivered up to here.
    pub after: String,
    /// Where it ends.
    pub end: GapEnd,
}

/// The end of a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GapEnd {
    /// The first record found.
    Before(String),
    /// The last record that is missing: nothing was found in a range known to end with it.
    Through(String),
}

impl Gap {
    /// Between a checkpoint and the first record found.
    pub fn new(after: &Checkpoint, before: &Position) -> Self {
        Self { after: after.to_string(), end: GapEnd::Before(before.to_string()) }
    }

    /// From a checkpoint to the end of an announced range, that end included.
    pub fn through(after: &Checkpoint, last: &Position) -> Self {
        Self { after: after.to_string(), end: GapEnd::Through(last.to_string()) }
    }

    /// From a checkpoint to the end of the shard.
    pub fn to_end(after: &Checkpoint) -> Self {
        let end = GapEnd::Before(Checkpoint::ShardEnd.to_string());
        Self { after: after.to_string(), end }
    }
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.end {
            GapEnd::Before(end) => write!(f, "after {} and before {end}", self.after),
            GapEnd::Through(end) => write!(f, "after {} up to and including {end}", self.after),
        }
    }
}

/// A batch that takes records.
#[derive(Debug)]
pub struct Open {
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
pub struct Sealed {
    /// What to announce.
    pub intent: Intent,
    /// What to put, in key order.
    pub objects: Vec<Object>,
    /// Dead letters by kind.
    pub dead: Vec<(&'static str, u64)>,
    /// Records in another partition than their data asks for, by reason.
    pub misplaced: Vec<(&'static str, u64)>,
}

impl Open {
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
        limits: &Limits,
    ) -> Result<Option<Cause>, EncodeError> {
        let mut taken = 0_usize;
        let cause = loop {
            let Some(record) = queue.get(taken) else { break None };
            if self.is_full(limits) && !self.has_room(record) {
                break Some(Cause::Partitions);
            }
            self.add(record)?;
            taken += 1;
            if self.bytes >= limits.bytes {
                break Some(Cause::Size);
            }
            if self.records >= limits.records {
                break Some(Cause::Count);
            }
        };
        if let Some(last) = taken.checked_sub(1).and_then(|last| queue.get(last)) {
            self.last = Some(last.position());
        }
        queue.skip(taken);
        Ok(cause)
    }

    /// Has it as many partitions as it may have, where the next one means another batch?
    fn is_full(&self, limits: &Limits) -> bool {
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
    pub fn seal(self) -> Result<Option<Sealed>, EncodeError> {
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
    pub fn seal_as(mut self, first: Position, last: Position) -> Result<Sealed, EncodeError> {
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
            let archive = object(key, Kind::Archive, body, content_type, records);
            objects.push(Object { last: overflow, ..archive });
        }
        for (kind, (encoder, records)) in self.dead {
            let key = dead_letter_key(&self.recipe, &self.shard, self.stamp_ms, kind, &name);
            let body = encoder.finish(&mut self.blocks)?;
            objects.push(object(key, Kind::DeadLetter, body, "application/x-ndjson", records));
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
        Ok(Sealed {
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
            kind: Kind::Upload,
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

/// Key of the archive object of a partition, for a batch whose objects bear this name.
pub(super) fn archive_key(prefix: &str, name: &str, settings: &Settings) -> String {
    format!("{prefix}{name}.{}{}", settings.format.extension(), settings.codec.extension())
}

/// Key of the object of the dead letters of one kind.
pub(super) fn dead_letter_key(
    recipe: &Recipe,
    shard: &ShardId,
    stamp_ms: i64,
    kind: &str,
    name: &str,
) -> String {
    let Recipe { settings, errors, .. } = recipe;
    let prefix = errors.render(stamp_ms, &settings.stream, shard, kind);
    format!("{prefix}{name}.ndjson{}", settings.codec.extension())
}

/// A dead letter that names records nobody can deliver any more.
pub fn gap_report(
    settings: &Settings,
    errors: &Template,
    shard: &ShardId,
    range: &str,
    stamp_ms: i64,
    gap: &Gap,
) -> Object {
    let mut line = serde_json::json!({
        "stream": settings.stream, "shard": shard, "kind": "gap",
        "reason": "records between these positions left the stream's retention undelivered",
        "after": gap.after,
    });
    match &gap.end {
        GapEnd::Before(end) => line["before"] = end.as_str().into(),
        GapEnd::Through(end) => line["through"] = end.as_str().into(),
    }
    let prefix = errors.render(stamp_ms, &settings.stream, shard, "gap");
    Object {
        bucket: settings.bucket.clone(),
        key: format!("{prefix}{}-{shard}-{range}.gap.json", settings.stream),
        kind: Kind::DeadLetter,
        body: Body::of(format!("{line}\n")),
        content_type: "application/json".into(),
        metadata: Vec::new(),
        records: 0,
        conflict_key: None,
        accepted_ms: None,
        last: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::settings::Format;

    const DAY: i64 = 86_400_000;

    /// Records with numbers from `first` on.
    fn records<'a>(first: u64, all: impl IntoIterator<Item = (Option<i64>, &'a str)>) -> Records {
        let all: Vec<_> = (first..).zip(all).map(|(n, record)| (n.to_string(), record)).collect();
        let each = all.iter().map(|(n, (arrival_ms, data))| {
            Record::new(n, *arrival_ms, None, data.as_bytes()).unwrap()
        });
        Records::copy(&each.collect::<Vec<_>>()).unwrap()
    }

    fn open(settings: Settings) -> Open {
        let recipe = Arc::new(Recipe::new(Arc::new(settings)).unwrap());
        Open::new(recipe, ShardId::new("shardId-000000000000"), 5 * DAY, None)
    }

    fn seal(open: Open) -> Sealed {
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
        one.fill(&mut records.clone(), &Limits::NONE).unwrap();
        let (mut other, mut rest) = (open(Settings::sample()), records);
        while !rest.is_empty() {
            let mut chunk = rest.clone();
            chunk.truncate(7);
            other.fill(&mut chunk, &Limits::NONE).unwrap();
            assert!(chunk.is_empty());
            rest.skip(7);
        }
        assert_eq!(one.last(), other.last());
        let bytes = |s: Sealed| -> Vec<_> {
            s.objects.into_iter().map(|o| (o.key, o.body.concat())).collect()
        };
        assert_eq!(bytes(seal(one)), bytes(seal(other)));
    }

    #[test]
    fn limits_cut_after_the_record_that_reaches_them() {
        let mut queue = records(1, [(None, "1234"); 9]);
        let limits = Limits { bytes: 8, records: 100, ..Limits::NONE };
        let mut batch = open(Settings::sample());
        assert_eq!(batch.fill(&mut queue, &limits).unwrap(), Some(Cause::Size));
        assert_eq!(queue.len(), 7);
        assert_eq!(seal(batch).intent.records, 2);
        assert!(open(Settings::sample()).seal().unwrap().is_none());
    }

    #[test]
    fn a_batch_is_cut_before_it_has_too_many_partitions() {
        let settings = Settings { prefix: "!{field:k}/".into(), ..Settings::sample() };
        let data = ["a", "b", "a", "c"].map(|k| format!("{{\"k\":\"{k}\"}}"));
        let mut queue = records(1, data.iter().map(|data| (None, data.as_str())));
        let limits = Limits { partitions: 2, ..Limits::NONE };
        let mut first = open(settings.clone());
        assert_eq!(first.fill(&mut queue, &limits).unwrap(), Some(Cause::Partitions));
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
        open.fill(&mut queue, &Limits::NONE).unwrap();
        let sealed = seal(open);
        assert_eq!(sealed.objects.len(), 3);
        assert_eq!(sealed.dead, [("upload-key", 1)]);
        let upload = sealed.objects.iter().find(|o| o.kind == Kind::Upload).unwrap();
        assert_eq!(
            (upload.key.as_str(), upload.body.concat().as_ref()),
            ("uploads/a.txt", &b"hello"[..])
        );
        assert_eq!(upload.meta(event::META_POSITION), Some("shardId-000000000000/1"));
        let conflict = upload.as_conflict().unwrap();
        assert_eq!(conflict.key, "errors/upload-conflict/events-shardId-000000000000-1.ndjson");
        assert!(sealed.objects.iter().all(|o| o.kind == Kind::Upload || o.as_conflict().is_none()));
    }

    #[test]
    fn dead_letters_and_gaps_are_objects_of_the_same_plan() {
        let settings = Settings { format: Format::JsonArray, ..Settings::sample() };
        let recipe = Arc::new(Recipe::new(Arc::new(settings)).unwrap());
        let gap = Gap { after: "1".into(), end: GapEnd::Before("7".into()) };
        let mut open = Open::new(recipe, ShardId::new("shardId-000000000000"), 0, Some(gap));
        open.fill(&mut records(7, [(Some(0), "{}"), (Some(0), "{")]), &Limits::NONE).unwrap();
        let sealed = seal(open);
        let keys: Vec<_> = sealed.objects.iter().map(|o| o.key.as_str()).collect();
        assert!(keys[1].starts_with("errors/invalid-json/"), "{keys:?}");
        assert!(keys[2].starts_with("errors/gap/") && keys[2].ends_with("-7-8.gap.json"));
        assert_eq!(sealed.dead, [("invalid-json", 1)]);
        assert!(sealed.intent.gap);
    }
}
