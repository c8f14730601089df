//! Multipart uploads: one folder each, kept over restarts as S3 keeps them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};

use super::body::{Digests, ReceivedBody, bad_digest, hex};
use super::files::{Condition, Files, Meta, internal};
use super::keys::relative_path;

/// S3's smallest part, except for the last one.
const MIN_PART: u64 = 5 * 1024 * 1024;

/// An upload in progress.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct OpenUpload {
    pub(super) id: String,
    pub(super) bucket: String,
    pub(super) meta: Meta,
    pub(super) initiated_ms: i64,
}

/// One uploaded part.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct LocalPart {
    pub(super) number: i32,
    pub(super) size: u64,
    pub(super) md5: [u8; 16],
    #[serde(default)]
    pub(super) checksums: BTreeMap<String, String>,
}

/// A part as named by CompleteMultipartUpload.
pub(super) struct Named {
    pub(super) number: i32,
    pub(super) etag: Option<String>,
    pub(super) checksums: BTreeMap<&'static str, String>,
}

impl Files {
    /// The folder of an upload; ids are ours, so anything else names nothing.
    fn upload_path(&self, id: &str) -> S3Result<PathBuf> {
        let path = self.uploads().join(id);
        let ours = !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if ours && path.is_dir() {
            Ok(path)
        } else {
            Err(s3_error!(
                NoSuchUpload,
                "The specified multipart upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
            ))
        }
    }

    pub(super) fn start_upload(&self, upload: &OpenUpload) -> S3Result<()> {
        self.bucket(&upload.bucket)?;
        relative_path(&upload.meta.key)?;
        let path = self.uploads().join(&upload.id);
        fs::create_dir(&path).map_err(internal)?;
        let bytes = serde_json::to_vec(upload).map_err(internal)?;
        fs::write(path.join("upload.json"), bytes).map_err(internal)
    }

    pub(super) fn upload(&self, id: &str, bucket: &str, key: &str) -> S3Result<OpenUpload> {
        let path = self.upload_path(id)?.join("upload.json");
        let upload: OpenUpload =
            serde_json::from_slice(&fs::read(path).map_err(internal)?).map_err(internal)?;
        if upload.bucket == bucket && upload.meta.key == key {
            Ok(upload)
        } else {
            Err(s3_error!(NoSuchUpload, "The upload belongs to another object"))
        }
    }

    pub(super) fn uploads_of(&self, bucket: &str, prefix: &str) -> S3Result<Vec<OpenUpload>> {
        self.bucket(bucket)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(self.uploads()).map_err(internal)? {
            let path = entry.map_err(internal)?.path().join("upload.json");
            // Half-made by a crash, or completed meanwhile.
            let Ok(bytes) = fs::read(path) else { continue };
            if let Ok(upload) = serde_json::from_slice::<OpenUpload>(&bytes)
                && upload.bucket == bucket
                && upload.meta.key.starts_with(prefix)
            {
                found.push(upload);
            }
        }
        found.sort_by(|a, b| (&a.meta.key, &a.id).cmp(&(&b.meta.key, &b.id)));
        Ok(found)
    }

    pub(super) fn upload_part_of(
        &self,
        id: &str,
        number: i32,
        received: &ReceivedBody,
    ) -> S3Result<()> {
        if !(1..=10_000).contains(&number) {
            return Err(s3_error!(
                InvalidArgument,
                "Part number must be an integer between 1 and 10000, inclusive"
            ));
        }
        let path = self.upload_path(id)?;
        let part = LocalPart {
            number,
            size: received.size,
            md5: received.md5,
            checksums: received.checksums.clone(),
        };
        // The description first: a description without its part is ignored.
        let about = self.temp();
        fs::write(about.path(), serde_json::to_vec(&part).map_err(internal)?).map_err(internal)?;
        fs::rename(about.path(), path.join(format!("{number}.json"))).map_err(internal)?;
        fs::rename(received.temp.path(), path.join(number.to_string())).map_err(internal)
    }

    pub(super) fn parts(&self, id: &str) -> S3Result<Vec<LocalPart>> {
        let path = self.upload_path(id)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&path).map_err(internal)? {
            let name = entry.map_err(internal)?.file_name();
            let Some(number) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else {
                continue;
            };
            let bytes = fs::read(path.join(format!("{number}.json"))).map_err(internal)?;
            found.push(serde_json::from_slice::<LocalPart>(&bytes).map_err(internal)?);
        }
        found.sort_by_key(|part| part.number);
        Ok(found)
    }

    /// Joins the named parts into the object. The upload stays when anything fails.
    pub(super) fn complete_upload(
        &self,
        id: &str,
        mut meta: Meta,
        bucket: &str,
        named: &[Named],
        whole: &BTreeMap<&'static str, String>,
        condition: &Condition,
    ) -> S3Result<Meta> {
        let path = self.upload_path(id)?;
        let chosen = choose(&self.parts(id)?, named)?;
        let temp = self.temp();
        let mut out = File::create(temp.path()).map_err(internal)?;
        // Composite checksums end in `-<parts>`: those are sums of sums, and not verified.
        let full = |value: &&String| !value.contains('-');
        let algorithms = whole.iter().filter(|(_, value)| full(value));
        let mut digests = Digests::new(algorithms.map(|(name, _)| *name));
        let mut etags = Digests::new([]);
        let mut piece = vec![0; 256 * 1024];
        meta.size = 0;
        for part in &chosen {
            etags.update(&part.md5);
            meta.size += part.size;
            let mut from = File::open(path.join(part.number.to_string())).map_err(internal)?;
            loop {
                let got = from.read(&mut piece).map_err(internal)?;
                if got == 0 {
                    break;
                }
                digests.update(&piece[..got]);
                out.write_all(&piece[..got]).map_err(internal)?;
            }
        }
        drop(out);
        let (_, checksums) = digests.finish();
        for (name, computed) in &checksums {
            if whole.get(name.as_str()) != Some(computed) {
                return Err(bad_digest(name));
            }
        }
        meta.checksums = checksums;
        meta.etag = format!("{}-{}", hex(&etags.finish().0), chosen.len());
        self.publish(&temp, bucket, &meta, condition)?;
        fs::remove_dir_all(path).map_err(internal)?;
        Ok(meta)
    }

    pub(super) fn abort_upload(&self, id: &str) -> S3Result<()> {
        fs::remove_dir_all(self.upload_path(id)?).map_err(internal)
    }
}

fn choose(have: &[LocalPart], named: &[Named]) -> S3Result<Vec<LocalPart>> {
    if named.is_empty() {
        return Err(s3_error!(MalformedXML, "You must specify at least one part"));
    }
    if !named.is_sorted_by(|a, b| a.number < b.number) {
        return Err(s3_error!(InvalidPartOrder, "The list of parts was not in ascending order."));
    }
    let mut chosen = Vec::with_capacity(named.len());
    for wanted in named {
        let part = have.iter().find(|part| part.number == wanted.number);
        let part = part.filter(|part| {
            let same_etag = wanted.etag.as_deref().is_none_or(|etag| etag == hex(&part.md5));
            same_etag
                && wanted.checksums.iter().all(|(name, value)| {
                    part.checksums.get(*name).is_none_or(|stored| stored == value)
                })
        });
        chosen.push(part.cloned().ok_or_else(|| {
            s3_error!(
                InvalidPart,
                "One or more of the specified parts could not be found, or its entity tag or checksum did not match."
            )
        })?);
    }
    match chosen.split_last() {
        Some((_, before)) if before.iter().any(|part| part.size < MIN_PART) => Err(s3_error!(
            EntityTooSmall,
            "Your proposed upload is smaller than the minimum allowed size"
        )),
        _ => Ok(chosen),
    }
}

impl OpenUpload {
    pub(super) fn initiated(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
            + std::time::Duration::from_millis(u64::try_from(self.initiated_ms).unwrap_or(0))
    }
}
