//! Everything that decides which objects a range of records becomes.
//!
//! Recorded inside every intent, so that a batch is always finished the way it was announced, also
//! by a worker that was configured otherwise.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::stream::deaggregate::Aggregates;

/// Version of the encoders below. Raise it when the same settings would give other objects; keep
/// the old code until no intent can name it.
pub const ENCODER_VERSION: u32 = 4;

/// How records are laid out inside an archive object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Payloads end to end, nothing between them.
    Raw,
    /// Each payload followed by a newline unless it ends with one.
    Ndjson,
    /// One JSON array; payloads must be JSON.
    JsonArray,
    /// A JSON line per record with its metadata and the payload in base64.
    Envelope,
}

/// Compression of archive objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Codec {
    /// As is.
    None,
    /// RFC 1952; several members per object.
    Gzip,
    /// RFC 8878; several frames per object.
    Zstd,
}

/// What becomes of a foreign record: a user record of a KPL aggregate whose hash key another shard
/// takes, where a reshard may be the cause. Its producer has probably sent it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForeignRecords {
    /// Left out, as by builds before 0.2, which knew nothing else: of batches that they announced.
    #[default]
    LeftOut,
    /// Delivered like any other. Also where no reshard can be the cause, whatever is configured.
    Keep,
    /// Put aside.
    DeadLetter,
    /// Put aside without its payload.
    Drop,
}

impl ForeignRecords {
    fn is_left_out(&self) -> bool {
        matches!(self, Self::LeftOut)
    }
}

impl Format {
    /// Part of the object name.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Ndjson => "ndjson",
            Self::JsonArray => "json",
            Self::Envelope => "envelope.ndjson",
        }
    }

    /// Content type of an uncompressed object.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Raw => "application/octet-stream",
            Self::Ndjson | Self::Envelope => "application/x-ndjson",
            Self::JsonArray => "application/json",
        }
    }
}

impl Codec {
    /// Last part of the object name.
    pub fn extension(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }

    /// Levels the codec knows; the first is the default.
    pub fn levels(self) -> std::ops::RangeInclusive<i32> {
        match self {
            Self::None => 0..=0,
            Self::Gzip => 1..=9,
            Self::Zstd => 1..=19,
        }
    }
}

impl FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "raw" => Self::Raw,
            "ndjson" => Self::Ndjson,
            "json-array" => Self::JsonArray,
            "envelope" => Self::Envelope,
            _ => return Err("one of raw, ndjson, json-array, envelope is expected".into()),
        })
    }
}

impl FromStr for Codec {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "none" => Self::None,
            "gzip" => Self::Gzip,
            "zstd" => Self::Zstd,
            _ => return Err("one of none, gzip, zstd is expected".into()),
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Ndjson => "ndjson",
            Self::JsonArray => "json-array",
            Self::Envelope => "envelope",
        })
    }
}

/// See the module. Its names are short where it is stored: rows are read and written in steps of
/// kilobytes, and one with an announced batch should stay within the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The first version that knows all of these settings, see [`Settings::versioned`].
    #[serde(rename = "v")]
    pub encoder: u32,
    /// Destination bucket.
    #[serde(rename = "b")]
    pub bucket: String,
    /// Stream name, as it appears in object names.
    #[serde(rename = "s")]
    pub stream: String,
    /// Layout of archive objects.
    #[serde(rename = "f")]
    pub format: Format,
    /// Compression of archive objects.
    #[serde(rename = "c")]
    pub codec: Codec,
    /// Compression level.
    #[serde(rename = "l")]
    pub level: i32,
    /// Key template of archive objects.
    #[serde(rename = "p")]
    pub prefix: String,
    /// Key template of dead letters.
    #[serde(rename = "e")]
    pub errors: String,
    /// Upload events become objects of their own.
    #[serde(rename = "u", default = "yes", skip_serializing_if = "is_yes")]
    pub uploads: bool,
    /// KPL aggregates are taken apart: decides what a record, and so a position, is.
    #[serde(rename = "d", default = "yes", skip_serializing_if = "is_yes")]
    pub deaggregate: bool,
    /// Stands in front of the keys of uploads: empty, but for a replay.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uploads_prefix: String,
    /// The field that holds a record's time; empty for the time of arrival.
    #[serde(rename = "tf", default, skip_serializing_if = "String::is_empty")]
    pub time_field: String,
    /// Partitions of a batch after which records spill into one more; 0: they never do, the batch
    /// is cut instead.
    #[serde(rename = "sp", default, skip_serializing_if = "is_zero")]
    pub spill: u32,
    /// What becomes of foreign records.
    #[serde(rename = "fr", default, skip_serializing_if = "ForeignRecords::is_left_out")]
    pub foreign_records: ForeignRecords,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_yes(value: &bool) -> bool {
    *value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Settings {
    /// Those of the default configuration.
    pub fn new(bucket: &str, stream: &str) -> Self {
        Self {
            encoder: 1,
            bucket: bucket.into(),
            stream: stream.into(),
            format: Format::Ndjson,
            codec: Codec::Zstd,
            level: 1,
            prefix: "!{stream}/dt=!{timestamp:yyyy-MM-dd}/hour=!{timestamp:HH}/".into(),
            errors: "errors/!{error}/!{stream}/dt=!{timestamp:yyyy-MM-dd}/".into(),
            uploads: true,
            deaggregate: true,
            uploads_prefix: String::new(),
            time_field: String::new(),
            spill: 0,
            foreign_records: ForeignRecords::DeadLetter,
        }
        .versioned()
    }

    /// With the version they need: 4 unless recorded by a build before 0.2; of those 3 where fields of
    /// a record or the number of partitions decide, 2 where uploads have a prefix. Earlier builds,
    /// which do not know that, leave such intents alone.
    #[must_use]
    pub fn versioned(mut self) -> Self {
        let by_fields = self.prefix.contains("!{field:") || !self.time_field.is_empty();
        self.encoder = match (by_fields || self.spill > 0, self.uploads_prefix.is_empty()) {
            (true, _) => 3,
            (false, false) => 2,
            (false, true) => 1,
        };
        if !self.is_earlier() {
            self.encoder = 4;
        }
        self
    }

    /// Recorded by a build before 0.2, and to be read by its rules: foreign records are left out, keys
    /// in aggregates may have any length, arrays take text that is not UTF-8, and what spills may
    /// stand among records that do not.
    pub fn is_earlier(&self) -> bool {
        self.foreign_records == ForeignRecords::LeftOut
    }

    /// What becomes of KPL aggregates.
    pub fn aggregates(&self) -> Aggregates {
        match (self.deaggregate, self.is_earlier()) {
            (true, _) => Aggregates::Apart,
            (false, false) => Aggregates::Whole,
            (false, true) => Aggregates::WholeEarlier,
        }
    }

    /// Plausible settings for tests.
    #[cfg(test)]
    pub(crate) fn sample() -> Self {
        Self {
            codec: Codec::None,
            level: 0,
            prefix: "events/dt=!{timestamp:yyyy-MM-dd}/".into(),
            errors: "errors/!{error}/".into(),
            ..Self::new("archive", "events")
        }
    }
}
