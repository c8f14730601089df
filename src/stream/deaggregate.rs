//! ◆ KPL aggregates into the user records they hold.
//!
//! Layout (KPL aggregation format): the magic bytes `F3 89 9A C2`, a protobuf body, and the MD5 of
//! the body. The body is `AggregatedRecord { 1: partition keys, 2: explicit hash keys, 3: records }`
//! with `Record { 1: partition key index, 2: explicit hash key index, 3: data, 4: tags }`.
//!
//! As in the KCL, a record whose digest or body does not fit is no aggregate but an ordinary
//! record. Unlike the KCL, which drops a whole aggregate when one of its records belongs to another
//! shard (after a reshard), records are filtered one by one; and an aggregate that breaks off in
//! the middle is delivered whole, as it came, instead of in part.

use bytes::Bytes;
use md5::{Digest, Md5};

use crate::stream::Record;
use crate::stream::position::Position;
use crate::text::Text;

const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
const DIGEST: usize = 16;

/// Inclusive range of hash keys a shard takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashRange {
    first: u128,
    last: u128,
}

impl HashRange {
    /// Reads the decimal bounds of a shard or lease.
    pub fn parse(first: &str, last: &str) -> Option<Self> {
        Some(Self { first: first.parse().ok()?, last: last.parse().ok()? })
    }

    fn holds(&self, key: u128) -> bool {
        (self.first..=self.last).contains(&key)
    }
}

/// The user records of one Kinesis record.
#[derive(Debug, Default)]
pub struct Split {
    /// In order, with their sub-sequence numbers.
    pub records: Vec<Record>,
    /// Records left out because another shard delivers them.
    pub foreign: u64,
    /// It was an aggregate.
    pub aggregate: bool,
}

/// Is it worth trying to split this payload? A look at four bytes.
pub fn may_be_aggregate(data: &[u8]) -> bool {
    data.starts_with(&MAGIC)
}

/// Splits a record. `range` is that of the shard it was read from; `None` keeps every record.
pub fn split(record: Record, range: Option<HashRange>) -> Split {
    let Some(users) = parse(&record.data) else {
        return Split { records: vec![record], foreign: 0, aggregate: false };
    };
    let mut split = Split { aggregate: true, ..Split::default() };
    for (sub, user) in (0_u64..).zip(users) {
        // The hash is only worth computing where a reshard may have moved records.
        if range.is_some_and(|range| !range.holds(user.hash_key())) {
            split.foreign += 1;
            continue;
        }
        split.records.push(Record {
            position: Position { sequence: record.position.sequence.clone(), sub },
            arrival_ms: record.arrival_ms,
            partition_key: Text::new(record.data.slice_ref(user.partition_key.as_bytes())),
            data: record.data.slice(user.start..user.start + user.length),
        });
    }
    split
}

/// One user record inside an aggregate.
struct User<'a> {
    partition_key: &'a str,
    explicit_hash_key: Option<u128>,
    start: usize,
    length: usize,
}

impl User<'_> {
    /// Explicit hash key, else the MD5 of the partition key as an unsigned number.
    fn hash_key(&self) -> u128 {
        self.explicit_hash_key
            .unwrap_or_else(|| u128::from_be_bytes(Md5::digest(self.partition_key).into()))
    }
}

/// The user records of an aggregate; `None` if it is none.
fn parse(data: &Bytes) -> Option<Vec<User<'_>>> {
    if data.len() <= MAGIC.len() + DIGEST || !may_be_aggregate(data) {
        return None;
    }
    let body = &data[MAGIC.len()..data.len() - DIGEST];
    if Md5::digest(body).as_slice() != &data[data.len() - DIGEST..] {
        return None;
    }
    let (mut keys, mut hash_keys, mut records) = (Vec::new(), Vec::new(), Vec::new());
    let mut fields = Fields { body, at: 0 };
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes { start, length }) => {
                keys.push(std::str::from_utf8(&body[start..start + length]).ok()?);
            }
            (2, Value::Bytes { start, length }) => {
                let text = std::str::from_utf8(&body[start..start + length]).ok()?;
                hash_keys.push(text.parse::<u128>().ok()?);
            }
            (3, Value::Bytes { start, length }) => records.push((start, length)),
            _ => {}
        }
    }
    // The tables may stand behind the records that point into them.
    records
        .into_iter()
        .map(|(start, length)| {
            let mut key = None;
            let mut hash_key = None;
            let mut payload = None;
            let mut fields = Fields { body: &body[..start + length], at: start };
            while let Some(field) = fields.next()? {
                match field {
                    (1, Value::Number(index)) => {
                        key = Some(*keys.get(usize::try_from(index).ok()?)?)
                    }
                    (2, Value::Number(index)) => {
                        hash_key = Some(*hash_keys.get(usize::try_from(index).ok()?)?);
                    }
                    (3, Value::Bytes { start, length }) => payload = Some((start, length)),
                    _ => {}
                }
            }
            let (start, length) = payload?;
            Some(User {
                partition_key: key?,
                explicit_hash_key: hash_key,
                start: MAGIC.len() + start,
                length,
            })
        })
        .collect()
}

/// A protobuf field, without copying.
enum Value {
    Number(u64),
    Bytes { start: usize, length: usize },
}

/// Walks the fields of a message in `body` from `at` to its end.
struct Fields<'a> {
    body: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    /// `None`: malformed. `Some(None)`: the end.
    #[expect(clippy::option_option, reason = "malformed and finished are told apart by `?`")]
    fn next(&mut self) -> Option<Option<(u64, Value)>> {
        if self.at == self.body.len() {
            return Some(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.skip(8)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.skip(length)?
            }
            5 => self.skip(4)?,
            _ => return None,
        };
        Some(Some((tag >> 3, value)))
    }

    fn skip(&mut self, length: usize) -> Option<Value> {
        let start = self.at;
        self.at = start.checked_add(length).filter(|end| *end <= self.body.len())?;
        Some(Value::Bytes { start, length })
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.body.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::SequenceNumber;

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

    fn aggregate(users: &[(&str, Option<u128>, &[u8])]) -> Vec<u8> {
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

    fn record(data: &[u8]) -> Record {
        Record {
            position: Position::plain(SequenceNumber::parse("9").unwrap()),
            arrival_ms: Some(1),
            partition_key: Some(Text::from("outer")),
            data: Bytes::copy_from_slice(data),
        }
    }

    #[test]
    fn an_aggregate_becomes_its_records_in_order() {
        let data = aggregate(&[("a", None, b"one"), ("b", Some(7), b""), ("c", None, b"three")]);
        let split = split(record(&data), None);
        assert!(split.aggregate);
        let shown: Vec<_> = split
            .records
            .iter()
            .map(|r| (r.position.to_string(), r.partition_key.as_deref().unwrap(), r.data.as_ref()))
            .collect();
        assert_eq!(
            shown,
            [
                ("9".into(), "a", &b"one"[..]),
                ("9.1".into(), "b", b""),
                ("9.2".into(), "c", b"three")
            ]
        );
    }

    #[test]
    fn records_of_other_shards_are_left_out_one_by_one() {
        // MD5("a") = 0cc1…, MD5("b") = 92eb…: the halves of the key space.
        let data =
            aggregate(&[("a", None, b"low"), ("b", None, b"high"), ("b", Some(3), b"explicit")]);
        let low = HashRange::parse("0", &(u128::MAX / 2).to_string()).unwrap();
        let split = split(record(&data), Some(low));
        let kept: Vec<_> =
            split.records.iter().map(|r| (r.position.sub, r.data.as_ref())).collect();
        assert_eq!(kept, [(0, &b"low"[..]), (2, b"explicit")]);
        assert_eq!(split.foreign, 1);
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
            let split = split(record(data), None);
            assert!(!split.aggregate);
            assert_eq!(split.records.len(), 1);
            assert_eq!(split.records[0].data.as_ref(), data);
        }
    }

    proptest! {
        #[test]
        fn hostile_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut data = MAGIC.to_vec();
            data.extend_from_slice(&body);
            data.extend_from_slice(&Md5::digest(&body));
            let split = split(record(&data), HashRange::parse("0", "5"));
            prop_assert!(split.aggregate || split.records.len() == 1);
        }

        #[test]
        fn every_record_survives(users in prop::collection::vec(
            ("[a-z]{1,9}", prop::collection::vec(any::<u8>(), 0..80)), 1..30,
        )) {
            let borrowed: Vec<_> =
                users.iter().map(|(k, d)| (k.as_str(), None, d.as_slice())).collect();
            let split = split(record(&aggregate(&borrowed)), None);
            prop_assert_eq!(split.records.len(), users.len());
            for (record, (key, data)) in split.records.iter().zip(&users) {
                prop_assert_eq!(record.partition_key.as_deref(), Some(key.as_str()));
                prop_assert_eq!(record.data.as_ref(), data.as_slice());
            }
        }
    }
}
