//! Embedded AWS: Kinesis, DynamoDB and S3 in this process, behind one loopback port.
//!
//! For development and tests. Nothing outside this folder knows whether it talks to these services
//! or to AWS, so everything an emulator gets wrong is put right here, never in product code.
//! What still differs from AWS:
//!
//! - Requests are never authenticated, authorised or throttled.
//! - Only HTTP/1.1 and the JSON protocols are spoken; clients that prefer CBOR for Kinesis must
//!   switch it off.
//! - Streams are created, resharded and deleted at once, without a CREATING or UPDATING phase.
//! - Object keys must be relative paths that do not run through other objects. No versions, tags,
//!   encryption or copies; a listing of uploads is one page.
//! - Streams survive a kill of the process but not a power cut; tables survive both.

pub mod door;
mod dynamodb;
mod gateway;
mod json_error;
mod kinesis;
mod s3;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::{Clock, Jitter};
use crate::task::{Handle, TaskDied, Tasks};

const SWEEP: Duration = Duration::from_secs(60);

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
    #[error("a task of the local services died: {0}")]
    Task(#[from] TaskDied),
}

/// The running services. Dropping them ends them at once.
pub struct Services {
    address: SocketAddr,
    region: String,
    stop: DropGuard,
    running: Vec<Handle<()>>,
}

impl Services {
    /// Starts the three services.
    ///
    /// # Errors
    /// [`LocalError`] when the address is not loopback or in use, a directory is unusable or held
    /// by other local services, or stored data cannot be read.
    pub async fn start(
        options: ServiceOptions,
        tasks: &Tasks,
        clock: &Clock,
    ) -> Result<Self, LocalError> {
        if !options.listen.is_loopback() {
            return Err(LocalError::NotLoopback(options.listen));
        }
        let wanted = SocketAddr::new(options.listen, options.port.unwrap_or(0));
        let listener = TcpListener::bind(wanted).await.map_err(|source| {
            if source.kind() == io::ErrorKind::AddrInUse {
                LocalError::PortInUse(wanted)
            } else {
                LocalError::Listen { address: wanted, source }
            }
        })?;
        let address = listener
            .local_addr()
            .map_err(|source| LocalError::Listen { address: wanted, source })?;

        let mut locks = vec![lock(&options.objects)?];
        let state = options.data_dir.as_ref().map(|dir| dir.join(".catchment"));
        let (mut stream_dir, mut table_file) = (None, None);
        if let Some(state) = &state {
            locks.push(lock(state)?);
            stream_dir = Some(create(&state.join("kinesis"))?);
            table_file = Some(create(&state.join("dynamodb"))?.join("tables.db"));
        }
        let jitter = Jitter::system();
        let streams =
            kinesis::Streams::open(stream_dir.as_deref(), &options.region, tasks, clock, &jitter)
                .await?;
        let tables = dynamodb::LocalTables::open(table_file.as_deref(), tasks)?;
        let objects =
            s3::LocalObjects::open(&options.objects, &options.region, tasks, clock, &jitter)?;

        let stop = CancellationToken::new();
        let gateway = Arc::new(gateway::AwsGateway {
            streams,
            tables,
            objects,
            tasks: tasks.clone(),
            _locks: locks,
        });
        let sweeper = sweep(gateway.clone(), clock.clone(), stop.clone());
        let server = gateway::serve(listener, gateway, stop.clone());
        Ok(Self {
            address,
            region: options.region,
            running: vec![
                tasks.spawn("local-gateway", server),
                tasks.spawn("local-sweeper", sweeper),
            ],
            stop: stop.drop_guard(),
        })
    }

    /// The address of all three services, such as `http://127.0.0.1:4566`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What the AWS CLI or any SDK needs in its environment to use these services.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let pairs = [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", "local".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "local-secret".to_owned()),
            ("AWS_REGION", self.region.clone()),
            ("AWS_DEFAULT_REGION", self.region.clone()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_CBOR_DISABLE", "true".to_owned()),
        ];
        pairs.to_vec()
    }

    /// Stops accepting requests, lets running ones finish, and waits for every task. Everything
    /// acknowledged is on its way to disk already; nothing is left to flush.
    ///
    /// # Errors
    /// [`LocalError::Task`] when a task had died.
    pub async fn stop(self) -> Result<(), LocalError> {
        drop(self.stop);
        for task in self.running {
            task.await?;
        }
        Ok(())
    }
}

/// Deletes items past their time to live, and, less often because it reads them all, records past
/// their retention.
async fn sweep(gateway: Arc<gateway::AwsGateway>, clock: Clock, stop: CancellationToken) {
    for round in 1u64.. {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = clock.sleep(SWEEP) => gateway.tables.sweep().await,
        }
        if round % 60 == 0 {
            gateway.streams.sweep().await;
        }
    }
}

fn create(path: &Path) -> Result<PathBuf, LocalError> {
    fs::create_dir_all(path)
        .map_err(|source| LocalError::Directory { path: path.to_owned(), source })?;
    Ok(path.to_owned())
}

/// Holds a directory against other local services; the lock goes with the process.
fn lock(directory: &Path) -> Result<File, LocalError> {
    create(directory)?;
    let failed = |source| LocalError::Directory { path: directory.to_owned(), source };
    let file = File::create(directory.join(".catchment-lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(LocalError::InUse(directory.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}
