//! What replies hold.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Size;

/// One record of a reply.
pub(crate) struct Event {
    pub(crate) line: String,
    pub(crate) key: String,
    pub(crate) sequence: String,
    pub(crate) arrival_ms: u64,
}

/// The records of a reply: JSON events with ids that do not compress, and words and numbers that
/// do, the same in every run.
pub(crate) fn events(size: &Size, turn: u64) -> Vec<Event> {
    let mut random = fastrand::Rng::with_seed(turn);
    let words = ["red", "large", "shirt", "winter", "sale", "cotton", "delivery", "express"];
    let event = |n| {
        let mut line = format!("{{\"id\":\"{:016x}\",\"tags\":[", random.u64(..));
        while line.len() + 40 < size.record {
            let word = words[random.usize(0..words.len())];
            let value = random.u16(..);
            if random.u8(0..4) == 0 {
                let _ = write!(line, "{{\"trace\":\"{:08x}\"}},", random.u32(..));
            } else {
                let _ = write!(line, "{{\"{word}\":{value}}},");
            }
        }
        let room = size.record.saturating_sub(line.len() + 4);
        let _ = write!(line, "\"{}\"]}}", "-".repeat(room));
        Event {
            line,
            key: format!("{:012x}", random.u64(..) >> 16),
            sequence: format!("4959033827149025660855969253836157109592157598913{n:07}"),
            arrival_ms: 1_795_417_509_000 + n as u64 % 1000,
        }
    };
    (0..size.count()).map(event).collect()
}

/// A reply as the service writes it.
pub(crate) fn reply(events: &[Event]) -> Arc<[u8]> {
    let mut body =
        String::from("{\"MillisBehindLatest\":1000,\"NextShardIterator\":\"next\",\"Records\":[");
    for (n, Event { line, key, sequence, arrival_ms }) in events.iter().enumerate() {
        let _ = write!(
            body,
            "{}{{\"ApproximateArrivalTimestamp\":{}.{:03},\"Data\":\"{}\",\
             \"PartitionKey\":\"{key}\",\"SequenceNumber\":\"{sequence}\"}}",
            if n == 0 { "" } else { "," },
            arrival_ms / 1000,
            arrival_ms % 1000,
            STANDARD.encode(line),
        );
    }
    body.push_str("]}");
    body.into_bytes().into()
}
