//! How often the path of a record allocates: counted, not measured, so it is the same on every
//! machine. A binary of its own, because an allocator serves a whole process.
//!
//! From the pieces of a reply's body through the real SDK client to the batch. What is left are the
//! SDK's own allocations for each call, some hundreds however many records come with it; so small
//! and large replies are compared, and full ones are counted as they are.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::alloc::System;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region, SharedHttpClient};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use catchment::aws::kinesis::Kinesis;
use catchment::delivery::batch::{BatchLimits, OpenBatch};
use catchment::delivery::recipe::Recipe;
use catchment::delivery::settings::{Format, Settings};
use catchment::ids::ShardId;
use catchment::metrics::registry::Metrics;
use catchment::stream::Records;
use catchment::stream::cbor::CONTENT_TYPE;
use catchment::stream::eventstream::write;
use catchment::stream::position::StartAt;
use catchment::stream::wire::WireFormat;
use ciborium::Value;
use http_body::{Body, Frame};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region as Counted, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Answers every request with the same body, in pieces as a connection would bring it.
#[derive(Clone, Debug)]
struct Canned(Bytes, WireFormat);

const PIECE: usize = 256 << 10;

impl HttpConnector for Canned {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let response = http::Response::builder()
            .status(200)
            .header("content-length", self.0.len())
            .header(
                "content-type",
                match self.1 {
                    WireFormat::Json => "application/x-amz-json-1.1",
                    WireFormat::Cbor => CONTENT_TYPE,
                },
            )
            .body(SdkBody::from_body_1_x(Pieces(self.0.clone())))
            .unwrap();
        HttpConnectorFuture::ready(Ok(HttpResponse::try_from(response).unwrap()))
    }
}

impl HttpClient for Canned {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

struct Pieces(Bytes);

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let length = self.0.len().min(PIECE);
        let piece = self.0.split_to(length);
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }
}

fn kinesis(body: Bytes, wire: WireFormat) -> Kinesis {
    let metrics = Arc::new(Metrics::new("events", false));
    let kinesis = Kinesis::new(aws_sdk_kinesis::Client::from_conf(
        aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
            .http_client(SharedHttpClient::new(Canned(body, wire)))
            .retry_config(RetryConfig::disabled())
            .build(),
    ));
    kinesis.with_wire_format(wire, &metrics)
}

const CONSUMER: &str = "arn:aws:kinesis:eu-west-1:123456789012:stream/events/consumer/archive:1";
const ARN: &str = "arn:aws:kinesis:eu-west-1:123456789012:stream/events";

/// A reply with `count` records of `size` bytes, as the service writes it.
fn reply(count: usize, size: usize) -> Bytes {
    let records: Vec<_> = (0..count)
        .map(|n| {
            format!(
                "{{\"ApproximateArrivalTimestamp\":1.79541750{:04}E9,\"Data\":\"{}\",\
                 \"PartitionKey\":\"key {n}\",\
                 \"SequenceNumber\":\"4959033827149025660855969253836157109592157598913{n:07}\"}}",
                n % 10_000,
                STANDARD.encode(format!("{:size$}", n)),
            )
        })
        .collect();
    let body = format!(
        "{{\"MillisBehindLatest\":1000,\"NextShardIterator\":\"next\",\"Records\":[{}]}}",
        records.join(",")
    );
    body.into()
}

/// The same in CBOR.
fn reply_in_cbor(count: usize, size: usize) -> Bytes {
    let records = (0..count).map(|n| {
        Value::Map(vec![
            (
                "ApproximateArrivalTimestamp".into(),
                Value::Tag(1, Box::new((1_795_417_500_000 + n as u64 % 10_000).into())),
            ),
            ("Data".into(), Value::Bytes(format!("{:size$}", n).into_bytes())),
            ("EncryptionType".into(), "KMS".into()),
            ("PartitionKey".into(), format!("key {n}").into()),
            (
                "SequenceNumber".into(),
                format!("4959033827149025660855969253836157109592157598913{n:07}").into(),
            ),
        ])
    });
    let page = Value::Map(vec![
        ("MillisBehindLatest".into(), 1000.into()),
        ("NextShardIterator".into(), "next".into()),
        ("Records".into(), Value::Array(records.collect())),
    ]);
    let mut body = Vec::new();
    ciborium::into_writer(&page, &mut body).unwrap();
    body.into()
}

/// A subscription's body: so many events of such a reply.
fn events(reply: &Bytes, count: usize) -> Bytes {
    let mut headers = Vec::new();
    for (name, value) in [(":message-type", "event"), (":event-type", "SubscribeToShardEvent")] {
        headers.push(u8::try_from(name.len()).unwrap());
        headers.extend(name.as_bytes());
        headers.extend([7, 0, u8::try_from(value.len()).unwrap()]);
        headers.extend(value.as_bytes());
    }
    let reply = std::str::from_utf8(reply).unwrap();
    let event = reply.replace("NextShardIterator", "ContinuationSequenceNumber");
    write(&headers, event.as_bytes()).repeat(count).into()
}

fn open(format: Format) -> OpenBatch {
    let settings = Settings { format, ..Settings::new("archive", "events") };
    let recipe = Arc::new(Recipe::new(Arc::new(settings)).unwrap());
    OpenBatch::new(recipe, ShardId::new("shardId-000000000000"), 0, None)
}

/// Before things have settled, and after.
const WARM: usize = 3;
const ROUNDS: usize = 10;

/// Allocations per pushed event, once things have settled.
async fn steady_events(reply: &Bytes, count: usize) -> f64 {
    let kinesis = kinesis(events(reply, WARM + ROUNDS), WireFormat::Json);
    let shard = ShardId::new("shardId-000000000000");
    let mut open = kinesis.subscribe(CONSUMER, &shard, &StartAt::TrimHorizon).await.unwrap();
    let mut counted = Counted::new(COUNTING);
    for round in 0..WARM + ROUNDS {
        if round == WARM {
            counted.reset();
        }
        let page = open.next().await.unwrap().unwrap();
        assert!(page.records.len() == count && !page.strict);
    }
    let found = counted.change();
    assert!(open.next().await.unwrap().is_none());
    (found.allocations + found.reallocations) as f64 / ROUNDS as f64
}

/// Allocations and bytes allocated per call, once things have settled.
async fn steady(kinesis: &Kinesis, count: usize, mut each: impl FnMut(Records)) -> (f64, f64) {
    let mut counted = Counted::new(COUNTING);
    for round in 0..WARM + ROUNDS {
        if round == WARM {
            counted.reset();
        }
        let page = kinesis.get_records(ARN, "iterator", 10_000).await.unwrap();
        assert_eq!(page.records.len(), count);
        each(page.records);
    }
    let found = counted.change();
    let rounds = ROUNDS as f64;
    (
        (found.allocations + found.reallocations) as f64 / rounds,
        found.bytes_allocated as f64 / rounds,
    )
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn records_cost_no_allocation_of_their_own() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(async {
        for (size, few, many) in [(100, 1000, 10_000), (1000, 200, 4000), (10_000, 20, 400)] {
            let difference = (many - few) as f64;
            let json = [reply(few, size), reply(many, size)];
            let cbor = [reply_in_cbor(few, size), reply_in_cbor(many, size)];
            for (wire, bodies) in [(WireFormat::Cbor, cbor), (WireFormat::Json, json.clone())] {
                let [small, large] = bodies.map(|body| kinesis(body, wire));
                let (call, _) = steady(&small, few, drop).await;
                let (calls, bytes) = steady(&large, many, drop).await;
                let each = (calls - call) / difference;
                println!(
                    "{size} B: read in {wire:?}, {each:.4} allocations per record and {call:.0} \
                     per call"
                );
                assert!(each < 0.01, "reading records of {size} in {wire:?}: {each} allocations");
                assert!(many < 10_000 || calls / (many as f64) < 0.05, "{calls} in a full reply");
                // The list of where records stand, and what the SDK allocates. No copy of the payload:
                // buffers are used again.
                let lists = (many * 64) as f64;
                let room = lists + (many * size) as f64 / 10.0 + 200_000.0;
                assert!(bytes < room, "records of {size} in {wire:?}: {bytes} bytes of {room}");
            }
            let event = steady_events(&json[0], few).await;
            let each = (steady_events(&json[1], many).await - event) / difference;
            println!("{size} B: pushed, {each:.4} allocations per record and {event:.0} per event");
            assert!(each < 0.02, "records of {size} as they are pushed: {each} allocations each");
            let [small, large] = json.map(|body| kinesis(body, WireFormat::Json));

            for format in [Format::Ndjson, Format::Envelope] {
                let mut batch = open(format);
                let mut fill = |mut records: Records| {
                    assert!(batch.fill(&mut records, &BatchLimits::NONE).unwrap().is_none());
                };
                let (call, _) = steady(&small, few, &mut fill).await;
                let (calls, _) = steady(&large, many, &mut fill).await;
                let each = (calls - call) / difference;
                println!("{size} B: read, encoded as {format}, {each:.4} allocations per record");
                assert!(each < 0.05, "{format} of {size}: {each} allocations for each record");
            }
            // The counter counts: the SDK's own parser allocates text and payload of each.
            let (call, _) = steady(&small.strict(), few, drop).await;
            let (calls, _) = steady(&large.strict(), many, drop).await;
            let each = (calls - call) / difference;
            println!("{size} B: read by the SDK's parser, {each:.4} allocations per record");
            assert!(each > 2.0, "only {each} allocations by the SDK");
        }
    });
}
