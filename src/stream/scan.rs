//! The records of a GetRecords reply, without a copy or an allocation for each.
//!
//! A reply is one JSON object (Amazon Kinesis API reference, GetRecords, response syntax) that is
//! nearly all `Records`. [`take`] goes over it once, notes where everything stands, and turns each
//! base64 payload into bytes where it is (which is always shorter) while it is still in the cache;
//! [`JsonLayout::records`] looks at them there. What is left of the reply without its records
//! ([`JsonLayout::rest`]) is for the SDK's own parser, and so is a whole reply with anything in it that
//! is not understood here to the letter: it is given back as it was.

use bytes::Bytes;

use crate::ids::SequenceNumber;
use crate::stream::records::{MOST, RecordEntry, RecordField, Records, Span};

/// Where everything in a reply stands.
#[derive(Debug)]
pub struct JsonLayout {
    entries: Vec<RecordEntry>,
    /// The array of records with its brackets.
    array: Span,
}

/// A payload is not base64.
#[derive(Debug, thiserror::Error)]
#[error("the payload of record {0} of the reply is not base64")]
pub struct BadPayload(usize);

/// Finds and decodes the records of a reply.
///
/// `None` where the SDK's parser has to decide, and the body is as it was: no JSON, no or more than
/// one `Records`, a record without payload or sequence number, fields given twice, escapes where
/// none are expected, a time finer than milliseconds, nested unknown fields.
///
/// # Errors
/// [`BadPayload`]; the body is of no further use then. (The SDK decodes with the same library and
/// refuses the same.)
pub fn take(body: &mut [u8]) -> Result<Option<JsonLayout>, BadPayload> {
    if u32::try_from(body.len()).is_err() {
        return Ok(None);
    }
    let mut scan = JsonScan { body, at: 0, entries: Vec::new(), escaped: Vec::new(), bad: None };
    let array = scan.reply();
    let JsonScan { mut entries, escaped, bad, .. } = scan;
    if let Some(bad) = bad {
        return Err(bad);
    }
    let Some(array) = array else {
        for entry in &entries {
            restore(body, entry.data);
        }
        return Ok(None);
    };
    for index in escaped {
        if let Some(key) = &mut entries[index].key {
            let text = unescape(body, *key).unwrap_or_default();
            let start = key.start as usize;
            body[start..start + text.len()].copy_from_slice(text.as_bytes());
            key.end = key.start + u32::try_from(text.len()).unwrap_or(0);
        }
    }
    Ok(Some(JsonLayout { entries, array }))
}

/// Undoes a decoding: only what base64 gives for these very bytes was decoded.
fn restore(body: &mut [u8], data: Span) {
    let decoded = body[data.range()].to_vec();
    let start = data.start as usize;
    let length = base64_simd::STANDARD.encoded_length(decoded.len());
    let room = base64_simd::Out::from_slice(&mut body[start..start + length]);
    let _ = base64_simd::STANDARD.encode(&decoded, room);
}

/// Nesting the scan follows outside of records: a shard is three deep.
const DEPTH: u32 = 16;

impl JsonLayout {
    /// The reply as it was scanned, with an empty array of records.
    pub fn rest(&self, body: &[u8]) -> Vec<u8> {
        let array = self.array.range();
        [&body[..array.start], b"[]", &body[array.end..]].concat()
    }

    /// The records, in the body that was scanned; `held`: size of the whole buffer, bytes.
    pub fn records(self, body: Bytes, held: usize) -> Records {
        Records::new(self.entries, body, held)
    }
}

/// The text of a string with escapes.
fn unescape(body: &[u8], text: Span) -> Option<String> {
    let quoted = text.start as usize - 1..text.end as usize + 1;
    serde_json::from_slice(&body[quoted]).ok()
}

/// A field's name as the service writes it, colon included, at the start of `rest`; and how long it
/// is.
#[inline]
fn usual(rest: &[u8]) -> Option<(RecordField, usize)> {
    macro_rules! is {
        ($name:literal, $field:ident) => {
            rest.starts_with($name).then_some((RecordField::$field, $name.len()))
        };
    }
    match rest.get(1)? {
        b'D' => is!(b"\"Data\":", Data),
        b'S' => is!(b"\"SequenceNumber\":", Sequence),
        b'P' => is!(b"\"PartitionKey\":", Key),
        b'A' => is!(b"\"ApproximateArrivalTimestamp\":", Arrival),
        b'E' => is!(b"\"EncryptionType\":", Encryption),
        _ => None,
    }
}

/// A cursor. Every method that returns `None` leaves the reply to the strict parser.
struct JsonScan<'a> {
    body: &'a mut [u8],
    at: usize,
    entries: Vec<RecordEntry>,
    /// Indices of those whose keys were written with escapes.
    escaped: Vec<usize>,
    bad: Option<BadPayload>,
}

impl JsonScan<'_> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn rest(&self) -> &[u8] {
        &self.body[self.at..]
    }

    #[expect(clippy::cast_possible_truncation, reason = "the length of the body fits")]
    fn since(&self, start: usize) -> Span {
        Span { start: start as u32, end: self.at as u32 }
    }

    #[inline]
    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    #[inline]
    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn colon(&mut self) -> Option<()> {
        self.blank();
        self.eat(b':')?;
        self.blank();
        Some(())
    }

    /// A comma: more follows. `close`: no more.
    #[inline]
    fn more(&mut self, close: u8) -> Option<bool> {
        self.blank();
        let byte = self.peek()?;
        self.at += 1;
        if byte == close {
            return Some(false);
        }
        self.blank();
        (byte == b',').then_some(true)
    }

    /// The whole reply; where its array of records stands.
    fn reply(&mut self) -> Option<Span> {
        let mut array = None;
        self.blank();
        self.eat(b'{')?;
        self.blank();
        loop {
            let name = self.plain()?;
            self.colon()?;
            if &self.body[name.range()] == b"Records" {
                if array.is_some() {
                    return None;
                }
                let start = self.at;
                self.records()?;
                array = Some(self.since(start));
            } else {
                self.value(DEPTH)?;
            }
            if !self.more(b'}')? {
                break;
            }
        }
        self.blank();
        if self.at == self.body.len() { array } else { None }
    }

    fn records(&mut self) -> Option<()> {
        self.eat(b'[')?;
        self.blank();
        if self.peek()? == b']' {
            self.at += 1;
            return Some(());
        }
        loop {
            let before = self.at;
            let mut entry = self.record()?;
            self.decode(&mut entry)?;
            self.entries.push(entry);
            if self.entries.len() == 1 {
                // As many as would fit if all were like the first: one allocation. (Vectors grow
                // by themselves where that guess is low.)
                let guess = (self.body.len() - self.at) / (self.at - before);
                self.entries.reserve(guess.min(MOST));
            }
            if !self.more(b']')? {
                return Some(());
            }
        }
    }

    fn decode(&mut self, entry: &mut RecordEntry) -> Option<()> {
        let decoded = base64_simd::STANDARD.decode_inplace(&mut self.body[entry.data.range()]);
        let Ok(decoded) = decoded else {
            self.bad = Some(BadPayload(self.entries.len()));
            return None;
        };
        entry.data.end = entry.data.start + u32::try_from(decoded.len()).ok()?;
        Some(())
    }

    fn record(&mut self) -> Option<RecordEntry> {
        self.eat(b'{')?;
        self.blank();
        let (mut data, mut sequence, mut key, mut arrival_ms) = (None, None, None, None);
        let mut escaped = false;
        loop {
            let field = self.field()?;
            if self.null()? {
                // As if it were not there.
            } else {
                let twice = match field {
                    // No escape, no control character: decoding proves it.
                    RecordField::Data => data.replace(self.quoted()?).is_some(),
                    RecordField::Sequence => sequence.replace(self.sequence()?).is_some(),
                    RecordField::Key => {
                        let text;
                        (text, escaped) = self.string()?;
                        key.replace(text).is_some()
                    }
                    RecordField::Arrival => arrival_ms.replace(self.millis()?).is_some(),
                    // Of no use here, but the SDK's parser wants text.
                    RecordField::Encryption => {
                        self.string()?;
                        false
                    }
                    RecordField::Other => {
                        self.value(1)?;
                        false
                    }
                };
                if twice {
                    return None;
                }
            }
            if !self.more(b'}')? {
                break;
            }
        }
        let (data, sequence) = (data?, sequence?);
        if escaped {
            self.escaped.push(self.entries.len());
        }
        Some(RecordEntry::plain(data, sequence, key, arrival_ms))
    }

    /// The name of a field, up to its value.
    fn field(&mut self) -> Option<RecordField> {
        if let Some((field, length)) = usual(self.rest()) {
            self.at += length;
            self.blank();
            return Some(field);
        }
        // With white space before the colon, or unknown.
        let name = self.plain()?;
        self.colon()?;
        Some(RecordField::named(&self.body[name.range()]))
    }

    fn null(&mut self) -> Option<bool> {
        Some(
            self.peek()? == b'n' && {
                self.word(b"null")?;
                true
            },
        )
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.rest().starts_with(word).then(|| self.at += word.len())
    }

    /// A string without escapes; its content is not looked at.
    fn quoted(&mut self) -> Option<Span> {
        self.eat(b'"')?;
        let start = self.at;
        let length = memchr::memchr2(b'"', b'\\', self.rest())?;
        self.at += length;
        let span = self.since(start);
        self.eat(b'"')?;
        Some(span)
    }

    /// A sequence number. Those of a stream are all of one length, which is tried first.
    fn sequence(&mut self) -> Option<Span> {
        let digits = self.entries.last().map_or(0, |entry| entry.sequence.range().len());
        let rest = self.rest();
        if rest.first() == Some(&b'"')
            && rest.get(digits + 1) == Some(&b'"')
            && SequenceNumber::is_number(&rest[1..=digits])
        {
            let start = self.at + 1;
            self.at = start + digits;
            let span = self.since(start);
            self.at += 1;
            return Some(span);
        }
        self.quoted().filter(|span| SequenceNumber::is_number(&self.body[span.range()]))
    }

    /// A sound string, and whether it has escapes.
    fn string(&mut self) -> Option<(Span, bool)> {
        self.eat(b'"')?;
        let (start, mut escaped) = (self.at, false);
        loop {
            self.at += memchr::memchr2(b'"', b'\\', self.rest())?;
            if self.peek()? == b'"' {
                break;
            }
            escaped = true;
            self.at += 2;
            self.body.get(self.at)?;
        }
        let span = self.since(start);
        self.at += 1;
        let text = &self.body[span.range()];
        // Nearly all are of these, which is quickly told.
        let printable = text.iter().fold(true, |all, b| all & (0x20..0x80).contains(b));
        if !printable && std::str::from_utf8(text).ok()?.bytes().any(|b| b < 0x20) {
            return None;
        }
        if escaped && unescape(self.body, span).is_none() {
            return None;
        }
        Some((span, escaped))
    }

    /// A sound string without escapes.
    fn plain(&mut self) -> Option<Span> {
        self.string().filter(|(_, escaped)| !escaped).map(|(span, _)| span)
    }

    /// Passes over a value of at most this depth.
    fn value(&mut self, depth: u32) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(|_| ()),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            b'{' if depth > 1 => {
                self.at += 1;
                self.blank();
                if self.peek()? == b'}' {
                    self.at += 1;
                    return Some(());
                }
                loop {
                    self.string()?;
                    self.colon()?;
                    self.value(depth - 1)?;
                    if !self.more(b'}')? {
                        return Some(());
                    }
                }
            }
            b'[' if depth > 1 => {
                self.at += 1;
                self.blank();
                if self.peek()? == b']' {
                    self.at += 1;
                    return Some(());
                }
                loop {
                    self.value(depth - 1)?;
                    if !self.more(b']')? {
                        return Some(());
                    }
                }
            }
            _ => self.number().map(|_| ()),
        }
    }

    /// Seconds since the epoch, as milliseconds. The service writes `1.441215410867E9`, most
    /// emulators `1441215410.867`. Through floating point, as the SDK goes, whole milliseconds come
    /// out the same once they are rounded; anything finer, negative or far off is left to it.
    fn millis(&mut self) -> Option<i64> {
        const FAR: u64 = 100_000_000_000_000;
        let number = self.number()?;
        if number.negative || number.long {
            return None;
        }
        let mut ms = number.digits;
        let exponent = number.exponent + 3;
        if !(-18..=18).contains(&exponent) {
            return None;
        }
        let power = 10_u64.pow(exponent.unsigned_abs());
        if exponent >= 0 {
            ms = ms.checked_mul(power)?;
        } else if ms % power == 0 {
            ms /= power;
        } else {
            return None;
        }
        if ms >= FAR { None } else { i64::try_from(ms).ok() }
    }

    fn number(&mut self) -> Option<Number> {
        let negative = self.peek()? == b'-';
        self.at += usize::from(negative);
        let start = self.at;
        let mut number = Number { digits: 0, exponent: 0, negative, long: false };
        let whole = self.digits(&mut number)?;
        if whole > 1 && self.body[start] == b'0' {
            return None;
        }
        let mut count = whole;
        if self.peek() == Some(b'.') {
            self.at += 1;
            let fraction = self.digits(&mut number)?;
            count += fraction;
            number.exponent = -i32::try_from(fraction).ok()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            let minus = self.peek()? == b'-';
            self.at += usize::from(minus || self.peek()? == b'+');
            let mut power = Number { digits: 0, exponent: 0, negative: minus, long: false };
            if self.digits(&mut power)? > 3 {
                number.long = true;
            } else {
                let power = i32::try_from(power.digits).ok()?;
                number.exponent += if minus { -power } else { power };
            }
        }
        number.long |= count > 18;
        Some(number)
    }

    /// At least one digit; how many there were.
    fn digits(&mut self, number: &mut Number) -> Option<usize> {
        let start = self.at;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            number.digits = number.digits.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        (self.at > start).then_some(self.at - start)
    }
}

/// A JSON number: `digits × 10^exponent`, unless it is `long`.
struct Number {
    digits: u64,
    exponent: i32,
    negative: bool,
    /// Too long to be held.
    long: bool,
}

#[cfg(test)]
mod tests;
