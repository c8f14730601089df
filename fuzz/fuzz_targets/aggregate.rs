//! KPL aggregates: whatever arrives, the user records are slices of it, numbered as they stand.
#![no_main]

use catchment::stream::deaggregate::{HashRange, split};
use catchment::stream::{Record, Records};
use libfuzzer_sys::fuzz_target;
use md5::{Digest, Md5};

const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];

fn copy(records: &[Record<'_>]) -> Records {
    Records::copy(records).expect("small")
}

fuzz_target!(|input: &[u8]| {
    let Some((mode, body)) = input.split_first() else { return };
    let data = if mode & 1 == 0 {
        body.to_vec()
    } else {
        // A right checksum gets past the door.
        [&MAGIC, body, Md5::digest(body).as_slice()].concat()
    };
    let sequence = "49590338271490256608559692538361571095921575989136588898";
    let Ok(record) = Record::new(sequence, Some(0), None, &data) else { return };
    let range = (mode & 2 == 0)
        .then(|| HashRange::parse("0", "170141183460469231731687303715884105727"))
        .flatten();
    let page = split(&copy(&[record, record]), range);
    let alone = copy(&[record]);
    let split = split(&alone, range);
    // Its digest was computed beside another one, or alone.
    assert!(page.aggregates == 2 * split.aggregates);
    assert!(page.foreign == 2 * split.foreign && page.records.len() == 2 * split.records.len());
    let whole: Vec<_> = alone.iter().map(|record| record.data).collect();
    if split.aggregates == 0 {
        let same: Vec<_> = split.records.iter().map(|record| record.data).collect();
        assert!(same == whole && split.foreign == 0);
        return;
    }
    let within = whole[0].as_ptr_range();
    let mut last = None;
    for user in split.records.iter() {
        let at = user.data.as_ptr_range();
        assert!(user.data.is_empty() || (within.start <= at.start && at.end <= within.end));
        assert!(last < Some(user.sub));
        last = Some(user.sub);
    }
});
