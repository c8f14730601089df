//! ◆ Where the records of a reply stand in its body, whatever the body is written in.

use bytes::Bytes;

use crate::ids::SequenceNumber;
use crate::stream::Record;
use crate::stream::position::Position;
use crate::text::Text;

/// A part of a reply. Replies of 4 GiB and more are not scanned.
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

/// One record.
#[derive(Debug)]
pub(super) struct Entry {
    /// The payload, decoded.
    pub(super) data: Span,
    /// Checked: a number in digits.
    pub(super) sequence: Span,
    /// Checked: UTF-8.
    pub(super) key: Option<Span>,
    /// The key was written with escapes.
    pub(super) escaped: bool,
    pub(super) arrival_ms: Option<i64>,
}

/// The records as slices of the decoded body.
pub(super) fn records(entries: &[Entry], body: &Bytes) -> Vec<Record> {
    let record = |entry: &Entry| {
        let digits = std::str::from_utf8(&body[entry.sequence.range()]).ok()?;
        Some(Record {
            position: Position::plain(SequenceNumber::parse(digits).ok()?),
            arrival_ms: entry.arrival_ms,
            partition_key: match entry.key {
                Some(key) if key.start < key.end => Some(Text::new(body.slice(key.range()))?),
                _ => None,
            },
            data: body.slice(entry.data.range()),
        })
    };
    let mut records = Vec::with_capacity(entries.len());
    for entry in entries {
        // Both texts were checked by the scan.
        records.push(record(entry).unwrap_or_else(|| unreachable!("scanned text changed")));
    }
    records
}
