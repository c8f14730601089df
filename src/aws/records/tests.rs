use std::collections::VecDeque;
use std::future::Future;

use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::config::{Credentials, Region, SharedHttpClient};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use crate::aws::clients::behavior;
use crate::aws::kinesis::Kinesis;
use crate::fault::Fault;
use crate::stream::Page;

/// Status, headers, and the frames of a body.
#[derive(Clone, Debug)]
pub(in crate::aws) struct Canned {
    status: u16,
    pub(in crate::aws) headers: Vec<(&'static str, String)>,
    frames: VecDeque<Vec<u8>>,
    /// Nothing follows the frames, not even an end.
    pub(in crate::aws) hangs: bool,
    /// Before each frame.
    pub(in crate::aws) pause: std::time::Duration,
}

/// An answer that takes its time.
struct Paused {
    answer: Canned,
    wait: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
}

impl http_body::Body for Paused {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        let this = &mut *self;
        if !this.answer.pause.is_zero() && !this.answer.frames.is_empty() {
            let pause = this.answer.pause;
            let wait = this.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
            std::task::ready!(Future::poll(wait.as_mut(), context));
            this.wait = None;
        }
        std::pin::Pin::new(&mut this.answer).poll_frame(context)
    }
}

impl Canned {
    pub(in crate::aws) fn of(status: u16, body: &[u8], frame: usize) -> Self {
        Self {
            status,
            headers: vec![("content-length", body.len().to_string())],
            frames: body.chunks(frame.max(1)).map(<[u8]>::to_vec).collect(),
            hangs: false,
            pause: std::time::Duration::ZERO,
        }
    }
}

impl http_body::Body for Canned {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        let frame = self.frames.pop_front().map(|frame| Ok(http_body::Frame::data(frame.into())));
        if frame.is_none() && self.hangs {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(frame)
    }
}

/// Answers in turn, the last one for ever.
#[derive(Clone, Debug)]
pub(in crate::aws) struct Answers {
    left: std::sync::Arc<std::sync::Mutex<VecDeque<Canned>>>,
    /// What was asked: content type, signature, body.
    pub(in crate::aws) asked: std::sync::Arc<std::sync::Mutex<Vec<[Vec<u8>; 3]>>>,
}

impl Answers {
    pub(in crate::aws) fn of(answers: Vec<Canned>) -> Self {
        let left = std::sync::Arc::new(std::sync::Mutex::new(answers.into()));
        Self { left, asked: std::sync::Arc::default() }
    }
}

impl HttpConnector for Answers {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let header = |name| request.headers().get(name).unwrap_or_default().as_bytes().to_vec();
        let body = request.body().bytes().unwrap_or_default().to_vec();
        self.asked.lock().unwrap().push([header("content-type"), header("authorization"), body]);
        let mut answers = self.left.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        let answer = answer.unwrap();
        let mut response = http::Response::builder().status(answer.status);
        for (name, value) in &answer.headers {
            response = response.header(*name, value);
        }
        let body = super::SdkBody::from_body_1_x(Paused { answer, wait: None });
        let response = HttpResponse::try_from(response.body(body).unwrap()).unwrap();
        HttpConnectorFuture::ready(Ok(response))
    }
}

impl HttpClient for Answers {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &aws_smithy_runtime_api::client::runtime_components::RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// A client that gets these answers.
fn kinesis(answers: Vec<Canned>) -> Kinesis {
    asking(answers).0
}

/// The same, and what it asks.
pub(in crate::aws) fn asking(answers: Vec<Canned>) -> (Kinesis, Answers) {
    let answers = Answers::of(answers);
    let kinesis = Kinesis::new(aws_sdk_kinesis::Client::from_conf(
        aws_sdk_kinesis::Config::builder()
            .behavior_version(behavior())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
            .http_client(SharedHttpClient::new(answers.clone()))
            .retry_config(RetryConfig::standard().with_max_attempts(2))
            .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(PATIENCE).build())
            .build(),
    ));
    (kinesis, answers)
}

pub(in crate::aws) fn now<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(work)
}

pub(in crate::aws) async fn read(kinesis: &Kinesis) -> Result<Page, crate::fault::CallError> {
    kinesis.get_records("arn:aws:kinesis:eu-west-1:1:stream/s", "iterator", 100).await
}

/// Everything but how it was read.
pub(in crate::aws) fn shown(page: &Page) -> String {
    let Page { records, strict: _, next, behind_ms, children } = page;
    let sequences: Vec<_> = records.iter().map(|r| r.sequence()).collect();
    format!("{records:?} {sequences:?} {next:?} {behind_ms:?} {children:?}")
}

/// What both parsers make of a body; `true` if the fast path took it.
fn same(body: &[u8], frame: usize) -> bool {
    let kinesis = kinesis(vec![Canned::of(200, body, frame)]);
    now(async {
        let strict = read(&kinesis.clone().strict()).await;
        let fast = read(&kinesis).await;
        let text = String::from_utf8_lossy(body);
        match (&fast, &strict) {
            (Ok(fast), Ok(strict)) => assert_eq!(shown(fast), shown(strict), "{text}"),
            // The SDK's parser makes an empty list of one that is absent.
            (Err(fast), Ok(strict)) if fast.code == "IncompleteReply" => {
                assert!(strict.records.is_empty(), "{text}");
            }
            (Err(fast), Err(strict)) => assert_eq!(fast.fault, strict.fault, "{text}"),
            _ => panic!("{text}: {fast:?} but {strict:?}"),
        }
        fast.is_ok_and(|page| !page.strict)
    })
}

const REPLY: &str = r#"{"ChildShards":[{"ShardId":"s-1","ParentShards":["s-0"],"HashKeyRange":
    {"StartingHashKey":"0","EndingHashKey":"9"}}],"MillisBehindLatest":12,"NextShardIterator":"n",
    "Records":[{"ApproximateArrivalTimestamp":1.441215410867E9,"Data":"aGVsbG8=",
    "PartitionKey":"k\"1","SequenceNumber":"0012"},{"Data":"","SequenceNumber":"13"}]}"#;

#[test]
fn both_parsers_read_the_same() {
    assert!(same(REPLY.as_bytes(), usize::MAX));
    assert!(same(REPLY.as_bytes(), 7), "in small frames");
    assert!(same(br#"{"Records":[],"MillisBehindLatest":0}"#, 1));
    for left in [
        "",
        "{}",
        "[]",
        "no json",
        r#"{"Records":null,"NextShardIterator":"n"}"#,
        r#"{"Records":[{"Data":"aGk=","SequenceNumber":"1"}],"Records":[]}"#,
        r#"{"Records":[{"Data":"a\u0047k=","SequenceNumber":"1","Deep":{"x":[1]}}]}"#,
        r#"{"Records":[{"Data":"aGk=","SequenceNumber":"x"}]}"#,
        r#"{"Records":[{"Data":"aGk=","SequenceNumber":"1"}],"MillisBehindLatest":"x"}"#,
        r#"{"Records":[{"Data":"????","SequenceNumber":"1"}]}"#,
    ] {
        assert!(!same(left.as_bytes(), 5), "{left}");
    }
    for cut in 0..REPLY.len() {
        same(&REPLY.as_bytes()[..cut], 1000);
    }
}

#[test]
fn a_reply_that_keeps_arriving_is_waited_for() {
    now(async {
        // Twenty frames, nine seconds apart where ten are allowed: three minutes.
        let mut slow = Canned::of(200, REPLY.as_bytes(), REPLY.len() / 20);
        slow.pause = PATIENCE - std::time::Duration::from_secs(1);
        assert_eq!(read(&kinesis(vec![slow.clone()])).await.unwrap().records.len(), 2);
        slow.pause = PATIENCE + std::time::Duration::from_secs(1);
        let error = read(&kinesis(vec![slow.clone()])).await.unwrap_err();
        assert_eq!((error.fault, error.code.as_str()), (Fault::Unavailable, "Timeout"));
        assert!(error.message.contains("aws.attempt_timeout"), "{error}");
        // A reply that breaks off, and one that trickles for ever.
        let mut hangs = Canned::of(200, REPLY.as_bytes(), 50);
        hangs.frames.pop_back();
        hangs.hangs = true;
        assert_eq!(read(&kinesis(vec![hangs])).await.unwrap_err().code, "Timeout");
        let mut trickles = Canned::of(200, REPLY.as_bytes(), 1);
        trickles.pause = PATIENCE / 2;
        assert_eq!(read(&kinesis(vec![trickles])).await.unwrap_err().code, "Timeout");
    });
}

#[test]
fn errors_and_retries_stay_the_sdks() {
    let good = Canned::of(200, REPLY.as_bytes(), 100);
    let expired = br#"{"__type":"ExpiredIteratorException","message":"old"}"#;
    now(async {
        let after_500 = kinesis(vec![Canned::of(500, b"{}", 10), good.clone()]);
        let page = read(&after_500).await.unwrap();
        assert_eq!((page.records.len(), !page.strict), (2, true));
        // A reply that fails behind its records leaves nothing for the next call.
        let bad = br#"{"Records":[{"Data":"aGk=","SequenceNumber":"1"}],"MillisBehindLatest":"x"}"#;
        let after_bad = kinesis(vec![Canned::of(200, bad, 10), good.clone()]);
        assert_eq!(read(&after_bad).await.unwrap_err().fault, Fault::Unavailable);
        assert_eq!(read(&after_bad).await.unwrap().records.len(), 2);
        let error = read(&kinesis(vec![Canned::of(400, expired, 10)])).await.unwrap_err();
        assert_eq!((error.fault, error.message.as_str()), (Fault::ExpiredIterator, "old"));
        // Fewer bytes than announced.
        let mut short = good.clone();
        short.frames.pop_back();
        assert_eq!(read(&kinesis(vec![short])).await.unwrap_err().fault, Fault::Unavailable);
        // No length announced.
        let mut unknown = good;
        unknown.headers.clear();
        assert_eq!(read(&kinesis(vec![unknown])).await.unwrap().records.len(), 2);
    });
}

prop_compose! {
    /// Bodies near those of the service.
    fn a_body()(
        records in prop::collection::vec((
            prop::collection::vec(any::<u8>(), 0..60), "[0-9]{1,60}", prop::option::of(".{0,9}"),
            prop::option::of(0_i64..99_999_999_999_999), 0_usize..4,
            prop::sample::select(vec!["", ",\"New\":1", ",\"New\":[{}]", ",\"EncryptionType\":\"KMS\""]),
        ), 0..5),
        form in 0_usize..3,
    ) -> String {
        let texts: Vec<_> = records.into_iter().map(|(data, number, key, ms, turn, more)| {
            let mut fields = vec![
                format!("\"Data\":\"{}\"", STANDARD.encode(data)),
                format!("\"SequenceNumber\":\"{number}\""),
            ];
            fields.extend(key.map(|key| format!("\"PartitionKey\":{}", serde_json::json!(key))));
            fields.extend(ms.map(|ms| match form {
                0 => format!("\"ApproximateArrivalTimestamp\":{}.{:03}", ms / 1000, ms % 1000),
                1 => format!("\"ApproximateArrivalTimestamp\":{ms}e-3"),
                _ => format!("\"ApproximateArrivalTimestamp\":{:E}", ms as f64 / 1000.0),
            }));
            let turn = turn % fields.len();
            fields.rotate_left(turn);
            format!("{{{}{more}}}", fields.join(","))
        }).collect();
        let records = texts.join(",");
        format!("{{\"NextShardIterator\":\"n\",\"Records\":[{records}],\"MillisBehindLatest\":0}}")
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn both_parsers_read_the_same_of_anything(body in a_body(), frame in 1_usize..300) {
        same(body.as_bytes(), frame);
    }

    #[test]
    fn both_parsers_agree_on_damage(
        body in a_body(), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut bytes = body.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = with;
        if cut {
            bytes.truncate(at);
        }
        same(&bytes, 1000);
    }
}
