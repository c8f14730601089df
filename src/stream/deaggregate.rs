//! KPL aggregates into the user records they hold.
//!
//! Layout (KPL aggregation format): the magic bytes `F3 89 9A C2`, a protobuf body, and the MD5 of
//! the body. The body is `AggregatedRecord { 1: partition keys, 2: explicit hash keys, 3: records }`
//! with `Record { 1: partition key index, 2: explicit hash key index, 3: data, 4: tags }`.
//!
//! As in the KCL, a record whose digest or body does not fit is no aggregate but an ordinary
//! record. Unlike the KCL, which drops a whole aggregate when one of its records belongs to another
//! shard (after a reshard), records are filtered one by one; and an aggregate that breaks off in
//! the middle is delivered whole, as it came, instead of in part.

use crate::stream::digests::digests;
use crate::stream::records::{RecordEntry, Records, Span};

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

    fn is_everything(&self) -> bool {
        (self.first, self.last) == (0, u128::MAX)
    }

    fn holds(&self, key: u128) -> bool {
        (self.first..=self.last).contains(&key)
    }
}

/// Is it worth trying to split this payload? A look at four bytes.
pub fn may_be_aggregate(data: &[u8]) -> bool {
    data.starts_with(&MAGIC)
}

/// The user records of Kinesis records.
#[derive(Debug, Default)]
pub struct Split {
    /// In order, with their sub-sequence numbers; in the same buffer.
    pub records: Records,
    /// Records left out because another shard delivers them.
    pub foreign: u64,
    /// How many were aggregates.
    pub aggregates: u64,
}

/// Splits the aggregates among records. `range` is that of the shard they were read from; `None`
/// keeps every record.
pub fn split(records: &Records, range: Option<HashRange>) -> Split {
    let claims = records.payloads().filter_map(|data| Some(claim(data)?.0));
    let mut found = digests(&claims.collect::<Vec<_>>()).into_iter();
    let range = range.filter(|range| !range.is_everything());
    let mut all = Split::default();
    let mut entries = Vec::with_capacity(records.len());
    let mut contents = AggregateContents::default();
    for (data, entry) in records.payloads().zip(records.entries()) {
        let sound = match claim(data) {
            Some((body, digest)) if found.next().is_some_and(|d| d == *digest) => Some(body),
            _ => None,
        };
        match sound.filter(|body| contents.read(body).is_some()) {
            Some(body) => {
                all.aggregates += 1;
                all.foreign += contents.take(entry, body, range, &mut entries);
            }
            None => entries.push(entry.clone()),
        }
    }
    all.records = records.with(entries);
    all
}

/// Body and digest of what looks like an aggregate.
fn claim(data: &[u8]) -> Option<(&[u8], &[u8; DIGEST])> {
    data.strip_prefix(&MAGIC)?.split_last_chunk().filter(|(body, _)| !body.is_empty())
}

/// Where things stand in the body of an aggregate; used again for the next.
#[derive(Default)]
struct AggregateContents {
    keys: Vec<HashPlace>,
    hash_keys: Vec<u128>,
    records: Vec<HashPlace>,
    users: Vec<UserRecord>,
}

/// A part of the body.
#[derive(Clone, Copy)]
struct HashPlace {
    start: usize,
    length: usize,
}

impl HashPlace {
    fn of(self, body: &[u8]) -> &[u8] {
        &body[self.start..self.start + self.length]
    }
}

/// One user record inside an aggregate.
struct UserRecord {
    /// Index of its partition key.
    key: usize,
    explicit_hash_key: Option<u128>,
    data: HashPlace,
}

impl AggregateContents {
    /// `None` if this is not the body of an aggregate.
    fn read(&mut self, body: &[u8]) -> Option<()> {
        let Self { keys, hash_keys, records, users } = self;
        keys.clear();
        hash_keys.clear();
        records.clear();
        users.clear();
        let mut fields = Fields { body, at: 0 };
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(key)) => {
                    std::str::from_utf8(key.of(body)).ok()?;
                    keys.push(key);
                }
                (2, Value::Bytes(hash_key)) => {
                    let text = std::str::from_utf8(hash_key.of(body)).ok()?;
                    hash_keys.push(text.parse().ok()?);
                }
                (3, Value::Bytes(record)) => records.push(record),
                _ => {}
            }
        }
        // The tables may stand behind the records that point into them.
        for record in records {
            let (mut key, mut explicit_hash_key, mut data) = (None, None, None);
            let mut fields =
                Fields { body: &body[..record.start + record.length], at: record.start };
            while let Some(field) = fields.next()? {
                match field {
                    (1, Value::Number(index)) => {
                        key = usize::try_from(index).ok().filter(|index| *index < keys.len());
                        key?;
                    }
                    (2, Value::Number(index)) => {
                        explicit_hash_key = Some(*hash_keys.get(usize::try_from(index).ok()?)?);
                    }
                    (3, Value::Bytes(place)) => data = Some(place),
                    _ => {}
                }
            }
            users.push(UserRecord { key: key?, explicit_hash_key, data: data? });
        }
        Some(())
    }

    /// Adds the user records of `aggregate`, whose `body` was read last, that are in `range`; how
    /// many are not.
    #[expect(clippy::cast_possible_truncation, reason = "inside of a span")]
    fn take(
        &self,
        aggregate: &RecordEntry,
        body: &[u8],
        range: Option<HashRange>,
        to: &mut Vec<RecordEntry>,
    ) -> u64 {
        let begin = aggregate.data.start as usize + MAGIC.len();
        let span = |HashPlace { start, length }| Span {
            start: (begin + start) as u32,
            end: (begin + start + length) as u32,
        };
        // A hash is the MD5 of a partition key as an unsigned number, unless it is explicit. It is
        // only worth computing where a reshard may have moved records.
        let hashes = match range {
            Some(_) if self.users.iter().any(|user| user.explicit_hash_key.is_none()) => {
                digests(&self.keys.iter().map(|key| key.of(body)).collect::<Vec<_>>())
            }
            _ => Vec::new(),
        };
        to.reserve(self.users.len());
        let mut foreign = 0;
        for (sub, user) in (0..).zip(&self.users) {
            let hash = |user: &UserRecord| {
                user.explicit_hash_key.unwrap_or_else(|| u128::from_be_bytes(hashes[user.key]))
            };
            if range.is_some_and(|range| !range.holds(hash(user))) {
                foreign += 1;
                continue;
            }
            to.push(RecordEntry {
                sub,
                key: Some(span(self.keys[user.key])),
                data: span(user.data),
                ..*aggregate
            });
        }
        foreign
    }
}

/// A protobuf field, without copying.
enum Value {
    Number(u64),
    Bytes(HashPlace),
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
        Some(Value::Bytes(HashPlace { start, length }))
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
pub(super) mod tests {
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
        let split = split(&record(&data), Some(low));
        let kept: Vec<_> = split.records.iter().map(|r| (r.sub, r.data)).collect();
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
            let range = range.map(|last| HashRange { first: 0, last });
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
}
