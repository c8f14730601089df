//! Buckets, objects and multipart uploads: the store below both S3 back ends.
//!
//! Only the wire above it differs. Operations are atomic because the store is locked per request,
//! which is what the real service promises for conditional writes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use md5::{Digest, Md5};

use super::Refusal;
use crate::effects::Fnv;

/// The store, shared between the harness and whichever wire stands above it.
pub type SharedObjects = Arc<Mutex<Objects>>;

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub body: Bytes,
    /// FNV of the body.
    pub hash: u64,
    /// Quoted, as in the header.
    pub etag: String,
    pub head: Head,
    /// Virtual wall clock of the PUT.
    pub modified_ms: i64,
}

/// What a client may say about an object besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub metadata: BTreeMap<String, String>,
}

/// A multipart upload in progress.
#[derive(Debug)]
pub struct Upload {
    pub bucket: String,
    pub key: String,
    pub head: Head,
    pub parts: BTreeMap<u32, Bytes>,
}

/// All buckets.
#[derive(Debug)]
pub struct Objects {
    pub buckets: BTreeMap<String, BTreeMap<String, Object>>,
    pub uploads: BTreeMap<String, Upload>,
    /// The least size of every part but the last.
    pub min_part: usize,
    next_upload: u64,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            buckets: BTreeMap::new(),
            uploads: BTreeMap::new(),
            min_part: 5 * 1024 * 1024,
            next_upload: 0,
        }
    }
}

/// The `ETag` of a body, quoted.
pub fn etag(body: &[u8]) -> String {
    let digest = Md5::digest(body);
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    format!("\"{hex}\"")
}

impl Objects {
    pub fn bucket(&mut self, bucket: &str) -> Result<&mut BTreeMap<String, Object>, Refusal> {
        self.buckets
            .get_mut(bucket)
            .ok_or_else(|| Refusal::new(404, "NoSuchBucket", "The specified bucket does not exist"))
    }

    pub fn get(&self, bucket: &str, key: &str) -> Option<&Object> {
        self.buckets.get(bucket)?.get(key)
    }

    pub fn find(&mut self, bucket: &str, key: &str) -> Result<Object, Refusal> {
        let found = self.bucket(bucket)?.get(key).cloned();
        found.ok_or_else(|| Refusal::new(404, "NoSuchKey", "The specified key does not exist."))
    }

    /// Stores an object; `create_only` is `If-None-Match: *`.
    pub fn put(
        &mut self,
        (bucket, key): (&str, &str),
        body: Bytes,
        head: Head,
        create_only: bool,
        now_ms: i64,
    ) -> Result<String, Refusal> {
        let objects = self.bucket(bucket)?;
        if create_only && objects.contains_key(key) {
            return Err(precondition_failed());
        }
        let (hash, etag) = (Fnv::of(&body), etag(&body));
        let object = Object { body, hash, etag: etag.clone(), head, modified_ms: now_ms };
        objects.insert(key.to_owned(), object);
        Ok(etag)
    }

    /// Keys beyond `after`, at most `limit`, those that share a prefix up to the delimiter as one.
    pub fn list(
        &mut self,
        bucket: &str,
        (prefix, delimiter): (&str, &str),
        after: &str,
        limit: usize,
    ) -> Result<Listing, Refusal> {
        let mut listing = Listing::default();
        let mut last = String::new();
        for (key, object) in self.bucket(bucket)?.iter() {
            let within =
                !delimiter.is_empty() && after.ends_with(delimiter) && key.starts_with(after);
            if !key.starts_with(prefix) || key.as_str() <= after || within {
                continue;
            }
            let group = key[prefix.len()..].find(delimiter).filter(|_| !delimiter.is_empty());
            let group = group.map(|at| key[..prefix.len() + at + delimiter.len()].to_owned());
            if group.is_some() && group.as_ref() == listing.groups.last() {
                continue;
            }
            if listing.objects.len() + listing.groups.len() == limit {
                listing.next = Some(last);
                break;
            }
            last = group.clone().unwrap_or_else(|| key.clone());
            match group {
                Some(group) => listing.groups.push(group),
                None => listing.objects.push((key.clone(), object.clone())),
            }
        }
        Ok(listing)
    }

    pub fn create_upload(
        &mut self,
        bucket: &str,
        key: &str,
        head: Head,
    ) -> Result<String, Refusal> {
        self.bucket(bucket)?;
        self.next_upload += 1;
        let id = format!("upload-{:06}", self.next_upload);
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        self.uploads.insert(id.clone(), Upload { bucket, key, head, parts: BTreeMap::new() });
        Ok(id)
    }

    pub fn upload(&mut self, id: &str) -> Result<&mut Upload, Refusal> {
        self.uploads.get_mut(id).ok_or_else(|| {
            Refusal::new(404, "NoSuchUpload", "The specified multipart upload does not exist.")
        })
    }

    /// Joins the named parts into the object; the upload ends only when this succeeds.
    pub fn complete(
        &mut self,
        id: &str,
        listed: &[(u32, String)],
        create_only: bool,
        now_ms: i64,
    ) -> Result<String, Refusal> {
        let min_part = self.min_part;
        let upload = self.upload(id)?;
        let mut body = BytesMut::new();
        let mut last_number = 0;
        for (i, (number, tag)) in listed.iter().enumerate() {
            if *number <= last_number {
                return Err(Refusal::new(
                    400,
                    "InvalidPartOrder",
                    "Parts must be in ascending order",
                ));
            }
            last_number = *number;
            let part = upload.parts.get(number).filter(|p| etag(p) == *tag);
            let part =
                part.ok_or_else(|| Refusal::new(400, "InvalidPart", "A part was not found"))?;
            if i + 1 < listed.len() && part.len() < min_part {
                return Err(Refusal::new(400, "EntityTooSmall", "A part is smaller than allowed"));
            }
            body.extend_from_slice(part);
        }
        if listed.is_empty() {
            return Err(Refusal::new(400, "MalformedXML", "No parts were given"));
        }
        let (bucket, key, head) = (upload.bucket.clone(), upload.key.clone(), upload.head.clone());
        let etag = self.put((&bucket, &key), body.freeze(), head, create_only, now_ms)?;
        self.uploads.remove(id);
        Ok(etag)
    }
}

/// One page of a listing.
#[derive(Debug, Default)]
pub struct Listing {
    pub objects: Vec<(String, Object)>,
    /// Common prefixes.
    pub groups: Vec<String>,
    /// Where the next page starts, if there is one.
    pub next: Option<String>,
}

/// `If-None-Match: *` met an object.
pub fn precondition_failed() -> Refusal {
    Refusal::new(
        412,
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold",
    )
}
