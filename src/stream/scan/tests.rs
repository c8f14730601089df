use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::stream::Record;

const SEQUENCE: &str = "49590338271490256608559692538361571095921575989136588898";

fn scanned(body: &str) -> Option<(Records, Value)> {
    let mut bytes = body.as_bytes().to_vec();
    let Some(layout) = take(&mut bytes).unwrap() else {
        assert_eq!(bytes, body.as_bytes(), "given back as it was");
        return None;
    };
    let rest = serde_json::from_slice(&layout.rest(&bytes)).unwrap();
    Some((layout.records(bytes.into(), 0), rest))
}

fn reply(records: &str) -> String {
    format!("{{\"NextShardIterator\":\"it\",\"Records\":[{records}],\"MillisBehindLatest\":5}}")
}

/// One record with these fields.
fn one(fields: &str) -> Option<Records> {
    scanned(&reply(&format!("{{{fields}}}"))).map(|(records, _)| records)
}

const WHOLE: &str = r#""Data":"aGk=","SequenceNumber":"12""#;

#[test]
fn a_reply_as_the_service_writes_it() {
    let (records, rest) = scanned(&format!(
        r#"{{"ChildShards":[{{"ShardId":"s-1","ParentShards":["s-0"],"HashKeyRange":{{}}}}],
            "MillisBehindLatest": 0,
            "Records":[{{"ApproximateArrivalTimestamp":1.441215410867E9,"Data":"aGVsbG8=",
            "EncryptionType":"KMS","PartitionKey":"k\u00e4y","SequenceNumber":"{SEQUENCE}"}}]}}"#
    ))
    .unwrap();
    assert_eq!(records.len(), 1);
    let record = records.first().unwrap();
    assert_eq!(record.data, b"hello");
    assert_eq!(record.partition_key(), Some("käy"));
    assert_eq!(record.position().to_string(), SEQUENCE);
    assert_eq!(record.arrival_ms, Some(1_441_215_410_867));
    assert_eq!(rest["Records"], json!([]));
    assert_eq!(rest["ChildShards"][0]["ParentShards"], json!(["s-0"]));
    assert_eq!(scanned(&reply("")).unwrap().0.len(), 0);
}

#[test]
fn records_are_slices_of_the_body() {
    let body = reply(&format!("{{{WHOLE},\"PartitionKey\":\"k\"}}"));
    let mut bytes = body.into_bytes();
    let layout = take(&mut bytes).unwrap().unwrap();
    let body = Bytes::from(bytes);
    let within = body.as_ptr_range();
    let records = layout.records(body.clone(), 0);
    let record = records.first().unwrap();
    assert!(within.contains(&record.data.as_ptr()));
    assert!(within.contains(&record.partition_key().unwrap().as_ptr()));
}

#[test]
fn a_record_may_lack_key_and_time_and_carry_what_is_unknown() {
    for fields in [
        "",
        r#","PartitionKey":null"#,
        r#","PartitionKey":"""#,
        r#", "New" : "field", "Other":-1.5e+3,"Third":true,"Fourth":null"#,
        r#","EncryptionType":"NONE","ApproximateArrivalTimestamp":null"#,
    ] {
        let records = one(&format!("{WHOLE}{fields}")).unwrap();
        let record = records.first().unwrap();
        assert_eq!((record.partition_key(), record.arrival_ms), (None, None), "{fields}");
        assert_eq!(record.data, b"hi");
    }
}

#[test]
fn times_are_exact() {
    for (text, ms) in [
        ("1441215410", 1_441_215_410_000),
        ("1441215410.8", 1_441_215_410_800),
        ("1441215410.867", 1_441_215_410_867),
        ("1441215410.867000", 1_441_215_410_867),
        ("1.441215410867E9", 1_441_215_410_867),
        ("1.44E+9", 1_440_000_000_000),
        ("144121541086700e-5", 1_441_215_410_867),
        ("0", 0),
        ("0.001", 1),
    ] {
        let records = one(&format!("{WHOLE},\"ApproximateArrivalTimestamp\":{text}"));
        assert_eq!(records.unwrap().first().unwrap().arrival_ms, Some(ms), "{text}");
    }
}

/// Wrong or merely unusual: none of it is decided here.
#[test]
fn anything_else_is_left_to_the_strict_parser() {
    let whole = format!("{{{WHOLE}}}");
    for body in [
        String::new(),
        "{}".into(),
        "[]".into(),
        "null".into(),
        r#"{"NextShardIterator":"it"}"#.into(),
        r#"{"Records":null}"#.into(),
        r#"{"Records":{}}"#.into(),
        r#"{"Records":[null]}"#.into(),
        r#"{"Records":[{}]}"#.into(),
        r#"{"Records":[],"Records":[]}"#.into(),
        r#"{"Records":[],"\u0052ecords":[]}"#.into(),
        r#"{"Records":[]}}"#.into(),
        r#"{"Records":[],}"#.into(),
        r#"{"Records":[],"a":01}"#.into(),
        "{\"Records\":[],\"a\":\"\u{1}\"}".into(),
        r#"{"Records":[],"a":"\ud800"}"#.into(),
        format!("{{\"Records\":[{whole},]}}"),
        format!("{{\"Records\":[{whole}{whole}]}}"),
        reply(r#"{"Data":"aGk="}"#),
        reply(r#"{"SequenceNumber":"1"}"#),
        reply(r#"{"Data":null,"SequenceNumber":"1"}"#),
        reply(r#"{"Data":"aGk=","SequenceNumber":"1x"}"#),
        reply(r#"{"Data":"aGk=","SequenceNumber":""}"#),
        reply(r#"{"Data":"aGk=","SequenceNumber":12}"#),
        reply(r#"{"Data":"a\u0047k=","SequenceNumber":"1"}"#),
        reply(&format!("{{{WHOLE},\"Data\":\"aGk=\"}}")),
        reply(&format!("{{{WHOLE},\"New\":{{}}}}")),
        reply(&format!("{{{WHOLE},\"EncryptionType\":1}}")),
        reply(&format!("{{{WHOLE},\"PartitionKey\":1}}")),
        reply(&format!("{{{WHOLE},\"PartitionKey\":\"\\ud800\"}}")),
        reply(&format!("{{{WHOLE},\"ApproximateArrivalTimestamp\":1.0005}}")),
        reply(&format!("{{{WHOLE},\"ApproximateArrivalTimestamp\":-1}}")),
        reply(&format!("{{{WHOLE},\"ApproximateArrivalTimestamp\":1e999}}")),
        reply(&format!("{{{WHOLE},\"ApproximateArrivalTimestamp\":1441215410867123456789}}")),
        reply(&format!("{{{WHOLE},\"ApproximateArrivalTimestamp\":\"2026-11-23\"}}")),
    ] {
        assert!(scanned(&body).is_none(), "{body}");
    }
    assert!(take(&mut b"{\"Records\":[],\"a\":\"\xff\"}".to_vec()).unwrap().is_none());
}

#[test]
fn a_payload_that_is_no_base64_is_an_error() {
    for data in ["a", "aGk", "aG k=", "####", "aGk=aGk="] {
        let body = reply(&format!("{{\"Data\":\"{data}\",\"SequenceNumber\":\"1\"}}"));
        let mut bytes = body.into_bytes();
        assert!(take(&mut bytes).is_err(), "{data}");
    }
}

/// A field of a record, or of a reply: name and value as text.
fn field(name: &str, value: Value) -> (String, String) {
    (name.into(), value.to_string())
}

/// Text with some of its characters written as escapes.
fn escaped(text: &str, mask: u32) -> String {
    let mut quoted = String::from('"');
    for (n, c) in text.chars().enumerate() {
        if mask >> (n % 32) & 1 == 1 || matches!(c, '"' | '\\' | '\0'..='\x1f') {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                quoted.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            quoted.push(c);
        }
    }
    quoted.push('"');
    quoted
}

fn object(mut fields: Vec<(String, String)>, turn: usize, blank: &str) -> String {
    let turn = turn % fields.len().max(1);
    fields.rotate_left(turn);
    let pairs: Vec<_> =
        fields.iter().map(|(name, value)| format!("\"{name}\"{blank}:{blank}{value}")).collect();
    format!("{{{blank}{}{blank}}}", pairs.join(&format!("{blank},{blank}")))
}

prop_compose! {
    fn a_record()(
        data in prop::collection::vec(any::<u8>(), 0..200),
        sequence in "[0-9]{1,140}",
        key in prop::option::of(any::<String>()),
        ms in prop::option::of(0_i64..99_999_999_999_999),
        unknown in prop::option::of(any::<String>()),
        escapes in any::<u32>(), turn in any::<usize>(), sparse in any::<bool>(),
        blank in "[ \n\t\r]{0,2}",
    ) -> (String, Records) {
        let mut fields = vec![
            field("Data", STANDARD.encode(&data).into()),
            field("SequenceNumber", sequence.as_str().into()),
        ];
        if let Some(ms) = ms {
            let time = ("ApproximateArrivalTimestamp".into(), format!("{}.{:03}", ms / 1000, ms % 1000));
            fields.push(time);
        }
        if let Some(key) = &key {
            let mask = if sparse { 0 } else { escapes };
            fields.push(("PartitionKey".into(), escaped(key, mask)));
        }
        if let Some(unknown) = unknown {
            fields.push(("Unknown".into(), escaped(&unknown, escapes)));
        }
        let key = key.as_deref().filter(|key| !key.is_empty());
        let record = Record::new(&sequence, ms, key, &data).unwrap();
        (object(fields, turn, &blank), Records::copy(&[record]).unwrap())
    }
}

prop_compose! {
    fn a_reply()(
        records in prop::collection::vec(a_record(), 0..8),
        turn in any::<usize>(), blank in "[ \n\t\r]{0,2}",
    ) -> (String, Records) {
        let (texts, records): (Vec<_>, Vec<_>) = records.into_iter().unzip();
        let fields = vec![
            ("Records".into(), format!("[{blank}{}{blank}]", texts.join(","))),
            field("MillisBehindLatest", 7.into()),
            field("NextShardIterator", "a \"quoted\" Records:[] iterator".into()),
            field("ChildShards", json!([{ "ShardId": "x", "Records": [{ "a": [1, 2.5, null] }] }])),
        ];
        (object(fields, turn, &blank), Records::copy(&records.iter().flat_map(Records::iter).collect::<Vec<_>>()).unwrap())
    }
}

proptest! {
    #[test]
    fn every_sound_reply_is_taken((body, expected) in a_reply()) {
        let (records, rest) = scanned(&body).unwrap();
        prop_assert_eq!(format!("{records:?}"), format!("{expected:?}"));
        for (record, expected) in records.iter().zip(expected.iter()) {
            prop_assert_eq!(record.sequence(), expected.sequence());
        }
        let mut whole: Value = serde_json::from_str(&body).unwrap();
        whole["Records"] = json!([]);
        prop_assert_eq!(rest, whole);
    }

    /// What is taken and decoded was JSON, whatever happened to it.
    #[test]
    fn damage_is_never_taken_for_a_reply(
        (body, _) in a_reply(), cut in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(), with in any::<u8>(),
    ) {
        let mut bytes = body.into_bytes();
        let mut part = bytes[..cut.index(bytes.len())].to_vec();
        prop_assert!(take(&mut part).unwrap().is_none());
        prop_assert_eq!(&part[..], &bytes[..part.len()], "given back as it was");
        let at = at.index(bytes.len());
        bytes[at] = with;
        let before = bytes.clone();
        match take(&mut bytes) {
            Ok(Some(layout)) => {
                let value: Value = serde_json::from_slice(&before).unwrap();
                let records = layout.records(bytes.into(), 0);
                prop_assert_eq!(value["Records"].as_array().unwrap().len(), records.len());
            }
            Ok(None) => prop_assert_eq!(bytes, before, "given back as it was"),
            Err(BadPayload(_)) => {}
        }
    }

    #[test]
    fn hostile_bodies_never_panic(mut body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = take(&mut body);
    }
}
