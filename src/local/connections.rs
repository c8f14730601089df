//! Connections as clients open them: the protocol of each, and what went over it.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::Version;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Http2Limits;
use super::gateway::AwsGateway;

/// How long connections may take to finish their requests at stop.
const DRAIN: Duration = Duration::from_secs(2);
/// For a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Of so many connections is known what went over them.
const KNOWN: usize = 4096;

/// What went over one connection.
#[derive(Clone, Debug, Default)]
pub struct ConnectionSeen {
    /// Through TLS.
    pub tls: bool,
    /// By HTTP/2; known with the first request.
    pub http2: bool,
    /// Requests, by operation; those of S3 are all `S3`.
    pub calls: BTreeMap<String, u64>,
    /// Subscriptions that are open.
    pub subscriptions: usize,
    /// The most that were open at the same time.
    pub most_subscriptions: usize,
}

/// The last connections, the oldest first.
#[derive(Clone, Default)]
pub(super) struct ConnectionLog(Arc<Mutex<VecDeque<Arc<Mutex<ConnectionSeen>>>>>);

impl ConnectionLog {
    pub(super) fn seen(&self) -> Vec<ConnectionSeen> {
        lock(&self.0).iter().map(|one| lock(one).clone()).collect()
    }

    fn open(&self, tls: bool) -> OpenConnection {
        let one = Arc::new(Mutex::new(ConnectionSeen { tls, ..ConnectionSeen::default() }));
        let mut all = lock(&self.0);
        if all.len() == KNOWN {
            all.pop_front();
        }
        all.push_back(Arc::clone(&one));
        OpenConnection(one)
    }
}

/// One of them.
#[derive(Clone)]
struct OpenConnection(Arc<Mutex<ConnectionSeen>>);

impl OpenConnection {
    fn call(&self, operation: &str, version: Version) {
        let mut seen = lock(&self.0);
        seen.http2 = version == Version::HTTP_2;
        *seen.calls.entry(operation.to_owned()).or_default() += 1;
    }

    /// Counts a subscription as open as long as its body lives.
    fn subscribed(&self, body: Body) -> Body {
        let mut seen = lock(&self.0);
        seen.subscriptions += 1;
        seen.most_subscriptions = seen.most_subscriptions.max(seen.subscriptions);
        let open = OpenSubscription(self.clone());
        Body::from_stream(body.into_data_stream().map(move |piece| {
            let _ = &open;
            piece
        }))
    }
}

struct OpenSubscription(OpenConnection);

impl Drop for OpenSubscription {
    fn drop(&mut self) {
        lock(&self.0.0).subscriptions -= 1;
    }
}

/// How connections of a port are spoken with.
#[derive(Clone)]
pub(super) struct Speech {
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) http2: Http2Limits,
    pub(super) log: ConnectionLog,
}

impl Speech {
    /// Serves a connection until it is closed; from `stop` on, only what it is busy with.
    async fn serve(self, stream: TcpStream, gateway: Arc<AwsGateway>, stop: CancellationToken) {
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            // By HTTP/2 too, if the client knows beforehand.
            return self
                .answer(auto::Builder::new(StreamTasks::default()), stream, gateway, stop)
                .await;
        };
        let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::warn!(%error, "a client did not get through the TLS handshake; does it trust the authority of these services?");
                return;
            }
            Err(_) => return,
        };
        let chosen = stream.get_ref().1.alpn_protocol();
        let builder = auto::Builder::new(StreamTasks::default());
        let builder =
            if chosen == Some(b"h2") { builder.http2_only() } else { builder.http1_only() };
        self.answer(builder, stream, gateway, stop).await;
    }

    async fn answer(
        &self,
        mut builder: auto::Builder<StreamTasks>,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        gateway: Arc<AwsGateway>,
        stop: CancellationToken,
    ) {
        let connection = self.log.open(self.tls.is_some());
        let service = service_fn(move |request| {
            let (gateway, connection) = (gateway.clone(), connection.clone());
            async move {
                let operation = AwsGateway::operation(&request);
                connection.call(&operation, request.version());
                let mut response = gateway.handle(request).await;
                if operation == "SubscribeToShard" && response.status().is_success() {
                    response = response.map(|body| connection.subscribed(body));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut http2 = builder.http2();
        http2.timer(TokioTimer::new()).max_concurrent_streams(self.http2.streams);
        if let Some(window) = self.http2.window {
            http2.initial_stream_window_size(window).initial_connection_window_size(window);
        }
        let serving = builder.serve_connection(TokioIo::new(stream), service);
        let mut serving = std::pin::pin!(serving);
        let result = tokio::select! {
            biased;
            result = &mut serving => result,
            () = stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                match tokio::time::timeout(DRAIN, &mut serving).await {
                    Ok(result) => result,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a local connection broke off");
        }
    }
}

/// Accepts connections until `stop`, then lets each finish the request it is serving.
pub(super) async fn serve(
    listener: TcpListener,
    speech: Speech,
    gateway: Arc<AwsGateway>,
    stop: CancellationToken,
) {
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let task = speech.clone().serve(stream, gateway.clone(), stop.clone());
                    connections.push(gateway.tasks.spawn("local-connection", task));
                }
                Err(error) => {
                    // Out of file descriptors, or the peer is gone already: both pass.
                    tracing::warn!(%error, "the local gateway could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            },
        }
    }
    drop(listener);
    while connections.next().await.is_some() {}
}

/// The tasks of an HTTP/2 connection's streams; they end with it.
#[derive(Clone, Default)]
struct StreamTasks(Arc<Mutex<JoinSet<()>>>);

impl<F> Executor<F> for StreamTasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let mut streams = lock(&self.0);
        while streams.try_join_next().is_some() {}
        streams.spawn(stream);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
