//! ◆ Records into object bytes: layout, then compression.
//!
//! Records are laid out as they arrive and compressed in frames of [`FRAME`] bytes at most, each a complete
//! gzip member or zstd frame (both formats allow a file to hold several). So an open batch holds
//! compressed bytes plus one frame, not the records, and one compressor serves every open object
//! of a thread.

use std::cell::RefCell;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;

use crate::delivery::settings::{Codec, Format, Settings};
use crate::ids::ShardId;
use crate::stream::Record;

/// Raw bytes per compressed frame.
pub const FRAME: usize = 2 * 1024 * 1024;

/// The bytes of one object, in pieces that are never copied together.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// In order.
    pub chunks: Vec<Bytes>,
}

impl Body {
    /// Total length, bytes.
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    /// No bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One piece.
    pub fn of(bytes: impl Into<Bytes>) -> Self {
        Self { chunks: vec![bytes.into()] }
    }

    /// All bytes in one piece; copies unless there is only one.
    pub fn concat(&self) -> Bytes {
        match self.chunks.as_slice() {
            [one] => one.clone(),
            many => many.concat().into(),
        }
    }
}

/// A record that this format cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Kind of dead letter.
    pub kind: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// Compression failed: out of memory or a broken build, never the data's fault.
#[derive(Debug, thiserror::Error)]
#[error("compressing failed: {0}")]
pub struct EncodeError(#[from] std::io::Error);

/// Builds one object.
#[derive(Debug)]
pub struct Encoder {
    format: Format,
    codec: Codec,
    level: i32,
    limit: usize,
    open: Vec<u8>,
    frames: Vec<Bytes>,
    records: u64,
}

/// A record with everything known about it, as envelope lines and dead letters carry it.
#[derive(Serialize)]
struct Line<'a> {
    stream: &'a str,
    shard: &'a str,
    sequence: &'a str,
    sub: u64,
    arrival_ms: Option<i64>,
    partition_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    data: Base64<'a>,
}

struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

impl Encoder {
    /// An archive object.
    pub fn archive(settings: &Settings) -> Self {
        Self::new(settings.format, settings)
    }

    /// A dead-letter object: envelope lines, compressed like the archive.
    pub fn dead_letters(settings: &Settings) -> Self {
        Self::new(Format::Envelope, settings)
    }

    fn new(format: Format, settings: &Settings) -> Self {
        Self {
            format,
            codec: settings.codec,
            level: settings.level,
            limit: FRAME,
            open: Vec::new(),
            frames: Vec::new(),
            records: 0,
        }
    }

    /// From now on, frames end at this many raw bytes.
    pub fn limit(&mut self, raw: usize) {
        self.limit = raw;
    }

    /// Can the archive format hold this record?
    ///
    /// # Errors
    /// [`Reject`] when it has to become a dead letter.
    pub fn accepts(format: Format, record: &Record) -> Result<(), Reject> {
        if format == Format::JsonArray
            && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&record.data)
        {
            return Err(Reject { kind: "invalid-json", reason: error.to_string() });
        }
        Ok(())
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`EncodeError`]
    pub fn push(
        &mut self,
        record: &Record,
        stream: &str,
        shard: &ShardId,
        reject: Option<&Reject>,
    ) -> Result<(), EncodeError> {
        match self.format {
            Format::Raw => self.open.extend_from_slice(&record.data),
            Format::Ndjson => {
                self.open.extend_from_slice(&record.data);
                if !record.data.ends_with(b"\n") {
                    self.open.push(b'\n');
                }
            }
            Format::JsonArray => {
                self.open.push(if self.records == 0 { b'[' } else { b',' });
                self.open.extend_from_slice(&record.data);
            }
            Format::Envelope => {
                let line = Line {
                    stream,
                    shard: shard.as_str(),
                    sequence: record.position.sequence.as_str(),
                    sub: record.position.sub,
                    arrival_ms: record.arrival_ms,
                    partition_key: record.partition_key.as_deref(),
                    kind: reject.map(|r| r.kind),
                    reason: reject.map(|r| r.reason.as_str()),
                    data: Base64(&record.data),
                };
                serde_json::to_writer(&mut self.open, &line).map_err(std::io::Error::from)?;
                self.open.push(b'\n');
            }
        }
        self.records += 1;
        if self.open.len() >= self.limit { self.close_frame() } else { Ok(()) }
    }

    /// Memory held, bytes.
    pub fn memory(&self) -> usize {
        self.open.capacity() + self.frames.iter().map(Bytes::len).sum::<usize>()
    }

    /// The finished object.
    ///
    /// # Errors
    /// [`EncodeError`]
    pub fn finish(mut self) -> Result<Body, EncodeError> {
        if self.format == Format::JsonArray {
            self.open.extend_from_slice(if self.records == 0 { b"[]" } else { b"]" });
        }
        // An object with no bytes at all is still a valid file of its codec.
        if !self.open.is_empty() || self.frames.is_empty() {
            self.close_frame()?;
        }
        Ok(Body { chunks: self.frames })
    }

    fn close_frame(&mut self) -> Result<(), EncodeError> {
        let frame = match self.codec {
            Codec::None => {
                let mut raw = std::mem::take(&mut self.open);
                raw.shrink_to_fit();
                raw
            }
            Codec::Gzip => gzip(&self.open, self.level)?,
            Codec::Zstd => zstd(&self.open, self.level)?,
        };
        if self.codec != Codec::None {
            self.open.clear();
        }
        self.frames.push(frame.into());
        Ok(())
    }
}

fn gzip(raw: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
    use std::io::Write;
    let level = flate2::Compression::new(u32::try_from(level).unwrap_or(1));
    let mut out = flate2::write::GzEncoder::new(Vec::with_capacity(raw.len() / 3 + 64), level);
    out.write_all(raw)?;
    let mut out = out.finish()?;
    out.shrink_to_fit();
    Ok(out)
}

fn zstd(raw: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
    thread_local! {
        // A compressor holds more than a megabyte of tables: one per thread, not one per object.
        static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> =
            const { RefCell::new(None) };
    }
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(at, _)| *at != level) {
            *slot = Some((level, zstd::bulk::Compressor::new(level)?));
        }
        let Some((_, compressor)) = slot else {
            return Err(std::io::ErrorKind::Other.into());
        };
        let mut out = compressor.compress(raw)?;
        out.shrink_to_fit();
        Ok(out)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;
    use crate::ids::SequenceNumber;
    use crate::stream::position::Position;

    fn record(data: &[u8]) -> Record {
        Record {
            position: Position::plain(SequenceNumber::parse("12").unwrap()),
            arrival_ms: Some(5),
            partition_key: None,
            data: Bytes::copy_from_slice(data),
        }
    }

    fn encode(format: Format, codec: Codec, records: &[&[u8]]) -> Vec<u8> {
        let settings = Settings { format, codec, level: 1, ..Settings::sample() };
        let mut encoder = Encoder::archive(&settings);
        for data in records {
            encoder.push(&record(data), "s", &ShardId::new("shardId-0"), None).unwrap();
        }
        let body = encoder.finish().unwrap();
        assert_eq!(body.len(), body.concat().len());
        decode(codec, &body.concat())
    }

    fn decode(codec: Codec, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match codec {
            Codec::None => out.extend_from_slice(bytes),
            Codec::Gzip => {
                flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out).unwrap();
            }
            Codec::Zstd => zstd::stream::copy_decode(bytes, &mut out).unwrap(),
        }
        out
    }

    #[test]
    fn formats() {
        let records: &[&[u8]] = &[b"{\"a\":1}", b"", b"2\n"];
        assert_eq!(encode(Format::Ndjson, Codec::None, records), b"{\"a\":1}\n\n2\n");
        assert_eq!(encode(Format::Raw, Codec::None, records), b"{\"a\":1}2\n");
        assert_eq!(encode(Format::JsonArray, Codec::Zstd, &[b"1", b"2"]), b"[1,2]");
        let line = encode(Format::Envelope, Codec::Gzip, &[b"\xff"]);
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(line["data"], "/w==");
        assert_eq!(line["partition_key"], serde_json::Value::Null);
        assert!(line.get("reason").is_none());
    }

    #[test]
    fn json_arrays_refuse_what_is_not_json() {
        assert!(Encoder::accepts(Format::JsonArray, &record(b"[1")).is_err());
        assert!(Encoder::accepts(Format::JsonArray, &record(b" {} ")).is_ok());
        assert!(Encoder::accepts(Format::Ndjson, &record(b"[1")).is_ok());
    }

    #[test]
    fn dead_letters_carry_their_reason() {
        let mut encoder = Encoder::dead_letters(&Settings::sample());
        let reject = Reject { kind: "invalid-json", reason: "eof".into() };
        let mut keyed = record(b"x");
        keyed.partition_key = Some("k".into());
        encoder.push(&keyed, "s", &ShardId::new("shardId-0"), Some(&reject)).unwrap();
        let line: serde_json::Value =
            serde_json::from_slice(&encoder.finish().unwrap().concat()).unwrap();
        assert_eq!(line["kind"], "invalid-json");
        assert_eq!(line["partition_key"], "k");
    }

    proptest! {
        #[test]
        fn every_byte_survives_every_codec(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..40),
        ) {
            // One record longer than a frame forces several frames.
            let long = vec![b'x'; FRAME + 1];
            let mut all: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            all.push(&long);
            all.push(b"tail");
            for codec in [Codec::None, Codec::Gzip, Codec::Zstd] {
                prop_assert_eq!(encode(Format::Raw, codec, &all), all.concat());
            }
        }
    }
}
