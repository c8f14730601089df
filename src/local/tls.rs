//! TLS as the real services have it: a certificate by an authority of our own, made at each start.
//!
//! Kinesis offers HTTP/2 and HTTP/1.1, DynamoDB and S3 HTTP/1.1 alone. Which protocol is spoken is
//! settled before the first request, so Kinesis has a port of its own. Keys never leave the memory,
//! and the authority can vouch for this machine alone, whoever else is made to trust it.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::LocalError;

const NAME: &str = "localhost";
/// Authority and certificate end after this; some clients refuse to trust much longer ones.
const DAYS: i32 = 397;

/// What the ports speak with.
pub(super) struct ServerIdentity {
    /// For Kinesis.
    pub(super) http2: TlsAcceptor,
    /// For the others.
    pub(super) http1: TlsAcceptor,
    /// The authority's certificate in PEM, for clients.
    pub(super) authority: PathBuf,
}

impl ServerIdentity {
    /// Makes keys and certificates for `address` and localhost, and writes that of the authority
    /// to a file.
    pub(super) fn make(
        address: IpAddr,
        authority: PathBuf,
        now_ms: i64,
    ) -> Result<Self, LocalError> {
        let failed = |reason: String| LocalError::Certificate { reason };
        let (pem, config) = certificates(address, now_ms).map_err(failed)?;
        write(&authority, &pem)?;
        let speaking = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            TlsAcceptor::from(Arc::new(config))
        };
        Ok(Self {
            http2: speaking(&[b"h2", b"http/1.1"]),
            http1: speaking(&[b"http/1.1"]),
            authority,
        })
    }
}

/// In one step: a client that starts at the same time reads the whole file, or the one before.
fn write(path: &Path, pem: &str) -> Result<(), LocalError> {
    let new = path.with_extension("new");
    fs::write(&new, pem)
        .and_then(|()| fs::rename(&new, path))
        .map_err(|source| LocalError::Directory { path: path.to_owned(), source })
}

/// The authority's certificate in PEM, and what a server needs.
fn certificates(address: IpAddr, now_ms: i64) -> Result<(String, ServerConfig), String> {
    let today = Timestamp::from_millisecond(now_ms).map_err(|e| e.to_string())?;
    let today = today.to_zoned(TimeZone::UTC).date();
    let params = |names: Vec<String>, name: &str| -> Result<CertificateParams, String> {
        let mut params = CertificateParams::new(names).map_err(|e| e.to_string())?;
        params.distinguished_name.push(DnType::CommonName, name);
        // Clocks differ.
        let (year, month, date) = day(today.yesterday());
        params.not_before = date_time_ymd(year, month, date);
        let (year, month, date) = day(today.checked_add(jiff::Span::new().days(DAYS)));
        params.not_after = date_time_ymd(year, month, date);
        Ok(params)
    };
    let mut authority = params(Vec::new(), "Catchment's local services")?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let host = CidrSubnet::from_addr_prefix(address, if address.is_ipv4() { 32 } else { 128 });
    authority.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName(NAME.to_owned()),
            GeneralSubtree::IpAddress(host),
        ],
        excluded_subtrees: Vec::new(),
    });
    let mut server = params(vec![NAME.to_owned(), address.to_string()], NAME)?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let make = || -> Result<_, rcgen::Error> {
        let (issuing, serving) = (KeyPair::generate()?, KeyPair::generate()?);
        let own = authority.self_signed(&issuing)?;
        let certificate = server.signed_by(&serving, &Issuer::from_params(&authority, issuing))?;
        Ok((own.pem(), certificate.der().clone(), serving.serialize_der()))
    };
    let (pem, certificate, key) = make().map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|b| b.with_no_client_auth().with_single_cert(vec![certificate], key))
        .map_err(|e| e.to_string())?;
    Ok((pem, config))
}

/// What the dates of certificates are made of; the epoch if the clock is beyond all calendars.
fn day(date: Result<Date, jiff::Error>) -> (i32, u8, u8) {
    let date = date.unwrap_or(Date::constant(1970, 1, 1));
    (date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
}
