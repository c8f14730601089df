//! CBOR: canned replies, and the least a program can do that reads them.

use std::hint::black_box;
use std::sync::Arc;

use catchment::stream::cbor::CONTENT_TYPE;

use crate::Outcome;
use crate::events::Event;
use crate::floor::{Http, Slice};
use crate::way::Way;

const BYTES: u8 = 2;
const TEXT: u8 = 3;
const OPEN_ARRAY: u8 = 0x9f;
const OPEN_MAP: u8 = 0xbf;
const BREAK: u8 = 0xff;

/// A reply as a Java service would write it: maps and arrays without a count.
pub(crate) fn reply(events: &[Event]) -> Arc<[u8]> {
    let mut body = vec![OPEN_MAP];
    put(&mut body, TEXT, b"MillisBehindLatest");
    body.extend([0x19, 0x03, 0xe8]);
    put(&mut body, TEXT, b"NextShardIterator");
    put(&mut body, TEXT, b"next");
    put(&mut body, TEXT, b"Records");
    body.push(OPEN_ARRAY);
    for event in events {
        body.push(OPEN_MAP);
        put(&mut body, TEXT, b"SequenceNumber");
        put(&mut body, TEXT, event.sequence.as_bytes());
        put(&mut body, TEXT, b"ApproximateArrivalTimestamp");
        // Tag 1, an integer of eight bytes.
        body.extend([0xc1, 0x1b]);
        body.extend(event.arrival_ms.to_be_bytes());
        put(&mut body, TEXT, b"Data");
        put(&mut body, BYTES, event.line.as_bytes());
        put(&mut body, TEXT, b"PartitionKey");
        put(&mut body, TEXT, event.key.as_bytes());
        body.push(BREAK);
    }
    body.extend([BREAK, BREAK]);
    body.into()
}

/// A string with the shortest head.
fn put(body: &mut Vec<u8>, major: u8, content: &[u8]) {
    let length = (content.len() as u64).to_be_bytes();
    match content.len() {
        0..24 => body.push(major << 5 | length[7]),
        24..256 => body.extend([major << 5 | 24, length[7]]),
        256..65_536 => body.extend([major << 5 | 25, length[6], length[7]]),
        _ => {
            body.push(major << 5 | 26);
            body.extend(&length[4..]);
        }
    }
    body.extend(content);
}

/// Reads replies into a buffer that is used again, and finds the records.
pub(crate) async fn floor_read(way: &Way, payload: u64) -> Outcome<u64> {
    Http::with(way, |mut http| async move {
        let (mut all, mut body, mut slices) = (0, Vec::new(), Vec::new());
        while all < payload {
            http.records_as(CONTENT_TYPE, &mut body, true).await?;
            all += scan(&body, &mut slices).ok_or("the floor's scan failed")?;
            black_box(&slices);
        }
        Ok(all)
    })
    .await
}

/// Finds the records of a reply in just this form, and the size of their payload.
fn scan(body: &[u8], slices: &mut Vec<Slice>) -> Option<u64> {
    slices.clear();
    let mut payload = 0;
    let mut at = memchr::memmem::find(body, b"gRecords\x9f")? + 9;
    while *body.get(at)? != BREAK {
        at += 1;
        let mut slice = Slice::default();
        while *body.get(at)? != BREAK {
            let name = head(body, &mut at)?;
            let letter = *body.get(at)?;
            at += name;
            // Past the tag of the time.
            at += usize::from(letter == b'A');
            let value = head(body, &mut at)?;
            match letter {
                b'A' => slice.arrival_ms = value as u64,
                b'D' => {
                    slice.data = (at, at + value);
                    payload += value as u64;
                }
                b'P' => slice.key = (at, at + value),
                _ => slice.sequence = (at, at + value),
            }
            if letter != b'A' {
                at += value;
            }
        }
        at += 1;
        slices.push(slice);
    }
    Some(payload)
}

fn head(body: &[u8], at: &mut usize) -> Option<usize> {
    let info = *body.get(*at)? & 31;
    *at += 1;
    let length = match info {
        0..24 => return Some(usize::from(info)),
        _ => 1 << (info - 24),
    };
    let bytes = body.get(*at..*at + length)?;
    *at += length;
    Some(bytes.iter().fold(0, |value, byte| value << 8 | usize::from(*byte)))
}
