//! How the services are reached: which certificates are trusted, and which calls share connections.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, ConnectorBuilder};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The variable that AWS's command line and other SDKs know too.
const BUNDLE: &str = "AWS_CA_BUNDLE";

/// Which authorities are trusted besides the system's.
#[derive(Clone, Debug, Default)]
pub struct Transport {
    /// Their certificates in PEM, each of them readable.
    bundle: Option<Arc<[u8]>>,
}

/// The certificates of authorities to trust cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadBundle {
    /// No such file, a directory, or not readable.
    #[error("{BUNDLE}: cannot read {}: {source}; {REMEDY}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// It is cut off, or no certificate in it can be read.
    #[error("{BUNDLE}: certificate {number} of {} is broken: {reason}; {REMEDY}", path.display())]
    Broken { path: PathBuf, number: usize, reason: String },
    /// A file without a certificate, as a key or an empty one.
    #[error("{BUNDLE}: {} has no certificate; {REMEDY}", path.display())]
    Empty { path: PathBuf },
}

const REMEDY: &str =
    "name a PEM file with the certificates of the authorities to trust, or unset the variable";

impl Transport {
    /// Trusts what `AWS_CA_BUNDLE` names.
    ///
    /// # Errors
    /// [`BadBundle`]
    pub fn from_environment() -> Result<Self, BadBundle> {
        match std::env::var_os(BUNDLE).filter(|path| !path.is_empty()) {
            Some(path) => Self::trusting(path.into()),
            None => Ok(Self::default()),
        }
    }

    /// Trusts the authorities of a PEM file.
    ///
    /// # Errors
    /// [`BadBundle`]
    pub fn trusting(path: PathBuf) -> Result<Self, BadBundle> {
        let pem = match std::fs::read(&path) {
            Ok(pem) => pem,
            Err(source) => return Err(BadBundle::Unreadable { path, source }),
        };
        // The SDK's client takes them unseen and panics later over one it cannot read. Bundles made of
        // a system's certificates have such among them: these are left out, as the system's own are.
        let (mut roots, mut usable, mut first) = (RootCertStore::empty(), String::new(), None);
        for (n, certificate) in CertificateDer::pem_slice_iter(&pem).enumerate() {
            let broken = |reason: String| (n + 1, reason);
            match certificate.map(|der| (encode(&der), roots.add(der))) {
                Ok((pem, Ok(()))) => usable += &pem,
                Ok((_, Err(error))) => {
                    first.get_or_insert(broken(error.to_string()));
                }
                Err(error) => {
                    let (number, reason) = broken(error.to_string());
                    return Err(BadBundle::Broken { path, number, reason });
                }
            }
        }
        match first {
            Some((number, reason)) if usable.is_empty() => {
                return Err(BadBundle::Broken { path, number, reason });
            }
            Some((number, reason)) => {
                tracing::warn!(path = %path.display(), number, reason,
                    "{BUNDLE}: a certificate cannot be used, and is left out");
            }
            None if usable.is_empty() => return Err(BadBundle::Empty { path }),
            None => {}
        }
        Ok(Self { bundle: Some(usable.into_bytes().into()) })
    }

    /// An HTTP client with connections of its own; `None` leaves the choice to the SDK, which makes
    /// one for each of its clients. But for what it trusts it is as the SDK's.
    pub fn client(&self) -> Option<SharedHttpClient> {
        let bundle = self.bundle.clone()?;
        Some(Builder::new().build_with_connector_fn(move |settings, components| {
            let store = TrustStore::default().with_pem_certificate(&*bundle);
            let mut connector = ConnectorBuilder::default()
                .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
                .proxy_config(ProxyConfig::from_env());
            if let Ok(context) = TlsContext::builder().with_trust_store(store).build() {
                connector = connector.tls_context(context);
            }
            connector.set_connector_settings(settings.cloned());
            if let Some(components) = components {
                connector.set_sleep_impl(components.sleep_impl());
            }
            connector.build()
        }))
    }
}

/// A certificate in PEM.
fn encode(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    fn told(content: Option<&[u8]>) -> (PathBuf, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.pem");
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let error = Transport::trusting(path.clone()).unwrap_err();
        assert!(error.source().is_none() || content.is_none());
        (path, error.to_string())
    }

    #[test]
    fn a_bundle_that_cannot_be_used_is_named_with_the_remedy() {
        let key = b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
        let broken = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let cut = b"-----BEGIN CERTIFICATE-----\nMAA";
        for (content, word) in [
            (None, "cannot read"),
            (Some(&b""[..]), "no certificate"),
            (Some(key), "no certificate"),
            (Some(broken), "certificate 1"),
            (Some(cut), "certificate 1"),
        ] {
            let (path, told) = told(content);
            assert!(told.starts_with("AWS_CA_BUNDLE: "), "{told}");
            assert!(told.contains(word) && told.contains(path.to_str().unwrap()), "{told}");
            assert!(told.contains("or unset the variable"), "{told}");
        }
    }

    #[test]
    fn certificates_that_cannot_be_used_are_left_out_beside_one_that_can() {
        // An authority made for this test, without its key.
        let good = "-----BEGIN CERTIFICATE-----\nMIIBjzCCATWgAwIBAgIUU9v8zzsSv/ONj+PqJhfRScGDPugwCgYIKoZIzj0EAwIw\n\
                    HDEaMBgGA1UEAwwRZXhhbXBsZSBhdXRob3JpdHkwIBcNMjYxMTI4MDkwNTA5WhgP\n\
                    MjEyNjExMDQwOTA1MDlaMBwxGjAYBgNVBAMMEWV4YW1wbGUgYXV0aG9yaXR5MFkw\n\
                    EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEzQNSfFtN1mw5cV9t3CJoEykCGLNItBSr\n\
                    XQu6FGlKRBErFS2TFroq/owoKeVaXwmcSvMu3tkLdMmITMcUHjBzHKNTMFEwHQYD\n\
                    VR0OBBYEFGTv+sRUCTAc7CZsLeBfFAODk0HRMB8GA1UdIwQYMBaAFGTv+sRUCTAc\n\
                    7CZsLeBfFAODk0HRMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIg\n\
                    Mwqrkmpe1Vl8NZgJaKQyLI2DEfGYbqtpvYo1R3bjREUCIQDoYGfoI3WPzovkOGuQ\n\
                    uYD+7oKLBX+MCDFVUlbTWRZmfA==\n-----END CERTIFICATE-----\n";
        let broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.pem");
        std::fs::write(&path, format!("# ours\n{broken}{good}{broken}")).unwrap();
        let transport = Transport::trusting(path).unwrap();
        let kept = String::from_utf8(transport.bundle.as_ref().unwrap().to_vec()).unwrap();
        let strip = |text: &str| text.replace('\n', "");
        assert_eq!(strip(&kept), strip(good));
        assert!(transport.client().is_some());
    }
}
