//! How the programs reach the service: over plain HTTP/1.1, or as AWS is reached, over TLS, Kinesis by
//! HTTP/2 and S3 by HTTP/1.1.

use std::net::SocketAddr;
use std::sync::Arc;

use catchment::aws::clients::Endpoints;
use catchment::aws::transport::Transport;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::Outcome;
use crate::server::Server;

/// Where the services are, and how they are spoken with.
pub(crate) struct Way {
    pub(crate) kinesis: SocketAddr,
    pub(crate) s3: SocketAddr,
    pub(crate) tls: Option<Trust>,
    transport: Transport,
}

impl Way {
    /// Over plain HTTP/1.1.
    pub(crate) fn plain(server: &Server) -> Outcome<Self> {
        let at = server.start()?;
        Ok(Self { kinesis: at, s3: at, tls: None, transport: Transport::default() })
    }

    /// Over TLS, with a certificate made for it.
    pub(crate) fn tls(server: &Server) -> Outcome<Self> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(crypto())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        let speaking = |protocols: &[&str]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
            TlsAcceptor::from(Arc::new(config))
        };
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), made.cert.pem())?;
        Ok(Self {
            kinesis: server.start_tls(speaking(&["h2"]))?,
            s3: server.start_tls(speaking(&["http/1.1"]))?,
            tls: Some(Trust(certificate)),
            transport: Transport::trusting(file.path().to_owned())?,
        })
    }

    pub(crate) fn endpoints(&self) -> Endpoints {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Endpoints {
            kinesis: format!("{scheme}://{}", self.kinesis),
            others: format!("{scheme}://{}", self.s3),
            transport: self.transport.clone(),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.tls {
            Some(_) => "over TLS, Kinesis by HTTP/2",
            None => "over plain HTTP/1.1",
        }
    }
}

/// The certificate that the floor's connections trust.
pub(crate) struct Trust(CertificateDer<'static>);

impl Trust {
    /// Shakes hands for this protocol.
    pub(crate) async fn connect(
        &self,
        protocol: &str,
        stream: TcpStream,
    ) -> Outcome<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.clone())?;
        let mut config = ClientConfig::builder_with_provider(crypto())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(spoken) if spoken == protocol.as_bytes() => Ok(stream),
            _ => Err(format!("{protocol} is not spoken").into()),
        }
    }
}

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
