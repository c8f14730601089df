//! One object to put.

use crate::delivery::body::Body;

/// ObjectKind of an object, for metrics and conflict rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// Records of one partition.
    Archive,
    /// One uploaded file.
    Upload,
    /// Dead letters of one kind.
    DeadLetter,
}

/// Metadata: the stream.
pub const META_STREAM: &str = "catchment-stream";

/// Metadata: the shard whose records are in the object.
pub const META_SHARD: &str = "catchment-shard";

/// Metadata: first position of the batch.
pub const META_FIRST: &str = "catchment-first";

/// Metadata: last position of the batch.
pub const META_LAST: &str = "catchment-last";

/// Metadata: the checkpoint the batch follows; absent in objects of version 0.1.
pub const META_AFTER: &str = "catchment-after";

/// Metadata: records in the object.
pub const META_RECORDS: &str = "catchment-records";

/// Metadata: records in all archive and dead-letter objects of the batch.
pub const META_BATCH: &str = "catchment-batch-records";

/// Metadata that place an object in its shard.
pub(super) fn is_range(name: &str) -> bool {
    [META_STREAM, META_SHARD, META_FIRST, META_LAST, META_AFTER, META_BATCH].contains(&name)
}

/// Keys of the dead letters of the files of a batch.
#[derive(Clone, Debug)]
pub struct AsideKeys {
    /// Another file has taken the key.
    pub conflict: String,
    /// The store refuses it.
    pub refused: String,
}

/// One object to put, create-only.
#[derive(Clone, Debug)]
pub struct Object {
    /// Destination bucket.
    pub bucket: String,
    /// Full key.
    pub key: String,
    /// What is in it.
    pub kind: ObjectKind,
    /// Its bytes.
    pub body: Body,
    /// Content type.
    pub content_type: String,
    /// User metadata.
    pub metadata: Vec<(String, String)>,
    /// Records in it.
    pub records: u64,
    /// Where it goes, as a dead letter, if it cannot be under its key. Uploads only.
    pub aside: Option<AsideKeys>,
    /// When the front door took it, in milliseconds since the epoch. Uploads only.
    pub accepted_ms: Option<i64>,
    /// To be put when all other objects of the batch are durable: it takes overflow, and its
    /// existence says that every partition which had room exists.
    pub last: bool,
}

/// What an object holds in memory besides its bytes, about: key, metadata, and its entries in the
/// batch's tables. Of thousands of small objects it is as much as the bytes.
pub(super) const BESIDES: usize = 2048;

impl Object {
    /// Memory held, bytes.
    pub fn memory(&self) -> usize {
        self.body.len() + BESIDES
    }

    /// A metadata value.
    pub fn meta(&self, name: &str) -> Option<&str> {
        self.metadata.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}
