//! An HTTP API in front of the upload handler, with a JWT authorizer.
//!
//! What it applies of Amazon API ApiGateway's rules: routes before tokens, the authorizer of
//! [`super::gateway_jwt`], CORS answered by itself, 10 MB of body, 10,240 bytes of headers, and the
//! payload format 2.0 towards the function, which runs in this process.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use lambda_http::Body as EventBody;
use lambda_http::aws_lambda_events::apigw::{
    ApiGatewayRequestAuthorizer, ApiGatewayRequestAuthorizerJwtDescription,
    ApiGatewayV2httpRequest, ApiGatewayV2httpResponse,
};
use serde_json::Value;

use super::gateway_jwt::{Denial, Policy, event_claims, identity, scopes};
use super::jwks::Authorizer;
use crate::clock::{Clock, Jitter};
use crate::front_door::handler::Handler;

const MAX_BODY_BYTES: usize = 10 * 1024 * 1024;
const MAX_HEADER_BYTES: usize = 10_240;
/// An HTTP API waits 30 s for its function; the function must answer before.
const BUDGET: Duration = Duration::from_secs(29);

/// How the gateway behaves.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    /// The authorizer.
    pub policy: Policy,
    /// Scopes demanded on every route; empty: none.
    pub route_scopes: Vec<String>,
    /// Origins of pages that may call from a browser.
    pub allow_origins: Vec<String>,
    /// The page served at `/` and `/try`; `{{nonce}}` in it becomes the request's script nonce.
    pub try_page: Option<String>,
    /// Where the page may connect to, besides here.
    pub connect_src: String,
}

struct ApiGateway {
    options: GatewayOptions,
    authorizer: Authorizer,
    handler: Handler,
    clock: Clock,
    jitter: Jitter,
}

/// The gateway as a router; the caller serves it.
///
/// # Errors
/// When the issuer is not a URL.
pub fn router(
    options: GatewayOptions,
    handler: Handler,
    clock: Clock,
    jitter: Jitter,
) -> Result<Router, axum::http::uri::InvalidUri> {
    let authorizer = Authorizer::new(options.policy.clone(), clock.clone())?;
    let gateway = ApiGateway { options, authorizer, handler, clock, jitter };
    Ok(Router::new().fallback(enter).with_state(Arc::new(gateway)))
}

async fn enter(State(gateway): State<Arc<ApiGateway>>, request: Request) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let id = URL_SAFE.encode(&gateway.jitter.uuid().as_bytes()[..11]);
    let mut response = Box::pin(gateway.answer(request, &id)).await;
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("apigw-requestid", id);
    }
    if let Some(origin) = origin.filter(|o| gateway.allows(o)) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        let expose = HeaderValue::from_static("x-request-id,retry-after");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose);
    }
    response
}

fn message(status: u16, body: &'static str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The route of a request, as it stands in the event.
fn route(method: &Method, path: &str) -> Option<&'static str> {
    let name = path.strip_prefix("/uploads/");
    match *method {
        Method::POST if path == "/" => Some("POST /"),
        Method::POST if path == "/uploads" => Some("POST /uploads"),
        Method::GET if name.is_some_and(|n| !n.is_empty() && !n.contains('/')) => {
            Some("GET /uploads/{name}")
        }
        _ => None,
    }
}

impl ApiGateway {
    fn allows(&self, origin: &HeaderValue) -> bool {
        self.options.allow_origins.iter().any(|o| origin == o.as_str())
    }

    async fn answer(&self, request: Request, id: &str) -> Response {
        let (parts, body) = request.into_parts();
        if parts.method == Method::OPTIONS && parts.headers.contains_key(header::ORIGIN) {
            return self.preflight(&parts.headers);
        }
        if parts.method == Method::GET && matches!(parts.uri.path(), "/" | "/try") {
            return self.page();
        }
        let Some(route) = route(&parts.method, parts.uri.path()) else {
            return message(404, r#"{"message":"Not Found"}"#);
        };
        let line = parts.uri.to_string().len() + parts.method.as_str().len();
        let all: usize = parts.headers.iter().map(|(n, v)| n.as_str().len() + v.len()).sum();
        if line + all > MAX_HEADER_BYTES {
            return message(431, r#"{"message":"Request Header Fields Too Large"}"#);
        }
        let (claims, scopes) = match self.authorize(&parts.headers).await {
            Ok(admitted) => admitted,
            Err(denial) => {
                tracing::info!(request_id = id, reason = %denial, "refused by the gateway");
                let (status, body) = denial.answer();
                return message(status, body);
            }
        };
        // The body is read only for callers with a good token.
        let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
            return message(413, r#"{"message":"Request Entity Too Large"}"#);
        };
        let mut event = event(&parts, route, id, &self.clock);
        let mut jwt = ApiGatewayRequestAuthorizerJwtDescription::default();
        jwt.claims = event_claims(&claims);
        jwt.scopes = (!scopes.is_empty()).then_some(scopes);
        let mut authorizer = ApiGatewayRequestAuthorizer::default();
        authorizer.jwt = Some(jwt);
        event.request_context.authorizer = Some(authorizer);
        (event.body, event.is_base64_encoded) = event_body(&parts.headers, &body);
        http_answer(self.handler.handle(event, BUDGET).await)
    }

    async fn authorize(&self, headers: &HeaderMap) -> Result<(Value, Vec<String>), Denial> {
        let claims = self.authorizer.check(identity(headers)?).await?;
        let scopes = scopes(&claims, &self.options.route_scopes)?;
        Ok((claims, scopes))
    }

    fn preflight(&self, headers: &HeaderMap) -> Response {
        let mut response = StatusCode::NO_CONTENT.into_response();
        if headers.get(header::ORIGIN).is_some_and(|o| self.allows(o)) {
            for (name, value) in [
                (header::ACCESS_CONTROL_ALLOW_METHODS, "GET,POST"),
                (
                    header::ACCESS_CONTROL_ALLOW_HEADERS,
                    "authorization,content-type,idempotency-key",
                ),
                (header::ACCESS_CONTROL_MAX_AGE, "300"),
            ] {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
        }
        response
    }

    fn page(&self) -> Response {
        let Some(page) = &self.options.try_page else {
            return message(404, r#"{"message":"Not Found"}"#);
        };
        let nonce = self.jitter.secret();
        let policy = format!(
            "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
             connect-src 'self' {}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            self.options.connect_src
        );
        let headers = [
            (header::CONTENT_SECURITY_POLICY, policy),
            (header::CACHE_CONTROL, "no-store".into()),
            (header::REFERRER_POLICY, "no-referrer".into()),
        ];
        (headers, Html(page.replace("{{nonce}}", &nonce))).into_response()
    }
}

/// The event without authorizer and body.
fn event(parts: &Parts, route: &str, id: &str, clock: &Clock) -> ApiGatewayV2httpRequest {
    let path = Some(parts.uri.path().to_owned());
    let text =
        |name: HeaderName| parts.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let mut event = ApiGatewayV2httpRequest::default();
    event.version = Some("2.0".into());
    event.route_key = Some(route.into());
    event.raw_path.clone_from(&path);
    event.raw_query_string = Some(parts.uri.query().unwrap_or_default().into());
    event.headers = joined(&parts.headers);
    let context = &mut event.request_context;
    context.route_key = Some(route.into());
    context.account_id = Some("000000000000".into());
    context.apiid = Some("local".into());
    context.stage = Some("$default".into());
    context.request_id = Some(id.into());
    context.domain_name = text(header::HOST);
    context.time_epoch = clock.wall();
    context.http.method = parts.method.clone();
    context.http.path = path;
    context.http.protocol = Some(format!("{:?}", parts.version));
    context.http.source_ip = Some("127.0.0.1".into());
    context.http.user_agent = text(header::USER_AGENT);
    event
}

/// Headers of one name become one value, joined by commas. The token is passed on, as on AWS.
fn joined(headers: &HeaderMap) -> HeaderMap {
    let mut joined = HeaderMap::with_capacity(headers.keys_len());
    for name in headers.keys() {
        let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(value) = HeaderValue::from_bytes(&values.join(&b","[..])) {
            joined.insert(name, value);
        }
    }
    joined
}

/// Text types travel as text, everything else as base64.
fn event_body(headers: &HeaderMap, body: &[u8]) -> (Option<String>, bool) {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let texty = essence.starts_with("text/")
        || matches!(
            essence.as_str(),
            "application/json" | "application/javascript" | "application/xml"
        );
    match std::str::from_utf8(body) {
        _ if body.is_empty() => (None, false),
        Ok(text) if texty => (Some(text.to_owned()), false),
        _ => (Some(STANDARD.encode(body)), true),
    }
}

fn http_answer(answer: ApiGatewayV2httpResponse) -> Response {
    let body = match answer.body {
        Some(EventBody::Text(text)) => Body::from(text),
        Some(EventBody::Binary(bytes)) => Body::from(bytes),
        _ => Body::empty(),
    };
    let mut response = Response::new(body);
    *response.status_mut() = u16::try_from(answer.status_code)
        .ok()
        .and_then(|s| StatusCode::from_u16(s).ok())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = answer.headers;
    response
}
