//! KPL aggregates: whatever arrives, the user records are slices of it, numbered as they stand.
#![no_main]

use bytes::Bytes;
use catchment::ids::SequenceNumber;
use catchment::stream::Record;
use catchment::stream::deaggregate::{HashRange, split, split_all};
use catchment::stream::position::Position;
use libfuzzer_sys::fuzz_target;
use md5::{Digest, Md5};

const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];

fuzz_target!(|input: &[u8]| {
    let Some((mode, body)) = input.split_first() else { return };
    let data = if mode & 1 == 0 {
        Bytes::copy_from_slice(body)
    } else {
        // A right checksum gets past the door.
        [&MAGIC, body, Md5::digest(body).as_slice()].concat().into()
    };
    let Ok(sequence) = SequenceNumber::parse("49590338271490256608559692538361571095921575989136588898")
    else {
        return;
    };
    let record = Record {
        position: Position::plain(sequence),
        arrival_ms: Some(0),
        partition_key: None,
        data: data.clone(),
    };
    let range = (mode & 2 == 0).then(|| HashRange::parse("0", "170141183460469231731687303715884105727")).flatten();
    let page = split_all(vec![record.clone(), record.clone()], range);
    let split = split(record, range);
    // Its digest was computed beside another one, or alone.
    assert!(page.aggregates == 2 * u64::from(split.aggregate));
    assert!(page.foreign == 2 * split.foreign && page.records.len() == 2 * split.records.len());
    if !split.aggregate {
        assert!(split.records.len() == 1 && split.records[0].data == data && split.foreign == 0);
        return;
    }
    let (from, to) = (data.as_ptr() as usize, data.as_ptr() as usize + data.len());
    let mut last = None;
    for user in &split.records {
        let at = user.data.as_ptr() as usize;
        assert!(user.data.is_empty() || (from <= at && at + user.data.len() <= to));
        assert!(last < Some(user.position.sub));
        last = Some(user.position.sub);
    }
});
