//! ▶ The issuer's public keys, fetched when a token needs them.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use jsonwebtoken::jwk::JwkSet;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::gateway_jwt::{Denial, Policy, verify};
use crate::clock::Clock;

/// An unknown key id makes the keys be fetched again, but not more often than this.
const REFETCH_EVERY: Duration = Duration::from_secs(10);
const MAX_JWKS_BYTES: usize = 256 * 1024;

/// Verifies tokens against an issuer found over HTTP.
pub(super) struct Authorizer {
    policy: Policy,
    jwks_uri: Uri,
    keys: RwLock<Arc<JwkSet>>,
    /// When the last fetch was tried.
    fetched: Mutex<Option<Duration>>,
    clock: Clock,
}

impl Authorizer {
    pub(super) fn new(policy: Policy, clock: Clock) -> Result<Self, axum::http::uri::InvalidUri> {
        Ok(Self {
            jwks_uri: format!("{}/.well-known/jwks.json", policy.issuer).parse()?,
            policy,
            keys: RwLock::new(Arc::new(JwkSet { keys: vec![] })),
            fetched: Mutex::new(None),
            clock,
        })
    }

    /// The claims of a good token.
    pub(super) async fn check(&self, token: &str) -> Result<serde_json::Value, Denial> {
        let judge = |keys: &JwkSet| {
            verify(
                token,
                keys,
                &self.policy,
                self.clock.wall().div_euclid(1000),
            )
        };
        match judge(&self.keys()) {
            Err(Denial::UnknownKey) => {
                self.refetch().await;
                judge(&self.keys())
            }
            verdict => verdict,
        }
    }

    fn keys(&self) -> Arc<JwkSet> {
        self.keys
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn refetch(&self) {
        let mut fetched = self.fetched.lock().await;
        if fetched.is_some_and(|at| self.clock.now() < at + REFETCH_EVERY) {
            return;
        }
        *fetched = Some(self.clock.now());
        match tokio::time::timeout(Duration::from_secs(5), fetch(&self.jwks_uri)).await {
            Ok(Ok(keys)) => {
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
            }
            Ok(Err(error)) => tracing::warn!(%error, "the issuer's keys cannot be fetched"),
            Err(_) => tracing::warn!("the issuer's keys did not come in time"),
        }
    }
}

async fn fetch(uri: &Uri) -> Result<JwkSet, Box<dyn std::error::Error + Send + Sync>> {
    let authority = uri.authority().ok_or("no host")?.as_str();
    let stream = TcpStream::connect(authority).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream)).await?;
    let request = Request::get(uri.path())
        .header("host", authority)
        .header("connection", "close")
        .body(Body::empty())?;
    // The connection is driven by hand next to the request: no task outlives this call.
    let exchange = async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = axum::body::to_bytes(Body::new(answer.into_body()), MAX_JWKS_BYTES).await?;
        drop(sender);
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body))
    };
    let (exchanged, _) = tokio::join!(exchange, connection);
    let (status, body) = exchanged?;
    if status != StatusCode::OK {
        return Err(format!("status {status}").into());
    }
    Ok(serde_json::from_slice(&body)?)
}
