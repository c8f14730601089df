use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use crate::aws::kinesis::Kinesis;
use crate::aws::records::tests::{Canned, asking, now, shown};
use crate::budget::Budget;
use crate::clock::{Clock, Jitter};
use crate::fault::Fault;
use crate::ids::ShardId;
use crate::metrics::registry::Metrics;
use crate::stream::eventstream::write;
use crate::stream::pacing::PaceLimits;
use crate::stream::position::StartAt;
use crate::worker::reader::context::ReaderDeps;
use crate::worker::reader::fan_out::FanOut;

const CONSUMER: &str = "arn:aws:kinesis:eu-west-1:123456789012:stream/s/consumer/c:1";

fn message(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in headers {
        bytes.push(u8::try_from(name.len()).unwrap());
        bytes.extend(name.as_bytes());
        bytes.push(7);
        bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        bytes.extend(value.as_bytes());
    }
    write(&bytes, payload)
}

fn event(kind: &str, payload: &[u8]) -> Vec<u8> {
    let headers = [(":content-type", "application/json"), (":event-type", kind)];
    message(&[headers[0], headers[1], (":message-type", "event")], payload)
}

fn initial() -> Vec<u8> {
    event("initial-response", b"{}")
}

/// An event of so many records.
fn records(first: usize, count: usize) -> Vec<u8> {
    let records: Vec<_> = (first..first + count)
        .map(|n| {
            json!({"ApproximateArrivalTimestamp": 1_772_003_600.25, "Data": "aGVsbG8=",
                "PartitionKey": format!("key {n}"), "SequenceNumber": n.to_string()})
        })
        .collect();
    let payload = json!({"ContinuationSequenceNumber": "9", "MillisBehindLatest": 7,
        "Records": records});
    event("SubscribeToShardEvent", payload.to_string().as_bytes())
}

fn exception(kind: &str, payload: &[u8]) -> Vec<u8> {
    message(&[(":exception-type", kind), (":message-type", "exception")], payload)
}

/// What a subscription brings, to its end: pages, whether each was taken by us, and the error.
async fn brought(kinesis: &Kinesis) -> (Vec<(String, bool)>, Option<(Fault, String)>) {
    let shard = ShardId::new("shardId-000000000000");
    let mut pages = Vec::new();
    let opened = kinesis.subscribe(CONSUMER, &shard, &StartAt::TrimHorizon).await;
    let mut open = match opened {
        Ok(open) => open,
        Err(error) => return (pages, Some((error.fault, error.code))),
    };
    loop {
        match open.next().await {
            Ok(Some(page)) => pages.push((shown(&page), !page.strict)),
            Ok(None) => return (pages, None),
            Err(error) => return (pages, Some((error.fault, error.code))),
        }
    }
}

/// What both parsers make of a body in pieces of this size; how many pages were ours, of how many,
/// and the error.
fn same(body: &[u8], piece: usize) -> (usize, usize, Option<Fault>) {
    let (kinesis, _) = asking(vec![Canned::of(200, body, piece)]);
    now(async {
        let (pages, error) = brought(&kinesis).await;
        let (strict, other) = brought(&kinesis.strict()).await;
        let texts = |pages: &[(String, bool)]| -> Vec<String> {
            pages.iter().map(|(text, _)| text.clone()).collect()
        };
        assert_eq!(texts(&pages), texts(&strict));
        // Where a connection fails and where a message does are the same to whoever reads.
        assert_eq!(error, other);
        assert!(strict.iter().all(|(_, ours)| !ours));
        let ours = pages.iter().filter(|(_, ours)| *ours).count();
        (ours, pages.len(), error.map(|(fault, _)| fault))
    })
}

#[test]
fn both_parsers_read_the_same() {
    let children = json!({"Records": [], "MillisBehindLatest": 0, "ChildShards": [
        {"ShardId": "s-1", "ParentShards": ["s-0"],
         "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "9"}}]});
    let body = [
        initial(),
        records(1, 3),
        event("SomethingNew", b"{}"),
        records(4, 0),
        // The kind of form that only the SDK's parser takes.
        event(
            "SubscribeToShardEvent",
            br#"{"ContinuationSequenceNumber":"9","MillisBehindLatest":7,"Records":
                [{"Data":"aGk=","SequenceNumber":"5","PartitionKey":"k","Deep":{"x":[1]}}]}"#,
        ),
        records(6, 2),
        event("SubscribeToShardEvent", children.to_string().as_bytes()),
    ]
    .concat();
    for piece in [1, 2, 7, 11, 12, 13, 100, 333, usize::MAX] {
        assert_eq!(same(&body, piece), (4, 5, None), "in pieces of {piece}");
    }
    // Without the initial response.
    assert_eq!(same(&[records(1, 2), records(3, 1)].concat(), 50), (2, 2, None));
    assert_eq!(same(b"", 1), (0, 0, None));
}

#[test]
fn what_ends_a_subscription_is_the_sdks_to_tell() {
    let begun = [initial(), records(1, 2)].concat();
    for (end, fault) in [
        (
            exception("ResourceNotFoundException", br#"{"__type":"ResourceNotFoundException"}"#),
            Fault::NotFound,
        ),
        (exception("InternalFailureException", br#"{"message":"sorry"}"#), Fault::Unavailable),
        (exception("SomethingNew", b"{}"), Fault::Unavailable),
        (message(&[(":message-type", "error"), (":error-code", "x")], b""), Fault::Unavailable),
        (b"no message at all".to_vec(), Fault::Unavailable),
        (vec![0; 40], Fault::Unavailable),
        (event("SubscribeToShardEvent", b"no json"), Fault::Unavailable),
        (records(3, 9)[..99].to_vec(), Fault::Unavailable),
        (records(3, 9)[..5].to_vec(), Fault::Unavailable),
    ] {
        let body = [begun.clone(), end].concat();
        for piece in [1, 9, usize::MAX] {
            assert_eq!(same(&body, piece), (1, 1, Some(fault)), "{body:?}");
        }
    }
    // Before anything else.
    let end = exception("ResourceInUseException", br#"{"__type":"ResourceInUseException"}"#);
    assert_eq!(same(&end, 9), (0, 0, Some(Fault::Unavailable)));
    // A payload that is no base64.
    let bad = event(
        "SubscribeToShardEvent",
        br#"{"ContinuationSequenceNumber":"9","MillisBehindLatest":7,"Records":
            [{"Data":"????","SequenceNumber":"5","PartitionKey":"k"}]}"#,
    );
    let body = [begun, bad, records(9, 1)].concat();
    assert_eq!(same(&body, 64), (1, 1, Some(Fault::Unavailable)));
}

/// Whether nothing at all comes, or nothing after the first message or in the midst of one.
#[test]
fn silence_ends_a_subscription() {
    for body in [vec![], initial(), [initial(), records(1, 2)[..50].to_vec()].concat()] {
        now(async {
            let mut silent = Canned::of(200, &body, 9);
            silent.hangs = true;
            let metrics = Arc::new(Metrics::new("s", false));
            let means = ReaderDeps {
                kinesis: asking(vec![silent]).0,
                arn: "arn:aws:kinesis:eu-west-1:123456789012:stream/s".into(),
                consumer: None,
                retention: crate::worker::reader::context::Retention::new(86_400_000),
                pace: PaceLimits {
                    idle: Duration::ZERO,
                    calls_per_second: 1.0,
                    bytes_per_second: 1.0,
                },
                page_records: 1,
                budget: Budget::new(1 << 20),
                clock: Clock::system(),
                jitter: Jitter::system(),
                metrics: Arc::clone(&metrics),
            };
            let shard = ShardId::new("shardId-000000000000");
            let mut push = FanOut::new(CONSUMER.into());
            // Virtual time: it ends by itself, or not at all.
            assert!(push.next(&means, &shard, &StartAt::TrimHorizon).await.is_none());
            let told = metrics.render();
            assert!(
                told.contains("subscriptions_total{result=\"silent\",stream=\"s\"} 1"),
                "{told}"
            );
            assert!(means.clock.now() >= Duration::from_secs(35));
        });
    }
}

#[test]
fn refusals_stay_the_sdks() {
    now(async {
        let refusal = br#"{"__type":"ResourceInUseException","message":"young"}"#;
        let (kinesis, _) = asking(vec![Canned::of(400, refusal, 9)]);
        let (pages, error) = brought(&kinesis).await;
        assert!(pages.is_empty());
        assert_eq!(error, Some((Fault::Unavailable, "ResourceInUseException".into())));
    });
}

/// The SDK would hand over the zero value: no records, or nothing behind. Whoever believed that
/// would pass over what the event held.
#[test]
fn an_event_that_lost_a_field_is_a_failure() {
    for lost in [
        json!({}),
        json!({"ContinuationSequenceNumber": "9", "MillisBehindLatest": 7}),
        json!({"ContinuationSequenceNumber": "9", "Records": []}),
    ] {
        let lost = event("SubscribeToShardEvent", lost.to_string().as_bytes());
        let body = [initial(), records(1, 2), lost, records(3, 1)].concat();
        let (kinesis, _) = asking(vec![Canned::of(200, &body, 50)]);
        let (pages, error) = now(brought(&kinesis));
        assert_eq!(pages.len(), 1, "what came before it stays");
        assert_eq!(error.map(|(fault, _)| fault), Some(Fault::Unavailable));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn both_parsers_read_the_same_of_anything(
        counts in prop::collection::vec(0_usize..5, 0..5), piece in 1_usize..400,
    ) {
        let events = counts.iter().enumerate().map(|(n, count)| records(n * 10, *count));
        let body = [initial()].into_iter().chain(events).collect::<Vec<_>>().concat();
        prop_assert_eq!(same(&body, piece), (counts.len(), counts.len(), None));
    }

    #[test]
    fn both_parsers_agree_on_damage(
        at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>(),
        piece in 1_usize..400,
    ) {
        let mut body = [initial(), records(1, 2), records(3, 1)].concat();
        let at = at.index(body.len());
        body[at] = with;
        if cut {
            body.truncate(at);
        }
        same(&body, piece);
    }
}
