//! A canned service: GetShardIterator and GetRecords from memory, and a sink for PUT. Blocking
//! sockets on threads of its own, whose CPU is not counted.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use catchment::stream::cbor::CONTENT_TYPE;

/// What GetRecords answers, in turn.
#[derive(Clone, Default)]
pub(crate) struct Server(Arc<Mutex<Replies>>);

#[derive(Default)]
struct Replies {
    /// In JSON and in CBOR.
    bodies: Vec<[Arc<[u8]>; 2]>,
    next: usize,
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

    /// Replaces the replies.
    pub(crate) fn set(&self, bodies: Vec<[Arc<[u8]>; 2]>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Replies { bodies, next: 0 };
    }

    fn records(&self, cbor: bool) -> Arc<[u8]> {
        let mut replies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        replies.next = (replies.next + 1) % replies.bodies.len().max(1);
        let bodies = replies.bodies.get(replies.next).cloned().unwrap_or_default();
        let [json, in_cbor] = bodies;
        if cbor { in_cbor } else { json }
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
                Arc::from(&b"{\"ShardIterator\":\"iterator\"}"[..])
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
