//! Authorization and login: from a client's wish to a code.

use std::sync::Arc;

use axum::extract::{Form, Query, RawQuery, State as Shared};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::grants::Grant;
use super::{IssuerState, pages};

pub(super) type IssuerHandle = Shared<Arc<IssuerState>>;

#[derive(Deserialize)]
pub(super) struct Authorization {
    response_type: Option<String>,
    client_id: Option<String>,
    redirect_uri: Option<String>,
    scope: Option<String>,
    state: Option<String>,
    nonce: Option<String>,
    code_challenge: Option<String>,
    code_challenge_method: Option<String>,
}

/// A request that may go on: its redirect is known to be the client's own.
struct AcceptedLogin {
    redirect_uri: String,
    scopes: Vec<String>,
}

impl Authorization {
    /// Checks what was asked. `Err` is the answer to give instead.
    fn accept(&self, state: &IssuerState) -> Result<AcceptedLogin, Box<Response>> {
        let options = &state.options;
        let page = |why: &str| {
            Box::new((StatusCode::BAD_REQUEST, Html(pages::refusal(why))).into_response())
        };
        if self.client_id.as_deref() != Some(options.client_id.as_str()) {
            return Err(page("The app client is not known here (client_id)."));
        }
        let redirect_uri = self.redirect_uri.clone().unwrap_or_default();
        if !options.redirect_uris.contains(&redirect_uri) {
            return Err(page("The app client is not registered with this redirect_uri."));
        }
        let back = |error: &str| Box::new(self.back(&redirect_uri, &[("error", error)]));
        if self.response_type.as_deref() != Some("code") {
            return Err(back("unsupported_response_type"));
        }
        let method = self.code_challenge_method.as_deref();
        match (self.code_challenge.as_deref(), method) {
            (None, None) => {}
            (Some(challenge), Some("S256")) if challenge.len() == 43 => {}
            _ => return Err(back("invalid_request")),
        }
        let scopes: Vec<String> = match self.scope.as_deref().unwrap_or_default().trim() {
            "" => options.scopes.clone(),
            some => some.split_whitespace().map(str::to_owned).collect(),
        };
        if !scopes.iter().all(|s| options.scopes.contains(s)) {
            return Err(back("invalid_scope"));
        }
        Ok(AcceptedLogin { redirect_uri, scopes })
    }

    fn back(&self, redirect_uri: &str, pairs: &[(&str, &str)]) -> Response {
        let mut query: Vec<(&str, &str)> = pairs.to_vec();
        if let Some(state) = &self.state {
            query.push(("state", state));
        }
        let joint = if redirect_uri.contains('?') { '&' } else { '?' };
        found(&format!("{redirect_uri}{joint}{}", form(&query)))
    }
}

/// A 302, as Cognito answers.
fn found(to: &str) -> Response {
    match HeaderValue::from_str(to) {
        Ok(location) => (StatusCode::FOUND, [(header::LOCATION, location)]).into_response(),
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

/// `application/x-www-form-urlencoded`.
fn form(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    text.push(byte.into());
                }
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    text
}

pub(super) async fn authorize(
    Shared(state): IssuerHandle,
    Query(asked): Query<Authorization>,
    RawQuery(query): RawQuery,
) -> Response {
    match asked.accept(&state) {
        Err(answer) => *answer,
        Ok(_) => Redirect::to(&format!("/login?{}", query.unwrap_or_default())).into_response(),
    }
}

pub(super) async fn login_page(
    Shared(state): IssuerHandle,
    Query(asked): Query<Authorization>,
    RawQuery(query): RawQuery,
) -> Response {
    match asked.accept(&state) {
        Err(answer) => *answer,
        Ok(_) => {
            let client = &state.options.client_id;
            Html(pages::login(client, &query.unwrap_or_default(), false, "")).into_response()
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Credentials {
    username: String,
    password: String,
}

pub(super) async fn login(
    Shared(state): IssuerHandle,
    Query(asked): Query<Authorization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    Form(given): Form<Credentials>,
) -> Response {
    let accepted = match asked.accept(&state) {
        Err(answer) => return *answer,
        Ok(accepted) => accepted,
    };
    if !same_origin(&headers) {
        let page = pages::refusal("The form was sent from another site.");
        return (StatusCode::FORBIDDEN, Html(page)).into_response();
    }
    let known = state.user(&given.username).is_some_and(|u| u.password == given.password);
    if !known {
        let query = query.unwrap_or_default();
        let page = pages::login(&state.options.client_id, &query, true, &given.username);
        return (StatusCode::UNAUTHORIZED, Html(page)).into_response();
    }
    let now = state.seconds();
    let grant = Grant {
        username: given.username,
        client_id: state.options.client_id.clone(),
        scopes: accepted.scopes,
        nonce: asked.nonce.clone(),
        auth_time: now,
    };
    let code = state.jitter.secret();
    state.grants().issue(
        code.clone(),
        grant,
        accepted.redirect_uri.clone(),
        asked.code_challenge.clone(),
        now + state.options.code_seconds,
    );
    asked.back(&accepted.redirect_uri, &[("code", &code)])
}

/// Browsers say where a form comes from; command lines do not.
fn same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let origin: Option<Uri> = origin.to_str().ok().and_then(|o| o.parse().ok());
    match origin {
        Some(origin) => origin.authority().map(|a| a.as_str()) == host,
        None => false,
    }
}
