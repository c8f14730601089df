//! The upload event: the envelope the front door writes and the worker reads.
//!
//! Version 1 is one JSON object whose fields stand in a fixed order, so that any event begins with
//! the same bytes ([`PREFIX`]) and a worker can tell it from other records without parsing:
//!
//! ```json
//! {"catchment":"upload","v":1,"file_key":"uploads/….txt","content_type":"text/plain",
//!  "sha256":"…","subject":"…","request_id":"…","received_at":1790000000000,"body":"…base64…"}
//! ```
//!
//! `subject` is a hash of the caller's identity, never the identity itself.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use super::file_key::{FileKey, KEY_PREFIX, KeyError, MAX_KEY_BYTES, validate_file_key};

/// The first bytes of every upload event, whatever its version.
pub const PREFIX: &[u8] = br#"{"catchment":"upload","v":"#;

/// The version this build writes and reads.
const VERSION: u32 = 1;

/// The longest content type taken.
const MAX_CONTENT_TYPE_BYTES: usize = 256;

/// The longest request id taken.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// Object metadata name: the id the caller saw.
pub const META_REQUEST_ID: &str = "catchment-request-id";
/// Object metadata name: hash of the uploader's identity.
pub const META_SUBJECT: &str = "catchment-subject";
/// Object metadata name: verified SHA-256 of the body, hexadecimal.
pub const META_SHA256: &str = "catchment-sha256";
/// Object metadata name: where in the stream the event stood.
pub const META_POSITION: &str = "catchment-position";

/// Room kept for everything in an event but the body: a promise that [`Envelope::encode`] keeps.
const RESERVE_BYTES: usize = 1024;
/// A partition key is a UUID and counts towards the record's size.
const PARTITION_KEY_BYTES: usize = 36;

/// The largest body whose event still fits a record of `record_limit` bytes.
///
/// Kinesis counts data and partition key; the body travels as base64. 1 MiB leaves 785,637 bytes.
pub fn max_body_bytes(record_limit: usize) -> usize {
    record_limit.saturating_sub(RESERVE_BYTES + PARTITION_KEY_BYTES) / 4 * 3
}

/// The SHA-256 of `body`, in lower-case hexadecimal.
pub fn sha256_hex(body: &[u8]) -> String {
    hex(&Sha256::digest(body))
}

/// The hash that stands for a caller: of issuer and subject, so that two pools never meet.
pub fn subject_hash(issuer: &str, subject: &str) -> String {
    let mut hash = Sha256::new();
    for part in ["catchment-subject", issuer, subject] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

/// The file id of an upload that carries an `Idempotency-Key`: the same for the same caller and key.
pub fn idempotent_id(subject: &str, idempotency_key: &str) -> uuid::Uuid {
    let mut hash = Sha256::new();
    for part in ["catchment-idempotency", subject, idempotency_key] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| char::from(DIGITS[usize::from(n)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

fn is_hex_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `text` can stand as a request id: what API Gateway and UUIDs use.
pub fn is_request_id(text: &str) -> bool {
    (1..=MAX_REQUEST_ID_BYTES).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=+/:.".contains(&b))
}

/// Whether `text` is a media type (`type/subtype`, parameters allowed) that fits a header.
pub fn is_content_type(text: &str) -> bool {
    let token = |t: &str| {
        !t.is_empty()
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-*'`|~%".contains(&b))
    };
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    text.len() <= MAX_CONTENT_TYPE_BYTES
        && text.bytes().all(|b| matches!(b, 0x20..=0x7e))
        && essence.split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub))
}

/// One upload on its way through the stream.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The object it becomes.
    pub file_key: FileKey,
    /// Media type, kept with the object.
    pub content_type: String,
    /// SHA-256 of the body, lower-case hexadecimal.
    pub sha256: String,
    /// Hash of the uploader's identity ([`subject_hash`]).
    pub subject: String,
    /// The id the caller saw.
    pub request_id: String,
    /// When the front door took it, milliseconds since the epoch.
    pub received_at: i64,
    /// The file.
    pub body: Vec<u8>,
}

impl fmt::Debug for Envelope {
    /// Never shows the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("file_key", &self.file_key)
            .field("request_id", &self.request_id)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Why a record that begins like an upload event is not one. [`EnvelopeError::kind`] is the reason
/// under which a worker files it as a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not the JSON of this version: truncated, unknown, missing or doubled fields.
    #[error("not an upload event: {0}")]
    Malformed(String),
    /// Written by a newer (or no) front door.
    #[error("version {0} of the upload event is not known, this build reads {VERSION}")]
    UnsupportedVersion(String),
    /// The key is hostile.
    #[error("file_key refused: {0}")]
    BadFileKey(KeyError),
    /// A field is out of its bounds.
    #[error("field `{0}` is out of bounds")]
    BadField(&'static str),
    /// The body is not base64.
    #[error("the body is not base64")]
    BadBody,
    /// The body is not what the front door received.
    #[error("the body does not have the promised SHA-256")]
    ChecksumMismatch,
}

impl EnvelopeError {
    /// A short, stable name for metrics and dead-letter folders.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "upload-malformed",
            Self::UnsupportedVersion(_) => "upload-version",
            Self::BadFileKey(_) => "upload-key",
            Self::BadField(_) => "upload-field",
            Self::BadBody => "upload-body",
            Self::ChecksumMismatch => "upload-checksum",
        }
    }
}

/// The wire form. Field order is part of the format.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireEnvelope<'a> {
    #[serde(borrow)]
    catchment: std::borrow::Cow<'a, str>,
    v: u32,
    file_key: std::borrow::Cow<'a, str>,
    content_type: std::borrow::Cow<'a, str>,
    sha256: std::borrow::Cow<'a, str>,
    subject: std::borrow::Cow<'a, str>,
    request_id: std::borrow::Cow<'a, str>,
    received_at: i64,
    body: std::borrow::Cow<'a, str>,
}

impl Envelope {
    /// Whether a record claims to be an upload event. Looks at the first bytes only.
    pub fn recognise(record: &[u8]) -> bool {
        record.starts_with(PREFIX)
    }

    /// Reads a record that [`Envelope::recognise`] took, trusting nothing in it.
    ///
    /// # Errors
    /// [`EnvelopeError`] unless every field is present once, within bounds, and the body has the
    /// promised SHA-256.
    pub fn parse(record: &[u8]) -> Result<Self, EnvelopeError> {
        let rest = record
            .strip_prefix(PREFIX)
            .ok_or_else(|| EnvelopeError::Malformed("wrong first bytes".into()))?;
        let digits = rest.iter().take(10).take_while(|b| b.is_ascii_digit()).count();
        let version = std::str::from_utf8(&rest[..digits]).unwrap_or_default();
        if version != "1" {
            return Err(EnvelopeError::UnsupportedVersion(version.to_owned()));
        }
        let wire: WireEnvelope<'_> = serde_json::from_slice(record)
            .map_err(|e| EnvelopeError::Malformed(e.to_string().chars().take(200).collect()))?;
        if wire.catchment != "upload" || wire.v != VERSION {
            return Err(EnvelopeError::Malformed("doubled header".into()));
        }
        let file_key = validate_file_key(&wire.file_key).map_err(EnvelopeError::BadFileKey)?;
        for (name, good) in [
            ("content_type", is_content_type(&wire.content_type)),
            ("sha256", is_hex_digest(&wire.sha256)),
            ("subject", is_hex_digest(&wire.subject)),
            ("request_id", is_request_id(&wire.request_id)),
            ("received_at", wire.received_at >= 0),
        ] {
            if !good {
                return Err(EnvelopeError::BadField(name));
            }
        }
        let body = STANDARD.decode(wire.body.as_bytes()).map_err(|_| EnvelopeError::BadBody)?;
        if sha256_hex(&body) != wire.sha256 {
            return Err(EnvelopeError::ChecksumMismatch);
        }
        Ok(Self {
            file_key,
            content_type: wire.content_type.into_owned(),
            sha256: wire.sha256.into_owned(),
            subject: wire.subject.into_owned(),
            request_id: wire.request_id.into_owned(),
            received_at: wire.received_at,
            body,
        })
    }

    /// The record to put into the stream.
    pub fn encode(&self) -> Vec<u8> {
        let wire = WireEnvelope {
            catchment: "upload".into(),
            v: VERSION,
            file_key: self.file_key.as_str().into(),
            content_type: self.content_type.as_str().into(),
            sha256: self.sha256.as_str().into(),
            subject: self.subject.as_str().into(),
            request_id: self.request_id.as_str().into(),
            received_at: self.received_at,
            body: STANDARD.encode(&self.body).into(),
        };
        let mut record = Vec::with_capacity(wire.body.len() + RESERVE_BYTES);
        // Writing strings and numbers to memory cannot fail.
        let _ = serde_json::to_writer(&mut record, &wire);
        record
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(body: &[u8]) -> Envelope {
        Envelope {
            file_key: validate_file_key("uploads/0b9d7d9e-5c55-4b8c-8d5e-6f2f7c1f3a10.txt")
                .unwrap(),
            content_type: "text/plain; charset=utf-8".into(),
            sha256: sha256_hex(body),
            subject: subject_hash("https://issuer", "someone"),
            request_id: "JKJaXmPLvHcESHA=".into(),
            received_at: 1_790_000_000_123,
            body: body.to_vec(),
        }
    }

    fn with(field: &str, value: serde_json::Value) -> Vec<u8> {
        let text = String::from_utf8(sample(b"hello").encode()).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        let old = format!("\"{field}\":{}", parsed[field]);
        assert!(text.contains(&old), "{field}");
        text.replace(&old, &format!("\"{field}\":{value}")).into_bytes()
    }

    #[test]
    fn the_format_of_version_1_is_frozen() {
        let text = String::from_utf8(sample(b"hello").encode()).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"catchment":"upload","v":1,"file_key":"uploads/0b9d7d9e-5c55-4b8c-8d5e-6f2f7c1f3a10.txt","#,
                r#""content_type":"text/plain; charset=utf-8","#,
                r#""sha256":"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","#,
                r#""subject":"SUBJECT","request_id":"JKJaXmPLvHcESHA=","received_at":1790000000123,"body":"aGVsbG8="}"#
            )
            .replace("SUBJECT", &subject_hash("https://issuer", "someone"))
        );
    }

    #[test]
    fn hostile_envelopes_are_named() {
        use serde_json::json;
        let kind = |record: &[u8]| Envelope::parse(record).unwrap_err().kind();
        let good = sample(b"hello").encode();
        assert_eq!(kind(b"{}"), "upload-malformed");
        assert_eq!(kind(&good[..good.len() - 1]), "upload-malformed");
        assert_eq!(kind(&[good.as_slice(), b"x"].concat()), "upload-malformed");
        assert_eq!(kind(PREFIX), "upload-version");
        assert_eq!(kind(&with("v", json!(2))), "upload-version");
        assert_eq!(kind(&with("v", json!(1.5))), "upload-malformed");
        assert_eq!(kind(&with("file_key", json!("uploads/../x"))), "upload-key");
        assert_eq!(kind(&with("file_key", json!(7))), "upload-malformed");
        assert_eq!(kind(&with("content_type", json!("text"))), "upload-field");
        assert_eq!(kind(&with("content_type", json!("text/plain\r\nx: y"))), "upload-field");
        assert_eq!(kind(&with("sha256", json!("ABC"))), "upload-field");
        assert_eq!(kind(&with("subject", json!("dev@example.org"))), "upload-field");
        assert_eq!(kind(&with("request_id", json!("ä"))), "upload-field");
        assert_eq!(kind(&with("received_at", json!(-1))), "upload-field");
        assert_eq!(kind(&with("body", json!("aGVsbG8"))), "upload-body");
        assert_eq!(kind(&with("body", json!("aGVsbG9="))), "upload-body");
        assert_eq!(kind(&with("body", json!("aGVsbG8h"))), "upload-checksum");
        let text = String::from_utf8(good).unwrap();
        let doubled = text.replace("\"v\":1,", "\"v\":1,\"v\":1,");
        assert_eq!(kind(doubled.as_bytes()), "upload-malformed");
        let extra = text.replace("\"v\":1,", "\"v\":1,\"admin\":true,");
        assert_eq!(kind(extra.as_bytes()), "upload-malformed");
        let missing = text.replace("\"received_at\":1790000000123,", "");
        assert_eq!(kind(missing.as_bytes()), "upload-malformed");
    }

    #[test]
    fn limits() {
        assert_eq!(max_body_bytes(1 << 20), 785_637);
        assert_eq!(max_body_bytes(10 << 20), 7_863_525);
        assert_eq!(max_body_bytes(10), 0);
    }

    #[test]
    fn ids_depend_on_caller_and_key_and_nothing_runs_together() {
        let id = idempotent_id("alice", "k1");
        assert_eq!(id, idempotent_id("alice", "k1"));
        assert_eq!(id.get_version_num(), 8);
        assert_ne!(id, idempotent_id("bob", "k1"));
        assert_ne!(idempotent_id("a", "bc"), idempotent_id("ab", "c"));
        assert_ne!(subject_hash("a", "bc"), subject_hash("ab", "c"));
    }

    proptest! {
        #[test]
        fn round_trip(body: Vec<u8>, key in "[a-zA-Z0-9äß%@ +,-]{1,40}", at in 0..i64::MAX) {
            let mut event = sample(&body);
            event.file_key = validate_file_key(&format!("uploads/{key}")).unwrap();
            event.received_at = at;
            let record = event.encode();
            prop_assert!(Envelope::recognise(&record));
            prop_assert_eq!(Envelope::parse(&record).unwrap(), event);
        }

        #[test]
        fn the_largest_body_fits(content_type in r#"text/["\\a-z]{0,251}"#, spare in 0usize..4) {
            let limit = 4096;
            let mut event = sample(&vec![7; max_body_bytes(limit) - spare]);
            event.content_type = content_type.chars().take(MAX_CONTENT_TYPE_BYTES).collect();
            event.request_id = "r".repeat(MAX_REQUEST_ID_BYTES);
            event.received_at = i64::MAX;
            prop_assert!(event.encode().len() + PARTITION_KEY_BYTES <= limit);
        }

        #[test]
        fn any_bytes_are_survived(record: Vec<u8>, cut in 0usize..400, at in 0usize..400, byte: u8) {
            let _ = Envelope::parse(&record);
            let _ = Envelope::parse(&[PREFIX, b"1", &record].concat());
            let mut damaged = sample(b"some body").encode();
            damaged.truncate(cut.max(1));
            let at = at % damaged.len();
            damaged[at] ^= byte;
            if let Ok(read) = Envelope::parse(&damaged) {
                prop_assert_eq!(sha256_hex(&read.body), read.sha256);
                prop_assert!(validate_file_key(read.file_key.as_str()).is_ok());
            }
        }
    }
}
