//! A proxy in front of the embedded services that can be told to misbehave.
//!
//! Workers are pointed at it by `AWS_ENDPOINT_URL`. Rules decide per request, may be changed while
//! it runs, and count what they did, so that a test waits for an effect instead of a time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Method, Request, Response, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, TryStreamExt};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use catchment::ids::SequenceNumber;

use crate::support::Running;

/// What happens to a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Nothing; it is only counted.
    Pass,
    /// Nothing; its body is kept when it comes in, and again when it is answered.
    Record(Arc<Mutex<Vec<Moment>>>),
    /// Refused with this status and error code, in the form of the service; nothing is done.
    Refuse(u16, &'static str),
    /// S3 says that the bucket lives in another region.
    Elsewhere(&'static str),
    /// It is done, and the connection closed instead of an answer.
    LoseReply,
    /// Of the answer only so many pieces come through, then the connection breaks.
    Cut(usize),
    /// The first such request is answered; the others get its answer again, however old.
    Stale(Arc<Mutex<Option<(HeaderMap, Bytes)>>>),
    /// It hangs for so long, and is done then, whether its client still waits or not.
    Hang(Duration),
    /// It is done, and the date of the reply is this many seconds later.
    Later(i64),
    /// A GetRecords in CBOR is answered in CBOR, for services that speak JSON only.
    Cbor {
        /// Parts of a second in which times are told: 1000 is right.
        unit: f64,
        /// Half of the answer comes through, then the connection breaks.
        cut: bool,
    },
    /// Records before this one are gone from the reply of GetRecords, as if retention had passed
    /// them.
    Trim(SequenceNumber),
}

/// A request comes in or is answered.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    /// Path and query.
    pub(crate) target: String,
    pub(crate) body: Bytes,
    pub(crate) answered: bool,
}

/// Which requests a fault applies to.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// `Kinesis.GetRecords`, `DynamoDB.UpdateItem`, `S3.PutObject`; a `*` at the end stands for
    /// anything.
    operation: String,
    /// Text that the request's body contains.
    body: String,
    fault: Fault,
    /// Every n-th matching request.
    every: usize,
    /// The first matching requests pass.
    spared: usize,
    seen: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
}

impl Rule {
    pub(crate) fn new(operation: &str, fault: Fault) -> Self {
        Self {
            operation: operation.to_owned(),
            body: String::new(),
            fault,
            every: 1,
            spared: 0,
            seen: Arc::default(),
            done: Arc::default(),
        }
    }

    pub(crate) fn with_body(self, body: &str) -> Self {
        Self { body: body.to_owned(), ..self }
    }

    pub(crate) fn every(self, every: usize) -> Self {
        Self { every, ..self }
    }

    pub(crate) fn after(self, spared: usize) -> Self {
        Self { spared, ..self }
    }

    /// How many requests it met with its fault.
    pub(crate) fn hits(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    fn applies(&self, operation: &str, body: &[u8]) -> bool {
        let named = match self.operation.strip_suffix('*') {
            Some(prefix) => operation.starts_with(prefix),
            None => operation == self.operation,
        };
        let worded = self.body.is_empty() || String::from_utf8_lossy(body).contains(&self.body);
        if !named || !worded {
            return false;
        }
        let seen = self.seen.fetch_add(1, Ordering::Relaxed);
        let hit = seen >= self.spared && (seen - self.spared).is_multiple_of(self.every);
        if hit {
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        hit
    }
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    calls: BTreeMap<String, usize>,
}

/// A running proxy; ends when dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _runtime: Runtime,
}

impl Proxy {
    /// In front of these services.
    pub(crate) fn start(services: &Running) -> Self {
        let endpoint = services.environment.iter().find(|(name, _)| name == "AWS_ENDPOINT_URL");
        let upstream = endpoint.unwrap().1.strip_prefix("http://").unwrap().parse().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(&state);
        let handle = runtime.handle().clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let service = service_fn(move |request| {
                    let state = Arc::clone(&state);
                    async move { answer(&state, upstream, request).await }
                });
                handle.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, state, _runtime: runtime }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a rule; the first that applies to a request decides.
    pub(crate) fn add(&self, rule: Rule) -> Rule {
        self.state.lock().unwrap().rules.push(rule.clone());
        rule
    }

    /// Forgets all rules.
    pub(crate) fn heal(&self) {
        self.state.lock().unwrap().rules.clear();
    }

    /// Every operation seen so far.
    pub(crate) fn operations(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.keys().cloned().collect()
    }

    /// Requests of one operation so far, refused ones included.
    pub(crate) fn calls(&self, operation: &str) -> usize {
        self.state.lock().unwrap().calls.get(operation).copied().unwrap_or(0)
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn answer(
    state: &Mutex<State>,
    upstream: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Failed> {
    let operation = operation(&request);
    let is_head = request.method() == Method::HEAD;
    let (mut head, body) = request.into_parts();
    // Read to the end also when it is refused: a client that is still sending does not listen.
    let body = to_bytes(Body::new(body), usize::MAX).await?;
    let fault = {
        let mut state = state.lock().unwrap();
        *state.calls.entry(operation.clone()).or_default() += 1;
        // The body of an object says nothing.
        let words: &[u8] = if operation.starts_with("S3.") { b"" } else { &body };
        state.rules.iter().find(|r| r.applies(&operation, words)).map(|r| r.fault.clone())
    };
    head.headers.remove(header::EXPECT);
    let kept = body.clone();
    let request = Request::from_parts(head, Body::from(body));
    match fault {
        None | Some(Fault::Pass) => forward(upstream, request).await,
        Some(Fault::Record(log)) => {
            let target = request.uri().to_string();
            let moment = |answered| Moment { target: target.clone(), body: kept.clone(), answered };
            log.lock().unwrap().push(moment(false));
            let reply = forward(upstream, request).await;
            log.lock().unwrap().push(moment(true));
            reply
        }
        Some(Fault::Refuse(status, code)) => refuse(&operation, is_head, status, code),
        Some(Fault::Elsewhere(region)) => Ok(Response::builder()
            .status(301)
            .header("x-amz-bucket-region", region)
            .body(Body::empty())?),
        Some(Fault::LoseReply) => {
            let reply = forward(upstream, request).await?;
            to_bytes(reply.into_body(), usize::MAX).await?;
            Err("the reply is lost".into())
        }
        Some(Fault::Cut(pieces)) => {
            let (head, body) = forward(upstream, request).await?.into_parts();
            let broken = futures::stream::once(async { Err("cut".into()) });
            let some = body.into_data_stream().map_err(Failed::from).take(pieces).chain(broken);
            Ok(Response::from_parts(head, Body::from_stream(some)))
        }
        Some(Fault::Stale(kept)) => {
            let old = kept.lock().unwrap().clone();
            let (headers, body) = match old {
                Some(old) => old,
                None => {
                    let (head, body) = forward(upstream, request).await?.into_parts();
                    let new = (head.headers, to_bytes(body, usize::MAX).await?);
                    kept.lock().unwrap().get_or_insert(new).clone()
                }
            };
            let mut reply = Response::new(Body::from(body));
            *reply.headers_mut() = headers;
            Ok(reply)
        }
        Some(Fault::Hang(time)) => {
            // A task of its own: the connection goes, and its futures, when the client gives up.
            let late = async move {
                tokio::time::sleep(time).await;
                forward(upstream, request).await
            };
            tokio::runtime::Handle::current().spawn(late).await?
        }
        Some(Fault::Later(seconds)) => {
            let mut reply = forward(upstream, request).await?;
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
            let at = DateTime::from_secs(i64::try_from(now.as_secs())? + seconds);
            let date = at.fmt(Format::HttpDate)?;
            reply.headers_mut().insert(header::DATE, date.parse()?);
            Ok(reply)
        }
        Some(Fault::Cbor { unit, cut }) => in_cbor(upstream, request, &kept, unit, cut).await,
        Some(Fault::Trim(before)) => trim(forward(upstream, request).await?, &before).await,
    }
}

/// `Kinesis.GetRecords`, `S3.PutObject` and so on.
fn operation(request: &Request<Incoming>) -> String {
    let target = request.headers().get("x-amz-target").and_then(|v| v.to_str().ok());
    if let Some((service, operation)) = target.and_then(|t| t.split_once('.')) {
        return format!("{}.{operation}", service.split('_').next().unwrap_or_default());
    }
    let path = request.uri().path().trim_matches('/');
    let query = request.uri().query().unwrap_or_default();
    let asks = |name: &str| query.split('&').any(|p| p.split('=').next() == Some(name));
    let on_object = path.contains('/');
    let name = match (request.method().as_str(), on_object) {
        ("HEAD", false) => "HeadBucket",
        ("HEAD", true) => "HeadObject",
        ("GET", false) => "ListObjectsV2",
        ("GET", true) => "GetObject",
        ("PUT", true) if asks("uploadId") => "UploadPart",
        ("PUT", true) => "PutObject",
        ("POST", true) if asks("uploads") => "CreateMultipartUpload",
        ("POST", true) => "CompleteMultipartUpload",
        ("DELETE", true) if asks("uploadId") => "AbortMultipartUpload",
        _ => "Other",
    };
    format!("S3.{name}")
}

fn refuse(
    operation: &str,
    is_head: bool,
    status: u16,
    code: &str,
) -> Result<Response<Body>, Failed> {
    let reply = Response::builder().status(status).header("x-amzn-requestid", "proxy");
    if is_head {
        return Ok(reply.body(Body::empty())?);
    }
    let body = if operation.starts_with("S3.") {
        format!("<Error><Code>{code}</Code><Message>by the proxy</Message></Error>")
    } else {
        serde_json::json!({ "__type": code, "message": "by the proxy" }).to_string()
    };
    Ok(reply.body(Body::from(body))?)
}

async fn forward(upstream: SocketAddr, request: Request<Body>) -> Result<Response<Body>, Failed> {
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let (mut send, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::runtime::Handle::current().spawn(connection);
    Ok(send.send_request(request).await?.map(Body::new))
}

async fn in_cbor(
    upstream: SocketAddr,
    request: Request<Body>,
    body: &[u8],
    unit: f64,
    cut: bool,
) -> Result<Response<Body>, Failed> {
    let asked: Value = ciborium::from_reader(body)?;
    let (mut head, _) = request.into_parts();
    head.headers.insert(header::CONTENT_TYPE, "application/x-amz-json-1.1".parse()?);
    head.headers.remove(header::CONTENT_LENGTH);
    let request = Request::from_parts(head, Body::from(asked.to_string()));
    let (mut head, body) = forward(upstream, request).await?.into_parts();
    let page: Value = serde_json::from_slice(&to_bytes(body, usize::MAX).await?)?;
    let mut told = Vec::new();
    ciborium::into_writer(&cbor(&page, "", unit)?, &mut told)?;
    head.headers.insert(header::CONTENT_TYPE, "application/x-amz-cbor-1.1".parse()?);
    head.headers.insert(header::CONTENT_LENGTH, told.len().into());
    if cut {
        told.truncate(told.len() / 2);
        let broken = futures::stream::iter([Ok(Bytes::from(told)), Err(Failed::from("cut"))]);
        return Ok(Response::from_parts(head, Body::from_stream(broken)));
    }
    Ok(Response::from_parts(head, Body::from(told)))
}

/// A part of a reply, as the other protocol has it.
fn cbor(value: &Value, name: &str, unit: f64) -> Result<ciborium::Value, Failed> {
    Ok(match value {
        Value::String(text) if name == "Data" => ciborium::Value::Bytes(STANDARD.decode(text)?),
        Value::Number(seconds) if name == "ApproximateArrivalTimestamp" => {
            let time = seconds.as_f64().unwrap_or_default() * unit;
            ciborium::Value::Tag(1, Box::new((time.round() as i64).into()))
        }
        Value::Array(items) => {
            let items = items.iter().map(|item| cbor(item, "", unit));
            ciborium::Value::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| Ok((name.as_str().into(), cbor(value, name, unit)?)));
            ciborium::Value::Map(fields.collect::<Result<_, Failed>>()?)
        }
        other => ciborium::Value::serialized(other)?,
    })
}

async fn trim(reply: Response<Body>, before: &SequenceNumber) -> Result<Response<Body>, Failed> {
    let (mut head, body) = reply.into_parts();
    let body = to_bytes(body, usize::MAX).await?;
    let mut page: Value = serde_json::from_slice(&body)?;
    if let Some(records) = page["Records"].as_array_mut() {
        records.retain(|record| {
            let sequence = record["SequenceNumber"].as_str().unwrap_or_default();
            SequenceNumber::parse(sequence).is_ok_and(|sequence| sequence >= *before)
        });
    }
    head.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(head, Body::from(Bytes::from(serde_json::to_vec(&page)?))))
}
