//! The oracle: judges every effect as it happens, and the whole at the end.
//!
//! It knows the stream (everything ever produced), reads every object the way a consumer would, by
//! the extension of its key, and reads every row the way the next owner would. It shares no state
//! with the workers. The numbers in brackets are those of `docs/TESTING.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use catchment::delivery::intent::{Intent, IntentList};
use catchment::delivery::object_key::parse_object_name;
use catchment::lease::rewind_request::{Request, Target};
use catchment::lease::row::attr;
use catchment::stream::position::Position;

use crate::consumer::decode;
use crate::effects::{Event, Moment, Observer};
use crate::fleet::{BUCKET, Fleet, STREAM, TABLE};
use crate::services::World;
use crate::services::attr::{Attr, Row};
use crate::services::kinesis::{Kinesis, Record, Shard, Stream, parse_sequence_number};

/// A user record of the stream: shard and [`place`].
type Id = (String, u128);

/// A sequence number and an index inside an aggregate as one number that grows with both.
fn place(sequence: u128, sub: u64) -> u128 {
    sequence * 256 + u128::from(sub)
}

/// The places of the user records of a shard, with whether retention has taken them.
fn places(shard: &Shard) -> impl Iterator<Item = (u128, bool)> {
    shard.records.iter().enumerate().flat_map(|(nth, record)| {
        let gone = shard.gone || nth < shard.trimmed;
        record.users.iter().map(move |(sub, _)| (place(record.sequence, *sub), gone))
    })
}

/// Handle to the book; one half observes, the other asks at the end.
#[derive(Clone, Default)]
pub struct Oracle(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    /// Every payload produced so far, and how many records of each shard are in here.
    produced: BTreeMap<Bytes, Id>,
    known: BTreeMap<String, usize>,
    /// Records by the numbers in their payloads, for people.
    names: BTreeMap<u128, String>,
    /// The object each record is in, archive or dead letter.
    homes: BTreeMap<Id, String>,
    /// The records that carry a file, by its key, with its content.
    uploads: BTreeMap<String, Vec<(Id, Bytes)>>,
    /// The key of each of them.
    carried: BTreeMap<Id, (String, Bytes)>,
    /// The files stored.
    files: BTreeMap<String, Bytes>,
    /// Shards whose reading began at a time: what arrived before is nobody's.
    pins: BTreeMap<String, i64>,
    /// Records kept beside a reported gap.
    salvaged: BTreeSet<Id>,
    /// Ranges named by a report as gone, exclusive on both sides.
    gaps: BTreeMap<String, Vec<(u128, u128)>>,
    /// Nobody passes a gap unless it is accepted.
    parks: bool,
    /// The gaps accepted: the shard, and where the gap begins.
    accepted: BTreeSet<(String, String)>,
    /// Every intent that ever stood in a row, and who put it there.
    announced: BTreeMap<(String, Position, Position), String>,
    /// The objects that records were in before their shard went back.
    earlier: BTreeSet<(Id, String)>,
    /// Shards that went back, ever.
    rewound: BTreeSet<String>,
    /// What stands announced now.
    standing: BTreeMap<String, Vec<Intent>>,
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
    let checkpoint = text("checkpoint").ok_or("a row without checkpoint")?;
    let sub = row.get("checkpointSubSequenceNumber").and_then(Attr::as_n).unwrap_or_default();
    let sub = if matches!(sub.as_str(), "" | "0") { String::new() } else { format!(".{sub}") };
    Ok(Progress { checkpoint: checkpoint + &sub, intents })
}

/// The first and last sequence number of each announced batch, by shard.
pub fn announced(rows: &BTreeMap<String, Row>) -> Vec<(String, u128, u128)> {
    let of = |shard: &String, row: &Row| {
        let intents = progress(row).map(|progress| progress.intents).unwrap_or_default();
        let sequence = |p: &Position| parse_sequence_number(p.sequence.as_str()).unwrap_or(0);
        let range = |i: &Intent| (shard.clone(), sequence(&i.first), sequence(&i.last));
        intents.iter().map(range).collect::<Vec<_>>()
    };
    rows.iter().flat_map(|(shard, row)| of(shard, row)).collect()
}

/// A checkpoint (`49…`, `49…898.3`, a sentinel) as a number that grows; what is at most this is
/// delivered.
fn reach(checkpoint: &str) -> u128 {
    if checkpoint == "SHARD_END" {
        return u128::MAX;
    }
    let (sequence, sub) = checkpoint.split_once('.').unwrap_or((checkpoint, "0"));
    let sequence = parse_sequence_number(sequence);
    sequence.map_or(0, |sequence| place(sequence, sub.parse().unwrap_or(0)))
}

fn number(position: &Position) -> u128 {
    parse_sequence_number(position.sequence.as_str()).map_or(0, |n| place(n, position.sub))
}

impl Book {
    fn stream<'a>(&self, kinesis: &'a Kinesis) -> Result<&'a Stream, String> {
        kinesis.streams.get(STREAM).ok_or_else(|| "the stream is missing".to_owned())
    }

    fn learn(&mut self, stream: &Stream) {
        for shard in &stream.shards {
            let known = self.known.entry(shard.id.clone()).or_default();
            for record in &shard.records[*known..] {
                for (sub, data) in &record.users {
                    let id = (shard.id.clone(), place(record.sequence, *sub));
                    let name = self.produced.len() + self.carried.len();
                    self.names.insert(id.1, format!("r{name}"));
                    if let Some((key, content)) = &record.file {
                        let carriers = self.uploads.entry(key.clone()).or_default();
                        carriers.push((id.clone(), content.clone()));
                        self.carried.insert(id, (key.clone(), content.clone()));
                    } else {
                        self.produced.insert(data.clone(), id);
                    }
                }
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

    /// A place as people tell records apart: the how manieth of the run.
    fn short(&self, place: u128) -> String {
        let unknown = || format!("?{}", place % 1_000_000_000_000);
        self.names.get(&place).cloned().unwrap_or_else(unknown)
    }

    fn checkpoint_name(&self, checkpoint: &str) -> String {
        match reach(checkpoint) {
            0 | u128::MAX => checkpoint.to_owned(),
            place => self.short(place),
        }
    }

    fn is_settled(&self, shard: &str, place: u128) -> bool {
        let id = (shard.to_owned(), place);
        let covers = |(after, before): &(u128, u128)| *after < place && place < *before;
        // The same file may arrive twice: one object is what both became.
        let stored = |(key, content)| self.files.get(key) == Some(content);
        self.homes.contains_key(&id)
            || self.carried.get(&id).is_some_and(|(key, content)| stored((key, content)))
            || self.salvaged.contains(&id)
            || self.gaps.get(shard).is_some_and(|gaps| gaps.iter().any(covers))
    }

    fn put(
        &mut self,
        moment: &Moment,
        key: &str,
        body: &Bytes,
        existing: Option<&Bytes>,
        stored: bool,
        stream: &Stream,
    ) -> Result<(), String> {
        let existed = existing.is_some();
        if stored && existed {
            return Err(format!("[2] {key} was replaced"));
        }
        if self.has_successor(&moment.node) {
            self.count("a zombie puts");
        }
        if key.ends_with(".gap.json") {
            return if stored { self.gap(moment, key, body, stream) } else { Ok(()) };
        }
        if key.starts_with("uploads/") {
            return self.file(moment, key, body, stored, stream);
        }
        if key.starts_with("errors/upload-conflict/") {
            return match existing {
                _ if stored => self.conflict(moment, key, body),
                Some(there) => self.conflict_again(key, there),
                None => Ok(()),
            };
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
            // What of the child was in hand when its parent went back is delivered all the same.
            let back = self.rewound.contains(parent);
            if !ended && !gone && !back {
                return Err(format!("[6] {key} before the end of its parent {parent}"));
            }
        }
        let range = format!("{}..{}", self.short(number(&first)), self.short(number(&last)));
        let result = match (stored, existed) {
            (true, _) => "created",
            (false, true) => "exists",
            (false, false) => "refused",
        };
        let kind = key.rsplit_once('/').map_or(key, |(folder, _)| folder);
        self.tell(moment, format!("put {kind} {shard} {range} {result}"));
        if !stored {
            let again = |i: &Intent| i.first == first && i.last == last;
            let standing = self.standing.get(&shard).is_some_and(|all| all.iter().any(again));
            if let (Some(there), true) = (existing, standing) {
                self.again(key, there)?;
            }
            return Ok(());
        }
        let mut before = 0;
        let records = decode(key, body)?;
        if records.is_empty() {
            return Err(format!("[1] {key} is empty"));
        }
        for data in records {
            let Some((of, sequence)) = self.produced.get(data.as_slice()).cloned() else {
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
            if self.is_before_the_pin(held, sequence) {
                return Err(format!("[4] {key} holds a record from before LATEST"));
            }
            self.is_at_home(key, &data)?;
            if key.starts_with("errors/gap/") {
                self.count("record kept beside a gap");
                self.salvaged.insert((of, sequence));
                continue;
            }
            let id = (of, sequence);
            let home = self.homes.entry(id.clone()).or_insert_with(|| key.to_owned());
            if home != key && self.earlier.contains(&(id, home.clone())) {
                // Its object from before the shard went back is there for others of its batch, and it
                // has another now: where records bear no time, the batch's own counts.
                key.clone_into(home);
            }
            if home != key {
                let (home, record) = (home.clone(), self.short(sequence));
                return Err(format!("[1] {record} is in {home} and in {key}"));
            }
        }
        Ok(())
    }

    /// A batch of exactly the same range as one before its shard went back: its objects are there.
    fn again(&mut self, key: &str, body: &Bytes) -> Result<(), String> {
        for data in decode(key, body)? {
            let Some(id) = self.produced.get(data.as_slice()).cloned() else { continue };
            if self.earlier.contains(&(id.clone(), key.to_owned())) {
                self.homes.entry(id).or_insert_with(|| key.to_owned());
            }
        }
        Ok(())
    }

    /// The same for a dead letter.
    fn conflict_again(&mut self, key: &str, body: &Bytes) -> Result<(), String> {
        for line in body.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let line: serde_json::Value =
                serde_json::from_slice(line).map_err(|e| format!("{key}: {e}"))?;
            let named = line["position"].as_str().and_then(|p| p.split_once('/'));
            let Some((shard, position)) = named else { continue };
            let id = (shard.to_owned(), reach(position));
            let covers = |i: &Intent| number(&i.first) <= id.1 && id.1 <= number(&i.last);
            let standing = self.standing.get(shard).is_some_and(|all| all.iter().any(covers));
            if standing && self.earlier.contains(&(id.clone(), key.to_owned())) {
                self.homes.entry(id).or_insert_with(|| key.to_owned());
            }
        }
        Ok(())
    }

    /// [13] A shard goes back as it was asked to, with nothing announced. Its records from there on
    /// are to be delivered once more.
    fn rewind(
        &mut self,
        moment: &Moment,
        held: &Shard,
        asked: &Attr,
        was: &Progress,
        now: &Progress,
    ) -> Result<(), String> {
        let key = &held.id;
        let raw = asked.as_s().unwrap_or_default();
        let request = Request::parse(raw).ok_or(format!("[13] {key} has an odd request: {raw}"))?;
        self.tell(moment, format!("{key} goes back to {}", request.to));
        if !was.intents.is_empty() || !now.intents.is_empty() {
            return Err(format!("[13] {key} goes back with batches announced"));
        }
        self.count("rewind");
        let pin = self.pins.remove(key);
        let (from, pin) = match &request.to {
            Target::TrimHorizon => (0, None),
            Target::Timestamp(ms) => {
                let first = held.records.iter().find(|r| r.arrival_ms >= *ms);
                (first.map_or(u128::MAX, |r| place(r.sequence, 0)), pin.map(|pin| pin.min(*ms)))
            }
            Target::Sequence(number) => {
                let number = parse_sequence_number(number.as_str()).unwrap_or(0);
                let record = held.records.iter().find(|r| r.sequence == number);
                let arrived = record.map_or(i64::MIN, |r| r.arrival_ms);
                (place(number, 0), pin.map(|pin| pin.min(arrived)))
            }
        };
        self.pins.extend(pin.map(|pin| (key.clone(), pin)));
        for (at, gone) in places(held) {
            let id = (key.clone(), at);
            if at >= from
                && !gone
                && let Some(home) = self.homes.remove(&id)
            {
                self.earlier.insert((id, home));
            }
        }
        self.rewound.insert(key.clone());
        self.checkpoints.insert(key.clone(), now.checkpoint.clone());
        self.standing.remove(key);
        Ok(())
    }

    /// A key that names a field names this record's.
    fn is_at_home(&mut self, key: &str, data: &[u8]) -> Result<(), String> {
        let Some(named) = key.split('/').find_map(|part| part.strip_prefix("k=")) else {
            return Ok(());
        };
        if named == "__overflow__" {
            self.count("record spilled");
            return Ok(());
        }
        let record: serde_json::Value = serde_json::from_slice(data).unwrap_or_default();
        let wanted = match &record["k"] {
            serde_json::Value::Number(n) => n.to_string(),
            serde_json::Value::String(text) => text.replace('/', "%2F"),
            _ => "__HIVE_DEFAULT_PARTITION__".to_owned(),
        };
        self.count("record partitioned by a field");
        if named == wanted {
            return Ok(());
        }
        Err(format!("[7] {key} holds a record of k={wanted}"))
    }

    /// Is there an intent that covers this record?
    fn is_announced(&self, id: &Id) -> bool {
        let covers = |(shard, first, last): &(String, Position, Position)| {
            *shard == id.0 && number(first) <= id.1 && id.1 <= number(last)
        };
        self.announced.keys().any(covers)
    }

    /// The object of an upload event.
    fn file(
        &mut self,
        moment: &Moment,
        key: &str,
        body: &Bytes,
        stored: bool,
        stream: &Stream,
    ) -> Result<(), String> {
        let carriers = self.uploads.get(key).map(Vec::as_slice).unwrap_or_default();
        let mut own = carriers.iter().filter(|(_, content)| content == body).peekable();
        if own.peek().is_none() {
            return Err(format!("[7] {key} holds a file nobody sent"));
        }
        if !own.any(|(id, _)| self.is_announced(id)) {
            return Err(format!("[3] {key} was put before it was announced"));
        }
        // Of one shard the first gets the key, unless it could not be read any more, or was there
        // before reading began.
        let first = |(shard, at): &Id| {
            let pin = self.pins.get(shard).copied().unwrap_or(i64::MIN);
            let held = stream.shards.iter().find(|held| held.id == *shard);
            let counts = |earlier: u128| {
                held.is_some_and(|held| {
                    let of = |(nth, record): (usize, &Record)| {
                        let wanted = nth >= held.trimmed && record.arrival_ms >= pin;
                        wanted
                            && record.users.iter().any(|u| place(record.sequence, u.0) == earlier)
                    };
                    !held.gone && held.records.iter().enumerate().any(of)
                })
            };
            !carriers.iter().any(|((other, earlier), content)| {
                other == shard && earlier < at && content != body && counts(*earlier)
            })
        };
        if stored && !carriers.iter().any(|(id, content)| content == body && first(id)) {
            return Err(format!("[9] {key} goes to a file that was not the first"));
        }
        self.tell(moment, format!("put {key} {}", if stored { "created" } else { "exists" }));
        self.count(if stored { "upload stored" } else { "upload found its key taken" });
        if stored {
            self.files.insert(key.to_owned(), body.clone());
        }
        Ok(())
    }

    /// The dead letters of uploads whose keys belong to other files.
    fn conflict(&mut self, moment: &Moment, key: &str, body: &Bytes) -> Result<(), String> {
        self.tell(moment, format!("put {key}"));
        let lines = body.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        lines.into_iter().try_for_each(|line| self.put_aside(key, line))
    }

    fn put_aside(&mut self, key: &str, line: &[u8]) -> Result<(), String> {
        self.count("upload conflict");
        let line: serde_json::Value =
            serde_json::from_slice(line).map_err(|e| format!("{key}: {e}"))?;
        let content = STANDARD.decode(line["data"].as_str().unwrap_or_default());
        let content = content.map_err(|e| format!("{key}: {e}"))?;
        let named = line["position"].as_str().and_then(|p| p.split_once('/'));
        let (shard, position) = named.ok_or(format!("{key} names no record"))?;
        let id = (shard.to_owned(), reach(position));
        let carried = self.carried.get(&id).filter(|(_, of)| *of == content);
        let (file, _) = carried.ok_or(format!("[7] {key} holds a file nobody sent"))?;
        if self.files.get(file).is_none_or(|there| *there == content) {
            return Err(format!("[9] {key} tells of a conflict over {file}, and there is none"));
        }
        if !self.is_announced(&id) {
            return Err(format!("[3] {key} was put before it was announced"));
        }
        match self.homes.insert(id, key.to_owned()) {
            Some(home) if home != key => Err(format!("[1] a file is in {home} and in {key}")),
            _ => Ok(()),
        }
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
        if self.parks && !self.accepted.contains(&(shard.clone(), after.clone())) {
            return Err(format!(
                "[14] the gap of {shard} after {after} is passed, and not accepted"
            ));
        }
        let shown =
            format!("{} to {}", self.checkpoint_name(&after), self.checkpoint_name(&before));
        self.tell(moment, format!("reports a gap in {shard}: {shown}"));
        self.count("gap");
        let (after, before) = (reach(&after), reach(&before).saturating_add(more));
        let held = stream.shards.iter().find(|s| s.id == shard).ok_or(format!("{shard}?"))?;
        let inside = places(held).filter(|(place, _)| after < *place && *place < before);
        let mut lost = 0;
        for (place, gone) in inside {
            if self.is_settled(&shard, place) {
                continue;
            }
            if !gone {
                let record = self.short(place);
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

    /// Did it arrive before the time that reading of its shard began at?
    fn is_before_the_pin(&self, shard: &Shard, place: u128) -> bool {
        self.pins.get(&shard.id).is_some_and(|pin| {
            let record = shard.records.iter().find(|r| r.sequence == place / 256);
            record.is_some_and(|r| r.arrival_ms < *pin)
        })
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
                    let begins = ["TRIM_HORIZON", "LATEST"].contains(&now.checkpoint.as_str());
                    if !begins || !now.intents.is_empty() {
                        return Err(format!("[4] {key} is created at {}", now.checkpoint));
                    }
                    if now.checkpoint == "LATEST" {
                        let pin = row.get("catchment_started_ms").and_then(Attr::as_n);
                        let pin = pin.and_then(|n| n.parse().ok());
                        let pin = pin.ok_or(format!("[4] {key} is at LATEST of no time"))?;
                        self.pins.insert(key.to_owned(), pin);
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
        if let Some(accepted) = after.get("catchment_gap_accepted").and_then(Attr::as_s) {
            self.accepted.insert((key.to_owned(), accepted.to_owned()));
        }
        if after.contains_key("catchment_parked") && !before.contains_key("catchment_parked") {
            self.tell(moment, format!("{key} is parked"));
            self.count("lease parked");
        }
        let (was, now) = (progress(before)?, progress(after)?);
        if let Some(asked) = before.get(attr::REWIND).filter(|_| !after.contains_key(attr::REWIND))
            && reach(&now.checkpoint) == 0
            && reach(&was.checkpoint) > 0
        {
            return self.rewind(moment, held, asked, &was, &now);
        }
        let owner = |row: &Row| row.get("leaseOwner").and_then(Attr::as_s).map(str::to_owned);
        if owner(before) != owner(after) {
            let new = owner(after);
            self.tell(moment, format!("{key} taken or left: owner {new:?}"));
            let pin = |row: &Row| -> Option<i64> {
                row.get("catchment_started_ms").and_then(Attr::as_n)?.parse().ok()
            };
            if let (None, Some(pin)) = (pin(before), pin(after)) {
                self.count("row of the KCL pinned");
                self.pins.insert(key.to_owned(), pin);
            }
            if new.is_some() && !was.intents.is_empty() {
                self.count("lease taken with intents pending");
            }
        }
        let asked = |row: &Row| row.contains_key("checkpointOwner");
        if asked(before) && !asked(after) && owner(before) == owner(after) {
            self.tell(moment, format!("{key} handed over"));
            self.count("lease handed over");
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
        self.standing.insert(key.to_owned(), now.intents.clone());
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
        let at = |record: &&Record| record.sequence == high / 256;
        let ends = |record: &Record| {
            record.users.last().is_none_or(|(sub, _)| *sub == (high % 256) as u64)
        };
        if held.records.iter().find(at).is_some_and(|record| !ends(record)) {
            self.count("part of an aggregate delivered");
        }
        if now.checkpoint == "SHARD_END" && held.closed.is_none() {
            return Err(format!("[5] {key} is finished and still open"));
        }
        for (place, gone) in places(held).filter(|(place, _)| low < *place && *place <= high) {
            if self.is_before_the_pin(held, place) {
                self.count("record before LATEST");
            } else if low == 0 && gone {
                // Where a shard began at its oldest record, what went before that is nobody's.
                self.count("record gone before the first checkpoint");
            } else if !self.is_settled(key, place) {
                let record = self.short(place);
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
                book.put(moment, key, body, existing.map(|o| &o.body), stored, stream)
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
    /// What it holds against this fleet.
    pub fn of(fleet: &Fleet) -> Self {
        let this = Self::default();
        this.book().parks = fleet.parks;
        this
    }

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
            for (place, gone) in places(shard) {
                let lost = !book.is_settled(&shard.id, place);
                if lost && !gone && !book.is_before_the_pin(shard, place) {
                    let name = book.short(place);
                    return Err(format!("[7] {name} of {} is in no object", shard.id));
                }
            }
            if rows.get(&shard.id).is_some_and(|row| row.contains_key(attr::REWIND)) {
                return Err(format!("[13] {} is asked to go back, and has not", shard.id));
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
