//! KPL aggregates into the user records they hold.
//!
//! Layout (KPL aggregation format): the magic bytes `F3 89 9A C2`, a protobuf body, and the MD5 of
//! the body. The body is `AggregatedRecord { 1: partition keys, 2: explicit hash keys, 3: records }`
//! with `Record { 1: partition key index, 2: explicit hash key index, 3: data, 4: tags }`.
//!
//! As in the KCL, a record whose digest or body does not fit is no aggregate but an ordinary
//! record; so is one with a partition key that is longer than Kinesis takes. Unlike the KCL, which
//! drops a whole aggregate when one of its records belongs to another shard (after a reshard),
//! records are looked at one by one, and marked: what becomes of them is for delivery to decide. An
//! aggregate that breaks off in the middle is delivered whole, as it came, instead of in part.

use crate::stream::digests::digests;
use crate::stream::position::Position;
use crate::stream::records::{FOREIGN, RecordEntry, Records, Span};

const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
const DIGEST: usize = 16;
/// Longest partition key, characters (Amazon Kinesis API reference, PutRecord). Each user record may
/// point to the same key, and lines repeat it: without this a record of 1 MiB is gigabytes of lines.
const LONGEST_KEY: usize = 256;
/// Partition keys hashed at the same time: a bound for their digests.
const HASHED_AT_ONCE: usize = 1024;

/// Sub-sequence number of an aggregate that is delivered as it came: behind all of its user records,
/// for it is all of them. Whoever goes on there with [`Aggregates::Apart`] has nothing left of it.
pub const WHOLE: u64 = NOT_FOREIGN as u64;
const NOT_FOREIGN: u32 = FOREIGN - 1;

/// What a record is, and so a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregates {
    /// Each user record of an aggregate.
    Apart,
    /// An aggregate as it came.
    Whole,
    /// The same, with the position of a plain record: as builds before 0.2 announced it.
    WholeEarlier,
}

/// Inclusive range of hash keys a shard takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashRange {
    first: u128,
    last: u128,
    /// See [`Self::earlier`].
    earlier: bool,
}

impl HashRange {
    /// That of a shard which takes every key.
    pub const EVERYTHING: Self = Self { first: 0, last: u128::MAX, earlier: false };

    /// Reads the decimal bounds of a shard or lease.
    pub fn parse(first: &str, last: &str) -> Option<Self> {
        Some(Self { first: first.parse().ok()?, last: last.parse().ok()?, earlier: false })
    }

    /// To split as builds before 0.2 did, for batches that they announced: foreign records are left
    /// out instead of marked, also those without a key, and keys may have any length.
    #[must_use]
    pub fn earlier(self) -> Self {
        Self { earlier: true, ..self }
    }

    /// Does the shard take every key?
    pub fn is_everything(&self) -> bool {
        (self.first, self.last) == (0, u128::MAX)
    }

    fn holds(&self, key: u128) -> bool {
        (self.first..=self.last).contains(&key)
    }
}

/// Is it worth trying to split this payload? A look at four bytes.
pub fn may_be_aggregate(data: &[u8]) -> bool {
    data.starts_with(&MAGIC)
}

/// The user records of Kinesis records.
#[derive(Debug, Default)]
pub struct Split {
    /// In order, with their sub-sequence numbers; in the same buffer.
    pub records: Records,
    /// Records whose hash key another shard takes: marked, or left out as [`HashRange::earlier`] says.
    pub foreign: u64,
    /// How many were aggregates.
    pub aggregates: u64,
}

/// What is read as a record. `after`: what was delivered last. If that is a user record inside an
/// aggregate, the rest of this aggregate is taken apart, however others are to be read.
pub fn user_records(
    records: Records,
    aggregates: Aggregates,
    after: Option<&Position>,
    range: Option<HashRange>,
) -> Split {
    let plain = aggregates == Aggregates::WholeEarlier;
    if plain || !records.payloads().any(may_be_aggregate) {
        return Split { records, ..Split::default() };
    }
    if aggregates == Aggregates::Apart {
        return split(&records, range);
    }
    let begun = after.filter(|after| after.sub < WHOLE);
    let mut all = Split::default();
    let mut entries = Vec::with_capacity(records.len());
    for (record, entry) in records.iter().zip(records.entries()) {
        if !may_be_aggregate(record.data) {
            entries.push(entry.clone());
        } else if begun.is_some_and(|after| record.cmp_sequence(&after.sequence).is_eq()) {
            let one = split(&records.with(vec![entry.clone()]), range);
            entries.extend_from_slice(one.records.entries());
            (all.foreign, all.aggregates) = (one.foreign, one.aggregates);
        } else {
            entries.push(RecordEntry { sub: NOT_FOREIGN, ..entry.clone() });
        }
    }
    all.records = records.with(entries);
    all
}

/// Splits the aggregates among records. `range` is that of the shard they were read from; `None`
/// marks no record.
pub fn split(records: &Records, range: Option<HashRange>) -> Split {
    let claims = records.payloads().filter_map(|data| Some(claim(data)?.0));
    let mut found = digests(&claims.collect::<Vec<_>>()).into_iter();
    let longest = match range {
        Some(HashRange { earlier: true, .. }) => usize::MAX,
        _ => LONGEST_KEY,
    };
    let range = range.filter(|range| !range.is_everything());
    let mut all = Split::default();
    let mut entries = Vec::with_capacity(records.len());
    let mut contents = AggregateContents::default();
    for (data, entry) in records.payloads().zip(records.entries()) {
        let sound = match claim(data) {
            Some((body, digest)) if found.next().is_some_and(|d| d == *digest) => Some(body),
            _ => None,
        };
        match sound.filter(|body| contents.read(body, longest).is_some()) {
            Some(body) => {
                all.aggregates += 1;
                all.foreign += contents.take(entry, body, range, &mut entries);
            }
            None => entries.push(entry.clone()),
        }
    }
    all.records = records.with(entries);
    all
}

/// Body and digest of what looks like an aggregate.
fn claim(data: &[u8]) -> Option<(&[u8], &[u8; DIGEST])> {
    data.strip_prefix(&MAGIC)?.split_last_chunk().filter(|(body, _)| !body.is_empty())
}

/// Where things stand in the body of an aggregate; used again for the next. Kept small: of a body
/// there may be millions of each.
#[derive(Default)]
struct AggregateContents {
    keys: Vec<HashPlace>,
    hash_keys: Vec<u128>,
    records: Vec<HashPlace>,
    /// Which of the keys are outside of the range.
    outside: Vec<bool>,
}

/// A part of the body, which stands in a buffer that spans reach.
#[derive(Clone, Copy)]
struct HashPlace {
    start: u32,
    length: u32,
}

impl HashPlace {
    fn range(self) -> std::ops::Range<usize> {
        let start = self.start as usize;
        start..start + self.length as usize
    }

    fn of(self, body: &[u8]) -> &[u8] {
        &body[self.range()]
    }
}

/// One user record inside an aggregate.
struct UserRecord {
    /// Index of its partition key.
    key: usize,
    explicit_hash_key: Option<u128>,
    data: HashPlace,
}

impl AggregateContents {
    /// `None` if this is not the body of an aggregate.
    fn read(&mut self, body: &[u8], longest_key: usize) -> Option<()> {
        let Self { keys, hash_keys, records, .. } = self;
        keys.clear();
        hash_keys.clear();
        records.clear();
        let mut fields = AggregateFields { body, at: 0 };
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(key)) => {
                    let text = std::str::from_utf8(key.of(body)).ok()?;
                    if text.len() > longest_key && text.chars().count() > longest_key {
                        return None;
                    }
                    keys.push(key);
                }
                (2, Value::Bytes(hash_key)) => {
                    let text = std::str::from_utf8(hash_key.of(body)).ok()?;
                    hash_keys.push(text.parse().ok()?);
                }
                (3, Value::Bytes(record)) => records.push(record),
                _ => {}
            }
        }
        // The tables may stand behind the records that point into them.
        self.records.iter().try_for_each(|record| self.user(body, *record).map(|_| ()))
    }

    /// A user record; `None` if it is none, or points outside of the tables.
    fn user(&self, body: &[u8], record: HashPlace) -> Option<UserRecord> {
        let (mut key, mut explicit_hash_key, mut data) = (None, None, None);
        let std::ops::Range { start, end } = record.range();
        let mut fields = AggregateFields { body: &body[..end], at: start };
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Number(index)) => {
                    key = usize::try_from(index).ok().filter(|index| *index < self.keys.len());
                    key?;
                }
                (2, Value::Number(index)) => {
                    explicit_hash_key = Some(*self.hash_keys.get(usize::try_from(index).ok()?)?);
                }
                (3, Value::Bytes(place)) => data = Some(place),
                _ => {}
            }
        }
        Some(UserRecord { key: key?, explicit_hash_key, data: data? })
    }

    /// A hash is the MD5 of a partition key as an unsigned number, unless it is explicit. Nobody
    /// hashed the key of a record that has none: the producer left its place to chance.
    fn hash_keys_outside(&mut self, body: &[u8], range: HashRange) {
        self.outside.clear();
        for keys in self.keys.chunks(HASHED_AT_ONCE) {
            let texts: Vec<_> = keys.iter().map(|key| key.of(body)).collect();
            let hashes = digests(&texts).into_iter().map(u128::from_be_bytes);
            self.outside.extend(
                hashes
                    .zip(texts)
                    .map(|(hash, text)| !range.holds(hash) && (range.earlier || !text.is_empty())),
            );
        }
    }

    /// Adds the user records of `aggregate`, whose `body` was read last; how many are not in
    /// `range`.
    #[expect(clippy::cast_possible_truncation, reason = "inside of a span")]
    fn take(
        &mut self,
        aggregate: &RecordEntry,
        body: &[u8],
        range: Option<HashRange>,
        to: &mut Vec<RecordEntry>,
    ) -> u64 {
        let begin = aggregate.data.start + MAGIC.len() as u32;
        let span = |HashPlace { start, length }| Span {
            start: begin + start,
            end: begin + start + length,
        };
        if let Some(range) = range {
            self.hash_keys_outside(body, range);
        }
        to.reserve(self.records.len());
        let mut foreign = 0;
        let users = self.records.iter().filter_map(|record| self.user(body, *record));
        for (sub, user) in (0..).zip(users) {
            let is_foreign = range.is_some_and(|range| match user.explicit_hash_key {
                Some(hash) => !range.holds(hash),
                None => self.outside[user.key],
            });
            foreign += u64::from(is_foreign);
            if is_foreign && range.is_some_and(|range| range.earlier) {
                continue;
            }
            to.push(RecordEntry {
                sub: sub | if is_foreign { FOREIGN } else { 0 },
                key: Some(span(self.keys[user.key])),
                data: span(user.data),
                ..*aggregate
            });
        }
        foreign
    }
}

/// A protobuf field, without copying.
enum Value {
    Number(u64),
    Bytes(HashPlace),
}

/// Walks the fields of a message in `body` from `at` to its end.
struct AggregateFields<'a> {
    body: &'a [u8],
    at: usize,
}

impl AggregateFields<'_> {
    /// `None`: malformed. `Some(None)`: the end.
    #[expect(clippy::option_option, reason = "malformed and finished are told apart by `?`")]
    fn next(&mut self) -> Option<Option<(u64, Value)>> {
        if self.at == self.body.len() {
            return Some(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.skip(8)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.skip(length)?
            }
            5 => self.skip(4)?,
            _ => return None,
        };
        Some(Some((tag >> 3, value)))
    }

    fn skip(&mut self, length: usize) -> Option<Value> {
        let start = self.at;
        self.at = start.checked_add(length).filter(|end| *end <= self.body.len())?;
        let (start, length) = (u32::try_from(start).ok()?, u32::try_from(length).ok()?);
        Some(Value::Bytes(HashPlace { start, length }))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.body.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
pub(super) mod tests;
