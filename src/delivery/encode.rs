//! Records into object bytes: laid out (`delivery/layout.rs`), then compressed.
//!
//! Records are laid out as they arrive and compressed in frames of [`FRAME`] bytes at most, each a complete
//! gzip member or zstd frame (both formats allow a file to hold several). So an open batch holds
//! compressed bytes plus one frame, not the records, and one compressor serves every open object
//! of a thread. Of many open objects the frames are smaller, and what they hold stands in the
//! blocks of their batch (`delivery/blocks.rs`).

use bytes::Bytes;

use crate::delivery::blocks::{Blocks, Chain};
use crate::delivery::body::Body;
use crate::delivery::buffers::{self, FRAME, PooledBuffer};
use crate::delivery::compress;
use crate::delivery::dead_letter::Reject;
use crate::delivery::layout::RecordLayout;
use crate::delivery::settings::{Codec, Format, Settings};
use crate::ids::ShardId;
use crate::stream::Record;

/// Compression failed: out of memory or a broken build, never the data's fault.
#[derive(Debug, thiserror::Error)]
#[error("compressing failed: {0}")]
pub struct EncodeError(#[from] std::io::Error);

/// Builds one object.
#[derive(Debug)]
pub struct Encoder {
    layout: RecordLayout,
    codec: Codec,
    level: i32,
    limit: usize,
    /// The frame that takes records.
    open: Vec<u8>,
    frames: Vec<Bytes>,
    /// The same of one object of many, behind `frames`: raw, and finished.
    small: Chain,
    packed: Chain,
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
            layout: RecordLayout::new(format),
            codec: settings.codec,
            level: settings.level,
            limit: FRAME,
            open: Vec::new(),
            frames: Vec::new(),
            small: Chain::default(),
            packed: Chain::default(),
        }
    }

    /// From now on, frames end at this many raw bytes.
    pub fn limit(&mut self, raw: usize) {
        self.limit = raw;
    }

    /// Appends a record; how many bytes it became, before compression. `blocks`: those of the batch,
    /// always the same.
    ///
    /// # Errors
    /// [`EncodeError`]
    pub fn push(
        &mut self,
        record: Record<'_>,
        stream: &str,
        shard: &ShardId,
        reject: Option<&Reject>,
        blocks: &mut Blocks,
    ) -> Result<usize, EncodeError> {
        let length;
        if self.is_small() {
            let mut line = blocks.scratch();
            self.layout.append(record, stream, shard, reject, &mut line)?;
            length = line.len();
            blocks.append(&mut self.small, &line);
            blocks.give_back(line);
        } else {
            self.reserve(self.layout.estimate(record));
            let before = self.open.len();
            self.layout.append(record, stream, shard, reject, &mut self.open)?;
            length = self.open.len() - before;
        }
        let full = self.open.len().max(self.small.len()) >= self.limit;
        if full {
            self.close_frame(blocks)?;
        }
        Ok(length)
    }

    /// Does what comes next go into blocks?
    fn is_small(&self) -> bool {
        self.limit < FRAME && self.open.is_empty()
    }

    /// Memory held besides the blocks, bytes: that of finishing what stands in them included, for
    /// half of its size if it is still to be compressed.
    pub fn memory(&self) -> usize {
        let small = self.small.len();
        let finishing = if self.codec == Codec::None { small } else { small / 2 };
        let frames = self.frames.iter().map(Bytes::len).sum::<usize>();
        self.open.capacity() + frames + self.packed.len() + finishing
    }

    /// The finished object.
    ///
    /// # Errors
    /// [`EncodeError`]
    pub fn finish(mut self, blocks: &mut Blocks) -> Result<Body, EncodeError> {
        let end = self.layout.end();
        if !end.is_empty() {
            if self.is_small() {
                blocks.append(&mut self.small, end);
            } else {
                self.open.extend_from_slice(end);
            }
        }
        // An object with no bytes at all is still a valid file of its codec.
        let none = self.frames.is_empty() && self.packed.is_empty();
        if none || !self.open.is_empty() || !self.small.is_empty() {
            self.close_frame(blocks)?;
        }
        let mut chunks = std::mem::take(&mut self.frames);
        for chain in [&mut self.packed, &mut self.small] {
            if !chain.is_empty() {
                chunks.push(blocks.finish(chain));
            }
        }
        Ok(Body { chunks })
    }

    /// Room for `more` bytes behind what is there.
    fn reserve(&mut self, more: usize) {
        let need = self.open.len() + more;
        if need <= self.open.capacity() {
            return;
        }
        let long = need > FRAME / 2 || (self.codec == Codec::None && !self.frames.is_empty());
        if !long || need > buffers::SIZE {
            // Small objects grow by doubling; a record that is longer than a frame, to fit.
            self.open.reserve(more);
            return;
        }
        let mut larger = buffers::take();
        larger.extend_from_slice(&self.open);
        buffers::give(std::mem::replace(&mut self.open, larger));
    }

    fn close_frame(&mut self, blocks: &mut Blocks) -> Result<(), EncodeError> {
        if self.is_small() {
            return self.close_small(blocks);
        }
        let frame = match self.codec {
            // Handed over as it is. A long record's buffer, or that of a small object, is its own.
            Codec::None if self.open.capacity() != buffers::SIZE => {
                let mut raw = std::mem::take(&mut self.open);
                raw.shrink_to_fit();
                raw.into()
            }
            Codec::None if self.open.len() >= FRAME => {
                Bytes::from_owner(PooledBuffer(std::mem::take(&mut self.open)))
            }
            // Of the end of a large object, the buffer is worth more than a copy.
            codec => compress::frame(codec, self.level, &self.open, Bytes::copy_from_slice)?,
        };
        self.frames.push(frame);
        if self.open.capacity() > buffers::SIZE {
            // What one long record needed is not kept for the rest of the object.
            self.open = Vec::new();
        }
        self.open.clear();
        Ok(())
    }

    fn close_small(&mut self, blocks: &mut Blocks) -> Result<(), EncodeError> {
        if self.codec == Codec::None {
            // It stands where it is to stand.
            return Ok(());
        }
        let mut raw = blocks.scratch();
        blocks.take(&mut self.small, &mut raw);
        compress::frame(self.codec, self.level, &raw, |frame| {
            blocks.append(&mut self.packed, frame);
        })?;
        blocks.give_back(raw);
        Ok(())
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        buffers::give(std::mem::take(&mut self.open));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn record(data: &[u8]) -> Record<'_> {
        Record::new("12", Some(5), None, data).unwrap()
    }

    fn encode(format: Format, codec: Codec, records: &[&[u8]]) -> Vec<u8> {
        encode_as(format, codec, records, |_| FRAME)
    }

    /// With the limit of a frame before each record.
    fn encode_as(
        format: Format,
        codec: Codec,
        records: &[&[u8]],
        limit: impl Fn(usize) -> usize,
    ) -> Vec<u8> {
        let settings = Settings { format, codec, level: 1, ..Settings::sample() };
        let mut blocks = Blocks::default();
        let mut encoder = Encoder::archive(&settings);
        for (at, data) in records.iter().enumerate() {
            encoder.limit(limit(at));
            encoder.push(record(data), "s", &ShardId::new("shardId-0"), None, &mut blocks).unwrap();
        }
        let body = encoder.finish(&mut blocks).unwrap();
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
    fn dead_letters_carry_their_reason() {
        let mut blocks = Blocks::default();
        let mut encoder = Encoder::dead_letters(&Settings::sample());
        let reject = Reject { kind: "invalid-json", reason: "eof".into() };
        let keyed = Record::new("12", None, Some("k"), b"x").unwrap();
        encoder.push(keyed, "s", &ShardId::new("shardId-0"), Some(&reject), &mut blocks).unwrap();
        let line: serde_json::Value =
            serde_json::from_slice(&encoder.finish(&mut blocks).unwrap().concat()).unwrap();
        assert_eq!(line["kind"], "invalid-json");
        assert_eq!(line["partition_key"], "k");
    }

    #[test]
    fn an_open_object_holds_one_frame_and_what_is_compressed() {
        let shard = ShardId::new("shardId-0");
        let mut blocks = Blocks::default();
        for codec in [Codec::None, Codec::Gzip, Codec::Zstd] {
            let settings = Settings { codec, level: 1, ..Settings::sample() };
            let mut encoder = Encoder::archive(&settings);
            let mut pushed = 0;
            for size in [100, 900 * 1024, 1000, 12 * FRAME, 1000, FRAME, FRAME, 3].repeat(3) {
                encoder.push(record(&vec![b'x'; size]), "s", &shard, None, &mut blocks).unwrap();
                pushed += size + 1;
                let frames = encoder.frames.iter().map(Bytes::len).sum::<usize>();
                assert!(encoder.open.len() < FRAME);
                assert!(encoder.memory() <= frames + buffers::SIZE, "{codec:?} after {size}");
                assert!(codec == Codec::None || frames <= pushed / 50);
            }
            let body = encoder.finish(&mut blocks).unwrap().concat();
            assert_eq!(decode(codec, &body).len(), pushed);
        }
    }

    #[test]
    fn uncompressed_frames_are_handed_over_and_not_copied() {
        let settings = Settings { codec: Codec::None, ..Settings::sample() };
        let mut blocks = Blocks::default();
        let mut encoder = Encoder::archive(&settings);
        let line = record(&[b'x'; 1023]);
        let mut laid_out = std::ptr::null();
        while encoder.frames.is_empty() {
            laid_out = encoder.open.as_ptr();
            encoder.push(line, "s", &ShardId::new("shardId-0"), None, &mut blocks).unwrap();
        }
        assert_eq!(encoder.frames[0].as_ptr(), laid_out);
    }

    #[test]
    fn one_of_many_objects_stands_in_blocks() {
        let shard = ShardId::new("shardId-0");
        for codec in [Codec::None, Codec::Gzip, Codec::Zstd] {
            let settings = Settings { codec, level: 1, ..Settings::sample() };
            let mut blocks = Blocks::default();
            let mut encoder = Encoder::archive(&settings);
            encoder.limit(16 * 1024);
            for _ in 0..1000 {
                encoder.push(record(&[b'x'; 999]), "s", &shard, None, &mut blocks).unwrap();
                assert!(codec == Codec::None || encoder.small.len() < 16 * 1024);
            }
            // No allocation but the blocks; what finishing will take is known before.
            assert_eq!((encoder.open.capacity(), encoder.frames.len()), (0, 0));
            let known = encoder.memory();
            let body = encoder.finish(&mut blocks).unwrap();
            assert_eq!(body.chunks.len(), 1);
            assert!(body.len() <= known);
            assert_eq!(decode(codec, &body.concat()).len(), 1_000_000);
        }
    }

    proptest! {
        /// Wherever frames end, and in the middle of an object as well.
        #[test]
        fn every_byte_survives_every_limit(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..40),
            begins in 0..40_usize,
            limit in 1..4000_usize,
        ) {
            let all: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            let at = |record| if record < begins { FRAME } else { limit };
            for codec in [Codec::None, Codec::Gzip, Codec::Zstd] {
                prop_assert_eq!(encode_as(Format::Raw, codec, &all, at), all.concat());
                let array = encode_as(Format::JsonArray, codec, &all, at);
                let whole = [b"[", all.join(&b","[..]).as_slice(), b"]"].concat();
                prop_assert_eq!(array, whole);
            }
        }

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
