//! The issuer's public keys, fetched when a token needs them.

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
    refetch_every: Duration,
}

impl Authorizer {
    pub(super) fn new(policy: Policy, clock: Clock) -> Result<Self, axum::http::uri::InvalidUri> {
        Ok(Self {
            jwks_uri: format!("{}/.well-known/jwks.json", policy.issuer).parse()?,
            policy,
            keys: RwLock::new(Arc::new(JwkSet { keys: vec![] })),
            fetched: Mutex::new(None),
            clock,
            refetch_every: REFETCH_EVERY,
        })
    }

    /// The claims of a good token.
    pub(super) async fn check(&self, token: &str) -> Result<serde_json::Value, Denial> {
        let judge =
            |keys: &JwkSet| verify(token, keys, &self.policy, self.clock.wall().div_euclid(1000));
        match judge(&self.keys()) {
            Err(Denial::UnknownKey) => {
                self.refetch().await;
                judge(&self.keys())
            }
            verdict => verdict,
        }
    }

    fn keys(&self) -> Arc<JwkSet> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn refetch(&self) {
        let mut fetched = self.fetched.lock().await;
        if fetched.is_some_and(|at| self.clock.now() < at + self.refetch_every) {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::routing::get;
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::local::door::issuer::keys::SigningKey;
    use crate::local::door::loopback;
    use crate::task::Tasks;

    #[tokio::test]
    async fn an_unknown_key_is_looked_for_once_in_a_while() {
        let served = Arc::new(std::sync::Mutex::new(JwkSet { keys: vec![] }));
        let fetches = Arc::new(AtomicUsize::new(0));
        let (listener, port) = loopback::bind(0).await.unwrap();
        let state = (served.clone(), fetches.clone());
        let keys = get(async move || {
            state.1.fetch_add(1, Ordering::Relaxed);
            axum::Json(state.0.lock().unwrap().clone())
        });
        let router = Router::new().route("/p/.well-known/jwks.json", keys);
        let tasks = Tasks::pooled(1);
        let _server = loopback::serve(&tasks, "t", listener, router, CancellationToken::new());
        let issuer = format!("http://127.0.0.1:{port}/p");
        let policy = Policy { issuer: issuer.clone(), audience: vec!["web".into()] };
        let clock = Clock::system();
        let mut authorizer = Authorizer::new(policy, clock.clone()).unwrap();

        let old = SigningKey::generate().unwrap().renamed("old");
        let new = SigningKey::generate().unwrap().renamed("new");
        let claims = json!({"iss": issuer, "aud": "web", "exp": clock.wall() / 1000 + 60});
        let (by_old, by_new) = (old.sign(&claims).unwrap(), new.sign(&claims).unwrap());
        *served.lock().unwrap() = old.jwks();

        for _ in 0..5 {
            assert!(authorizer.check(&by_old).await.is_ok());
        }
        assert_eq!(fetches.load(Ordering::Relaxed), 1, "keys are kept");
        *served.lock().unwrap() = new.jwks();
        for _ in 0..5 {
            assert_eq!(authorizer.check(&by_new).await.unwrap_err(), Denial::UnknownKey);
        }
        assert_eq!(fetches.load(Ordering::Relaxed), 1, "strangers cannot make us call the issuer");
        authorizer.refetch_every = Duration::ZERO;
        assert!(authorizer.check(&by_new).await.is_ok(), "a rotated key is found");
        assert_eq!(fetches.load(Ordering::Relaxed), 2);
        assert_eq!(authorizer.check(&by_old).await.unwrap_err(), Denial::UnknownKey);
    }
}
