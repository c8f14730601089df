//! How the services are started, and why they cannot be.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::aws::transport::BadBundle;
use crate::task::TaskDied;

/// How to start the services.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// Streams and tables live under `<data_dir>/.catchment` and survive a kill; `None` keeps them
    /// in memory.
    pub data_dir: Option<PathBuf>,
    /// Objects are plain files `<objects>/<bucket>/<key>`.
    pub objects: PathBuf,
    /// Where to listen; only loopback addresses are accepted.
    pub listen: IpAddr,
    /// The port of all three services; `None` picks a free one.
    pub port: Option<u16>,
    /// The region told to clients and put into ARNs.
    pub region: String,
    /// Speak TLS, and HTTP/2 where the real services do; `None` speaks neither.
    pub tls: Option<TlsOptions>,
}

/// How to speak TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// The port of Kinesis; `None` picks a free one.
    pub kinesis_port: Option<u16>,
    /// What its HTTP/2 connections allow.
    pub http2: Http2Limits,
}

/// What a server allows to an HTTP/2 connection; `None`: as the library has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Http2Limits {
    /// Streams open at the same time.
    pub streams: Option<u32>,
    /// Bytes on the way to the server, of a stream and of the connection.
    pub window: Option<u32>,
}

/// The services could not start or stop.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error(
        "the local services answer without authentication and must stay on this machine: listen on 127.0.0.1 or ::1, not on {0}"
    )]
    NotLoopback(IpAddr),
    #[error("port {} on {} is already in use: stop the program that holds it, or pass another port", .0.port(), .0.ip())]
    PortInUse(SocketAddr),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot use the directory {}: {source}; check that it can be written, or pass another", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("{} is in use by other local services: stop them, or pass another directory", .0.display())]
    InUse(PathBuf),
    #[error("cannot read the stream log {} (line {line}): {reason}; move it away to start with empty streams", path.display())]
    Streams { path: PathBuf, line: usize, reason: String },
    #[error("cannot open the tables {}: {reason}; move the file away to start with empty tables", path.display())]
    Tables { path: PathBuf, reason: String },
    #[error("cannot make the certificate of the local services: {reason}")]
    Certificate { reason: String },
    #[error("cannot read the certificate of the local services: {0}")]
    Authority(#[from] BadBundle),
    #[error("a task of the local services died: {0}")]
    Task(#[from] TaskDied),
}
