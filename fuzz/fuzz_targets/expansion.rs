//! Aggregates that become far more than they are: records that share a key, empty ones, broken upload
//! events. However they are made, a batch is cut and a step ends one line late at most, and no record
//! is missing.
#![no_main]

use std::sync::Arc;

use catchment::delivery::batch::{BatchLimits, EXPANSION, OpenBatch};
use catchment::delivery::recipe::Recipe;
use catchment::delivery::settings::{Codec, Format, Settings};
use catchment::ids::ShardId;
use catchment::stream::deaggregate::{HashRange, split};
use catchment::stream::{Record, Records};
use libfuzzer_sys::fuzz_target;
use md5::{Digest, Md5};

const LIMIT: u64 = 4_096;
const STEP: u64 = 1_024;
/// The longest key and payload made here, as a line.
const LINE: usize = 4_096;

fn varint(mut value: usize, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn field(number: usize, bytes: &[u8], to: &mut Vec<u8>) {
    varint(number << 3 | 2, to);
    varint(bytes.len(), to);
    to.extend_from_slice(bytes);
}

fuzz_target!(|input: (u8, u16, Vec<(u8, u8, u16)>)| {
    let (mode, longest, groups) = input;
    let (mut body, mut users) = (Vec::new(), 0_usize);
    for key in 0..4_usize {
        field(1, "k".repeat(usize::from(longest) * key / 3 % 400).as_bytes(), &mut body);
    }
    for (key, payload, count) in groups {
        let payload: &[u8] = match payload % 4 {
            0 => b"",
            1 => br#"{"catchment":"upload","v":"#,
            2 => b"{\"a\":\"\xff\"}",
            _ => b"[1,2,3]",
        };
        let mut record = vec![1 << 3, key % 4];
        field(3, payload, &mut record);
        for _ in 0..count % 2_000 {
            field(3, &record, &mut body);
            users += 1;
        }
    }
    let data = [&[0xf3, 0x89, 0x9a, 0xc2], body.as_slice(), Md5::digest(&body).as_slice()].concat();
    let Ok(record) = Record::new("49590338271490256608", Some(0), Some("k"), &data) else { return };
    let page = Records::copy(&[record]).expect("small");
    let found = split(&page, HashRange::parse("0", "170141183460469231731687303715884105727"));
    let whole = found.aggregates == 0;
    assert!(found.records.len() == if whole { 1 } else { users });
    if whole {
        return;
    }
    let settings = Settings {
        codec: Codec::None,
        level: 0,
        format: [Format::Raw, Format::Ndjson, Format::JsonArray, Format::Envelope]
            [usize::from(mode % 4)],
        ..Settings::new("bucket", "stream")
    };
    let recipe = Arc::new(Recipe::new(Arc::new(settings)).expect("good templates"));
    let open =
        || OpenBatch::new(Arc::clone(&recipe), ShardId::new("shardId-000000000000"), 0, None);
    let limits = BatchLimits { bytes: LIMIT, step: STEP, ..BatchLimits::NONE };
    let most = (LIMIT * EXPANSION) as usize + LINE;
    let (mut queue, mut batch, mut records) = (found.records, open(), 0);
    while !queue.is_empty() {
        let full = batch.fill(&mut queue, &limits).expect("memory").is_some();
        if full || queue.is_empty() {
            let sealed = std::mem::replace(&mut batch, open()).seal().expect("memory");
            let sealed = sealed.expect("records");
            let size: usize = sealed.objects.iter().map(|object| object.body.len()).sum();
            assert!(size <= most, "{size} of {most}");
            records += sealed.intent.records;
        }
    }
    assert!(records == users as u64);
});
