//! The least a program can do that reads the same bytes: hyper on one connection, a scan that knows
//! nothing but the usual form of a reply, the same compressor, a plain PUT. It checks nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::Outcome;
use crate::way::Way;

/// A body in pieces.
#[derive(Default)]
pub(crate) struct Pieces(pub(crate) VecDeque<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

/// One connection; over TLS one to each service, as they differ in what they speak.
pub(crate) struct Http {
    reading: Sender,
    putting: Option<http1::SendRequest<Pieces>>,
}

/// Requests to Kinesis.
enum Sender {
    Http1(http1::SendRequest<Pieces>),
    Http2(http2::SendRequest<Pieces>),
}

impl Http {
    /// Connects, and drives the connections while `work` goes on.
    pub(crate) async fn with<T, F>(way: &Way, work: impl FnOnce(Self) -> F) -> Outcome<T>
    where
        F: Future<Output = Outcome<T>>,
    {
        let Some(tls) = &way.tls else {
            let (sender, connection) =
                http1::handshake(TokioIo::new(connect(way.kinesis).await?)).await?;
            let http = Self { reading: Sender::Http1(sender), putting: None };
            let (done, _) = futures::join!(work(http), connection);
            return done;
        };
        let kinesis = tls.connect("h2", connect(way.kinesis).await?).await?;
        let (reading, kinesis) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(kinesis)).await?;
        let s3 = tls.connect("http/1.1", connect(way.s3).await?).await?;
        let (putting, s3) = http1::handshake(TokioIo::new(s3)).await?;
        let http = Self { reading: Sender::Http2(reading), putting: Some(putting) };
        let (done, _, _) = futures::join!(work(http), kinesis, s3);
        done
    }

    /// GetRecords, into a buffer that is used again; `keep` false: into nothing.
    pub(crate) async fn records(&mut self, body: &mut Vec<u8>, keep: bool) -> Outcome<()> {
        self.records_as("application/x-amz-json-1.1", body, keep).await
    }

    /// The same, asked for in this form. (The service of this bench looks at nothing else.)
    pub(crate) async fn records_as(
        &mut self,
        kind: &str,
        body: &mut Vec<u8>,
        keep: bool,
    ) -> Outcome<()> {
        const BODY: &[u8] = b"{\"ShardIterator\":\"iterator\",\"Limit\":10000}";
        let request = |uri: &str| {
            http::Request::post(uri)
                .header("content-type", kind)
                .header("x-amz-target", "Kinesis_20131202.GetRecords")
        };
        let pieces = Pieces(VecDeque::from([Bytes::from_static(BODY)]));
        let mut reply = match &mut self.reading {
            Sender::Http1(sender) => {
                sender.send_request(request("/").header("host", "localhost").body(pieces)?).await?
            }
            // Its own words for the host.
            Sender::Http2(sender) => {
                sender.send_request(request("https://localhost/").body(pieces)?).await?
            }
        };
        body.clear();
        while let Some(frame) = reply.body_mut().frame().await {
            if let (true, Ok(data)) = (keep, frame?.into_data()) {
                body.extend_from_slice(&data);
            }
        }
        match &mut self.reading {
            Sender::Http1(sender) => sender.ready().await?,
            Sender::Http2(sender) => sender.ready().await?,
        }
        Ok(())
    }

    /// PUT.
    pub(crate) async fn put(&mut self, key: &str, body: Pieces) -> Outcome<()> {
        let request =
            http::Request::put(format!("/archive/{key}")).header("host", "localhost").body(body)?;
        let sender = match (&mut self.putting, &mut self.reading) {
            (Some(sender), _) | (None, Sender::Http1(sender)) => sender,
            (None, Sender::Http2(_)) => return Err("no connection to S3".into()),
        };
        sender.send_request(request).await?.into_body().collect().await?;
        sender.ready().await?;
        Ok(())
    }
}

async fn connect(address: SocketAddr) -> Outcome<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One record: where its parts stand in the reply and in the arena.
#[derive(Clone, Copy, Default)]
pub(crate) struct Slice {
    /// Payload, in the arena.
    pub(crate) data: (usize, usize),
    /// Partition key, in the reply.
    pub(crate) key: (usize, usize),
    /// Sequence number, in the reply.
    pub(crate) sequence: (usize, usize),
    /// Arrival, milliseconds.
    pub(crate) arrival_ms: u64,
}

/// Finds the records and decodes their payloads into `arena`; both lists are used again.
pub(crate) fn scan(body: &[u8], arena: &mut Vec<u8>, slices: &mut Vec<Slice>) -> Option<()> {
    arena.clear();
    slices.clear();
    // Decoded bytes are fewer than encoded ones.
    arena.resize(body.len(), 0);
    let mut free = 0;
    let mut at = memchr::memmem::find(body, b"\"Records\":[")? + 11;
    loop {
        match body.get(at)? {
            b']' => break,
            b',' => at += 1,
            _ => {}
        }
        at += 1;
        let mut slice = Slice::default();
        loop {
            let name = at + 1;
            let end = name + memchr::memchr(b'"', &body[name..])?;
            at = end + 2;
            if body[name..end] == *b"ApproximateArrivalTimestamp" {
                while let Some(byte @ (b'0'..=b'9' | b'.')) = body.get(at) {
                    if *byte != b'.' {
                        slice.arrival_ms = slice.arrival_ms * 10 + u64::from(byte - b'0');
                    }
                    at += 1;
                }
            } else {
                let start = at + 1;
                let stop = start + memchr::memchr(b'"', &body[start..])?;
                at = stop + 1;
                match &body[name..end] {
                    b"Data" => {
                        let room = base64_simd::Out::from_slice(&mut arena[free..]);
                        let text = &body[start..stop];
                        let length = base64_simd::STANDARD.decode(text, room).ok()?.len();
                        slice.data = (free, free + length);
                        free += length;
                    }
                    b"PartitionKey" => slice.key = (start, stop),
                    _ => slice.sequence = (start, stop),
                }
            }
            at += 1;
            if body[at - 1] == b'}' {
                break;
            }
        }
        slices.push(slice);
    }
    arena.truncate(free);
    Some(())
}
