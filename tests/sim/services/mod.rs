//! The services: `http::Request<Bytes>` in, `http::Response<Bytes>` out, synchronously.
//!
//! A [`World`] holds one of each. DynamoDB and S3 exist twice: strict ones written here (back end
//! [`Backend::Strict`]) and two independent libraries (back end [`Backend::Libraries`]). The same
//! seed must give the same outline on both, so each checks the other. Kinesis has one only.

pub mod attr;
pub mod dynamodb;
pub mod expression;
pub mod fan_out;
pub mod kinesis;
pub mod kinesis_api;
#[cfg(feature = "local")]
pub mod libraries;
pub mod objects;
pub mod s3;
pub mod world;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

pub use world::World;

/// What every service speaks.
pub type Request = http::Request<Bytes>;
/// What every service answers.
pub type Response = http::Response<Bytes>;

/// The region and account every simulated resource lives in.
pub const REGION: &str = "us-east-1";
pub const ACCOUNT: &str = "000000000000";

/// Which implementation of DynamoDB and S3 a run uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The strict services of this directory.
    Strict,
    /// `dynoxide` and `s3s`.
    #[cfg(feature = "local")]
    Libraries,
}

/// The three services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    Kinesis,
    DynamoDb,
    S3,
}

impl Service {
    pub const ALL: [Service; 3] = [Service::Kinesis, Service::DynamoDb, Service::S3];

    /// Host names vary (account endpoints, control and data planes); the protocol does not.
    pub fn of(request: &Request) -> Self {
        match target(request) {
            Some((api, _)) if api.starts_with("Kinesis") => Service::Kinesis,
            Some((api, _)) if api.starts_with("DynamoDB") => Service::DynamoDb,
            _ => Service::S3,
        }
    }
}

/// `X-Amz-Target` split into API and operation.
pub fn target(request: &Request) -> Option<(&str, &str)> {
    request.headers().get("x-amz-target")?.to_str().ok()?.split_once('.')
}

/// The name of the operation, as in IAM: `PutItem`, `GetRecords`, `PutObject`.
pub fn operation(request: &Request) -> String {
    match target(request) {
        Some((_, operation)) => operation.to_owned(),
        None => s3::operation(request).to_owned(),
    }
}

/// A refusal: status, error code, message, further JSON fields.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    pub extra: Value,
}

impl Refusal {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), extra: json!({}) }
    }

    pub fn validation(message: impl Into<String>) -> Self {
        Self::new(400, "ValidationException", message)
    }

    /// The refusal in the dialect of a service.
    pub fn response(&self, service: Service) -> Response {
        match service {
            Service::S3 => s3_error(self.status, self.code, &self.message),
            _ => {
                let mut body = self.extra.clone();
                body["__type"] = json!(self.code);
                body["message"] = json!(self.message);
                json_response(self.status, &body)
            }
        }
    }
}

/// A JSON answer.
pub fn json_response(status: u16, body: &Value) -> Response {
    response(status, "application/x-amz-json-1.1", body.to_string())
}

/// An S3 error document.
pub fn s3_error(status: u16, code: &str, message: &str) -> Response {
    let text = message.replace('&', "&amp;").replace('<', "&lt;");
    response(
        status,
        "application/xml",
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code>\
             <Message>{text}</Message><RequestId>sim</RequestId></Error>"
        ),
    )
}

/// A response with a body.
pub fn response(status: u16, content_type: &str, body: impl Into<Bytes>) -> Response {
    http::Response::builder()
        .status(status)
        .header("content-type", content_type)
        .header("x-amzn-requestid", "sim")
        .body(body.into())
        .unwrap()
}

/// The error code of an answer, `""` for success.
pub fn error_code(response: &Response) -> String {
    if response.status().is_success() {
        return String::new();
    }
    let body = String::from_utf8_lossy(response.body());
    if let Ok(json) = serde_json::from_str::<Value>(&body) {
        let code = json["__type"].as_str().unwrap_or_default();
        return code.rsplit('#').next().unwrap_or_default().to_owned();
    }
    tag(&body, "Code").unwrap_or_default().to_owned()
}

/// The text of the first `<name>` element.
pub fn tag<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

/// Refuses request fields the simulator does not implement, instead of ignoring them.
pub fn only_fields(body: &Value, known: &[&str]) -> Result<(), Refusal> {
    match body.as_object().into_iter().flatten().find(|(k, _)| !known.contains(&k.as_str())) {
        Some((key, _)) => {
            Err(Refusal::validation(format!("the simulator knows no field {key} here")))
        }
        None => Ok(()),
    }
}

/// Throttled, in the words of the service.
pub fn throttle(service: Service, other: bool) -> Refusal {
    match service {
        Service::Kinesis => {
            Refusal::new(400, "ProvisionedThroughputExceededException", "Rate exceeded for shard")
        }
        Service::DynamoDb if other => Refusal::new(
            400,
            "ThrottlingException",
            "Rate of requests exceeds the allowed throughput",
        ),
        Service::DynamoDb => Refusal::new(
            400,
            "ProvisionedThroughputExceededException",
            "The level of configured provisioned throughput for the table was exceeded",
        ),
        Service::S3 => Refusal::new(503, "SlowDown", "Please reduce your request rate."),
    }
}

/// An internal failure, in the words of the service.
pub fn internal(service: Service, other: bool) -> Refusal {
    match service {
        Service::Kinesis => Refusal::new(500, "InternalFailure", "internal failure"),
        Service::DynamoDb => Refusal::new(500, "InternalServerError", "internal failure"),
        Service::S3 if other => Refusal::new(503, "ServiceUnavailable", "unavailable"),
        Service::S3 => Refusal::new(500, "InternalError", "internal failure"),
    }
}

/// The session token has expired, in the words of the service.
pub fn expired(service: Service) -> Refusal {
    let code = if service == Service::S3 { "ExpiredToken" } else { "ExpiredTokenException" };
    Refusal::new(400, code, "The security token included in the request is expired")
}

/// The request was signed more than 15 minutes from now.
pub fn skewed(service: Service) -> Refusal {
    match service {
        Service::S3 => Refusal::new(
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
        ),
        _ => Refusal::new(400, "InvalidSignatureException", "Signature expired"),
    }
}

/// The query of a request, decoded, in order of name.
pub fn query(request: &Request) -> BTreeMap<String, String> {
    let pairs = request.uri().query().unwrap_or_default().split('&').filter(|p| !p.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(key), percent_decode(value))
        })
        .collect()
}

/// Undoes percent encoding.
pub fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        match byte {
            b'%' => {
                let (high, low) = (hex(bytes.next()), hex(bytes.next()));
                out.push((high.unwrap_or(0) * 16 + low.unwrap_or(0)) as u8);
            }
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
