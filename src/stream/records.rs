//! The records of a page: where they stand in one buffer.
//!
//! A page of small records is tens of thousands of them. Nothing is made for each but an `Entry`:
//! no share of the buffer, no copy of a number. Whoever needs a record looks at it where it stands.

use std::cmp::Ordering;
use std::fmt;

use bytes::Bytes;

use crate::ids::{BadSequenceNumber, SequenceNumber, cmp_numbers};
use crate::stream::position::Position;

/// A part of a buffer. None is as large as 4 GiB: replies of that size are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    pub(super) fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Most records of a reply (Amazon Kinesis API reference, GetRecords, Limit).
pub(super) const MOST: usize = 10_000;

/// Marks an index inside an aggregate as that of a foreign record. No aggregate has half as many
/// records: each takes bytes of a buffer that is smaller than that.
pub(super) const FOREIGN: u32 = 1 << 31;

/// Where one record stands.
#[derive(Clone, Debug)]
pub(super) struct RecordEntry {
    /// The payload, decoded.
    pub(super) data: Span,
    /// Checked: a number in digits.
    pub(super) sequence: Span,
    /// Index inside an aggregate; with [`FOREIGN`].
    pub(super) sub: u32,
    /// Checked: UTF-8.
    pub(super) key: Option<Span>,
    pub(super) arrival_ms: Option<i64>,
}

impl RecordEntry {
    /// A record as Kinesis has it. One without a key (a stream with service-managed distribution)
    /// may come with an empty one.
    pub(super) fn plain(
        data: Span,
        sequence: Span,
        key: Option<Span>,
        arrival_ms: Option<i64>,
    ) -> Self {
        let key = key.filter(|key| key.start < key.end);
        Self { data, sequence, sub: 0, key, arrival_ms }
    }
}

/// The fields of a record, whatever it is written in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordField {
    Data,
    Sequence,
    Key,
    Arrival,
    Encryption,
    Other,
}

impl RecordField {
    pub(super) fn named(name: &[u8]) -> Self {
        match name {
            b"Data" => Self::Data,
            b"SequenceNumber" => Self::Sequence,
            b"PartitionKey" => Self::Key,
            b"ApproximateArrivalTimestamp" => Self::Arrival,
            b"EncryptionType" => Self::Encryption,
            _ => Self::Other,
        }
    }
}

/// One user record, looked at where it stands.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// The payload, up to 10 MiB.
    pub data: &'a [u8],
    /// ApproximateArrivalTimestamp, milliseconds since the epoch.
    pub arrival_ms: Option<i64>,
    /// Index of the user record inside its aggregate; 0 for a plain record.
    pub sub: u64,
    /// A user record whose hash key is outside of the range of its shard.
    pub foreign: bool,
    /// Checked: digits.
    sequence: &'a [u8],
    /// Checked: UTF-8.
    key: Option<&'a [u8]>,
}

impl<'a> Record<'a> {
    /// A plain record.
    ///
    /// # Errors
    /// [`BadSequenceNumber`] if `sequence` is none.
    pub fn new(
        sequence: &'a str,
        arrival_ms: Option<i64>,
        key: Option<&'a str>,
        data: &'a [u8],
    ) -> Result<Self, BadSequenceNumber> {
        if !SequenceNumber::is_number(sequence.as_bytes()) {
            return Err(BadSequenceNumber(sequence.to_owned()));
        }
        let (sequence, key) = (sequence.as_bytes(), key.map(str::as_bytes));
        Ok(Self { data, arrival_ms, sub: 0, foreign: false, sequence, key })
    }

    /// The sequence number of the Kinesis record, in digits as received.
    pub fn sequence(&self) -> &'a str {
        // Digits are UTF-8; checked again because the alternative is unsafe code.
        std::str::from_utf8(self.sequence).unwrap_or_default()
    }

    /// Absent on streams with service-managed distribution.
    pub fn partition_key(&self) -> Option<&'a str> {
        // As above.
        self.key.map(|key| std::str::from_utf8(key).unwrap_or_default())
    }

    /// The same without its payload.
    #[must_use]
    pub fn without_data(self) -> Self {
        Self { data: b"", ..self }
    }

    /// Sequence and sub-sequence, to be kept.
    pub fn position(&self) -> Position {
        let number = SequenceNumber::parse(self.sequence());
        Position {
            sequence: number.unwrap_or_else(|_| unreachable!("digits that were checked")),
            sub: self.sub,
        }
    }

    /// Its sequence number by another.
    pub fn cmp_sequence(&self, other: &SequenceNumber) -> Ordering {
        other.cmp_digits(self.sequence).reverse()
    }

    /// Its position by another.
    pub fn cmp_position(&self, other: &Position) -> Ordering {
        self.cmp_sequence(&other.sequence).then(self.sub.cmp(&other.sub))
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("position", &self.position())
            .field("arrival_ms", &self.arrival_ms)
            .field("partition_key", &self.partition_key())
            .field("data", &Bytes::copy_from_slice(self.data))
            .finish()
    }
}

/// 4 GiB of records, or as many in one aggregate.
#[derive(Debug, thiserror::Error)]
#[error("4 GiB of records at once")]
pub struct TooLarge;

/// Records in shard order, in the buffer they came in.
#[derive(Clone, Default)]
pub struct Records {
    body: Bytes,
    /// Size of the whole buffer, which lives as long as any slice of it, bytes.
    held: usize,
    entries: Vec<RecordEntry>,
    /// Those before it were taken.
    first: usize,
}

impl Records {
    /// `body`: what the entries were found in, of a buffer of `held` bytes.
    pub(super) fn new(mut entries: Vec<RecordEntry>, body: Bytes, held: usize) -> Self {
        // The list counts as memory held; whoever made it had to guess its length.
        if entries.capacity() > 2 * entries.len() {
            entries.shrink_to_fit();
        }
        Self { body, held, entries, first: 0 }
    }

    /// Others in the same buffer.
    pub(super) fn with(&self, entries: Vec<RecordEntry>) -> Self {
        Self::new(entries, self.body.clone(), self.held)
    }

    /// A copy, in a buffer of its own that is no larger than need be.
    ///
    /// # Errors
    /// [`TooLarge`]
    pub fn copy(records: &[Record<'_>]) -> Result<Self, TooLarge> {
        let size = |record: &Record<'_>| {
            record.data.len() + record.sequence.len() + record.key.map_or(0, <[u8]>::len)
        };
        let mut body = Vec::with_capacity(records.iter().map(size).sum());
        let mut put = |part: &[u8]| {
            let start = u32::try_from(body.len()).map_err(|_| TooLarge)?;
            body.extend_from_slice(part);
            Ok(Span { start, end: u32::try_from(body.len()).map_err(|_| TooLarge)? })
        };
        let mut entries = Vec::with_capacity(records.len());
        for record in records {
            let sub = u32::try_from(record.sub).ok().filter(|sub| sub & FOREIGN == 0);
            let sub = sub.ok_or(TooLarge)?;
            entries.push(RecordEntry {
                data: put(record.data)?,
                sequence: put(record.sequence)?,
                sub: sub | if record.foreign { FOREIGN } else { 0 },
                key: record.key.map(&mut put).transpose()?,
                arrival_ms: record.arrival_ms,
            });
        }
        let held = body.capacity();
        Ok(Self::new(entries, body.into(), held))
    }

    pub(super) fn entries(&self) -> &[RecordEntry] {
        &self.entries[self.first..]
    }

    fn at(&self, entry: &RecordEntry) -> Record<'_> {
        Record {
            data: &self.body[entry.data.range()],
            arrival_ms: entry.arrival_ms,
            sub: u64::from(entry.sub & !FOREIGN),
            foreign: entry.sub & FOREIGN != 0,
            sequence: &self.body[entry.sequence.range()],
            key: entry.key.map(|key| &self.body[key.range()]),
        }
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.entries.len() - self.first
    }

    /// No records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Record `n`, from 0.
    pub fn get(&self, n: usize) -> Option<Record<'_>> {
        self.entries().get(n).map(|entry| self.at(entry))
    }

    /// The first.
    pub fn first(&self) -> Option<Record<'_>> {
        self.get(0)
    }

    /// The last.
    pub fn last(&self) -> Option<Record<'_>> {
        self.entries().last().map(|entry| self.at(entry))
    }

    /// All, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Record<'_>> + ExactSizeIterator + Clone {
        self.entries().iter().map(|entry| self.at(entry))
    }

    /// The payloads, in order.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        self.entries().iter().map(|entry| &self.body[entry.data.range()])
    }

    /// Payload of all, bytes.
    pub fn payload(&self) -> usize {
        self.entries().iter().map(|RecordEntry { data, .. }| (data.end - data.start) as usize).sum()
    }

    /// Memory held, bytes.
    pub fn memory(&self) -> usize {
        self.held + self.entries.capacity() * size_of::<RecordEntry>()
    }

    /// How many from the first on, in a list where all that fit stand in front.
    pub fn partition_point(&self, fits: impl Fn(Record<'_>) -> bool) -> usize {
        self.entries().partition_point(|entry| fits(self.at(entry)))
    }

    /// Drops the first `count`.
    pub fn skip(&mut self, count: usize) {
        self.first += count.min(self.len());
    }

    /// Drops all but the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.entries.truncate(self.first.saturating_add(count));
    }

    /// Drops those whose sequence number is not above that of the one before.
    pub(super) fn retain_rising(&mut self) {
        let rising = |a: &RecordEntry, b: &RecordEntry| {
            let number = |e: &RecordEntry| self.at(e).sequence;
            cmp_numbers(number(a), number(b)).is_lt()
        };
        if self.entries[self.first..].windows(2).all(|w| rising(&w[0], &w[1])) {
            return;
        }
        let mut kept: Vec<RecordEntry> = Vec::with_capacity(self.entries.len() - self.first);
        for entry in &self.entries[self.first..] {
            if kept.last().is_none_or(|last| rising(last, entry)) {
                kept.push(entry.clone());
            }
        }
        (self.entries, self.first) = (kept, 0);
    }

    /// Drops those that are not wanted.
    pub fn retain(&mut self, wanted: impl Fn(Record<'_>) -> bool) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.drain(..std::mem::take(&mut self.first));
        entries.retain(|entry| wanted(self.at(entry)));
        self.entries = entries;
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn five() -> Records {
        let data = ["a", "bb", "", "dddd", "e"];
        let records = ["7", "008", "9", "10", "11"].into_iter().zip(data);
        let one = |(number, data): (&'static str, &'static str)| {
            Record::new(number, Some(1), Some("key").filter(|_| !data.is_empty()), data.as_bytes())
        };
        Records::copy(&records.map(one).collect::<Result<Vec<_>, _>>().unwrap()).unwrap()
    }

    fn numbers(records: &Records) -> Vec<&str> {
        records.iter().map(|record| record.sequence()).collect()
    }

    #[test]
    fn records_are_what_they_were_made_of() {
        let records = five();
        assert_eq!(numbers(&records), ["7", "008", "9", "10", "11"]);
        assert_eq!((records.len(), records.payload()), (5, 8));
        let (second, third) = (records.get(1).unwrap(), records.get(2).unwrap());
        assert_eq!((second.data, second.partition_key()), (&b"bb"[..], Some("key")));
        assert_eq!((third.data, third.partition_key()), (&b""[..], None));
        assert_eq!(second.position().sequence.as_str(), "008");
        assert!(records.get(5).is_none() && Record::new("1x", None, None, b"").is_err());
        assert_eq!(size_of::<RecordEntry>(), 48);
        // Payloads, numbers and keys, and no more.
        assert_eq!(records.memory(), 8 + 9 + 12 + 5 * 48);
        let mut guessed = Vec::with_capacity(1000);
        guessed.extend_from_slice(records.entries());
        assert_eq!(records.with(guessed).memory(), records.memory());
    }

    #[test]
    fn some_of_them() {
        let mut records = five();
        records.skip(1);
        assert_eq!(numbers(&records), ["008", "9", "10", "11"]);
        records.truncate(3);
        assert_eq!(numbers(&records), ["008", "9", "10"]);
        assert_eq!(records.partition_point(|r| r.data.len() > 1), 1);
        records.retain(|r| !r.data.is_empty());
        assert_eq!(numbers(&records), ["008", "10"]);
        assert_eq!(records.first().unwrap().sequence(), "008");
        assert_eq!(records.last().unwrap().sequence(), "10");
        records.skip(9);
        assert!(records.is_empty() && records.last().is_none() && records.payload() == 0);
    }

    #[test]
    fn places_compare_by_value() {
        let records = five();
        let at =
            |digits: &str, sub| Position { sequence: SequenceNumber::parse(digits).unwrap(), sub };
        let eight = records.get(1).unwrap();
        assert!(eight.cmp_sequence(&at("8", 3).sequence).is_eq());
        for other in [at("7", 9), at("8", 0), at("8", 1), at("10", 0)] {
            assert_eq!(eight.cmp_position(&other), eight.position().cmp(&other), "{other}");
        }
    }
}
