//! The issuer's endpoints.

use std::sync::Arc;

use axum::extract::{Form, State as Shared};
use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::authorize::{IssuerHandle, authorize, login, login_page};
use super::grants::{Exchange, Grant};
use super::{IssuerState, REFRESH_SECONDS};
use crate::local::door::gateway_jwt;

pub(super) fn router(state: Arc<IssuerState>) -> Router {
    let pool = &state.options.pool;
    Router::new()
        .route("/oauth2/authorize", get(authorize))
        .route("/login", get(login_page).post(login))
        .route("/oauth2/token", post(token).options(preflight))
        .route("/oauth2/revoke", post(revoke).options(preflight))
        .route("/oauth2/userInfo", get(user_info).post(user_info).options(preflight))
        .route("/.well-known/jwks.json", get(jwks))
        .route("/.well-known/openid-configuration", get(discovery))
        .route(&format!("/{pool}/.well-known/jwks.json"), get(jwks))
        .route(&format!("/{pool}/.well-known/openid-configuration"), get(discovery))
        .layer(middleware::map_response(headers))
        .with_state(state)
}

/// Tokens are for any page that holds a code; pages are for no frame and run no script.
async fn headers(mut response: Response) -> Response {
    for (name, value) in [
        ("cache-control", "no-store"),
        ("access-control-allow-origin", "*"),
        // With `no-referrer` a browser would send `Origin: null` along with the login form.
        ("referrer-policy", "same-origin"),
        ("x-content-type-options", "nosniff"),
        (
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn preflight() -> Response {
    let allow = [
        ("access-control-allow-methods", "GET, POST"),
        ("access-control-allow-headers", "authorization, content-type"),
    ];
    (StatusCode::NO_CONTENT, allow).into_response()
}

#[derive(Deserialize)]
struct TokenRequest {
    grant_type: Option<String>,
    client_id: Option<String>,
    code: Option<String>,
    redirect_uri: Option<String>,
    code_verifier: Option<String>,
    refresh_token: Option<String>,
}

fn oauth_error(error: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({"error": error}))).into_response()
}

async fn token(Shared(state): IssuerHandle, Form(asked): Form<TokenRequest>) -> Response {
    let client_id = asked.client_id.unwrap_or_default();
    if client_id != state.options.client_id {
        return oauth_error("invalid_client");
    }
    let now = state.seconds();
    let (grant, refresh) = match asked.grant_type.as_deref() {
        Some("authorization_code") => {
            let refresh = state.jitter.secret();
            let exchange = Exchange {
                code: asked.code.as_deref().unwrap_or_default(),
                client_id: &client_id,
                redirect_uri: asked.redirect_uri.as_deref().unwrap_or_default(),
                verifier: asked.code_verifier.as_deref(),
            };
            let expires = now + REFRESH_SECONDS;
            let redeemed = state.grants().redeem(now, exchange, refresh.clone(), expires);
            (redeemed, Some(refresh))
        }
        Some("refresh_token") => {
            let token = asked.refresh_token.unwrap_or_default();
            (state.grants().refresh(now, &token, &client_id), None)
        }
        _ => return oauth_error("unsupported_grant_type"),
    };
    let grant = match grant {
        Ok(grant) => grant,
        Err(reason) => {
            tracing::info!(%reason, "invalid_grant");
            return oauth_error("invalid_grant");
        }
    };
    match answer(&state, &grant, refresh) {
        Ok(tokens) => Json(tokens).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn answer(
    state: &IssuerState,
    grant: &Grant,
    refresh: Option<String>,
) -> Result<Value, super::KeyTrouble> {
    let mut tokens = json!({
        "access_token": state.key.sign(&state.access_claims(grant))?,
        "token_type": "Bearer",
        "expires_in": state.options.token_seconds,
    });
    if grant.scopes.iter().any(|s| s == "openid") {
        tokens["id_token"] = json!(state.key.sign(&state.id_claims(grant))?);
    }
    if let Some(refresh) = refresh {
        tokens["refresh_token"] = json!(refresh);
    }
    Ok(tokens)
}

#[derive(Deserialize)]
struct Revocation {
    token: String,
    client_id: Option<String>,
}

async fn revoke(Shared(state): IssuerHandle, Form(asked): Form<Revocation>) -> Response {
    let client_id = asked.client_id.unwrap_or_default();
    if client_id != state.options.client_id {
        return oauth_error("invalid_client");
    }
    state.grants().revoke(&asked.token, &client_id);
    StatusCode::OK.into_response()
}

async fn user_info(Shared(state): IssuerHandle, headers: HeaderMap) -> Response {
    let policy = gateway_jwt::Policy {
        issuer: state.issuer_url(),
        audience: vec![state.options.client_id.clone()],
    };
    let claims = gateway_jwt::identity(&headers)
        .and_then(|token| gateway_jwt::verify(token, &state.key.jwks(), &policy, state.seconds()));
    let Ok(claims) = claims else {
        let scheme = [(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")];
        return (StatusCode::UNAUTHORIZED, scheme, Json(json!({"error": "invalid_token"})))
            .into_response();
    };
    let username = claims["username"].as_str().unwrap_or_default();
    let Some(user) = state.user(username).filter(|_| claims["token_use"] == "access") else {
        return oauth_error("invalid_token");
    };
    Json(json!({
        "sub": claims["sub"], "username": username,
        "email": user.email, "email_verified": "true",
    }))
    .into_response()
}

async fn jwks(Shared(state): IssuerHandle) -> Response {
    Json(state.key.jwks()).into_response()
}

async fn discovery(Shared(state): IssuerHandle) -> Response {
    let (issuer, origin) = (state.issuer_url(), &state.origin);
    Json(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{origin}/oauth2/authorize"),
        "token_endpoint": format!("{origin}/oauth2/token"),
        "revocation_endpoint": format!("{origin}/oauth2/revoke"),
        "userinfo_endpoint": format!("{origin}/oauth2/userInfo"),
        "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": state.options.scopes,
        "token_endpoint_auth_methods_supported": ["none"],
    }))
    .into_response()
}
