//! Answers of one shape.

use lambda_http::Body;
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpResponse;
use lambda_http::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use lambda_http::http::{HeaderMap, HeaderValue};
use serde::Serialize;
use serde_json::json;

/// The header that names the request.
pub(super) const REQUEST_ID: &str = "x-request-id";

/// An error as the caller sees it.
#[derive(Debug)]
pub(super) struct ProblemReply {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) retry_after: Option<u64>,
    pub(super) allow: Option<&'static str>,
}

impl ProblemReply {
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None, allow: None }
    }

    /// 503, with the moment to come back.
    pub(super) fn later(code: &'static str, message: &str, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..Self::new(503, code, message) }
    }

    pub(super) fn answer(&self, request_id: &str) -> ApiGatewayV2httpResponse {
        let body = json!({"error": {
            "code": self.code, "message": self.message, "request_id": request_id,
        }});
        let mut response = answer(self.status, request_id, body.to_string());
        if let Some(seconds) = self.retry_after {
            response.headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(methods) = self.allow {
            response.headers.insert(ALLOW, HeaderValue::from_static(methods));
        }
        response
    }
}

/// A JSON answer.
pub(super) fn answer(status: u16, request_id: &str, json: String) -> ApiGatewayV2httpResponse {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, id);
    }
    let mut response = ApiGatewayV2httpResponse::default();
    response.status_code = i64::from(status);
    response.headers = headers;
    response.body = Some(Body::Text(json));
    response
}

/// The answer to an upload, fields in the documented order.
#[derive(Serialize)]
pub(super) struct Uploaded<'a> {
    pub(super) message: &'a str,
    pub(super) file_key: &'a str,
}

/// The answer to a look-up.
#[derive(Serialize)]
pub(super) struct ReplyLook<'a> {
    pub(super) status: &'a str,
    pub(super) file_key: &'a str,
    pub(super) size: i64,
    pub(super) sha256: Option<&'a str>,
}

/// JSON text.
pub(super) fn text(answer: &impl Serialize) -> String {
    // Text and numbers cannot fail to become JSON.
    serde_json::to_string(answer).unwrap_or_default()
}
