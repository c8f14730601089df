//! The oracle: judges every effect as it happens, and the whole at the end.
//!
//! It knows the stream (everything ever produced), reads every object the way a consumer would, by
//! the extension of its key, and reads every row the way the next owner would. It shares no state
//! with the workers. The numbers in brackets are those of `docs/TESTING.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use catchment::checkpoint::intent::{Intent, IntentList};
use catchment::delivery::object_key::parse_object_name;
use catchment::stream::position::Position;

use crate::effects::{Event, Moment, Observer};
use crate::fleet::{BUCKET, STREAM, TABLE};
use crate::services::World;
use crate::services::attr::{Attr, Row};
use crate::services::kinesis::{Kinesis, Shard, Stream, parse_sequence_number};

/// A record of the stream: shard and sequence.
type Id = (String, u128);

/// Handle to the book; one half observes, the other asks at the end.
#[derive(Clone, Default)]
pub struct Oracle(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    /// Every payload produced so far, and how many records of each shard are in here.
    produced: BTreeMap<Vec<u8>, Id>,
    known: BTreeMap<String, usize>,
    /// The object each record is in, archive or dead letter.
    homes: BTreeMap<Id, String>,
    /// Records kept beside a reported gap.
    salvaged: BTreeSet<Id>,
    /// Ranges named by a report as gone, exclusive on both sides.
    gaps: BTreeMap<String, Vec<(u128, u128)>>,
    /// Every intent that ever stood in a row, and who put it there.
    announced: BTreeMap<(String, Position, Position), String>,
    /// The last checkpoint of each row; kept when the row is deleted.
    checkpoints: BTreeMap<String, String>,
    deleted: BTreeSet<String>,
    sometimes: BTreeMap<&'static str, u64>,
    story: Vec<(u64, String)>,
}

/// What a row says about delivery.
#[derive(Default)]
struct Progress {
    checkpoint: String,
    intents: Vec<Intent>,
}

fn progress(row: &Row) -> Result<Progress, String> {
    let text = |name: &str| row.get(name).and_then(Attr::as_s).map(str::to_owned);
    let intents = match row.get("pendingCheckpointState") {
        Some(Attr::B(encoded)) => {
            let raw = STANDARD.decode(encoded).map_err(|e| e.to_string())?;
            IntentList::decode(&raw).map_err(|e| e.to_string())?
        }
        _ => Vec::new(),
    };
    let tail = intents.last().map(|i| i.last.sequence.as_str().to_owned());
    if tail != text("pendingCheckpoint") {
        return Err(format!("pendingCheckpoint is not the end of the list, which is {tail:?}"));
    }
    Ok(Progress { checkpoint: text("checkpoint").ok_or("a row without checkpoint")?, intents })
}

/// A checkpoint as a number that grows; what is at most this is delivered.
fn reach(checkpoint: &str) -> u128 {
    match checkpoint {
        "SHARD_END" => u128::MAX,
        digits => parse_sequence_number(digits).unwrap_or(0),
    }
}

fn number(position: &Position) -> u128 {
    parse_sequence_number(position.sequence.as_str()).unwrap_or(0)
}

/// The records of an object, in order, by what its key says about it.
pub fn decode(key: &str, body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut bytes = Vec::new();
    let plain = if let Some(plain) = key.strip_suffix(".zst") {
        bytes = zstd::decode_all(body).map_err(|e| format!("{key}: {e}"))?;
        plain
    } else if let Some(plain) = key.strip_suffix(".gz") {
        let mut gzip = flate2::read::MultiGzDecoder::new(body);
        gzip.read_to_end(&mut bytes).map_err(|e| format!("{key}: {e}"))?;
        plain
    } else {
        bytes.extend_from_slice(body);
        key
    };
    let lines = || bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    let letters = plain.starts_with("errors/") && !plain.starts_with("errors/gap/");
    if letters || plain.ends_with(".envelope.ndjson") {
        return lines()
            .map(|line| {
                let line: serde_json::Value =
                    serde_json::from_slice(line).map_err(|e| format!("{key}: {e}"))?;
                let data = line["data"].as_str().unwrap_or_default();
                STANDARD.decode(data).map_err(|e| format!("{key}: {e}"))
            })
            .collect();
    }
    if plain.ends_with(".ndjson") {
        return Ok(lines().map(<[u8]>::to_vec).collect());
    }
    if plain.ends_with(".json") {
        let items: Vec<Box<serde_json::value::RawValue>> =
            serde_json::from_slice(&bytes).map_err(|e| format!("{key}: {e}"))?;
        return Ok(items.iter().map(|item| item.get().as_bytes().to_vec()).collect());
    }
    if plain.ends_with(".raw") {
        let (mut records, mut rest) = (Vec::new(), bytes.as_slice());
        while !rest.is_empty() {
            let stop = rest.iter().position(|b| *b == b'.').ok_or(format!("{key} is cut off"))?;
            let (record, left) = rest.split_at(stop + if rest[0] == b'"' { 2 } else { 1 });
            records.push(record.to_vec());
            rest = left;
        }
        return Ok(records);
    }
    Err(format!("{key} has an extension nobody knows"))
}

/// Retention has taken the record, or its whole shard.
fn is_gone(shard: &Shard, sequence: u128) -> bool {
    shard.gone || shard.records[..shard.trimmed].iter().any(|r| r.sequence == sequence)
}

impl Book {
    fn stream<'a>(&self, kinesis: &'a Kinesis) -> Result<&'a Stream, String> {
        kinesis.streams.get(STREAM).ok_or_else(|| "the stream is missing".to_owned())
    }

    fn learn(&mut self, stream: &Stream) {
        for shard in &stream.shards {
            let known = self.known.entry(shard.id.clone()).or_default();
            for record in &shard.records[*known..] {
                let id = (shard.id.clone(), record.sequence);
                self.produced.insert(record.data.to_vec(), id);
            }
            *known = shard.records.len();
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.sometimes.entry(what).or_default() += 1;
    }

    fn tell(&mut self, moment: &Moment, what: String) {
        self.story.push((moment.at, format!("{:<8} {what}", moment.node)));
    }

    /// A sequence number as people tell records apart: by the number in its payload.
    fn short(&self, sequence: u128) -> String {
        let found = self.produced.iter().find(|(_, (_, s))| *s == sequence);
        found
            .and_then(|(data, _)| {
                let text = String::from_utf8_lossy(data);
                let number = text.split(' ').nth(1)?;
                Some(format!("r{number}"))
            })
            .unwrap_or_else(|| format!("?{}", sequence % 1_000_000_000_000))
    }

    fn checkpoint_name(&self, checkpoint: &str) -> String {
        parse_sequence_number(checkpoint).map_or(checkpoint.to_owned(), |s| self.short(s))
    }

    fn is_settled(&self, shard: &str, sequence: u128) -> bool {
        let id = (shard.to_owned(), sequence);
        let covers = |(after, before): &(u128, u128)| *after < sequence && sequence < *before;
        self.homes.contains_key(&id)
            || self.salvaged.contains(&id)
            || self.gaps.get(shard).is_some_and(|gaps| gaps.iter().any(covers))
    }

    fn put(
        &mut self,
        moment: &Moment,
        key: &str,
        body: &Bytes,
        existed: bool,
        stored: bool,
        stream: &Stream,
    ) -> Result<(), String> {
        if stored && existed {
            return Err(format!("[2] {key} was replaced"));
        }
        if self.has_successor(&moment.node) {
            self.count("a zombie puts");
        }
        if key.ends_with(".gap.json") {
            return if stored { self.gap(moment, key, body, stream) } else { Ok(()) };
        }
        let named = parse_object_name(key).ok_or(format!("[3] {key} names no range"))?;
        let (shard, first, last) = named;
        let shard = shard.as_str().to_owned();
        let Some(author) = self.announced.get(&(shard.clone(), first.clone(), last.clone())) else {
            return Err(format!("[3] {key} was put before it was announced"));
        };
        if *author != *moment.node {
            self.count("intent of another worker finished");
        }
        let held = stream.shards.iter().find(|s| s.id == shard).ok_or(format!("{shard}?"))?;
        for parent in &held.parents {
            let ended = self.checkpoints.get(parent).is_some_and(|c| c == "SHARD_END");
            let gone = stream.index(parent).is_none();
            if !ended && !gone {
                return Err(format!("[6] {key} before the end of its parent {parent}"));
            }
        }
        let range = format!("{}..{}", self.short(number(&first)), self.short(number(&last)));
        let result = match (stored, existed) {
            (true, _) => "created",
            (false, true) => "exists",
            (false, false) => "refused",
        };
        let kind = key.split('/').next().unwrap_or_default();
        self.tell(moment, format!("put {kind} {shard} {range} {result}"));
        if !stored {
            return Ok(());
        }
        let mut before = 0;
        let records = decode(key, body)?;
        if records.is_empty() {
            return Err(format!("[1] {key} is empty"));
        }
        for data in records {
            let Some((of, sequence)) = self.produced.get(&data).cloned() else {
                let shown = String::from_utf8_lossy(&data).into_owned();
                return Err(format!("[7] {key} holds `{shown}`, which nobody produced"));
            };
            let inside = number(&first) <= sequence && sequence <= number(&last);
            if of != shard || !inside || sequence <= before {
                return Err(format!(
                    "[7] {key} holds a record that is not its own, or in disorder"
                ));
            }
            before = sequence;
            if key.starts_with("errors/gap/") {
                self.count("record kept beside a gap");
                self.salvaged.insert((of, sequence));
                continue;
            }
            let home = self.homes.entry((of, sequence)).or_insert_with(|| key.to_owned());
            if home != key {
                let (home, record) = (home.clone(), self.short(sequence));
                return Err(format!("[1] {record} is in {home} and in {key}"));
            }
        }
        Ok(())
    }

    /// Is a later incarnation of this worker at work?
    fn has_successor(&self, node: &str) -> bool {
        let Some((base, number)) = node.split_once('.') else {
            return false;
        };
        let next = number.parse::<u32>().map_or_else(|_| String::new(), |n| (n + 1).to_string());
        let next = format!("{base}.{next} ");
        self.story.iter().any(|(_, line)| line.starts_with(&next))
    }

    fn gap(
        &mut self,
        moment: &Moment,
        key: &str,
        body: &Bytes,
        stream: &Stream,
    ) -> Result<(), String> {
        let report: serde_json::Value =
            serde_json::from_slice(body).map_err(|e| format!("{key}: {e}"))?;
        let text = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
        let (shard, after, before) = (text("shard"), text("after"), text("before"));
        let (before, more) = if before.is_empty() { (text("through"), 1) } else { (before, 0) };
        let shown =
            format!("{} to {}", self.checkpoint_name(&after), self.checkpoint_name(&before));
        self.tell(moment, format!("reports a gap in {shard}: {shown}"));
        self.count("gap");
        let (after, before) = (reach(&after), reach(&before).saturating_add(more));
        let held = stream.shards.iter().find(|s| s.id == shard).ok_or(format!("{shard}?"))?;
        let inside = held.records.iter().filter(|r| after < r.sequence && r.sequence < before);
        let mut lost = 0;
        for record in inside {
            if self.homes.contains_key(&(shard.clone(), record.sequence)) {
                continue;
            }
            if !is_gone(held, record.sequence) {
                let record = self.short(record.sequence);
                return Err(format!("[9] {record} of {shard} is reported as gone and is there"));
            }
            lost += 1;
        }
        if lost == 0 {
            self.count("gap without a lost record");
        }
        self.gaps.entry(shard).or_default().push((after, before));
        Ok(())
    }

    fn row(
        &mut self,
        moment: &Moment,
        key: &str,
        before: Option<&Row>,
        after: Option<&Row>,
        stream: &Stream,
    ) -> Result<(), String> {
        let held = stream.shards.iter().find(|s| s.id == key).ok_or(format!("no shard {key}"))?;
        let (Some(before), Some(after)) = (before, after) else {
            return match (before, after) {
                (None, Some(row)) => {
                    let now = progress(row)?;
                    self.tell(moment, format!("lease of {key} created at {}", now.checkpoint));
                    if now.checkpoint != "TRIM_HORIZON" || !now.intents.is_empty() {
                        return Err(format!("[4] {key} is created at {}", now.checkpoint));
                    }
                    if self.deleted.contains(key) && !held.gone {
                        return Err(format!("[4] {key} was deleted and is created again"));
                    }
                    self.checkpoints.insert(key.to_owned(), now.checkpoint);
                    Ok(())
                }
                (Some(row), None) => {
                    self.tell(moment, format!("lease of {key} deleted"));
                    self.count("finished lease deleted");
                    self.deleted.insert(key.to_owned());
                    if progress(row)?.checkpoint != "SHARD_END" || !held.gone {
                        return Err(format!("[4] {key} is deleted too early"));
                    }
                    Ok(())
                }
                _ => Ok(()),
            };
        };
        let (was, now) = (progress(before)?, progress(after)?);
        let owner = |row: &Row| row.get("leaseOwner").and_then(Attr::as_s).map(str::to_owned);
        if owner(before) != owner(after) {
            let new = owner(after);
            self.tell(moment, format!("{key} taken or left: owner {new:?}"));
            if new.is_some() && !was.intents.is_empty() {
                self.count("lease taken with intents pending");
            }
        }
        if was.checkpoint == now.checkpoint && was.intents == now.intents {
            return Ok(());
        }
        let list = |book: &Self, intents: &[Intent]| {
            let one = |i: &Intent| {
                format!("[{}..{}]", book.short(number(&i.first)), book.short(number(&i.last)))
            };
            intents.iter().map(one).collect::<String>()
        };
        let line = format!(
            "{key}: {} {} -> {} {}",
            self.checkpoint_name(&was.checkpoint),
            list(self, &was.intents),
            self.checkpoint_name(&now.checkpoint),
            list(self, &now.intents)
        );
        self.tell(moment, line.clone());
        let (low, high) = (reach(&was.checkpoint), reach(&now.checkpoint));
        if high < low {
            return Err(format!("[4] the checkpoint falls: {line}"));
        }
        let removed = if high == low {
            0
        } else if now.checkpoint == "SHARD_END" {
            was.intents.len()
        } else {
            let end = was.intents.iter().position(|i| number(&i.last) == high);
            end.ok_or(format!("[4] the checkpoint moves to no intent's end: {line}"))? + 1
        };
        let left = &was.intents[removed..];
        if !now.intents.starts_with(left) {
            return Err(format!("[4] intents vanish from the middle: {line}"));
        }
        let mut tail = left.last().map_or(high, |i| number(&i.last));
        for intent in &now.intents[left.len()..] {
            if number(&intent.first) <= tail || number(&intent.last) < number(&intent.first) {
                return Err(format!("[4] an intent is announced over another: {line}"));
            }
            tail = number(&intent.last);
            let name = (key.to_owned(), intent.first.clone(), intent.last.clone());
            self.announced.insert(name, moment.node.to_string());
        }
        if removed > 0 && now.intents.len() > left.len() {
            self.count("commit and intent in one write");
        }
        self.checkpoints.insert(key.to_owned(), now.checkpoint.clone());
        if now.checkpoint == "SHARD_END" && held.closed.is_none() {
            return Err(format!("[5] {key} is finished and still open"));
        }
        let committed = held.records.iter().filter(|r| low < r.sequence && r.sequence <= high);
        for record in committed {
            // Where a shard began at its oldest record, what went before that is nobody's.
            if low == 0 && is_gone(held, record.sequence) {
                self.count("record gone before the first checkpoint");
            } else if !self.is_settled(key, record.sequence) {
                let record = self.short(record.sequence);
                return Err(format!("[5] {record} is committed and in no object: {line}"));
            }
        }
        Ok(())
    }
}

impl Observer for Oracle {
    fn observe(
        &mut self,
        moment: &Moment,
        event: &Event<'_>,
        kinesis: &Kinesis,
    ) -> Result<(), String> {
        let mut book = self.book();
        let stream = book.stream(kinesis)?;
        book.learn(stream);
        match *event {
            Event::Put { bucket: BUCKET, key, body, existing, stored } => {
                book.put(moment, key, body, existing.is_some(), stored, stream)
            }
            Event::Row { table: TABLE, key, before, after } => {
                book.row(moment, key, before, after, stream)
            }
            Event::Delete { key, .. } => Err(format!("{key} was deleted")),
            Event::Put { .. } | Event::Row { .. } | Event::Read { .. } => Ok(()),
        }
    }
}

impl Oracle {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn sometimes(&self) -> BTreeMap<&'static str, u64> {
        self.book().sometimes.clone()
    }

    /// What happened, for people.
    pub fn story(&self) -> Vec<(u64, String)> {
        self.book().story.clone()
    }

    /// Everything produced is delivered or reported, and every row says so; or what is missing.
    pub fn complete(&self, world: &mut World) -> Result<(), String> {
        let mut book = self.book();
        let rows = world.dynamodb.rows(TABLE);
        let stream = book.stream(&world.kinesis)?;
        book.learn(stream);
        for shard in &stream.shards {
            let row = rows.get(&shard.id).map(progress).transpose()?;
            let seen = book.checkpoints.contains_key(&shard.id);
            if shard.gone && !seen {
                // Nobody ever heard of it.
                continue;
            }
            for record in &shard.records {
                let lost = !book.is_settled(&shard.id, record.sequence);
                if lost && !(is_gone(shard, record.sequence)) {
                    let name = book.short(record.sequence);
                    return Err(format!("[7] {name} of {} is in no object", shard.id));
                }
            }
            match row {
                Some(row) if !row.intents.is_empty() => {
                    return Err(format!("[8] {} has intents pending", shard.id));
                }
                Some(row) if shard.closed.is_some() && row.checkpoint != "SHARD_END" => {
                    return Err(format!("[8] {} is not finished", shard.id));
                }
                None if !shard.gone => return Err(format!("[8] {} has no lease", shard.id)),
                _ => {}
            }
        }
        Ok(())
    }
}
