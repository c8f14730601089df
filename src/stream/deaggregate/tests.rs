use md5::{Digest, Md5};
use proptest::prelude::*;

use super::*;
use crate::stream::Record;

fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push((value as u8) | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn bytes(field: u64, value: &[u8], to: &mut Vec<u8>) {
    varint(field << 3 | 2, to);
    varint(value.len() as u64, to);
    to.extend_from_slice(value);
}

/// As the KPL writes it: partition key, explicit hash key and payload of each user record.
pub(in crate::stream) fn aggregate(users: &[(&str, Option<u128>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut hash_keys = 0;
    for (key, hash_key, _) in users {
        bytes(1, key.as_bytes(), &mut body);
        if let Some(hash_key) = hash_key {
            bytes(2, hash_key.to_string().as_bytes(), &mut body);
        }
    }
    for (index, (_, hash_key, data)) in users.iter().enumerate() {
        let mut record = Vec::new();
        varint(1 << 3, &mut record);
        varint(index as u64, &mut record);
        if hash_key.is_some() {
            varint(2 << 3, &mut record);
            varint(hash_keys, &mut record);
            hash_keys += 1;
        }
        bytes(3, data, &mut record);
        bytes(3, &record, &mut body);
    }
    let mut all = MAGIC.to_vec();
    let digest = Md5::digest(&body);
    all.extend_from_slice(&body);
    all.extend_from_slice(&digest);
    all
}

fn records<'a>(data: impl IntoIterator<Item = &'a [u8]>) -> Records {
    let record = |data| Record::new("9", Some(1), Some("outer"), data).unwrap();
    Records::copy(&data.into_iter().map(record).collect::<Vec<_>>()).unwrap()
}

fn record(data: &[u8]) -> Records {
    records([data])
}

#[test]
fn an_aggregate_becomes_its_records_in_order() {
    let data = aggregate(&[("a", None, b"one"), ("b", Some(7), b""), ("c", None, b"three")]);
    let split = split(&record(&data), None);
    assert_eq!(split.aggregates, 1);
    let shown: Vec<_> = split
        .records
        .iter()
        .map(|r| (r.position().to_string(), r.partition_key().unwrap(), r.data))
        .collect();
    assert_eq!(
        shown,
        [("9".into(), "a", &b"one"[..]), ("9.1".into(), "b", b""), ("9.2".into(), "c", b"three")]
    );
}

#[test]
fn what_is_delivered_of_an_aggregate_is_not_read_again_in_another_way() {
    let data = aggregate(&[("a", None, b"1"), ("b", None, b"2"), ("c", None, b"3")]);
    let (plain, odd) = (b"plain".to_vec(), [&MAGIC[..], b"no aggregate"].concat());
    for sound in [true, false] {
        let data = if sound { &data } else { &odd };
        let read = |aggregates, after: u64| {
            let after = Position { sub: after, ..record(data).first().unwrap().position() };
            let mut found = user_records(record(data), aggregates, Some(&after), None).records;
            found.retain(|r| r.cmp_position(&after).is_gt());
            found.iter().map(|r| r.sub).collect::<Vec<_>>()
        };
        for aggregates in [Aggregates::Apart, Aggregates::Whole] {
            let rest = if sound { vec![1, 2] } else { vec![] };
            assert_eq!(read(aggregates, 0), rest, "{aggregates:?}");
            assert!(read(aggregates, WHOLE).is_empty(), "{aggregates:?}");
        }
        // Not begun.
        let whole = user_records(record(data), Aggregates::Whole, None, None).records;
        assert_eq!(whole.iter().map(|r| (r.sub, r.data)).collect::<Vec<_>>(), [(WHOLE, &data[..])]);
    }
    let none = user_records(record(&plain), Aggregates::Whole, None, None).records;
    assert_eq!(none.first().unwrap().sub, 0);
}

fn low() -> HashRange {
    HashRange::parse("0", &(u128::MAX / 2).to_string()).unwrap()
}

fn foreign(split: &Split) -> Vec<(u64, bool)> {
    split.records.iter().map(|r| (r.sub, r.foreign)).collect()
}

#[test]
fn records_of_other_shards_are_marked_one_by_one() {
    // MD5("a") = 0cc1…, MD5("b") = 92eb…: the halves of the key space.
    let data = aggregate(&[("a", None, b"low"), ("b", None, b"high"), ("b", Some(3), b"explicit")]);
    let marked = split(&record(&data), Some(low()));
    assert_eq!(foreign(&marked), [(0, false), (1, true), (2, false)]);
    assert_eq!(marked.foreign, 1);
    assert_eq!(marked.records.get(1).unwrap().position().to_string(), "9.1");
    let copy = Records::copy(&marked.records.iter().collect::<Vec<_>>()).unwrap();
    assert!(copy.get(1).unwrap().foreign);
    let left_out = split(&record(&data), Some(low().earlier()));
    assert_eq!(foreign(&left_out), [(0, false), (2, false)]);
    assert_eq!(left_out.foreign, 1);
    let all = split(&record(&data), Some(HashRange::EVERYTHING));
    assert_eq!((all.foreign, all.records.len()), (0, 3));
}

/// The KPL writes an empty key for a record that was given none, and puts it anywhere. MD5("") is
/// in the upper half.
#[test]
fn a_record_without_a_key_is_at_home_everywhere() {
    let data = aggregate(&[("", None, b"one"), ("", Some(u128::MAX), b"two")]);
    assert_eq!(foreign(&split(&record(&data), Some(low()))), [(0, false), (1, true)]);
    assert_eq!(split(&record(&data), Some(low().earlier())).records.len(), 0);
}

/// Many records may share a key, so its length is what an aggregate can grow by.
#[test]
fn a_key_that_kinesis_would_refuse_is_in_no_aggregate() {
    for (key, aggregates) in [("k".repeat(256), 1), ("é".repeat(256), 1), ("k".repeat(257), 0)] {
        let data = aggregate(&[(&key, None, b"one"), (&key, None, b"two")]);
        let found = split(&record(&data), None);
        assert_eq!((found.aggregates, found.records.len()), (aggregates, 1 + aggregates as usize));
        let before = split(&record(&data), Some(HashRange::EVERYTHING.earlier()));
        assert_eq!(before.records.len(), 2);
    }
}

#[test]
fn whatever_is_no_sound_aggregate_stays_one_record() {
    let good = aggregate(&[("a", None, b"one")]);
    let mut wrong_digest = good.clone();
    *wrong_digest.last_mut().unwrap() ^= 1;
    // A sound digest over a body that points outside its tables.
    let mut body = Vec::new();
    bytes(3, &[1 << 3, 5, 3 << 3 | 2, 1, b'x'], &mut body);
    let mut no_key = MAGIC.to_vec();
    no_key.extend_from_slice(&body);
    no_key.extend_from_slice(&Md5::digest(&body));
    for data in [&good[..good.len() - 1], &wrong_digest, &no_key, &MAGIC, b"plain"] {
        let split = split(&record(data), None);
        assert_eq!((split.aggregates, split.records.len()), (0, 1));
        assert_eq!(split.records.first().unwrap().data, data);
    }
}

proptest! {
    /// The digests of a page are computed side by side, those of a record alone.
    #[test]
    fn a_page_is_split_like_its_records(
        mut data in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..90),
            prop::collection::vec(("[a-z]{1,9}", any::<Option<u128>>(), "[a-z]{0,80}"), 0..9)
                .prop_map(|users| {
                    let users: Vec<_> =
                        users.iter().map(|(k, h, d)| (k.as_str(), *h, d.as_bytes())).collect();
                    aggregate(&users)
                }),
        ], 0..9),
        broken in any::<prop::sample::Index>(),
        range in any::<Option<u128>>(),
    ) {
        if !data.is_empty() {
            let at = broken.index(data.len());
            data[at].iter_mut().next_back().into_iter().for_each(|byte| *byte ^= 1);
        }
        let range = range.map(|last| HashRange { first: 0, last, earlier: false });
        let page = split(&records(data.iter().map(Vec::as_slice)), range);
        let alone: Vec<_> = data.iter().map(|data| split(&record(data), range)).collect();
        prop_assert_eq!(page.aggregates, alone.iter().map(|s| s.aggregates).sum::<u64>());
        prop_assert_eq!(page.foreign, alone.iter().map(|s| s.foreign).sum::<u64>());
        let alone: Vec<_> = alone.iter().flat_map(|s| s.records.iter()).collect();
        let same = format!("{:?}", page.records) == format!("{alone:?}");
        prop_assert!(same, "other records");
    }

    #[test]
    fn hostile_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut data = MAGIC.to_vec();
        data.extend_from_slice(&body);
        data.extend_from_slice(&Md5::digest(&body));
        let split = split(&record(&data), HashRange::parse("0", "5"));
        prop_assert!(split.aggregates == 1 || split.records.len() == 1);
    }

    #[test]
    fn every_record_survives(users in prop::collection::vec(
        ("[a-z]{1,9}", prop::collection::vec(any::<u8>(), 0..80)), 1..30,
    )) {
        let borrowed: Vec<_> =
            users.iter().map(|(k, d)| (k.as_str(), None, d.as_slice())).collect();
        let split = split(&record(&aggregate(&borrowed)), None);
        prop_assert_eq!(split.records.len(), users.len());
        for (record, (key, data)) in split.records.iter().zip(&users) {
            prop_assert_eq!(record.partition_key(), Some(key.as_str()));
            prop_assert_eq!(record.data, data.as_slice());
        }
    }
}
