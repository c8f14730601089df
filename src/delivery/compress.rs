//! One frame of an object into one whole gzip member or zstd frame.
//!
//! Which libraries, and why: `docs/adr/0001-compression.md`. A compressor holds large tables, so a
//! thread has one of a kind for all its objects.

use std::cell::RefCell;
use std::io;

use libdeflater::CompressionLvl;

use crate::delivery::buffers::FRAME;
use crate::delivery::settings::Codec;

/// A thread keeps room for the result up to this size, bytes: a frame, and then some. Frames are
/// longer where a long record ends them.
const KEEP: usize = FRAME + FRAME / 4;

/// `raw` as a frame of this codec. What is to be kept of it, `keep` copies.
///
/// # Errors
/// Out of memory, or a broken build.
pub(crate) fn frame<T>(
    codec: Codec,
    level: i32,
    raw: &[u8],
    keep: impl FnOnce(&[u8]) -> T,
) -> io::Result<T> {
    match codec {
        Codec::None => Ok(keep(raw)),
        Codec::Gzip => gzip(level, raw, keep),
        Codec::Zstd => zstd(level, raw, keep),
    }
}

struct Gzip {
    level: i32,
    compressor: libdeflater::Compressor,
    /// Room for the result, zeroed once. The library wants the worst case.
    room: Vec<u8>,
}

struct Zstd {
    level: i32,
    compressor: zstd::bulk::Compressor<'static>,
    room: Vec<u8>,
}

/// At a level of 1 to 9; others are taken for the nearest of these.
fn gzip<T>(level: i32, raw: &[u8], keep: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
    thread_local! {
        static GZIP: RefCell<Option<Gzip>> = const { RefCell::new(None) };
    }
    let broken = |what: String| io::Error::other(format!("libdeflate: {what}"));
    let (lowest, highest) = Codec::Gzip.levels().into_inner();
    let level = level.clamp(lowest, highest);
    GZIP.with_borrow_mut(|slot| {
        let mut gzip = match slot.take() {
            Some(gzip) if gzip.level == level => gzip,
            _ => {
                let at = CompressionLvl::new(level).map_err(|e| broken(format!("{e:?}")))?;
                let compressor = libdeflater::Compressor::new(at);
                Gzip { level, compressor, room: Vec::new() }
            }
        };
        let bound = gzip.compressor.gzip_compress_bound(raw.len());
        if gzip.room.len() < bound {
            // Not grown, which would copy.
            gzip.room = vec![0; bound];
        }
        let length = gzip
            .compressor
            .gzip_compress(raw, &mut gzip.room)
            .map_err(|error| broken(error.to_string()))?;
        let kept = keep(&gzip.room[..length]);
        if gzip.room.len() > KEEP {
            gzip.room = Vec::new();
        }
        *slot = Some(gzip);
        Ok(kept)
    })
}

fn zstd<T>(level: i32, raw: &[u8], keep: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
    thread_local! {
        static ZSTD: RefCell<Option<Zstd>> = const { RefCell::new(None) };
    }
    ZSTD.with_borrow_mut(|slot| {
        let mut zstd = match slot.take() {
            Some(zstd) if zstd.level == level => zstd,
            _ => {
                let compressor = zstd::bulk::Compressor::new(level)?;
                Zstd { level, compressor, room: Vec::new() }
            }
        };
        zstd.room.clear();
        zstd.room.reserve_exact(zstd::zstd_safe::compress_bound(raw.len()));
        zstd.compressor.compress_to_buffer(raw, &mut zstd.room)?;
        let kept = keep(&zstd.room);
        if zstd.room.capacity() > KEEP {
            zstd.room = Vec::new();
        }
        *slot = Some(zstd);
        Ok(kept)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

    fn gzip(level: i32, raw: &[u8]) -> Vec<u8> {
        super::gzip(level, raw, <[u8]>::to_vec).unwrap()
    }

    fn inflate(members: &[u8]) -> Vec<u8> {
        let mut raw = Vec::new();
        flate2::read::MultiGzDecoder::new(members).read_to_end(&mut raw).unwrap();
        raw
    }

    #[test]
    fn every_level_is_read_by_another_decoder() {
        let text =
            |n: u32| format!("{{\"id\":{},\"n\":{}}}\n", n.wrapping_mul(2_654_435_761), n / 7);
        let raw = (0..9000).map(text).collect::<String>().into_bytes();
        for level in [i32::MIN, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, i32::MAX] {
            let members = [gzip(level, &raw), gzip(level, b"")].concat();
            assert!(members.len() < raw.len());
            assert_eq!(inflate(&members), raw, "level {level}");
        }
        assert_eq!(gzip(0, &raw), gzip(1, &raw));
        assert!(gzip(9, &raw).len() < gzip(1, &raw).len());
    }

    #[test]
    fn the_program_reads_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // Longer than what a thread keeps room for, and nothing that compresses; and nothing.
        let mut random = fastrand::Rng::with_seed(1);
        let long: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(KEEP + 1).collect();
        let members = [&b""[..], b"one\n", &long, b""].map(|raw| gzip(1, raw));
        std::fs::write(file.path(), members.concat()).unwrap();
        let done = Command::new("gzip")
            .args(["-dc"])
            .stdin(file.reopen().unwrap())
            .stderr(Stdio::inherit())
            .output()
            .expect("the program `gzip` is needed for this test");
        assert!(done.status.success());
        assert!(done.stdout == [b"one\n", &long[..]].concat(), "other bytes come back");
        assert_eq!(inflate(&gzip(1, b"")), b"");
    }
}
