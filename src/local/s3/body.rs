//! Receives request bodies into temporary files, with every checksum the client announced.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::StreamingBlob;
use s3s::{S3Result, s3_error};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::chunked::Trailers;
use super::files::{Files, Temp, internal};

/// The checksums S3 knows, by the name they have in `x-amz-checksum-<name>`.
pub(super) const ALGORITHMS: [&str; 5] = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"];
const PIECE: u64 = 256 * 1024;

/// What the client said about a body before or after sending it.
#[derive(Default)]
pub(super) struct Expected {
    /// By algorithm, base64.
    pub(super) checksums: BTreeMap<&'static str, String>,
    pub(super) md5: Option<String>,
    pub(super) length: Option<i64>,
    /// Algorithms whose value follows in the trailer.
    pub(super) trailing: Vec<&'static str>,
    pub(super) trailers: Option<Trailers>,
}

/// A received body.
pub(super) struct ReceivedBody {
    pub(super) temp: Temp,
    pub(super) size: u64,
    pub(super) md5: [u8; 16],
    /// By algorithm, base64.
    pub(super) checksums: BTreeMap<String, String>,
}

/// Several digests over one pass.
pub(super) struct Digests {
    md5: Md5,
    others: ChecksumHasher,
}

impl Digests {
    pub(super) fn new<'a>(algorithms: impl IntoIterator<Item = &'a str>) -> Self {
        let mut others = ChecksumHasher::default();
        for name in algorithms {
            match name {
                "crc32" => others.crc32 = Some(Crc32::new()),
                "crc32c" => others.crc32c = Some(Crc32c::new()),
                "crc64nvme" => others.crc64nvme = Some(Crc64Nvme::new()),
                "sha1" => others.sha1 = Some(Sha1::new()),
                "sha256" => others.sha256 = Some(Sha256::new()),
                _ => {}
            }
        }
        Self { md5: Md5::new(), others }
    }

    pub(super) fn update(&mut self, data: &[u8]) {
        self.md5.update(data);
        self.others.update(data);
    }

    pub(super) fn finish(self) -> ([u8; 16], BTreeMap<String, String>) {
        let sums = self.others.finalize();
        let named = [
            ("crc32", sums.checksum_crc32),
            ("crc32c", sums.checksum_crc32c),
            ("crc64nvme", sums.checksum_crc64nvme),
            ("sha1", sums.checksum_sha1),
            ("sha256", sums.checksum_sha256),
        ];
        let checksums =
            named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        (self.md5.finalize(), checksums)
    }
}

/// Writes a body to a temporary file and verifies everything the client announced about it.
pub(super) async fn receive(
    files: &Arc<Files>,
    body: Option<StreamingBlob>,
    expected: Expected,
) -> S3Result<ReceivedBody> {
    let temp = files.temp();
    let mut file = tokio::fs::File::create(temp.path()).await.map_err(internal)?;
    let announced = expected.checksums.keys().chain(&expected.trailing);
    let mut digests = Digests::new(announced.copied());
    let mut size = 0u64;
    if let Some(mut body) = body {
        while let Some(data) = body.next().await {
            let data = data.map_err(|e| s3_error!(IncompleteBody, "the body broke off: {e}"))?;
            digests.update(&data);
            size += data.len() as u64;
            file.write_all(&data).await.map_err(internal)?;
        }
    }
    file.flush().await.map_err(internal)?;
    let (md5, checksums) = digests.finish();
    if expected.length.is_some_and(|length| u64::try_from(length) != Ok(size)) {
        return Err(s3_error!(IncompleteBody, "The body is not as long as announced"));
    }
    if expected.md5.is_some_and(|sent| sent != BASE64.encode(md5)) {
        return Err(bad_digest("Content-MD5"));
    }
    for (name, computed) in &checksums {
        let sent = expected
            .checksums
            .get(name.as_str())
            .cloned()
            .or_else(|| expected.trailers.as_ref()?.get(&format!("x-amz-checksum-{name}")))
            .ok_or_else(|| s3_error!(InvalidRequest, "The announced trailer {name} is missing"))?;
        if sent != *computed {
            return Err(bad_digest(name));
        }
    }
    Ok(ReceivedBody { temp, size, md5, checksums })
}

pub(super) fn bad_digest(which: &str) -> s3s::S3Error {
    s3_error!(BadDigest, "The {which} you specified did not match the calculated checksum.")
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes `start..end` of a file.
pub(super) fn read(
    file: std::fs::File,
    start: u64,
    end: u64,
) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync {
    let file = tokio::fs::File::from_std(file);
    futures::stream::try_unfold((file, start, true), move |(mut file, at, first)| async move {
        if at >= end {
            return Ok(None);
        }
        if first && at > 0 {
            file.seek(io::SeekFrom::Start(at)).await?;
        }
        let want = usize::try_from(PIECE.min(end - at)).unwrap_or(usize::MAX);
        let mut piece = vec![0; want];
        let got = file.read(&mut piece).await?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        piece.truncate(got);
        Ok(Some((Bytes::from(piece), (file, at + got as u64, false))))
    })
}
