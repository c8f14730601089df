//! Errors of the AWS JSON protocols.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// An error in the AWS JSON protocols.
pub(super) fn error(status: StatusCode, kind: &str, message: &str) -> Response {
    let body = serde_json::json!({ "__type": kind, "message": message }).to_string();
    (status, [("content-type", "application/x-amz-json-1.1"), ("x-amzn-errortype", kind)], body)
        .into_response()
}
