//! The real bootstrap binary under a stub of the Lambda Runtime API.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use catchment::clock::Clock;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::stub::{Mode, Stub};

/// What the function answered: `response` or `error`, and the body.
type Reply = (&'static str, Value);

struct Lambda {
    child: Child,
    /// Drained all the time: a function that cannot log stands still.
    log: JoinHandle<String>,
    next: mpsc::Sender<String>,
    replies: mpsc::Receiver<Reply>,
}

struct Api {
    next: Mutex<mpsc::Receiver<String>>,
    replies: mpsc::Sender<Reply>,
}

fn binary() -> String {
    std::env::var("UPLOAD_API_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_upload_api").into())
}

async fn next(State(api): State<Arc<Api>>) -> Response {
    let Some(event) = api.next.lock().await.recv().await else {
        return StatusCode::GONE.into_response();
    };
    let deadline = (Clock::system().wall() + 10_000).to_string();
    let headers = [
        ("content-type", "application/json"),
        ("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd"),
        ("lambda-runtime-deadline-ms", &deadline),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:000000000000:function:u"),
        ("lambda-runtime-trace-id", "Root=1-0-0"),
    ];
    (headers, event).into_response()
}

async fn reply(
    State(api): State<Arc<Api>>,
    Path((_, kind)): Path<(String, String)>,
    body: String,
) -> StatusCode {
    let kind = if kind == "response" { "response" } else { "error" };
    let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
    api.replies.send((kind, body)).await.unwrap();
    StatusCode::ACCEPTED
}

impl Lambda {
    async fn start(stub: &Stub, env: &[(&str, &str)]) -> Self {
        let (next_sender, next_receiver) = mpsc::channel(1);
        let (replies, replies_receiver) = mpsc::channel(1);
        let api = Arc::new(Api { next: Mutex::new(next_receiver), replies });
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{kind}", post(reply))
            .with_state(api);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut command = Command::new(binary());
        command.env_clear().kill_on_drop(true);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, value) in [
            ("AWS_LAMBDA_RUNTIME_API", address.as_str()),
            ("AWS_LAMBDA_FUNCTION_NAME", "upload"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "g"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "s"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_SESSION_TOKEN", "session"),
            ("AWS_ENDPOINT_URL", &stub.url),
            ("STREAM_NAME", "uploads"),
            ("BUCKET", "bucket"),
        ]
        .iter()
        .chain(env)
        {
            command.env(name, value);
        }
        let mut child = command.spawn().unwrap();
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let log = tokio::spawn(async move {
            let (mut log, mut errors) = (String::new(), String::new());
            let (a, b) =
                tokio::join!(out.read_to_string(&mut log), err.read_to_string(&mut errors));
            a.and(b).unwrap();
            log + &errors
        });
        Self { child, log, next: next_sender, replies: replies_receiver }
    }

    async fn invoke_raw(&mut self, event: String) -> Reply {
        self.next.send(event).await.unwrap();
        let reply = tokio::time::timeout(Duration::from_secs(20), self.replies.recv()).await;
        reply.expect("no answer in 20 s").unwrap()
    }

    /// Status, headers and body of an HTTP answer.
    async fn invoke(&mut self, event: &Value) -> (u16, Value, Value) {
        let (kind, answer) = self.invoke_raw(event.to_string()).await;
        assert_eq!(kind, "response", "{answer}");
        let body = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        let status = u16::try_from(answer["statusCode"].as_u64().unwrap()).unwrap();
        (status, answer["headers"].clone(), body)
    }

    /// Ends the function; everything it logged.
    async fn logs(mut self) -> String {
        self.child.start_kill().unwrap();
        self.log.await.unwrap()
    }
}

fn event(body: &str, base64: bool) -> Value {
    json!({
        "version": "2.0", "routeKey": "POST /uploads", "rawPath": "/uploads", "rawQueryString": "",
        "headers": {
            "content-type": "text/plain", "authorization": "Bearer eyJSECRETTOKEN",
            "x-unicode": "Grüße, 世界",
        },
        "requestContext": {
            "accountId": "000000000000", "apiId": "a", "stage": "$default",
            "requestId": "JKJaXmPLvHcESHA=", "time": "12/Mar/2026:19:03:58 +0000",
            "timeEpoch": 1_790_000_000_000_i64,
            "http": {"method": "POST", "path": "/uploads", "protocol": "HTTP/1.1",
                     "sourceIp": "127.0.0.1", "userAgent": "curl"},
            "authorizer": {"jwt": {"claims": {
                "sub": "alice-sub", "iss": "https://pool", "client_id": "web", "token_use": "access",
                "scope": "openid catchment/upload", "username": "alice", "exp": "1790000600",
                "email": "alice@example.com", "cognito:groups": "[a b]",
            }, "scopes": null}},
        },
        "body": body, "isBase64Encoded": base64,
    })
}

#[tokio::test]
async fn the_bootstrap_answers_events() {
    let stub = Stub::start().await;
    let env = [("REQUIRED_SCOPE", "catchment/upload"), ("ALLOWED_CLIENT_IDS", "web, other")];
    let mut lambda = Lambda::start(&stub, &env).await;

    let (status, headers, body) = lambda.invoke(&event("SECRETPAYLOAD", false)).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(headers["x-request-id"], "JKJaXmPLvHcESHA=");
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(body["message"], "File uploaded and event sent");
    assert!(stub.seen(|s| s.authorization.contains("Credential=AKIDEXAMPLE/")));
    assert_eq!(lambda.invoke(&event("aGVsbG8=", true)).await.0, 200);
    let bodies: Vec<_> = stub.events().into_iter().map(|e| e.body).collect();
    assert_eq!(bodies, [b"SECRETPAYLOAD".to_vec(), b"hello".to_vec()]);

    // The base64 flag lies, or the body is not there at all.
    for lie in ["not base64!", "aGVsbG8", "aGVsbG8=\n", "Grüße"] {
        let (status, _, body) = lambda.invoke(&event(lie, true)).await;
        assert_eq!((status, &body["error"]["code"]), (400, &json!("undecodable_body")), "{lie}");
    }
    assert_eq!(lambda.invoke(&event("aGVsbG8=", false)).await.0, 200, "text may look like base64");
    assert_eq!(stub.events()[2].body, b"aGVsbG8=");
    let mut none = event("", false);
    none.as_object_mut().unwrap().remove("body");
    assert_eq!(lambda.invoke(&none).await.2["error"]["code"], "empty_body");
    let (status, _, body) = lambda.invoke(&event(&"a".repeat(785_638), false)).await;
    assert_eq!((status, &body["error"]["code"]), (413, &json!("too_large")));
    assert_eq!(lambda.invoke(&event(&"a".repeat(6_000_000), false)).await.0, 413);

    // No claims, other client, no scope.
    let mut open = event("x", false);
    open["requestContext"]["authorizer"] = Value::Null;
    let (status, _, body) = lambda.invoke(&open).await;
    assert_eq!((status, &body["error"]["request_id"]), (401, &json!("JKJaXmPLvHcESHA=")));
    for (claim, value) in [("client_id", "stranger"), ("scope", "openid")] {
        let mut other = event("x", false);
        other["requestContext"]["authorizer"]["jwt"]["claims"][claim] = json!(value);
        assert_eq!(lambda.invoke(&other).await.0, 403);
    }
    // 10 KB header values, a named stage, a hostile request id.
    let mut strange = event("x", false);
    strange["headers"]["x-long"] = json!("x".repeat(10_240));
    strange["requestContext"]["stage"] = json!("prod");
    strange["rawPath"] = json!("/prod/uploads");
    strange["requestContext"]["requestId"] = json!("a\r\nset-cookie: b");
    let (status, headers, _) = lambda.invoke(&strange).await;
    assert_eq!(status, 200);
    assert_eq!(headers["x-request-id"].as_str().unwrap().len(), 36);
    strange["headers"]["content-type"] = json!("x".repeat(10_240));
    assert_eq!(lambda.invoke(&strange).await.0, 400);
    strange["rawPath"] = json!("/elsewhere");
    assert_eq!(lambda.invoke(&strange).await.0, 404);

    stub.set(Mode::Denied);
    let (status, _, body) = lambda.invoke(&event("x", false)).await;
    assert_eq!((status, &body["error"]["code"]), (500, &json!("internal")));
    stub.set(Mode::Throttled);
    let (status, headers, _) = lambda.invoke(&event("x", false)).await;
    assert_eq!((status, &headers["retry-after"]), (503, &json!("2")));
    stub.set(Mode::Up);

    // An event of another shape is an error of the invocation, and the next one works.
    let (kind, _) = lambda.invoke_raw(json!({"Records": []}).to_string()).await;
    assert_eq!(kind, "error");
    assert_eq!(lambda.invoke(&event("x", false)).await.0, 200);

    let log = lambda.logs().await;
    for secret in ["SECRETPAYLOAD", "eyJSECRETTOKEN", "alice@example.com", "alice-sub", "secret"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
    let lines: Vec<Value> = log
        .lines()
        .filter(|l| l.starts_with('{'))
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let line = lines.iter().find(|l| l["status"] == 200).expect("a line per request");
    assert_eq!(line["request_id"], "JKJaXmPLvHcESHA=");
    assert_eq!((&line["bytes"], &line["attempts"]), (&json!(13), &json!(1)));
    assert!(lines.iter().any(|l| l["status"] == 500 && l["level"] == "ERROR"));
}

#[tokio::test]
async fn the_bootstrap_says_what_is_missing() {
    let stub = Stub::start().await;
    for (name, value, complaint) in [
        ("STREAM_NAME", " ", "STREAM_NAME or STREAM_ARN"),
        ("AWS_REGION", "", "AWS_REGION"),
        ("MAX_RECORD_BYTES", "1MB", "MAX_RECORD_BYTES must be"),
    ] {
        let mut lambda = Lambda::start(&stub, &[(name, value)]).await;
        assert!(!lambda.child.wait().await.unwrap().success());
        let said = lambda.log.await.unwrap();
        assert!(said.contains(complaint), "{said}");
    }
}

/// Prints what a caller pays: run by `.ci/lambda_numbers.sh` with the release binary.
#[tokio::test]
#[ignore = "prints measurements"]
async fn numbers() {
    let stub = Stub::start().await;
    let mut starts = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        let mut lambda = Lambda::start(&stub, &[]).await;
        assert_eq!(lambda.invoke(&event("x", false)).await.0, 200);
        starts.push(began.elapsed());
        lambda.logs().await;
    }
    report("process start to first answer", &mut starts);
    let mut lambda = Lambda::start(&stub, &[]).await;
    for (name, size) in [("1 KB", 1 << 10), ("100 KB", 100 << 10), ("700 KB", 700 << 10)] {
        let upload = event(&"a".repeat(size), false);
        let mut with_put = Vec::new();
        for _ in 0..200 {
            let began = Instant::now();
            assert_eq!(lambda.invoke(&upload).await.0, 200);
            with_put.push(began.elapsed());
        }
        report(
            &format!("warm, {name} body, stub Runtime API and stub Kinesis included"),
            &mut with_put,
        );
    }
    let mut empty = Vec::new();
    for _ in 0..200 {
        let began = Instant::now();
        assert_eq!(lambda.invoke(&event("", false)).await.0, 400);
        empty.push(began.elapsed());
    }
    report("warm, refused before PutRecord (the stub Runtime API's own share)", &mut empty);
    println!("the handler's own share, from its log lines (took_ms - put_ms):");
    let log = lambda.logs().await;
    let lines: Vec<Value> = log.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    for (name, size) in [("1 KB", 1 << 10), ("100 KB", 100 << 10), ("700 KB", 700 << 10)] {
        let mut own: Vec<Duration> = lines
            .iter()
            .filter(|l| l["status"] == 200 && l["bytes"] == size)
            .map(|l| (l["took_ms"].as_f64().unwrap() - l["put_ms"].as_f64().unwrap()) / 1000.0)
            .map(Duration::from_secs_f64)
            .collect();
        assert_eq!(own.len(), 200);
        report(&format!("  {name} body"), &mut own);
    }
}

fn report(what: &str, all: &mut [Duration]) {
    all.sort();
    let ms = |part: usize| all[(all.len() - 1) * part / 100].as_secs_f64() * 1000.0;
    println!("{what}: p50 {:.2} ms, p95 {:.2} ms, max {:.2} ms", ms(50), ms(95), ms(100));
}
