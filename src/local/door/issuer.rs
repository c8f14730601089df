//! A development OpenID Connect issuer with the endpoints and token shapes of Amazon Cognito.
//!
//! Authorization code with or without PKCE (S256), refresh tokens, RS256. Keys, codes and tokens
//! live as long as the process. It listens on loopback, and it is not for production.

mod authorize;
pub mod grants;
pub mod keys;
mod pages;
mod routes;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::grants::{Grant, Grants};
use self::keys::{KeyTrouble, SigningKey};
use super::loopback;
use crate::clock::{Clock, Jitter};
use crate::task::{Handle, Tasks};

/// Somebody who can log in.
#[derive(Debug, Clone)]
pub struct IssuerUser {
    /// Login name.
    pub username: String,
    /// Password, in clear: these are development users.
    pub password: String,
    /// Address in the id token.
    pub email: String,
}

/// How the issuer looks.
#[derive(Debug, Clone)]
pub struct IssuerOptions {
    /// The user pool id, part of the issuer's address.
    pub pool: String,
    /// The one app client.
    pub client_id: String,
    /// Where a browser may be sent back to; compared exactly.
    pub redirect_uris: Vec<String>,
    /// Scopes the client may have; all of them when it names none.
    pub scopes: Vec<String>,
    /// Who can log in.
    pub users: Vec<IssuerUser>,
    /// Life of a code in seconds.
    pub code_seconds: i64,
    /// Life of access and id tokens in seconds.
    pub token_seconds: i64,
}

impl Default for IssuerOptions {
    fn default() -> Self {
        Self {
            pool: "local_catchment".into(),
            client_id: "catchment-local".into(),
            redirect_uris: vec!["http://localhost:3000/".into(), "http://localhost:3000".into()],
            scopes: ["openid", "email", "profile", "catchment/upload"].map(str::to_owned).into(),
            users: vec![IssuerUser {
                username: "dev".into(),
                password: "catchment".into(),
                email: "dev@example.com".into(),
            }],
            code_seconds: 300,
            token_seconds: 3600,
        }
    }
}

const REFRESH_SECONDS: i64 = 30 * 24 * 3600;

/// A running issuer.
pub struct Issuer {
    state: Arc<IssuerState>,
    server: Handle<()>,
}

struct IssuerState {
    options: IssuerOptions,
    /// `http://127.0.0.1:PORT`.
    origin: String,
    key: SigningKey,
    grants: Mutex<Grants>,
    clock: Clock,
    jitter: Jitter,
}

impl Issuer {
    /// Starts on a bound loopback listener.
    ///
    /// # Errors
    /// When no key can be made or the listener is broken.
    pub async fn start(
        listener: TcpListener,
        options: IssuerOptions,
        tasks: &Tasks,
        clock: Clock,
        jitter: Jitter,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let key = tasks
            .compute(SigningKey::generate)
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        let state = Arc::new(IssuerState {
            origin: format!("http://127.0.0.1:{}", listener.local_addr()?.port()),
            options,
            key,
            grants: Mutex::default(),
            clock,
            jitter,
        });
        let router = routes::router(state.clone());
        let server = loopback::serve(tasks, "issuer", listener, router, stop);
        Ok(Self { state, server })
    }

    /// The `iss` of its tokens; discovery and keys are served below it.
    pub fn issuer_url(&self) -> String {
        self.state.issuer_url()
    }

    /// Where login and token endpoints are.
    pub fn origin(&self) -> &str {
        &self.state.origin
    }

    /// Signs any claims with the issuer's key: for tests of those who verify.
    ///
    /// # Errors
    /// [`KeyTrouble`].
    pub fn sign(&self, claims: &Value) -> Result<String, KeyTrouble> {
        self.state.key.sign(claims)
    }

    /// The id of the signing key.
    pub fn kid(&self) -> &str {
        self.state.key.kid()
    }

    /// Waits for the server to end, after its token was cancelled.
    pub async fn stopped(self) {
        let _ = self.server.await;
    }
}

impl IssuerState {
    fn issuer_url(&self) -> String {
        format!("{}/{}", self.origin, self.options.pool)
    }

    fn seconds(&self) -> i64 {
        self.clock.wall().div_euclid(1000)
    }

    fn grants(&self) -> MutexGuard<'_, Grants> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn user(&self, username: &str) -> Option<&IssuerUser> {
        self.options.users.iter().find(|u| u.username == username)
    }

    /// A stable identity per user name, so that uploads stay theirs across restarts.
    fn subject(&self, username: &str) -> String {
        crate::upload::event::idempotent_id(&self.options.pool, username).to_string()
    }

    fn access_claims(&self, grant: &Grant) -> Value {
        let now = self.seconds();
        json!({
            "sub": self.subject(&grant.username),
            "iss": self.issuer_url(),
            "client_id": grant.client_id,
            "token_use": "access",
            "scope": grant.scopes.join(" "),
            "auth_time": grant.auth_time,
            "iat": now,
            "exp": now + self.options.token_seconds,
            "jti": self.jitter.uuid().to_string(),
            "origin_jti": self.jitter.uuid().to_string(),
            "version": 2,
            "username": grant.username,
        })
    }

    fn id_claims(&self, grant: &Grant) -> Value {
        let now = self.seconds();
        let email = self.user(&grant.username).map(|u| u.email.as_str());
        let mut claims = json!({
            "sub": self.subject(&grant.username),
            "iss": self.issuer_url(),
            "aud": grant.client_id,
            "token_use": "id",
            "auth_time": grant.auth_time,
            "iat": now,
            "exp": now + self.options.token_seconds,
            "jti": self.jitter.uuid().to_string(),
            "cognito:username": grant.username,
        });
        if grant.scopes.iter().any(|s| s == "email") {
            claims["email"] = json!(email);
            claims["email_verified"] = json!(true);
        }
        if let Some(nonce) = &grant.nonce {
            claims["nonce"] = json!(nonce);
        }
        claims
    }
}
