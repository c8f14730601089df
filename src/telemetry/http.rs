//! The status page, /events, /metrics, /livez, /readyz and /status. All of it only answers.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::table as metric;
use crate::telemetry::page::{self, Hub};
use crate::worker::context::Observed;
use crate::worker::health::STUCK;
use crate::worker::view::View;

/// The endpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("telemetry.listen = {address}: {source}; choose another port, or `off`")]
pub struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Opens the listener, so that a taken port is told before anything starts.
///
/// # Errors
/// [`ListenError`]
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, source })
}

/// Serves until told to stop.
pub async fn serve(listener: TcpListener, observed: Observed, stop: CancellationToken) {
    let hub = Arc::new(Hub::default());
    let telling = observed
        .ctx
        .tasks
        .spawn("status", page::tell(observed.ctx.clone(), Arc::clone(&hub), stop.clone()));
    let events = get(move |State(observed): State<Observed>| async move {
        page::events(&hub, &observed.ctx)
    });
    let app = Router::new()
        .route("/", get(page::page))
        .route("/events", events)
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/healthz", get(livez))
        .route("/ping", get(livez))
        .route("/readyz", get(readyz))
        .route("/ready", get(readyz))
        .route("/status", get(status))
        .with_state(observed);
    let served = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the HTTP endpoint ended");
    }
    let _ = telling.await;
}

async fn metrics(State(observed): State<Observed>) -> Response {
    let (limit, used, waiting) = observed.budget.usage();
    observed.ctx.metrics.set(metric::BUDGET_BYTES, &[], limit);
    observed.ctx.metrics.set(metric::BUFFER_BYTES, &[], used);
    observed.ctx.metrics.set(metric::BUDGET_WAITING, &[], waiting);
    let now = observed.ctx.clock.now();
    observed.ctx.metrics.shards(now, &observed.ctx.status.gauges(now));
    let text = observed.ctx.metrics.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn livez(State(observed): State<Observed>) -> Response {
    let stuck = observed.ctx.status.stuck(observed.ctx.clock.now(), STUCK);
    if stuck.is_empty() {
        return "ok\n".into_response();
    }
    let text = format!("no progress for {STUCK:?} on {stuck:?}\n");
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn readyz(State(observed): State<Observed>) -> Response {
    let state = observed.ctx.status.snapshot();
    if state.ready && !state.draining {
        return "ok\n".into_response();
    }
    let why = if state.draining { "draining\n" } else { "the lease table was not read yet\n" };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

async fn status(State(observed): State<Observed>) -> impl IntoResponse {
    let view: View = observed.ctx.status.view(observed.ctx.clock.now(), observed.ctx.clock.wall());
    ([(header::CACHE_CONTROL, "no-store")], Json(view))
}
