//! One port for the three services: every request goes where its headers say.

use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use hyper::body::Incoming;

use super::dynamodb::LocalTables;
use super::json_error::error;
use super::kinesis::Streams;
use super::s3::LocalObjects;
use crate::task::Tasks;

/// Largest JSON request: 500 records of base64 text plus their keys fit well.
const MAX_JSON: usize = 32 * 1024 * 1024;

/// The three services behind one port.
pub(super) struct AwsGateway {
    pub(super) streams: Streams,
    pub(super) tables: LocalTables,
    pub(super) objects: LocalObjects,
    pub(super) tasks: Tasks,
    /// The directories, until the last connection is gone.
    pub(super) _locks: Vec<std::fs::File>,
}

impl AwsGateway {
    /// What a request asks for; `S3` for everything of S3.
    pub(super) fn operation(request: &Request<Incoming>) -> String {
        let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok());
        target.map_or("S3", |target| target.rsplit('.').next().unwrap_or(target)).to_owned()
    }

    pub(super) async fn handle(&self, request: Request<Incoming>) -> Response {
        let request = request.map(Body::new);
        let target = request
            .headers()
            .get("x-amz-target")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        if let Some(operation) = target.strip_prefix("Kinesis_20131202.") {
            let cbor = request
                .headers()
                .get("content-type")
                .is_some_and(|value| value.as_bytes().starts_with(b"application/x-amz-cbor"));
            match collect(request).await {
                Ok(body) => self.to_streams(operation.to_owned(), cbor, body).await,
                Err(refusal) => refusal,
            }
        } else if let Some(operation) = target.strip_prefix("DynamoDB_20120810.") {
            match collect(request).await {
                Ok(body) => self.tables.handle(operation, body).await,
                Err(refusal) => refusal,
            }
        } else if target.is_empty() {
            self.objects.handle(request).await
        } else {
            error(
                StatusCode::BAD_REQUEST,
                "UnknownOperationException",
                &format!("`{target}` is not served here: only Kinesis, DynamoDB and S3 are"),
            )
        }
    }

    /// In a task of its own: a client that hangs up must not stop a write between the log and
    /// the store.
    async fn to_streams(&self, operation: String, cbor: bool, body: Bytes) -> Response {
        let streams = self.streams.clone();
        let work = async move { streams.handle(&operation, cbor, &body).await };
        match self.tasks.spawn("local-kinesis", work).detached().await {
            Ok(response) => response,
            Err(_) => error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "InternalFailure",
                "the request died in the local Kinesis; this is a bug",
            ),
        }
    }
}

async fn collect(request: Request<Body>) -> Result<Bytes, Response> {
    axum::body::to_bytes(request.into_body(), MAX_JSON).await.map_err(|e| {
        error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "SerializationException",
            &format!("the request is over {MAX_JSON} bytes or broke off: {e}"),
        )
    })
}
