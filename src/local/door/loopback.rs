//! Listening where only this machine can call.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::task::{Handle, Tasks};

/// Binds a port of the loopback interface; 0 picks a free one.
pub(super) async fn bind(port: u16) -> io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Serves until `stop`.
pub(super) fn serve(
    tasks: &Tasks,
    name: &'static str,
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> Handle<()> {
    let router = router.layer(middleware::from_fn(only_local_names));
    tasks.spawn(name, async move {
        let served =
            axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, name, "a local server ended");
        }
    })
}

/// A page on the web can make a browser call loopback under a name of its own: refuse the name.
async fn only_local_names(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
    let name = host.unwrap_or_default();
    let name = name.rsplit_once(':').map_or(name, |(name, _port)| name);
    if name == "localhost" || name == "127.0.0.1" || name.ends_with(".localhost") {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, "call this server as localhost\n").into_response()
    }
}
