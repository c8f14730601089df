//! Decodes `Content-Encoding: aws-chunked` bodies.
//!
//! Signatures are not checked here, so the framing is taken off and the chunk signatures are
//! thrown away; the checksum trailer is kept and verified by whoever stores the body.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};

/// Longest line allowed between chunks.
const MAX_LINE: usize = 8 * 1024;

/// Trailer fields, known once the body has been read to its end. Names are lower case.
#[derive(Clone, Default)]
pub(super) struct Trailers(Arc<Mutex<BTreeMap<String, String>>>);

impl Trailers {
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let fields = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fields.get(name).cloned()
    }

    fn put(&self, name: &str, value: &str) {
        let mut fields = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fields.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
    }
}

enum ChunkPhase {
    Header,
    Data(u64),
    AfterData,
    Trailers,
    Done,
}

type ChunkSource = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

struct Decoder {
    source: ChunkSource,
    buffer: BytesMut,
    phase: ChunkPhase,
    trailers: Trailers,
}

/// The payload of `body` without its framing.
pub(super) fn decode(
    body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    trailers: Trailers,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let decoder = Decoder {
        source: Box::pin(body),
        buffer: BytesMut::new(),
        phase: ChunkPhase::Header,
        trailers,
    };
    futures::stream::try_unfold(decoder, |mut decoder| async move {
        Ok(decoder.next().await?.map(|data| (data, decoder)))
    })
}

impl Decoder {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            match self.phase {
                ChunkPhase::Header => {
                    let line = self.line().await?.ok_or_else(ended)?;
                    let size = line.split(';').next().unwrap_or_default().trim();
                    let size = u64::from_str_radix(size, 16).map_err(|_| malformed(&line))?;
                    self.phase = match size {
                        0 => ChunkPhase::Trailers,
                        size => ChunkPhase::Data(size),
                    };
                }
                ChunkPhase::Data(left) => {
                    if self.buffer.is_empty() && !self.fill().await? {
                        return Err(ended());
                    }
                    let take = usize::try_from(left)
                        .map_or(self.buffer.len(), |left| left.min(self.buffer.len()));
                    let left = left - take as u64;
                    self.phase =
                        if left == 0 { ChunkPhase::AfterData } else { ChunkPhase::Data(left) };
                    return Ok(Some(self.buffer.split_to(take).freeze()));
                }
                ChunkPhase::AfterData => {
                    let line = self.line().await?.ok_or_else(ended)?;
                    if !line.is_empty() {
                        return Err(malformed(&line));
                    }
                    self.phase = ChunkPhase::Header;
                }
                // Some clients leave out the last empty line.
                ChunkPhase::Trailers => match self.line().await? {
                    Some(line) if !line.is_empty() => {
                        if let Some((name, value)) = line.split_once(':') {
                            self.trailers.put(name, value);
                        }
                    }
                    _ => self.phase = ChunkPhase::Done,
                },
                ChunkPhase::Done => return Ok(None),
            }
        }
    }

    /// The next line without its ending; `None` at the end of the body.
    async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.split_to(end);
                self.buffer.advance(2);
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(malformed("a line without end"));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(ended()) };
            }
        }
    }

    async fn fill(&mut self) -> io::Result<bool> {
        match self.source.next().await.transpose()? {
            Some(data) => {
                self.buffer.extend_from_slice(&data);
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the aws-chunked body ended early")
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("malformed aws-chunked framing near `{what}`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(wire: &'static [u8], piece: usize) -> (io::Result<Vec<u8>>, Trailers) {
        let trailers = Trailers::default();
        let pieces: Vec<_> = wire.chunks(piece).map(|c| Ok(Bytes::from_static(c))).collect();
        let stream = decode(futures::stream::iter(pieces), trailers.clone());
        let mut stream = Box::pin(stream);
        let mut all = Vec::new();
        while let Some(next) = stream.next().await {
            match next {
                Ok(data) => all.extend_from_slice(&data),
                Err(e) => return (Err(e), trailers),
            }
        }
        (Ok(all), trailers)
    }

    #[tokio::test]
    async fn any_split_of_the_wire_decodes() {
        let wire =
            b"5;chunk-signature=ab\r\nhello\r\n3\r\n, x\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n";
        for piece in 1..wire.len() {
            let (body, trailers) = run(wire, piece).await;
            assert_eq!(body.unwrap(), b"hello, x");
            assert_eq!(trailers.get("x-amz-checksum-crc32").unwrap(), "AAAA");
        }
    }

    #[tokio::test]
    async fn a_cut_body_is_an_error() {
        for wire in [b"5\r\nhel".as_slice(), b"5\r\nhello\r\n", b"5\r\nhelloXX3\r\n"] {
            assert!(run(wire, 4).await.0.is_err());
        }
    }
}
