use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ciborium::Value;
use proptest::prelude::*;
use serde_json::json;

use crate::aws::kinesis::Kinesis;
use crate::aws::records::tests::{Answers, Canned, asking, now, read, shown};
use crate::fault::Fault;
use crate::metrics::registry::Metrics;
use crate::stream::cbor::CONTENT_TYPE;
use crate::stream::wire::WireFormat;

const TIME: i64 = 1_772_003_600_024;

/// A client that speaks CBOR, gets these answers, and counts.
fn client(answers: Vec<Canned>) -> (Kinesis, Answers, Arc<Metrics>) {
    let (kinesis, asked) = asking(answers);
    let metrics = Arc::new(Metrics::new("s", false));
    (kinesis.with_wire_format(WireFormat::Cbor, &metrics), asked, metrics)
}

/// The content types of what was asked, one letter each.
fn wires(answers: &Answers) -> String {
    let asked = answers.asked.lock().unwrap();
    asked.iter().map(|[kind, ..]| if kind == CONTENT_TYPE.as_bytes() { 'c' } else { 'j' }).collect()
}

fn fallbacks(metrics: &Metrics, reason: &str) -> bool {
    let text = metrics.render();
    let line = text
        .lines()
        .find(|line| line.starts_with("catchment_wire_fallbacks_total") && line.contains(reason));
    line.is_some_and(|line| !line.ends_with(" 0"))
}

fn in_cbor(status: u16, value: &serde_json::Value) -> Canned {
    let mut body = Vec::new();
    ciborium::into_writer(&cbor(value, ""), &mut body).unwrap();
    let mut canned = Canned::of(status, &body, 100);
    canned.headers.push(("content-type", CONTENT_TYPE.to_owned()));
    canned
}

fn in_json(status: u16, value: &serde_json::Value) -> Canned {
    let mut canned = Canned::of(status, value.to_string().as_bytes(), 100);
    canned.headers.push(("content-type", "application/x-amz-json-1.1".to_owned()));
    canned
}

/// The same in the words of the other protocol.
fn cbor(value: &serde_json::Value, name: &str) -> Value {
    match value {
        serde_json::Value::String(text) if name == "Data" => {
            Value::Bytes(STANDARD.decode(text).unwrap())
        }
        serde_json::Value::Number(seconds) if name == "ApproximateArrivalTimestamp" => {
            let ms = (seconds.as_f64().unwrap() * 1000.0).round();
            Value::Tag(1, Box::new((ms as i64).into()))
        }
        serde_json::Value::Array(items) => {
            Value::Array(items.iter().map(|item| cbor(item, "")).collect())
        }
        serde_json::Value::Object(fields) => Value::Map(
            fields.iter().map(|(name, value)| (name.as_str().into(), cbor(value, name))).collect(),
        ),
        other => Value::serialized(other).unwrap(),
    }
}

fn reply() -> serde_json::Value {
    json!({
        "ChildShards": [{"ShardId": "s-1", "ParentShards": ["s-0"],
            "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "9"}}],
        "MillisBehindLatest": 12,
        "NextShardIterator": "n",
        "Records": [
            {"ApproximateArrivalTimestamp": TIME as f64 / 1000.0, "Data": "aGVsbG8=",
             "EncryptionType": "KMS", "PartitionKey": "k\"1", "SequenceNumber": "0012"},
            {"Data": "", "SequenceNumber": "13"},
        ],
    })
}

#[test]
fn both_wires_read_the_same() {
    now(async {
        let (spoken, asked, metrics) = client(vec![in_cbor(200, &reply())]);
        let page = read(&spoken).await.unwrap();
        let other = read(&asking(vec![in_json(200, &reply())]).0).await.unwrap();
        assert_eq!(shown(&page), shown(&other));
        assert_eq!(page.records.first().unwrap().arrival_ms, Some(TIME));
        assert!(!page.strict);
        assert_eq!(wires(&asked), "c");
        let [_, _, body] = &asked.asked.lock().unwrap()[0];
        let body: Value = ciborium::from_reader(body.as_slice()).unwrap();
        let sent = json!({"StreamARN": "arn:aws:kinesis:eu-west-1:1:stream/s",
            "ShardIterator": "iterator", "Limit": 100});
        assert_eq!(body.as_map().unwrap().len(), 3);
        for (name, value) in cbor(&sent, "").as_map().unwrap() {
            assert!(body.as_map().unwrap().contains(&(name.clone(), value.clone())));
        }
        assert!(!fallbacks(&metrics, "reason"));
    });
}

#[test]
fn each_attempt_is_signed_for_what_it_sends() {
    now(async {
        let answers =
            vec![in_cbor(200, &reply()), in_json(500, &json!({})), in_json(200, &reply())];
        let (spoken, asked, _) = client(answers);
        // Proven: from then on an error of the server is no reason to doubt the form.
        read(&spoken).await.unwrap();
        read(&spoken).await.unwrap();
        assert_eq!(wires(&asked), "ccc");
        let asked = asked.asked.lock().unwrap();
        for [_, signature, body] in asked.iter() {
            assert!(signature.starts_with(b"AWS4-HMAC-SHA256") && body.starts_with(b"\xa3"));
            let signed = String::from_utf8_lossy(signature);
            assert!(signed.contains("content-type"), "{signed}");
        }
    });
}

#[test]
fn errors_stay_the_sdks() {
    now(async {
        for (code, fault) in [
            ("ExpiredIteratorException", Fault::ExpiredIterator),
            ("ProvisionedThroughputExceededException", Fault::Throttled),
            ("ResourceNotFoundException", Fault::NotFound),
            ("InvalidArgumentException", Fault::Invalid),
            ("AccessDeniedException", Fault::Denied),
        ] {
            let told = json!({"__type": code, "message": "so \"it\" is"});
            let mut refused = in_cbor(400, &told);
            refused.headers.push(("x-amzn-requestid", "r-1".into()));
            let (spoken, asked, metrics) = client(vec![refused]);
            let error = read(&spoken).await.unwrap_err();
            assert_eq!((error.fault, error.code.as_str()), (fault, code));
            assert_eq!(error.message, "so \"it\" is");
            assert_eq!(error.request_id.as_deref(), Some("r-1"));
            assert!(!wires(&asked).contains('j') && !fallbacks(&metrics, "refused"));
        }
    });
}

#[test]
fn who_refuses_cbor_is_asked_in_json_from_then_on() {
    let refusals = [
        Canned::of(415, b"<html>Unsupported Media Type</html>", 10),
        in_json(400, &json!({"__type": "SerializationException"})),
        in_json(400, &json!({"__type": "UnknownOperationException", "message": "what?"})),
        in_cbor(400, &json!({"__type": "UnknownOperationException"})),
        Canned::of(404, b"", 10),
    ];
    for refusal in refusals {
        now(async {
            let (spoken, asked, metrics) = client(vec![refusal, in_json(200, &reply())]);
            assert_eq!(read(&spoken).await.unwrap().records.len(), 2);
            assert_eq!(read(&spoken.clone()).await.unwrap().records.len(), 2);
            assert_eq!(wires(&asked), "cjj");
            assert!(fallbacks(&metrics, "refused"));
        });
    }
    // A server that fails on it, in both attempts of the SDK.
    now(async {
        let failed = in_json(500, &json!({"__type": "InternalFailure"}));
        let (spoken, asked, _) = client(vec![failed.clone(), failed, in_json(200, &reply())]);
        assert_eq!(read(&spoken).await.unwrap().records.len(), 2);
        read(&spoken).await.unwrap();
        assert_eq!(wires(&asked), "ccjj");
    });
}

#[test]
fn what_is_refused_in_json_too_is_no_reason_to_leave_cbor() {
    now(async {
        let strange = in_json(400, &json!({"__type": "StrangeException", "message": "no"}));
        let (spoken, asked, _) = client(vec![strange.clone(), strange, in_cbor(200, &reply())]);
        assert_eq!(read(&spoken).await.unwrap_err().code, "StrangeException");
        assert_eq!(read(&spoken).await.unwrap().records.len(), 2);
        assert_eq!(wires(&asked), "cjc");
    });
}

#[test]
fn an_answer_in_json_is_read_as_json() {
    now(async {
        let (spoken, asked, metrics) = client(vec![in_json(200, &reply())]);
        for _ in 0..3 {
            let page = read(&spoken).await.unwrap();
            assert!(page.records.len() == 2 && !page.strict);
        }
        // The kind of form that only the SDK's parser takes.
        let mut odd = reply();
        odd["Records"][0]["Deep"] = json!({"x": [1]});
        let (spoken, _, _) = client(vec![in_json(200, &odd)]);
        assert!(read(&spoken).await.unwrap().strict);
        assert_eq!(wires(&asked), "ccc");
        assert!(!fallbacks(&metrics, "reason"));
    });
}

#[test]
fn cbor_that_is_not_announced_is_read_all_the_same() {
    now(async {
        let mut unnamed = in_cbor(200, &reply());
        unnamed.headers.retain(|(name, _)| *name != "content-type");
        let (spoken, asked, _) = client(vec![unnamed]);
        assert_eq!(read(&spoken).await.unwrap().records.len(), 2);
        assert_eq!(wires(&asked), "c");
    });
}

#[test]
fn a_reply_that_cannot_be_read_is_asked_for_again_and_in_time_no_more() {
    let mut seconds = Vec::new();
    let text = |text: &str| Value::from(text);
    let record = Value::Map(vec![
        (text("Data"), Value::Bytes(vec![1])),
        (text("SequenceNumber"), text("1")),
        (text("ApproximateArrivalTimestamp"), Value::Tag(1, Box::new((TIME / 1000).into()))),
    ]);
    let page = Value::Map(vec![(text("Records"), Value::Array(vec![record]))]);
    ciborium::into_writer(&page, &mut seconds).unwrap();
    for (body, reason) in [
        (Canned::of(200, &seconds, 10), "implausible"),
        (Canned::of(200, &seconds[..seconds.len() - 1], 10), "unreadable"),
        (in_cbor(200, &json!({"NextShardIterator": "n"})), "unreadable"),
    ] {
        now(async {
            let good = in_json(200, &reply());
            let answers = [body.clone(), good.clone(), body.clone(), good.clone(), body, good];
            let (spoken, asked, metrics) = client(answers.to_vec());
            for _ in 0..6 {
                assert_eq!(read(&spoken).await.unwrap().records.len(), 2, "{reason}");
            }
            assert!(fallbacks(&metrics, reason), "{reason}");
            assert_eq!(wires(&asked), "cjcjcjjjj", "{reason}");
        });
    }
}

#[test]
fn what_only_the_sdks_parser_finds_behind_the_records_leaves_none_of_them() {
    now(async {
        let mut bad = reply();
        bad["ChildShards"] = json!([{"ShardId": 7}]);
        let bad = in_cbor(200, &bad);
        let good = in_json(200, &reply());
        let (spoken, asked, metrics) = client(vec![bad, good]);
        assert_eq!(read(&spoken).await.unwrap().records.len(), 2);
        assert_eq!(wires(&asked), "cj");
        assert!(fallbacks(&metrics, "unreadable"));
    });
}

prop_compose! {
    fn a_reply()(
        records in prop::collection::vec((
            prop::collection::vec(any::<u8>(), 0..60), "[0-9]{1,60}", prop::option::of(".{0,9}"),
            prop::option::of(1_400_000_000_000_i64..4_000_000_000_000),
        ), 0..6),
        next in prop::option::of("[a-z]{1,9}"),
        behind in prop::option::of(0_u32..9),
    ) -> serde_json::Value {
        let record = |(data, number, key, ms): (Vec<u8>, String, Option<String>, Option<i64>)| {
            let mut record = json!({"Data": STANDARD.encode(data), "SequenceNumber": number});
            if let Some(key) = key {
                record["PartitionKey"] = key.into();
            }
            if let Some(ms) = ms {
                record["ApproximateArrivalTimestamp"] = json!(ms as f64 / 1000.0);
            }
            record
        };
        let records: Vec<_> = records.into_iter().map(record).collect();
        json!({"Records": records, "NextShardIterator": next, "MillisBehindLatest": behind})
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn both_wires_read_the_same_of_anything(reply in a_reply()) {
        now(async {
            let (spoken, asked, _) = client(vec![in_cbor(200, &reply)]);
            let page = read(&spoken).await.map(|page| shown(&page)).map_err(|e| e.code);
            let other = read(&asking(vec![in_json(200, &reply)]).0.strict()).await;
            assert_eq!(page, other.map(|page| shown(&page)).map_err(|e| e.code));
            assert_eq!(wires(&asked), "c");
        });
    }
}
