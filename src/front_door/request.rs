//! What a request brings, checked before anything is done with it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequest;

use super::reply::ProblemReply;
use crate::upload::event::is_content_type;

/// Taken when a caller names no content type.
const DEFAULT_CONTENT_TYPE: &str = "text/plain";
/// The longest `Idempotency-Key`.
const MAX_IDEMPOTENCY_KEY: usize = 255;

/// The file: decoded, not empty, at most `limit` bytes.
pub(super) fn body(event: ApiGatewayV2httpRequest, limit: usize) -> Result<Vec<u8>, ProblemReply> {
    let text = event.body.unwrap_or_default();
    let body = if event.is_base64_encoded {
        STANDARD.decode(text.as_bytes()).map_err(|_| {
            ProblemReply::new(400, "undecodable_body", "the body is not the base64 it claims to be")
        })?
    } else {
        text.into_bytes()
    };
    match body.len() {
        0 => Err(ProblemReply::new(400, "empty_body", "the body is empty; send the file as body")),
        n if n > limit => Err(too_large(limit, Some(n))),
        _ => Ok(body),
    }
}

/// HTTP APIs put the name of a stage other than `$default` before the path.
pub(super) fn within_stage<'a>(path: &'a str, stage: Option<&str>) -> &'a str {
    let Some(stage) = stage.filter(|s| !s.is_empty() && *s != "$default") else {
        return path;
    };
    match path.strip_prefix('/').and_then(|p| p.strip_prefix(stage)) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => path,
    }
}

pub(super) fn too_large(limit: usize, got: Option<usize>) -> ProblemReply {
    let got = got.map(|n| format!(", this one has {n}")).unwrap_or_default();
    ProblemReply::new(413, "too_large", format!("a file may have {limit} bytes{got}"))
}

/// The declared content type, checked; forms are refused because their body is not the file.
pub(super) fn content_type(event: &ApiGatewayV2httpRequest) -> Result<String, ProblemReply> {
    let Some(value) = event.headers.get("content-type") else {
        return Ok(DEFAULT_CONTENT_TYPE.into());
    };
    let text = value.to_str().unwrap_or_default().trim();
    if value.is_empty() {
        return Ok(DEFAULT_CONTENT_TYPE.into());
    }
    if !is_content_type(text) {
        return Err(ProblemReply::new(
            400,
            "bad_content_type",
            "content-type is not a media type of at most 256 ASCII characters",
        ));
    }
    if text.to_ascii_lowercase().starts_with("multipart/") {
        return Err(ProblemReply::new(
            415,
            "multipart_not_taken",
            "send the file itself as the body, not a form",
        ));
    }
    Ok(text.to_owned())
}

pub(super) fn idempotency_key(
    event: &ApiGatewayV2httpRequest,
) -> Result<Option<String>, ProblemReply> {
    let Some(value) = event.headers.get("idempotency-key") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text.is_empty() || text.len() > MAX_IDEMPOTENCY_KEY {
        return Err(ProblemReply::new(
            400,
            "bad_idempotency_key",
            "Idempotency-Key must have 1 to 255 printable ASCII characters",
        ));
    }
    Ok(Some(text.to_owned()))
}
