//! A canned service: GetShardIterator and GetRecords from memory, and a sink for PUT. Blocking
//! sockets on threads of its own, whose CPU is not counted.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio_rustls::TlsAcceptor;

use catchment::stream::cbor::CONTENT_TYPE;

const ITERATOR: &[u8] = b"{\"ShardIterator\":\"iterator\"}";

/// How sequence numbers begin, up to the digits that count the rounds.
const FIXED: &[u8] = b"4959033827149025660855969253836157109592";
/// Digits of the round.
const ROUND: usize = 9;

/// What GetRecords answers, in turn.
#[derive(Clone, Default)]
pub(crate) struct Server(Arc<Mutex<Replies>>);

#[derive(Default)]
struct Replies {
    /// In JSON and in CBOR.
    bodies: Vec<[CannedReply; 2]>,
    next: usize,
    /// How many were sent. A reader leaves out what it has read: numbers rise from one to the next.
    round: usize,
}

/// A body, and where in it the digits of the round stand.
#[derive(Clone)]
struct CannedReply {
    body: Arc<[u8]>,
    digits: Vec<usize>,
}

impl CannedReply {
    fn new(body: Arc<[u8]>) -> Self {
        let begins = memchr::memmem::find_iter(&body, FIXED).map(|at| at + FIXED.len());
        let digits = begins.collect();
        Self { body, digits }
    }

    fn of_round(&mut self, round: usize) -> Arc<[u8]> {
        let digits = format!("{round:0ROUND$}");
        let body = Arc::make_mut(&mut self.body);
        for at in &self.digits {
            body[*at..*at + ROUND].copy_from_slice(digits.as_bytes());
        }
        Arc::clone(&self.body)
    }
}

impl Server {
    /// Starts it; it ends with the process.
    pub(crate) fn start(&self) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let this = self.clone();
        thread(move || {
            for connection in listener.incoming().flatten() {
                let this = this.clone();
                // A client that hangs up ends it.
                thread(move || drop(this.serve(connection)));
            }
        });
        Ok(address)
    }

    /// Starts it behind TLS, in what the client chooses to speak.
    pub(crate) fn start_tls(&self, tls: TlsAcceptor) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let this = self.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread(move || {
            let connections = tokio::task::LocalSet::new();
            runtime.block_on(connections.run_until(async move {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    let (this, tls) = (this.clone(), tls.clone());
                    tokio::task::spawn_local(async move {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        let service = service_fn(move |request| {
                            let this = this.clone();
                            async move { this.answer(request).await }
                        });
                        let spoken = auto::Builder::new(TokioExecutor::new());
                        // A client that hangs up ends it.
                        let _ = spoken.serve_connection(TokioIo::new(stream), service).await;
                    });
                }
            }));
        });
        Ok(address)
    }

    async fn answer(
        &self,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Full<Bytes>>, hyper::Error> {
        let says = |name: &str, end: &str| {
            let value = request.headers().get(name).and_then(|value| value.to_str().ok());
            value.is_some_and(|value| value.ends_with(end))
        };
        let put = request.method() == http::Method::PUT;
        let iterator = says("x-amz-target", "GetShardIterator");
        let cbor = says("content-type", "cbor-1.1");
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            frame?;
        }
        let (kind, body) = match (put, iterator, cbor) {
            (true, ..) => ("application/xml", Bytes::new()),
            (_, true, _) => ("application/x-amz-json-1.1", Bytes::from_static(ITERATOR)),
            (_, _, cbor) => {
                let kind = if cbor { CONTENT_TYPE } else { "application/x-amz-json-1.1" };
                (kind, Bytes::from_owner(self.records(cbor)))
            }
        };
        let reply = http::Response::builder().header("content-type", kind).header("etag", "\"e\"");
        Ok(reply.body(Full::new(body)).unwrap_or_default())
    }

    /// Replaces the replies.
    pub(crate) fn set(&self, bodies: Vec<[Arc<[u8]>; 2]>) {
        let bodies = bodies.into_iter().map(|of| of.map(CannedReply::new)).collect();
        let mut replies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *replies = Replies { bodies, next: 0, round: replies.round + 1 };
    }

    fn records(&self, cbor: bool) -> Arc<[u8]> {
        let mut replies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        replies.next = (replies.next + 1) % replies.bodies.len().max(1);
        replies.round += 1;
        let Replies { bodies, next, round } = &mut *replies;
        let of_round = |reply: &mut CannedReply| reply.of_round(*round);
        bodies.get_mut(*next).map(|of| of_round(&mut of[usize::from(cbor)])).unwrap_or_default()
    }

    fn serve(&self, connection: TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        let mut writer = connection.try_clone()?;
        let mut reader = BufReader::with_capacity(1 << 20, connection);
        let mut line = String::new();
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let put = line.starts_with("PUT");
            let (mut length, mut target) = (0, String::new());
            let (mut patient, mut cbor) = (false, false);
            loop {
                line.clear();
                reader.read_line(&mut line)?;
                let Some((name, value)) = line.trim_end().split_once(':') else { break };
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.trim().parse().unwrap_or(0),
                    "x-amz-target" => target = value.trim().to_owned(),
                    "content-type" => cbor = value.contains("cbor"),
                    "expect" => patient = true,
                    _ => {}
                }
            }
            if patient {
                writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
            let body: Arc<[u8]> = if put {
                Arc::default()
            } else if target.ends_with("GetShardIterator") {
                Arc::from(ITERATOR)
            } else {
                self.records(cbor)
            };
            let kind = match (put, cbor) {
                (true, _) => "application/xml",
                (false, false) => "application/x-amz-json-1.1",
                (false, true) => CONTENT_TYPE,
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\netag: \"e\"\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            writer.write_all(head.as_bytes())?;
            writer.write_all(&body)?;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "no part of the program under test")]
fn thread(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}
