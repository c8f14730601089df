//! What workers talk to. It counts calls, answers Kinesis from a [`Backlog`] and takes objects in,
//! as it is told, and hands everything else to the embedded services. Blocking sockets, a thread
//! for each connection; none of it is in a worker's figure.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use catchment::clock::Clock;
use serde_json::Value;

use crate::backlog::Backlog;

/// What passed.
#[derive(Default)]
pub(crate) struct Seen {
    /// GetRecords calls.
    pub(crate) get_records: AtomicU64,
    /// Payload of the records given out.
    pub(crate) served: AtomicU64,
    /// Calls of the lease table.
    pub(crate) table: AtomicU64,
    /// Records and bytes of objects.
    pub(crate) records: AtomicU64,
    /// Bytes of objects.
    pub(crate) bytes: AtomicU64,
    /// Objects.
    pub(crate) objects: AtomicU64,
    /// Shards that were polled.
    shards: Mutex<BTreeSet<u64>>,
    /// First GetRecords and last object.
    times: Mutex<(Option<Duration>, Duration)>,
    /// Objects, and when their put was answered, if they are kept.
    kept: Mutex<Vec<(i64, Vec<u8>)>>,
}

impl Seen {
    /// For those who look from another process.
    fn json(&self) -> String {
        let of = |count: &AtomicU64| count.load(Relaxed);
        format!(
            "{{\"get_records\":{},\"served\":{},\"table\":{},\"objects\":{},\"records\":{}}}",
            of(&self.get_records),
            of(&self.served),
            of(&self.table),
            of(&self.objects),
            of(&self.records)
        )
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) seen: Arc<Seen>,
    pub(crate) address: SocketAddr,
    /// `None`: the embedded Kinesis.
    backlog: Option<Arc<Backlog>>,
    /// Objects end here.
    sink: bool,
    keep: Arc<AtomicBool>,
    services: SocketAddr,
    clock: Clock,
}

impl Front {
    /// Starts it; it ends with the process.
    pub(crate) fn start(
        backlog: Option<Backlog>,
        services: SocketAddr,
        port: u16,
        clock: &Clock,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let this = Self {
            seen: Arc::default(),
            address: listener.local_addr()?,
            sink: backlog.is_some(),
            backlog: backlog.map(Arc::new),
            keep: Arc::default(),
            services,
            clock: clock.clone(),
        };
        let front = this.clone();
        thread(move || {
            for connection in listener.incoming().flatten() {
                let front = front.clone();
                // A client that hangs up ends it.
                thread(move || drop(front.serve(connection)));
            }
        });
        Ok(this)
    }

    /// Keeps objects from now on.
    pub(crate) fn keep(&self) {
        self.keep.store(true, Relaxed);
    }

    pub(crate) fn kept(&self) -> Vec<(i64, Vec<u8>)> {
        std::mem::take(&mut *lock(&self.seen.kept))
    }

    /// Shards polled so far, those with numbers from `first` on.
    pub(crate) fn polled(&self, first: u64) -> u64 {
        lock(&self.seen.shards).range(first..).count() as u64
    }

    /// From the first GetRecords to the last object.
    pub(crate) fn span(&self) -> Duration {
        let (first, last) = *lock(&self.seen.times);
        last.saturating_sub(first.unwrap_or(last))
    }

    fn serve(&self, connection: TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        let mut writer = connection.try_clone()?;
        let mut reader = BufReader::with_capacity(1 << 16, connection);
        let mut upstream = None;
        while let Some(request) = Request::read(&mut reader, &mut writer)? {
            self.answer(&request, &mut writer, &mut upstream)?;
        }
        Ok(())
    }

    fn answer(
        &self,
        request: &Request,
        writer: &mut TcpStream,
        upstream: &mut Option<Upstream>,
    ) -> io::Result<()> {
        if let Some(operation) = request.target.strip_prefix("Kinesis_20131202.") {
            if operation == "GetRecords" {
                self.seen.get_records.fetch_add(1, Relaxed);
            }
            if let Some(backlog) = &self.backlog {
                return self.kinesis(backlog, operation, &request.body, writer);
            }
        } else if request.target.starts_with("DynamoDB_") {
            self.seen.table.fetch_add(1, Relaxed);
        } else if request.head.starts_with("GET /seen ") {
            return reply(writer, "200 OK", "application/json", self.seen.json().as_bytes());
        } else if request.target.starts_with("GraniteServiceVersion") || request.cloudwatch {
            // Metrics of others: taken, and thrown away.
            let body: &[u8] = if request.kind.contains("cbor") { b"\xa0" } else { b"{}" };
            return reply(writer, "200 OK", &request.kind, body);
        } else if self.sink && request.target.is_empty() {
            if request.put {
                self.object(request);
            }
            return reply(writer, "200 OK", "application/xml", b"");
        }
        let upstream = match upstream {
            Some(upstream) => upstream,
            None => upstream.insert(Upstream::connect(self.services)?),
        };
        upstream.pass(request, writer)?;
        if request.put && request.target.is_empty() {
            self.object(request);
        }
        Ok(())
    }

    fn object(&self, request: &Request) {
        self.seen.objects.fetch_add(1, Relaxed);
        self.seen.records.fetch_add(request.records, Relaxed);
        self.seen.bytes.fetch_add(request.body.len() as u64, Relaxed);
        lock(&self.seen.times).1 = self.clock.now();
        if self.keep.load(Relaxed) {
            lock(&self.seen.kept).push((self.clock.wall(), request.body.clone()));
        }
    }

    fn kinesis(
        &self,
        backlog: &Backlog,
        operation: &str,
        body: &[u8],
        writer: &mut TcpStream,
    ) -> io::Result<()> {
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| asked[name].as_str().unwrap_or_default();
        let number = |id: &str| id.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        const JSON: &str = "application/x-amz-json-1.1";
        let answer = match operation {
            "GetRecords" => {
                let limit = asked["Limit"].as_u64().unwrap_or(10_000);
                let page = backlog.page(text("ShardIterator"), limit);
                let Some((shard, count, body)) = page else {
                    let refusal = b"{\"__type\":\"InvalidArgumentException\"}";
                    return reply(writer, "400 Bad Request", JSON, refusal);
                };
                if count > 0 {
                    self.seen.served.fetch_add(count * backlog.size, Relaxed);
                    let mut times = lock(&self.seen.times);
                    times.0.get_or_insert_with(|| self.clock.now());
                }
                lock(&self.seen.shards).insert(shard);
                body
            }
            "GetShardIterator" => {
                let sequence = text("StartingSequenceNumber");
                let shard = number(text("ShardId"));
                backlog.iterator(shard, text("ShardIteratorType"), sequence).into_bytes()
            }
            "ListShards" => backlog.list(text("NextToken").parse().unwrap_or(0)).into_bytes(),
            "DescribeStreamSummary" => backlog.describe().into_bytes(),
            _ => {
                let refusal = b"{\"__type\":\"ResourceNotFoundException\"}";
                return reply(writer, "400 Bad Request", JSON, refusal);
            }
        };
        reply(writer, "200 OK", JSON, &answer)
    }
}

/// A request, read whole.
struct Request {
    /// Request line and headers, as they came, but for `Expect`.
    head: String,
    body: Vec<u8>,
    /// `X-Amz-Target`; empty for S3.
    target: String,
    kind: String,
    /// Records of the object, by its metadata.
    records: u64,
    put: bool,
    cloudwatch: bool,
}

impl Request {
    fn read(reader: &mut impl BufRead, writer: &mut TcpStream) -> io::Result<Option<Self>> {
        let mut head = String::new();
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        let put = head.starts_with("PUT");
        let (mut target, mut kind) = (String::new(), String::new());
        let (mut length, mut records, mut patient) = (0, 0, false);
        let mut line = String::new();
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap_or(0),
                "x-amz-target" => target = value.to_owned(),
                "content-type" => kind = value.to_owned(),
                "x-amz-meta-catchment-records" => records = value.parse().unwrap_or(0),
                "expect" => {
                    patient = true;
                    continue;
                }
                _ => {}
            }
            head.push_str(&line);
        }
        if patient {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let form = kind.starts_with("application/x-www-form");
        let rpc = head.starts_with("POST /service/GraniteServiceVersion");
        Ok(Some(Self { head, body, target, kind, records, put, cloudwatch: form || rpc }))
    }
}

fn reply(writer: &mut TcpStream, status: &str, kind: &str, body: &[u8]) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\netag: \"e\"\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // One packet, where it is small.
    if body.len() < 4096 {
        return writer.write_all(&[head.as_bytes(), body].concat());
    }
    writer.write_all(head.as_bytes())?;
    writer.write_all(body)
}

/// A connection to the embedded services.
struct Upstream {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Upstream {
    fn connect(address: SocketAddr) -> io::Result<Self> {
        let writer = TcpStream::connect(address)?;
        writer.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(writer.try_clone()?), writer })
    }

    /// Passes a request on, and its reply back as it comes.
    fn pass(&mut self, request: &Request, client: &mut TcpStream) -> io::Result<()> {
        let head = [request.head.as_bytes(), b"\r\n"].concat();
        self.writer.write_all(&[head.as_slice(), &request.body].concat())?;
        let (mut length, mut chunked) = (0, false);
        let mut head = Vec::new();
        loop {
            let from = head.len();
            if self.reader.read_until(b'\n', &mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&head[from..]).to_ascii_lowercase();
            match line.trim_end().split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse().unwrap_or(0),
                Some(("transfer-encoding", value)) => chunked = value.trim() == "chunked",
                Some(_) => {}
                None if line.trim_end().is_empty() => break,
                None => {}
            }
        }
        if request.head.starts_with("HEAD") {
            return client.write_all(&head);
        }
        if !chunked {
            self.read(&mut head, length)?;
            return client.write_all(&head);
        }
        client.write_all(&head)?;
        loop {
            let mut chunk = Vec::new();
            self.reader.read_until(b'\n', &mut chunk)?;
            let size = String::from_utf8_lossy(&chunk);
            let size = usize::from_str_radix(size.trim_end(), 16)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            self.read(&mut chunk, size + 2)?;
            client.write_all(&chunk)?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn read(&mut self, to: &mut Vec<u8>, count: usize) -> io::Result<()> {
        let from = to.len();
        to.resize(from + count, 0);
        self.reader.read_exact(&mut to[from..])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "no part of the program under test")]
pub(crate) fn thread(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}
