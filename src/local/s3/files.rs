//! LocalObjects as plain files: names, atomic publication, metadata beside the data.
//!
//! ```text
//! <objects>/<bucket>/<key>                         the object, byte for byte
//! <objects>/.catchment-meta/<bucket>/<hash>.json   its metadata, never listed
//! <objects>/.catchment-tmp/                        bodies on their way, emptied at start
//! <objects>/.catchment-uploads/<id>/               multipart uploads in progress
//! ```
//!
//! An object appears by a hard link or a rename within one file system, so a crash at any point
//! leaves either nothing or the whole object.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::keys::{Listed, conflict, relative_path, walk};
use crate::local::LocalError;

const META: &str = ".catchment-meta";
const TEMP: &str = ".catchment-tmp";
const UPLOADS: &str = ".catchment-uploads";

/// What S3 keeps about an object besides its bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) etag: String,
    pub(super) content_type: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_language: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) cache_control: Option<String>,
    #[serde(default)]
    pub(super) user: BTreeMap<String, String>,
    /// By algorithm, base64, as in the `x-amz-checksum-*` headers.
    #[serde(default)]
    pub(super) checksums: BTreeMap<String, String>,
}

/// When a PUT may take effect.
#[derive(Clone)]
pub(super) enum Condition {
    Always,
    /// `If-None-Match: *`
    Create,
    /// `If-Match: <etag>`
    Match(String),
}

/// A file on its way to becoming an object; removed when dropped before publication.
pub(super) struct Temp(PathBuf);

impl Temp {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The directory that holds every bucket.
pub(super) struct Files {
    root: PathBuf,
    next: AtomicU64,
    publish: Mutex<()>,
}

impl Files {
    /// Prepares the directory and removes what an earlier crash left in `.catchment-tmp`.
    pub(super) fn open(root: &Path) -> Result<Self, LocalError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| LocalError::Directory { path, source }
        };
        let temp = root.join(TEMP);
        match fs::remove_dir_all(&temp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&temp)(e)),
            _ => {}
        }
        for directory in [&temp, &root.join(META), &root.join(UPLOADS)] {
            fs::create_dir_all(directory).map_err(at(directory))?;
        }
        Ok(Self { root: root.to_owned(), next: AtomicU64::new(0), publish: Mutex::new(()) })
    }

    pub(super) fn uploads(&self) -> PathBuf {
        self.root.join(UPLOADS)
    }

    pub(super) fn temp(&self) -> Temp {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        Temp(self.root.join(TEMP).join(n.to_string()))
    }

    /// Held while an object and its metadata change or are opened together.
    fn exclusive(&self) -> MutexGuard<'_, ()> {
        self.publish.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn create_bucket(&self, bucket: &str) -> S3Result<()> {
        match fs::create_dir(self.root.join(bucket)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Err(s3_error!(BucketAlreadyOwnedByYou))
            }
            other => other.map_err(internal),
        }
    }

    pub(super) fn buckets(&self) -> S3Result<Vec<(String, SystemTime)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(internal)? {
            let entry = entry.map_err(internal)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let about = entry.metadata().map_err(internal)?;
            if about.is_dir() && s3s::path::check_bucket_name(&name) {
                found.push((name, about.modified().map_err(internal)?));
            }
        }
        found.sort();
        Ok(found)
    }

    pub(super) fn bucket(&self, bucket: &str) -> S3Result<PathBuf> {
        let path = self.root.join(bucket);
        if s3s::path::check_bucket_name(bucket) && path.is_dir() {
            Ok(path)
        } else {
            Err(s3_error!(NoSuchBucket, "The specified bucket does not exist"))
        }
    }

    pub(super) fn delete_bucket(&self, bucket: &str) -> S3Result<()> {
        let _guard = self.exclusive();
        let path = self.bucket(bucket)?;
        fs::remove_dir(path).map_err(|e| match e.kind() {
            io::ErrorKind::DirectoryNotEmpty => s3_error!(BucketNotEmpty),
            _ => internal(e),
        })
    }

    fn meta_path(&self, bucket: &str, key: &str) -> PathBuf {
        let hash = Sha256::digest(key.as_bytes());
        let name: String = hash.iter().map(|b| format!("{b:02x}")).collect();
        self.root.join(META).join(bucket).join(format!("{name}.json"))
    }

    /// Makes `temp` the object `key`, if `condition` allows.
    pub(super) fn publish(
        &self,
        temp: &Temp,
        bucket: &str,
        meta: &Meta,
        condition: &Condition,
    ) -> S3Result<()> {
        let relative = relative_path(&meta.key)?;
        let _guard = self.exclusive();
        let target = self.bucket(bucket)?.join(relative);
        let existing = fs::symlink_metadata(&target).ok();
        match (condition, &existing) {
            (_, Some(about)) if about.is_dir() => return Err(conflict(&meta.key)),
            (Condition::Create, Some(_)) => return Err(failed("If-None-Match")),
            (Condition::Match(_), None) => return Err(no_such_key()),
            (Condition::Match(etag), Some(about))
                if self.meta(bucket, &meta.key, about)?.etag != *etag =>
            {
                return Err(failed("If-Match"));
            }
            _ => {}
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|_| conflict(&meta.key))?;
        }
        let meta_path = self.meta_path(bucket, &meta.key);
        if let Some(parent) = meta_path.parent() {
            fs::create_dir_all(parent).map_err(internal)?;
        }
        let meta_temp = self.temp();
        fs::write(meta_temp.path(), serde_json::to_vec(meta).map_err(internal)?)
            .map_err(internal)?;
        fs::rename(meta_temp.path(), meta_path).map_err(internal)?;
        if matches!(condition, Condition::Create) {
            // Fails when anybody, even another program, created the file meanwhile.
            fs::hard_link(temp.path(), &target).map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => failed("If-None-Match"),
                _ => internal(e),
            })
        } else {
            fs::rename(temp.path(), &target).map_err(internal)
        }
    }

    /// Opens an object together with its metadata.
    pub(super) fn open_object(
        &self,
        bucket: &str,
        key: &str,
    ) -> S3Result<(File, Meta, SystemTime)> {
        let _guard = self.exclusive();
        let directory = self.bucket(bucket)?;
        let path = directory.join(relative_path(key).map_err(|_| no_such_key())?);
        let about = fs::metadata(&path).map_err(|_| no_such_key())?;
        if !about.is_file() {
            return Err(no_such_key());
        }
        let file = File::open(&path).map_err(|_| no_such_key())?;
        let meta = self.meta(bucket, key, &about)?;
        Ok((file, meta, about.modified().map_err(internal)?))
    }

    /// The stored metadata, or what can be said of a file that was put there by hand.
    fn meta(&self, bucket: &str, key: &str, about: &fs::Metadata) -> S3Result<Meta> {
        if let Ok(bytes) = fs::read(self.meta_path(bucket, key))
            && let Ok(meta) = serde_json::from_slice::<Meta>(&bytes)
            && meta.size == about.len()
        {
            return Ok(meta);
        }
        let modified = about.modified().map_err(internal)?;
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Meta {
            key: key.to_owned(),
            size: about.len(),
            etag: format!("{:016x}{:016x}", since.as_nanos() as u64, about.len()),
            ..Meta::default()
        })
    }

    pub(super) fn etag(&self, bucket: &str, key: &str) -> Option<String> {
        self.open_object(bucket, key).ok().map(|(_, meta, _)| meta.etag)
    }

    /// Deletes an object; deleting what is not there succeeds, as on S3.
    pub(super) fn delete(&self, bucket: &str, key: &str) -> S3Result<()> {
        let _guard = self.exclusive();
        let directory = self.bucket(bucket)?;
        let Ok(relative) = relative_path(key) else {
            return Ok(());
        };
        let path = directory.join(relative);
        if !fs::symlink_metadata(&path).is_ok_and(|about| !about.is_dir()) {
            return Ok(());
        }
        fs::remove_file(&path).map_err(internal)?;
        let _ = fs::remove_file(self.meta_path(bucket, key));
        // Folders exist in S3 only as parts of keys.
        let mut parent = path.parent();
        while let Some(folder) = parent.filter(|folder| *folder != directory) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
            parent = folder.parent();
        }
        Ok(())
    }

    /// Every object whose key starts with `prefix`, in key order.
    pub(super) fn list(&self, bucket: &str, prefix: &str) -> S3Result<Vec<Listed>> {
        let directory = self.bucket(bucket)?;
        let mut found = Vec::new();
        walk(&directory, "", prefix, &mut found).map_err(internal)?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }
}

fn failed(which: &str) -> s3s::S3Error {
    s3_error!(
        PreconditionFailed,
        "At least one of the pre-conditions you specified did not hold: {which}"
    )
}

pub(super) fn no_such_key() -> s3s::S3Error {
    s3_error!(NoSuchKey, "The specified key does not exist.")
}

pub(super) fn internal<E: std::error::Error + Send + Sync + 'static>(error: E) -> s3s::S3Error {
    let message = error.to_string();
    s3_error!(error, InternalError, "{message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_removed_and_objects_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        files.create_bucket("bucket").unwrap();
        fs::write(dir.path().join(TEMP).join("7"), "half").unwrap();
        fs::write(dir.path().join("bucket/by-hand"), "whole").unwrap();
        drop(files);
        let files = Files::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path().join(TEMP)).unwrap().count(), 0);
        assert_eq!(files.list("bucket", "").unwrap().len(), 1);
        assert_eq!(files.open_object("bucket", "by-hand").unwrap().1.size, 5);
    }
}
