//! S3 over a directory of plain files.

mod api;
mod body;
mod chunked;
mod fields;
mod files;
mod keys;
mod listing;
mod multipart;
mod multipart_api;

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH};
use axum::http::{HeaderValue, Request, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use s3s::service::{S3Service, S3ServiceBuilder};

use self::chunked::Trailers;
use super::LocalError;
use crate::clock::{Clock, Jitter};
use crate::task::Tasks;

/// The S3 service.
pub(super) struct LocalObjects {
    service: S3Service,
}

impl LocalObjects {
    /// Serves the buckets under `root`.
    pub(super) fn open(
        root: &Path,
        region: &str,
        tasks: &Tasks,
        clock: &Clock,
        jitter: &Jitter,
    ) -> Result<Self, LocalError> {
        let api = api::Api {
            files: Arc::new(files::Files::open(root)?),
            region: region.to_owned(),
            clock: clock.clone(),
            jitter: jitter.clone(),
            tasks: tasks.clone(),
        };
        Ok(Self { service: S3ServiceBuilder::new(api).build() })
    }

    /// Answers one request.
    pub(super) async fn handle(&self, request: Request<Body>) -> Response {
        let (mut parts, body) = request.into_parts();
        // Without a key store the protocol layer refuses every signature: take them off.
        parts.headers.remove(AUTHORIZATION);
        if let Some(uri) = unsigned(&parts.uri) {
            parts.uri = uri;
        }
        let mut body = body;
        if is_chunked(&parts.headers) {
            let trailers = Trailers::default();
            parts.extensions.insert(trailers.clone());
            take_chunking_off(&mut parts.headers);
            let wire = body.into_data_stream().map_err(std::io::Error::other);
            body = Body::from_stream(chunked::decode(wire, trailers));
        }
        let request = Request::from_parts(parts, s3s::Body::http_body_unsync(body));
        match self.service.call(request).await {
            Ok(response) => response.map(Body::new),
            Err(error) => {
                let error: Box<dyn std::error::Error + Send + Sync> = error.into();
                tracing::error!(%error, "S3 request failed");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

fn is_chunked(headers: &axum::http::HeaderMap) -> bool {
    let streaming = headers
        .get("x-amz-content-sha256")
        .is_some_and(|value| value.as_bytes().starts_with(b"STREAMING-"));
    streaming || encodings(headers).any(|name| name.eq_ignore_ascii_case("aws-chunked"))
}

fn encodings(headers: &axum::http::HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

/// Makes the headers those of the decoded body, as S3 stores them.
fn take_chunking_off(headers: &mut axum::http::HeaderMap) {
    let kept: Vec<_> =
        encodings(headers).filter(|name| !name.eq_ignore_ascii_case("aws-chunked")).collect();
    let kept = HeaderValue::from_str(&kept.join(",")).ok().filter(|value| !value.is_empty());
    headers.remove(CONTENT_ENCODING);
    if let Some(kept) = kept {
        headers.insert(CONTENT_ENCODING, kept);
    }
    headers.remove(CONTENT_LENGTH);
    if let Some(length) = headers.remove("x-amz-decoded-content-length") {
        headers.insert(CONTENT_LENGTH, length);
    }
}

/// The URI without a presigned signature; `None` when it has none.
fn unsigned(uri: &Uri) -> Option<Uri> {
    const SIGNATURE: [&str; 7] = [
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
        "X-Amz-Security-Token",
    ];
    let query = uri.query()?;
    if !query.contains("X-Amz-Signature=") {
        return None;
    }
    let kept: Vec<_> = query
        .split('&')
        .filter(|pair| !SIGNATURE.contains(&pair.split('=').next().unwrap_or_default()))
        .collect();
    let path = uri.path();
    let target =
        if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) };
    target.parse().ok()
}
