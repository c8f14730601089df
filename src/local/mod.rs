//! Embedded AWS: Kinesis, DynamoDB and S3 in this process, behind one loopback port; with TLS,
//! Kinesis behind one of its own.
//!
//! For development and tests. Nothing outside this folder knows whether it talks to these services
//! or to AWS, so everything an emulator gets wrong is put right here, never in product code.
//! What still differs from AWS:
//!
//! - Requests are never authenticated, authorised or throttled.
//! - Only the JSON protocols are spoken; clients that prefer CBOR for Kinesis must switch it off.
//! - Without TLS all three speak HTTP/1.1, and HTTP/2 with clients that know beforehand.
//! - Streams are created, resharded and deleted at once, without a CREATING or UPDATING phase.
//! - Object keys must be relative paths that do not run through other objects. No versions, tags,
//!   encryption or copies; a listing of uploads is one page.
//! - Streams survive a kill of the process but not a power cut; tables survive both.

mod connections;
pub mod door;
mod dynamodb;
mod gateway;
mod json_error;
mod kinesis;
mod options;
mod s3;
#[cfg(test)]
mod tests;
mod tls;

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use connections::ConnectionSeen;
use connections::{ConnectionLog, Speech};
pub use options::{Http2Limits, LocalError, ServiceOptions, TlsOptions};

use crate::aws::clients::Endpoints;
use crate::aws::transport::Transport;
use crate::clock::{Clock, Jitter};
use crate::task::{Handle, Tasks};

const SWEEP: Duration = Duration::from_secs(60);

/// The running services. Dropping them ends them at once.
pub struct Services {
    address: SocketAddr,
    /// With TLS: the address of Kinesis, and the authority's certificate.
    tls: Option<(SocketAddr, PathBuf)>,
    transport: Transport,
    region: String,
    log: ConnectionLog,
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
        let (listener, address) = listen(options.listen, options.port).await?;
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

        let authority = match &state {
            Some(state) => create(&state.join("tls"))?.join("authority.pem"),
            None => options.objects.join(".catchment-authority.pem"),
        };
        let log = ConnectionLog::default();
        let plain = Speech { tls: None, http2: Http2Limits::default(), log: log.clone() };
        let (mut ports, mut tls) = (Vec::new(), None);
        match options.tls {
            None => ports.push((listener, plain)),
            Some(TlsOptions { kinesis_port, http2 }) => {
                let (kinesis, at) = listen(options.listen, kinesis_port).await?;
                let identity = tls::ServerIdentity::make(options.listen, authority, clock.wall())?;
                ports.push((listener, Speech { tls: Some(identity.http1), ..plain.clone() }));
                ports.push((kinesis, Speech { tls: Some(identity.http2), http2, ..plain }));
                tls = Some((at, identity.authority));
            }
        }
        let transport = match &tls {
            Some((_, authority)) => Transport::trusting(authority.clone())?,
            None => Transport::default(),
        };

        let stop = CancellationToken::new();
        let gateway = Arc::new(gateway::AwsGateway {
            streams,
            tables,
            objects,
            tasks: tasks.clone(),
            _locks: locks,
        });
        let sweeper = sweep(gateway.clone(), clock.clone(), stop.clone());
        let mut running = vec![tasks.spawn("local-sweeper", sweeper)];
        for (listener, speech) in ports {
            let server = connections::serve(listener, speech, gateway.clone(), stop.clone());
            running.push(tasks.spawn("local-gateway", server));
        }
        Ok(Self {
            address,
            tls,
            transport,
            region: options.region,
            log,
            running,
            stop: stop.drop_guard(),
        })
    }

    /// The address of all three services, such as `http://127.0.0.1:4566`; with TLS, of DynamoDB
    /// and S3.
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Every address, and how clients in this process reach it.
    pub fn endpoints(&self) -> Endpoints {
        let others = self.endpoint();
        let kinesis = match self.tls {
            Some((at, _)) => format!("https://{at}"),
            None => others.clone(),
        };
        Endpoints { kinesis, others, transport: self.transport.clone() }
    }

    /// With TLS: the file with the certificate of the authority to trust.
    pub fn authority(&self) -> Option<&Path> {
        self.tls.as_ref().map(|(_, authority)| authority.as_path())
    }

    /// What went over the last connections, the oldest first.
    pub fn connections(&self) -> Vec<ConnectionSeen> {
        self.log.seen()
    }

    /// What the AWS CLI or any SDK needs in its environment to use these services.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![("AWS_ENDPOINT_URL", self.endpoint())];
        if let Some(authority) = self.authority() {
            pairs.push(("AWS_ENDPOINT_URL_KINESIS", self.endpoints().kinesis));
            pairs.push(("AWS_CA_BUNDLE", authority.display().to_string()));
        }
        pairs.extend([
            ("AWS_ACCESS_KEY_ID", "local".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "local-secret".to_owned()),
            ("AWS_REGION", self.region.clone()),
            ("AWS_DEFAULT_REGION", self.region.clone()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_CBOR_DISABLE", "true".to_owned()),
        ]);
        pairs
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

/// Binds a port, or a free one.
async fn listen(ip: IpAddr, port: Option<u16>) -> Result<(TcpListener, SocketAddr), LocalError> {
    let wanted = SocketAddr::new(ip, port.unwrap_or(0));
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => LocalError::PortInUse(wanted),
        _ => LocalError::Listen { address: wanted, source },
    };
    let listener = TcpListener::bind(wanted).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
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
