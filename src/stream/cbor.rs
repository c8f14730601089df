//! GetRecords in CBOR (RFC 8949): the request, and the records of a reply without a copy.
//!
//! `application/x-amz-cbor-1.1` has the shapes of the JSON protocol with two differences: payloads
//! are byte strings, and times are whole *milliseconds* since the epoch under tag 1 (which by the
//! RFC would be seconds). A service that follows the RFC instead is off by a thousand, so a time
//! outside of the years in which Kinesis exists makes a reply unreadable. [`take`] goes over a reply
//! once and notes where everything stands; what is left without its records becomes JSON for the
//! SDK's own parser. A reply is understood as a whole or not at all.

mod major;
mod write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::ids::SequenceNumber;
use crate::stream::records::{MOST, RecordEntry, RecordField, Records, Span};

use major::{ARRAY, BREAK, BYTES, INDEFINITE, MAP, NEGATIVE, TAG, TEXT, UNSIGNED};
pub use write::request;

/// What requests and replies are called.
pub const CONTENT_TYPE: &str = "application/x-amz-cbor-1.1";

/// A time in milliseconds lies between the first records of Kinesis (November 2013) and 2100.
/// Seconds and microseconds of the same years do not.
const PLAUSIBLE: std::ops::Range<i64> = 1_383_264_000_000..4_102_444_800_000;

/// Nesting that is followed; a shard is three deep.
const DEPTH: u32 = 16;

/// Why a reply is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is not CBOR, or not of the shape of a GetRecords reply.
    #[error("no GetRecords reply in CBOR, at byte {0}")]
    Form(usize),
    /// A time that cannot be in milliseconds.
    #[error("the arrival time {0} is not in milliseconds")]
    Time(i64),
}

/// Where everything in a reply stands.
#[derive(Debug)]
pub struct CborLayout {
    entries: Vec<RecordEntry>,
    rest: Vec<u8>,
}

impl CborLayout {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// No records.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The records, in the body that was scanned (`held`: size of the whole buffer, bytes); and the
    /// reply in JSON, with an empty array of records.
    pub fn parts(self, body: Bytes, held: usize) -> (Records, Vec<u8>) {
        (Records::new(self.entries, body, held), self.rest)
    }
}

/// Finds the records of a reply. Strings that come in chunks are put together where they stand.
///
/// # Errors
/// [`Unreadable`]; the body is of no further use then.
pub fn take(body: &mut [u8]) -> Result<CborLayout, Unreadable> {
    if u32::try_from(body.len()).is_err() {
        return Err(Unreadable::Form(0));
    }
    let mut scan = CborScan { body, at: 0, entries: Vec::new(), far: None };
    match scan.reply() {
        Some(rest) => Ok(CborLayout { entries: scan.entries, rest }),
        None => Err(scan.far.map_or(Unreadable::Form(scan.at), Unreadable::Time)),
    }
}

/// Whether bytes begin as no JSON text does but CBOR of a map may.
pub fn begins(body: &[u8]) -> bool {
    body.first().is_some_and(|first| matches!(first >> 5, MAP | TAG))
}

/// The body of an error in JSON; `None` if it is not a map in CBOR.
pub fn error(body: &mut [u8]) -> Option<Vec<u8>> {
    u32::try_from(body.len()).ok()?;
    let mut scan = CborScan { body, at: 0, entries: Vec::new(), far: None };
    let value = scan.value(DEPTH).filter(Value::is_object)?;
    if scan.at == scan.body.len() { serde_json::to_vec(&value).ok() } else { None }
}

/// A field's name as nearly every encoder writes it, head included, at the start of `rest`; and how
/// long it is. There is a handful of records for each kilobyte, so this is worth its lines.
#[inline]
fn usual(rest: &[u8]) -> Option<(RecordField, usize)> {
    macro_rules! is {
        ($name:literal, $field:ident) => {
            rest.starts_with($name).then_some((RecordField::$field, $name.len()))
        };
    }
    match rest.first()? {
        0x64 => is!(b"\x64Data", Data),
        0x6c => is!(b"\x6cPartitionKey", Key),
        0x6e => is!(b"\x6eSequenceNumber", Sequence),
        0x78 => is!(b"\x78\x1bApproximateArrivalTimestamp", Arrival),
        _ => None,
    }
}

/// The first bytes of an item.
struct Head {
    major: u8,
    /// Additional information.
    info: u8,
    /// Number, length, count, or the bits of a float.
    value: u64,
}

/// How many items are left: so many, or up to a break.
struct Left(Option<u64>);

/// A cursor. Every method that returns `None` makes the reply unreadable.
struct CborScan<'a> {
    body: &'a mut [u8],
    at: usize,
    entries: Vec<RecordEntry>,
    /// A time that cannot be.
    far: Option<i64>,
}

impl CborScan<'_> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    #[inline]
    fn any_head(&mut self) -> Option<Head> {
        let first = self.peek()?;
        self.at += 1;
        let (major, info) = (first >> 5, first & 31);
        let value = match info {
            0..24 => u64::from(info),
            24 => self.number::<1>()?,
            25 => self.number::<2>()?,
            26 => self.number::<4>()?,
            27 => self.number::<8>()?,
            INDEFINITE if matches!(major, BYTES | TEXT | ARRAY | MAP) => 0,
            // Reserved, or a break where an item is due.
            _ => return None,
        };
        Some(Head { major, info, value })
    }

    #[inline]
    fn number<const N: usize>(&mut self) -> Option<u64> {
        let bytes = self.body.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// Tags say nothing here that the name of a field does not say.
    #[inline]
    fn untag(&mut self) -> Option<()> {
        while self.peek()? >> 5 == TAG {
            self.any_head()?;
        }
        Some(())
    }

    #[inline]
    fn head(&mut self) -> Option<Head> {
        self.untag()?;
        self.any_head()
    }

    /// Begins an array or a map.
    fn open(&mut self, major: u8) -> Option<Left> {
        let head = self.head()?;
        (head.major == major).then(|| left(&head))
    }

    #[inline]
    fn more(&mut self, left: &mut Left) -> Option<bool> {
        match &mut left.0 {
            Some(0) => Some(false),
            Some(count) => {
                *count -= 1;
                Some(true)
            }
            None if self.peek()? == BREAK => {
                self.at += 1;
                Some(false)
            }
            None => Some(true),
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the length of the body fits")]
    fn pass(&mut self, length: u64) -> Option<Span> {
        let end = self.at.checked_add(usize::try_from(length).ok()?)?;
        if end > self.body.len() {
            return None;
        }
        let span = Span { start: self.at as u32, end: end as u32 };
        self.at = end;
        Some(span)
    }

    #[inline]
    fn string(&mut self, major: u8) -> Option<Span> {
        let head = self.head()?;
        if head.major == major { self.content(&head) } else { None }
    }

    /// The content of a string behind its head.
    #[inline]
    fn content(&mut self, head: &Head) -> Option<Span> {
        if head.info == INDEFINITE { self.chunks(head) } else { self.pass(head.value) }
    }

    /// Chunks are moved together, over their heads.
    #[cold]
    fn chunks(&mut self, head: &Head) -> Option<Span> {
        let mut whole = self.pass(0)?;
        while self.peek()? != BREAK {
            let chunk = self.any_head()?;
            if chunk.major != head.major || chunk.info == INDEFINITE {
                return None;
            }
            let part = self.pass(chunk.value)?;
            self.body.copy_within(part.range(), whole.end as usize);
            whole.end += part.end - part.start;
        }
        self.at += 1;
        Some(whole)
    }

    fn text(&mut self) -> Option<&str> {
        let span = self.string(TEXT)?;
        std::str::from_utf8(&self.body[span.range()]).ok()
    }

    /// Null and undefined: as if the field were not there.
    #[inline]
    fn absent(&mut self) -> Option<bool> {
        let absent = matches!(self.peek()?, 0xf6 | 0xf7);
        self.at += usize::from(absent);
        Some(absent)
    }

    /// The name of a field. One that is not text is passed with its value.
    fn name(&mut self, left: &mut Left) -> Option<Option<Span>> {
        while self.more(left)? {
            self.untag()?;
            if self.peek()? >> 5 == TEXT {
                return self.string(TEXT).map(Some);
            }
            self.skip(DEPTH)?;
            self.skip(DEPTH)?;
        }
        Some(None)
    }

    /// The next field of a record, up to its value.
    #[inline]
    fn field(&mut self, left: &mut Left) -> Option<Option<RecordField>> {
        if left.0 != Some(0)
            && let Some((field, length)) = usual(self.body.get(self.at..)?)
        {
            self.more(left)?;
            self.at += length;
            return Some(Some(field));
        }
        let name = self.name(left)?;
        Some(name.map(|name| RecordField::named(&self.body[name.range()])))
    }

    /// The whole reply; what is left of it in JSON.
    fn reply(&mut self) -> Option<Vec<u8>> {
        let mut rest = Map::new();
        let mut left = self.open(MAP)?;
        while let Some(name) = self.name(&mut left)? {
            let name = match &self.body[name.range()] {
                b"Records" => "Records",
                b"NextShardIterator" => "NextShardIterator",
                b"MillisBehindLatest" => "MillisBehindLatest",
                b"ChildShards" => "ChildShards",
                _ => {
                    self.skip(DEPTH)?;
                    continue;
                }
            };
            let value = if name == "Records" {
                self.records()?;
                Value::Array(Vec::new())
            } else {
                self.value(DEPTH)?
            };
            let sound = match name {
                "NextShardIterator" => value.is_string() || value.is_null(),
                "MillisBehindLatest" => value.is_i64() || value.is_null(),
                _ => value.is_array() || value.is_null(),
            };
            if !sound || rest.insert(name.to_owned(), value).is_some() {
                return None;
            }
        }
        // No records is an array without any; a reply without the array is something else.
        if self.at != self.body.len() || !rest.contains_key("Records") {
            return None;
        }
        serde_json::to_vec(&rest).ok()
    }

    fn records(&mut self) -> Option<()> {
        let mut left = self.open(ARRAY)?;
        while self.more(&mut left)? {
            let before = self.at;
            let entry = self.record()?;
            self.entries.push(entry);
            if self.entries.len() == 1 {
                // As many as would fit if all were like the first: one allocation. (The count in
                // the head is only a claim.)
                let guess = (self.body.len() - self.at) / (self.at - before);
                self.entries.reserve(guess.min(MOST));
            }
        }
        Some(())
    }

    fn record(&mut self) -> Option<RecordEntry> {
        let (mut data, mut sequence, mut key, mut arrival_ms) = (None, None, None, None);
        let mut left = self.open(MAP)?;
        while let Some(field) = self.field(&mut left)? {
            if self.absent()? {
                continue;
            }
            let twice = match field {
                RecordField::Data => data.replace(self.string(BYTES)?).is_some(),
                RecordField::Sequence => sequence.replace(self.string(TEXT)?).is_some(),
                RecordField::Key => key.replace(self.string(TEXT)?).is_some(),
                RecordField::Arrival => arrival_ms.replace(self.millis()?).is_some(),
                RecordField::Encryption | RecordField::Other => {
                    self.skip(DEPTH)?;
                    false
                }
            };
            if twice {
                return None;
            }
        }
        let (data, sequence) = (data?, sequence?);
        let text = key.is_none_or(|key: Span| {
            let key = &self.body[key.range()];
            // Nearly all are ASCII, which is quicker to tell.
            key.is_ascii() || std::str::from_utf8(key).is_ok()
        });
        if !text || !SequenceNumber::is_number(&self.body[sequence.range()]) {
            return None;
        }
        Some(RecordEntry::plain(data, sequence, key, arrival_ms))
    }

    /// Milliseconds since the epoch.
    fn millis(&mut self) -> Option<i64> {
        let head = self.head()?;
        let ms = match (head.major, head.info) {
            (UNSIGNED, _) => i64::try_from(head.value).unwrap_or(i64::MAX),
            (NEGATIVE, _) => i64::try_from(head.value).map_or(i64::MIN, |value| -1 - value),
            // Narrower floats cannot tell the milliseconds of a year apart.
            (_, 27) => whole(f64::from_bits(head.value))?,
            _ => return None,
        };
        if !PLAUSIBLE.contains(&ms) {
            self.far = Some(ms);
            return None;
        }
        Some(ms)
    }

    /// Passes over an item of at most this depth.
    fn skip(&mut self, depth: u32) -> Option<()> {
        let head = self.head()?;
        match head.major {
            BYTES | TEXT => self.content(&head).map(|_| ()),
            ARRAY | MAP if depth > 0 => {
                let mut left = left(&head);
                while self.more(&mut left)? {
                    self.skip(depth - 1)?;
                    if head.major == MAP {
                        self.skip(depth - 1)?;
                    }
                }
                Some(())
            }
            ARRAY | MAP => None,
            _ => Some(()),
        }
    }

    /// An item of at most this depth, as JSON. Byte strings become base64, names that are not text
    /// are left out, and what JSON has no form for is null.
    fn value(&mut self, depth: u32) -> Option<Value> {
        self.untag()?;
        if self.peek()? >> 5 == TEXT {
            return self.text().map(Value::from);
        }
        let head = self.any_head()?;
        Some(match head.major {
            UNSIGNED => head.value.into(),
            NEGATIVE => (-1 - i64::try_from(head.value).ok()?).into(),
            BYTES => {
                let span = self.content(&head)?;
                STANDARD.encode(&self.body[span.range()]).into()
            }
            ARRAY if depth > 0 => {
                let (mut left, mut items) = (left(&head), Vec::new());
                while self.more(&mut left)? {
                    items.push(self.value(depth - 1)?);
                }
                items.into()
            }
            MAP if depth > 0 => {
                let (mut left, mut fields) = (left(&head), Map::new());
                while let Some(name) = self.name(&mut left)? {
                    let name = std::str::from_utf8(&self.body[name.range()]).ok()?.to_owned();
                    fields.insert(name, self.value(depth - 1)?);
                }
                fields.into()
            }
            ARRAY | MAP => return None,
            _ => match (head.info, head.value) {
                (20 | 21, _) => (head.info == 21).into(),
                (25, bits) => half(bits).into(),
                (26, bits) => single(bits).into(),
                (27, bits) => f64::from_bits(bits).into(),
                _ => Value::Null,
            },
        })
    }
}

fn left(head: &Head) -> Left {
    Left((head.info != INDEFINITE).then_some(head.value))
}

/// A float that is a whole number.
#[expect(clippy::cast_possible_truncation, reason = "whole and in range")]
fn whole(float: f64) -> Option<i64> {
    (float.fract() == 0.0 && float.abs() < 1e18).then_some(float as i64)
}

#[expect(clippy::cast_possible_truncation, reason = "four bytes were read")]
fn single(bits: u64) -> f64 {
    f64::from(f32::from_bits(bits as u32))
}

/// IEEE 754 binary16: five bits of exponent, ten of fraction.
#[expect(clippy::cast_precision_loss, reason = "eleven bits")]
fn half(bits: u64) -> f64 {
    let (exponent, fraction) = (bits >> 10 & 0x1f, (bits & 0x3ff) as f64);
    let size = match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 if bits & 0x3ff == 0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (fraction + 1024.0) * 2_f64.powi(i32::try_from(exponent).unwrap_or(0) - 25),
    };
    if bits & 0x8000 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests;
