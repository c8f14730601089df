use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;

async fn over_tls() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let tls = Some(TlsOptions::default());
    let options = ServiceOptions { tls, ..options(dir.path(), true) };
    let services = Services::start(options, &Tasks::pooled(8), &Clock::system()).await.unwrap();
    // Clients that trust nobody but the system's authorities.
    let clients = Clients::of(&services.endpoint());
    Running { services, clients, dir }
}

/// A connection that offers these protocols.
async fn connect(
    services: &Services,
    endpoint: &str,
    name: &str,
    protocols: &[&str],
) -> io::Result<TlsStream<tokio::net::TcpStream>> {
    let pem = fs::read(services.authority().unwrap()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    let stream = tokio::net::TcpStream::connect(endpoint.strip_prefix("https://").unwrap());
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream.await?).await
}

#[tokio::test]
async fn kinesis_alone_offers_http2() {
    let run = over_tls().await;
    let at = run.services.endpoints();
    for (endpoint, offered, chosen) in [
        (&at.kinesis, &["h2", "http/1.1"][..], Some("h2")),
        (&at.kinesis, &["http/1.1"], Some("http/1.1")),
        (&at.others, &["h2", "http/1.1"], Some("http/1.1")),
        (&at.others, &[], None),
    ] {
        let stream = connect(&run.services, endpoint, "localhost", offered).await.unwrap();
        let found = stream.get_ref().1.alpn_protocol();
        assert_eq!(found, chosen.map(str::as_bytes), "{endpoint} {offered:?}");
    }
    assert!(connect(&run.services, &at.others, "localhost", &["h2"]).await.is_err());
}

#[tokio::test]
async fn the_certificate_is_for_this_machine_and_new_with_each_start() {
    let run = over_tls().await;
    let at = run.services.endpoints().others;
    connect(&run.services, &at, "127.0.0.1", &[]).await.unwrap();
    assert!(connect(&run.services, &at, "kinesis.us-east-1.amazonaws.com", &[]).await.is_err());
    // The system does not trust it.
    let objects = crate::aws::objects::Objects::new(run.clients.s3.clone());
    let told = objects.create_bucket("archive").await.unwrap_err().to_string();
    assert!(told.contains("let AWS_CA_BUNDLE name its authority"), "{told}");
    let file = run.services.authority().unwrap().to_owned();
    assert!(file.starts_with(run.dir.path().join("data")));
    let first = fs::read(&file).unwrap();
    assert!(!String::from_utf8_lossy(&first).contains("PRIVATE KEY"));
    run.services.stop().await.unwrap();
    let tls = Some(TlsOptions::default());
    let again = ServiceOptions { tls, ..options(run.dir.path(), true) };
    let again = Services::start(again, &Tasks::pooled(8), &Clock::system()).await.unwrap();
    assert_ne!(fs::read(&file).unwrap(), first);
    again.stop().await.unwrap();
}

#[tokio::test]
async fn the_environment_tells_whom_to_trust() {
    let run = over_tls().await;
    let environment: std::collections::BTreeMap<_, _> =
        run.services.environment().into_iter().collect();
    let endpoint = &environment["AWS_ENDPOINT_URL_KINESIS"];
    assert!(endpoint.starts_with("https://127.0.0.1:"));
    assert!(environment["AWS_ENDPOINT_URL"].starts_with("https://127.0.0.1:"));
    assert_ne!(endpoint, &environment["AWS_ENDPOINT_URL"]);
    let bundle = environment["AWS_CA_BUNDLE"].clone();
    Transport::trusting(bundle.into()).unwrap();
}
