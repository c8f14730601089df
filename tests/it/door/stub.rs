//! Kinesis and S3, as little of them as the front door calls, with faults on demand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use catchment::upload::event::{Envelope, META_SHA256, META_SUBJECT};
use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Up,
    /// 400 ProvisionedThroughputExceededException.
    Throttled,
    /// 500 for everything.
    Ill,
    /// The next record is stored, but its sender is told 500.
    LoseOneReply,
    /// Takes the request and says nothing.
    Silent,
    /// The next request is throttled; then `Silent`.
    ThrottledOnce,
    Denied,
    NoStream,
    /// Refuses the record for its size.
    SmallRecords,
}

#[derive(Default)]
pub(crate) struct Seen {
    /// Partition key and data.
    pub(crate) records: Vec<(String, Vec<u8>)>,
    pub(crate) calls: usize,
    pub(crate) authorization: String,
    /// Key to (size, metadata).
    pub(crate) objects: HashMap<String, (usize, Vec<(String, String)>)>,
}

#[derive(Clone)]
pub(crate) struct Stub {
    pub(crate) url: String,
    mode: Arc<Mutex<Mode>>,
    seen: Arc<Mutex<Seen>>,
}

impl Stub {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stub = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            mode: Arc::new(Mutex::new(Mode::Up)),
            seen: Arc::default(),
        };
        let router = Router::new().fallback(answer).with_state(stub.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        stub
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    pub(crate) fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap())
    }

    pub(crate) fn events(&self) -> Vec<Envelope> {
        self.seen(|s| s.records.iter().map(|(_, data)| Envelope::parse(data).unwrap()).collect())
    }

    /// What the worker does: creates each object once.
    pub(crate) fn store_all(&self) {
        let events = self.events();
        self.seen(|seen| {
            for event in events {
                let meta = vec![
                    (META_SUBJECT.to_owned(), event.subject),
                    (META_SHA256.to_owned(), event.sha256),
                ];
                let key = event.file_key.as_str().to_owned();
                seen.objects.entry(key).or_insert((event.body.len(), meta));
            }
        });
    }
}

async fn answer(State(stub): State<Stub>, request: Request) -> Response {
    if request.method() == Method::HEAD {
        return stub.head(request.uri().path());
    }
    let target = request.headers().get("x-amz-target").unwrap().to_str().unwrap().to_owned();
    assert_eq!(target, "Kinesis_20131202.PutRecord");
    let signed = request.headers().get("authorization").unwrap().to_str().unwrap().to_owned();
    let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
    let call: Value = serde_json::from_slice(&body).unwrap();
    let fault = |status: u16, kind: &str, message: &str| {
        let body = json!({"__type": kind, "message": message}).to_string();
        let headers = [("content-type", "application/x-amz-json-1.1")];
        (StatusCode::from_u16(status).unwrap(), headers, body).into_response()
    };
    let mode = {
        let mut mode = stub.mode.lock().unwrap();
        let now = *mode;
        *mode = match now {
            Mode::LoseOneReply => Mode::Up,
            Mode::ThrottledOnce => Mode::Silent,
            _ => now,
        };
        now
    };
    stub.seen(|s| {
        s.calls += 1;
        s.authorization = signed;
    });
    match mode {
        Mode::Throttled | Mode::ThrottledOnce => {
            return fault(400, "ProvisionedThroughputExceededException", "Rate exceeded");
        }
        Mode::Ill => return fault(500, "InternalFailure", "ill"),
        Mode::Silent => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            return fault(500, "InternalFailure", "late");
        }
        Mode::Denied => return fault(400, "AccessDeniedException", "role X may not PutRecord"),
        Mode::NoStream => return fault(400, "ResourceNotFoundException", "no such stream"),
        Mode::SmallRecords => {
            return fault(400, "ValidationException", "data exceeds the record size 10240");
        }
        Mode::Up | Mode::LoseOneReply => {}
    }
    assert_eq!(call["StreamName"], "uploads");
    let data = STANDARD.decode(call["Data"].as_str().unwrap()).unwrap();
    let key = call["PartitionKey"].as_str().unwrap().to_owned();
    let number = stub.seen(|s| {
        s.records.push((key, data));
        s.records.len()
    });
    if mode == Mode::LoseOneReply {
        return fault(500, "InternalFailure", "the reply was lost");
    }
    let reply = json!({"SequenceNumber": number.to_string(), "ShardId": "shardId-000000000000"});
    ([("content-type", "application/x-amz-json-1.1")], reply.to_string()).into_response()
}

impl Stub {
    fn head(&self, path: &str) -> Response {
        match *self.mode.lock().unwrap() {
            Mode::Denied => return StatusCode::FORBIDDEN.into_response(),
            Mode::Ill => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            _ => {}
        }
        let key = path.strip_prefix("/bucket/").unwrap();
        self.seen(|s| match s.objects.get(key) {
            None => StatusCode::NOT_FOUND.into_response(),
            Some((size, meta)) => {
                let mut response = Response::builder().header("content-length", *size);
                for (name, value) in meta {
                    response = response.header(format!("x-amz-meta-{name}"), value);
                }
                response.body(Body::empty()).unwrap()
            }
        })
    }
}
