use ciborium::Value;
use proptest::prelude::*;
use serde_json::json;

use super::write::put_head;
use super::*;

const SEQUENCE: &str = "49590338271490256608559692538361571095921575989136588898";
const TIME: i64 = 1_772_003_600_024;

/// How an encoder may write the same value.
#[derive(Clone, Copy, Debug, Default)]
struct Style {
    /// Arrays and maps end with a break.
    open: bool,
    /// Strings come in chunks of so many bytes; 0: whole.
    chunk: usize,
    /// Numbers in heads take eight bytes.
    wide: bool,
}

impl Style {
    fn head(self, to: &mut Vec<u8>, major: u8, value: u64) {
        if self.wide {
            to.push(major << 5 | 27);
            to.extend(value.to_be_bytes());
        } else {
            put_head(to, major, usize::try_from(value).unwrap());
        }
    }

    fn string(self, to: &mut Vec<u8>, major: u8, content: &[u8]) {
        if self.chunk == 0 {
            self.head(to, major, content.len() as u64);
            to.extend(content);
            return;
        }
        to.push(major << 5 | INDEFINITE);
        for chunk in content.chunks(self.chunk) {
            self.head(to, major, chunk.len() as u64);
            to.extend(chunk);
        }
        to.push(BREAK);
    }

    fn begin(self, to: &mut Vec<u8>, major: u8, count: usize) {
        if self.open {
            to.push(major << 5 | INDEFINITE);
        } else {
            self.head(to, major, count as u64);
        }
    }

    fn write(self, to: &mut Vec<u8>, value: &Value) {
        match value {
            Value::Integer(number) => match i128::from(*number) {
                number @ 0.. => self.head(to, UNSIGNED, u64::try_from(number).unwrap()),
                number => self.head(to, NEGATIVE, u64::try_from(-1 - number).unwrap()),
            },
            Value::Bytes(bytes) => self.string(to, BYTES, bytes),
            Value::Text(text) => self.string(to, TEXT, text.as_bytes()),
            Value::Array(items) => {
                self.begin(to, ARRAY, items.len());
                items.iter().for_each(|item| self.write(to, item));
                to.extend(self.open.then_some(BREAK));
            }
            Value::Map(fields) => {
                self.begin(to, MAP, fields.len());
                for (name, value) in fields {
                    self.write(to, name);
                    self.write(to, value);
                }
                to.extend(self.open.then_some(BREAK));
            }
            Value::Tag(tag, value) => {
                self.head(to, TAG, *tag);
                self.write(to, value);
            }
            other => ciborium::into_writer(other, to).unwrap(),
        }
    }

    fn of(self, value: &Value) -> Vec<u8> {
        let mut body = Vec::new();
        self.write(&mut body, value);
        body
    }
}

fn styles() -> Vec<Style> {
    let mut all = Vec::new();
    for open in [false, true] {
        for chunk in [0, 1, 5] {
            all.extend([false, true].map(|wide| Style { open, chunk, wide }));
        }
    }
    all
}

fn map(fields: Vec<(&str, Value)>) -> Value {
    Value::Map(fields.into_iter().map(|(name, value)| (name.into(), value)).collect())
}

fn time(ms: i64) -> Value {
    Value::Tag(1, Box::new(ms.into()))
}

fn fields() -> Vec<(&'static str, Value)> {
    vec![
        ("ApproximateArrivalTimestamp", time(TIME)),
        ("Data", Value::Bytes(b"hello".to_vec())),
        ("PartitionKey", "käy".into()),
        ("SequenceNumber", SEQUENCE.into()),
    ]
}

fn reply(records: Vec<Value>) -> Value {
    map(vec![
        ("MillisBehindLatest", 12.into()),
        ("NextShardIterator", "next".into()),
        ("Records", Value::Array(records)),
    ])
}

/// Records and the rest.
fn taken(mut body: Vec<u8>) -> Result<(Records, serde_json::Value), Unreadable> {
    let (records, rest) = take(&mut body)?.parts(body.into(), 0);
    Ok((records, serde_json::from_slice(&rest).unwrap()))
}

fn plain(value: &Value) -> Result<(Records, serde_json::Value), Unreadable> {
    taken(Style::default().of(value))
}

/// One record with these fields.
fn one(fields: Vec<(&str, Value)>) -> Result<Records, Unreadable> {
    plain(&reply(vec![map(fields)])).map(|(records, _)| records)
}

fn with(field: &'static str, value: Value) -> Vec<(&'static str, Value)> {
    let mut fields = fields();
    fields.retain(|(name, _)| *name != field);
    fields.push((field, value));
    fields
}

#[test]
fn a_reply_in_every_style() {
    for style in styles() {
        let mut whole = reply(vec![map(fields()), map(fields())]);
        whole.as_map_mut().unwrap().push((
            "ChildShards".into(),
            Value::Array(vec![map(vec![
                ("ShardId", "s-1".into()),
                ("ParentShards", Value::Array(vec!["s-0".into()])),
            ])]),
        ));
        let (records, rest) = taken(style.of(&whole)).unwrap();
        assert_eq!(records.len(), 2, "{style:?}");
        for record in records.iter() {
            assert_eq!(record.data, b"hello");
            assert_eq!(record.partition_key(), Some("käy"));
            assert_eq!(record.position().to_string(), SEQUENCE);
            assert_eq!(record.arrival_ms, Some(TIME));
        }
        let expected = json!({"MillisBehindLatest": 12, "NextShardIterator": "next", "Records": [],
            "ChildShards": [{"ShardId": "s-1", "ParentShards": ["s-0"]}]});
        assert_eq!(rest, expected, "{style:?}");
        assert_eq!(taken(style.of(&reply(vec![]))).unwrap().0.len(), 0);
    }
}

#[test]
fn records_are_slices_of_the_body() {
    let mut body = Style::default().of(&reply(vec![map(fields())]));
    let layout = take(&mut body).unwrap();
    let body = Bytes::from(body);
    let within = body.as_ptr_range();
    let records = layout.parts(body.clone(), 0).0;
    let record = records.first().unwrap();
    assert!(within.contains(&record.data.as_ptr()));
    assert!(within.contains(&record.partition_key().unwrap().as_ptr()));
}

#[test]
fn a_record_may_lack_key_and_time_and_carry_what_is_unknown() {
    let odd = || Value::Map(vec![(7.into(), Value::Array(vec![Value::Float(0.5)]))]);
    for more in [
        vec![],
        vec![("PartitionKey", Value::Null), ("ApproximateArrivalTimestamp", Value::Null)],
        vec![("PartitionKey", "".into()), ("EncryptionType", "KMS".into())],
        vec![("New", odd()), ("Newer", Value::Tag(99, Box::new(Value::Bytes(vec![1]))))],
        vec![("Undefined", Value::Null), ("Yes", true.into()), ("Low", (-7).into())],
    ] {
        let mut fields = fields();
        fields.retain(|(name, _)| matches!(*name, "Data" | "SequenceNumber"));
        fields.extend(more);
        for style in styles() {
            let body = style.of(&reply(vec![map(fields.clone())]));
            let (records, _) = taken(body).unwrap();
            let record = records.first().unwrap();
            assert_eq!((record.partition_key(), record.arrival_ms), (None, None), "{fields:?}");
            assert_eq!(record.data, b"hello");
        }
    }
    // Names that are no text, tagged names, a tagged reply.
    let mut whole = reply(vec![map(fields())]);
    let fields = whole.as_map_mut().unwrap();
    fields.insert(0, (7.into(), odd()));
    fields.push((Value::Array(vec![]), Value::Null));
    for (name, _) in fields.iter_mut().filter(|(name, _)| *name == Value::from("Records")) {
        *name = Value::Tag(5, Box::new(name.clone()));
    }
    assert_eq!(plain(&Value::Tag(55_799, Box::new(whole))).unwrap().0.len(), 1);
}

#[test]
fn times_are_milliseconds_or_nothing() {
    for value in [TIME.into(), time(TIME), Value::Float(TIME as f64)] {
        let records = one(with("ApproximateArrivalTimestamp", value)).unwrap();
        assert_eq!(records.first().unwrap().arrival_ms, Some(TIME));
    }
    for (value, ms) in [
        (time(TIME / 1000), TIME / 1000),
        (time(TIME * 1000), TIME * 1000),
        (Value::Float(1_772_003_600.0), 1_772_003_600),
        (time(-1), -1),
        (time(0), 0),
        (u64::MAX.into(), i64::MAX),
    ] {
        let found = one(with("ApproximateArrivalTimestamp", value));
        assert_eq!(found.unwrap_err(), Unreadable::Time(ms));
    }
    for value in [Value::Float(1_772_003_600.024), "2026-11-23".into(), Value::Float(f64::NAN)] {
        let found = one(with("ApproximateArrivalTimestamp", value));
        assert!(matches!(found, Err(Unreadable::Form(_))), "{found:?}");
    }
    // As a single it would be off by a minute.
    let mut body = Style::default().of(&reply(vec![map(fields())]));
    let at = body.windows(2).position(|pair| pair == [0xc1, 0x1b]).unwrap() + 1;
    let single = (TIME as f32).to_be_bytes();
    body.splice(at..at + 9, std::iter::once(0xfa).chain(single));
    assert!(matches!(taken(body), Err(Unreadable::Form(_))));
}

#[test]
fn a_reply_is_understood_as_a_whole_or_not_at_all() {
    for fields in [
        with("Data", "aGVsbG8=".into()),
        with("Data", Value::Null),
        with("SequenceNumber", "12x".into()),
        with("SequenceNumber", 12.into()),
        with("PartitionKey", Value::Bytes(vec![1])),
        [fields(), fields()].concat(),
    ] {
        let whole = reply(vec![map(self::fields()), map(fields)]);
        assert!(matches!(plain(&whole), Err(Unreadable::Form(_))), "{whole:?}");
    }
    for whole in [
        map(vec![("NextShardIterator", "next".into())]),
        map(vec![("Records", Value::Null)]),
        map(vec![("Records", Value::Array(vec![])), ("Records", Value::Array(vec![]))]),
        map(vec![("Records", Value::Array(vec![])), ("NextShardIterator", 7.into())]),
        map(vec![("Records", Value::Array(vec![])), ("MillisBehindLatest", "x".into())]),
        map(vec![("Records", Value::Array(vec![])), ("ChildShards", true.into())]),
        Value::Array(vec![]),
    ] {
        assert!(plain(&whole).is_err(), "{whole:?}");
    }
    let body = Style::default().of(&reply(vec![map(fields())]));
    for cut in 0..body.len() {
        assert!(taken(body[..cut].to_vec()).is_err(), "{cut}");
    }
    assert!(taken([body.as_slice(), b"\0"].concat()).is_err());
    // A key that is no UTF-8.
    let at = body.windows(2).position(|pair| pair == "ä".as_bytes()).unwrap();
    let mut bad = body;
    bad[at + 1] = 0xff;
    assert!(taken(bad).is_err());
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| {
        let inner = (0..depth).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        let mut whole = reply(vec![map(fields())]);
        whole.as_map_mut().unwrap().push(("New".into(), inner));
        plain(&whole)
    };
    assert!(nested(DEPTH as usize).is_ok());
    assert!(nested(DEPTH as usize + 1).is_err());
    for hostile in [vec![0x9f; 1 << 20], vec![0xc1; 1 << 20], vec![0xbf; 1 << 20], vec![0x5f; 99]] {
        let body = [b"\xbf\x63New".as_slice(), &hostile].concat();
        assert!(taken(body).is_err());
        assert!(error(&mut hostile.clone()).is_none());
    }
    // Lengths and counts are only claims.
    for major in [BYTES, TEXT, ARRAY, MAP] {
        let claim = [b"\xbf\x67Records".as_slice(), &[major << 5 | 27], &[0xff; 8]].concat();
        assert!(taken(claim.clone()).is_err());
        let claim = [b"\xa1\x67Records\x81\xa1\x64Data", &claim[9..]].concat();
        assert!(taken(claim).is_err());
    }
}

#[test]
fn errors_become_json() {
    for style in styles() {
        let told = map(vec![
            ("__type", "ExpiredIteratorException".into()),
            ("message", "old \"one\"".into()),
            ("more", Value::Array(vec![Value::Float(1.5), Value::Bytes(b"hi".to_vec())])),
        ]);
        let json = error(&mut style.of(&told)).unwrap();
        let expected = json!({"__type": "ExpiredIteratorException", "message": "old \"one\"",
            "more": [1.5, "aGk="]});
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&json).unwrap(), expected);
    }
    for not in [b"{}".as_slice(), b"", b"<html>", b"\xa1", b"\x80", b"\xa0\xa0"] {
        assert!(error(&mut not.to_vec()).is_none(), "{not:?}");
    }
}

#[test]
fn floats_of_every_width() {
    // RFC 8949, appendix A.
    for (bytes, expected) in [
        (b"\xf9\x00\x00".as_slice(), json!(0.0)),
        (b"\xf9\x3c\x00", json!(1.0)),
        (b"\xf9\x3e\x00", json!(1.5)),
        (b"\xf9\x7b\xff", json!(65504.0)),
        (b"\xf9\x02\x00", json!(0.000_030_517_578_125)),
        (b"\xf9\x04\x00", json!(0.000_061_035_156_25)),
        (b"\xf9\xc4\x00", json!(-4.0)),
        (b"\xf9\x7c\x00", json!(null)),
        (b"\xf9\x7e\x00", json!(null)),
        (b"\xfa\x47\xc3\x50\x00", json!(100_000.0)),
        (b"\xfb\xc0\x10\x66\x66\x66\x66\x66\x66", json!(-4.1)),
        (b"\xf4", json!(false)),
        (b"\xf5", json!(true)),
        (b"\xf7", json!(null)),
        (b"\xf8\xff", json!(null)),
        (b"\x38\x63", json!(-100)),
        (b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff", json!(u64::MAX)),
    ] {
        let json = error(&mut [b"\xa1\x61x", bytes].concat()).unwrap();
        let found: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(found, json!({ "x": expected }), "{bytes:?}");
    }
}

#[test]
fn requests_are_what_another_decoder_reads() {
    let iterator = "x".repeat(300);
    let body = request("arn:aws:kinesis:eu-west-1:123456789012:stream/s", &iterator, 10_000);
    let expected = map(vec![
        ("StreamARN", "arn:aws:kinesis:eu-west-1:123456789012:stream/s".into()),
        ("ShardIterator", iterator.as_str().into()),
        ("Limit", 10_000.into()),
    ]);
    assert_eq!(ciborium::from_reader::<Value, _>(body.as_slice()).unwrap(), expected);
    assert!(begins(&body) && !begins(b"{}") && !begins(b" {}") && !begins(b""));
}

prop_compose! {
    fn a_style()(open in any::<bool>(), chunk in 0_usize..9, wide in any::<bool>()) -> Style {
        Style { open, chunk, wide }
    }
}

type Fields = (Vec<u8>, String, Option<String>, Option<i64>, usize);

fn some_records() -> impl Strategy<Value = Vec<Fields>> {
    let record = (
        prop::collection::vec(any::<u8>(), 0..60),
        "[1-9][0-9]{0,59}",
        prop::option::of(".{1,9}"),
        prop::option::of(PLAUSIBLE),
        0_usize..5,
    );
    prop::collection::vec(record, 0..6)
}

fn encoded(style: Style, records: &[Fields]) -> Vec<u8> {
    let records = records.iter().map(|(data, sequence, key, ms, turn)| {
        let mut fields = vec![
            ("Data", Value::Bytes(data.clone())),
            ("SequenceNumber", sequence.as_str().into()),
            ("Some", Value::Array(vec![Value::Float(0.1), (*turn as u64).into()])),
        ];
        fields.extend(key.as_deref().map(|key| ("PartitionKey", key.into())));
        fields.extend(ms.map(|ms| ("ApproximateArrivalTimestamp", time(ms))));
        let turn = turn % fields.len();
        fields.rotate_left(turn);
        map(fields)
    });
    style.of(&reply(records.collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_written_is_read(style in a_style(), records in some_records()) {
        let body = encoded(style, &records);
        // The encoder of this test writes CBOR.
        prop_assert!(ciborium::from_reader::<Value, _>(body.as_slice()).is_ok() || style.chunk > 0);
        let (found, rest) = taken(body).unwrap();
        prop_assert_eq!(found.len(), records.len());
        for (found, (data, sequence, key, ms, _)) in found.iter().zip(&records) {
            prop_assert_eq!(found.data, data.as_slice());
            prop_assert_eq!(found.sequence(), sequence);
            prop_assert_eq!(found.partition_key(), key.as_deref());
            prop_assert_eq!(found.arrival_ms, *ms);
        }
        prop_assert_eq!(&rest["NextShardIterator"], "next");
    }

    #[test]
    fn damage_is_no_harm(
        style in a_style(), records in some_records(),
        at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut body = encoded(style, &records);
        let at = at.index(body.len());
        body[at] = with;
        if cut {
            body.truncate(at);
        }
        let _ = error(&mut body.clone());
        let _ = taken(body);
    }

    #[test]
    fn noise_is_no_harm(mut body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = error(&mut body.clone());
        body.splice(0..0, *b"\xbf\x67Records\x9f\xbf");
        let _ = taken(body);
    }
}
