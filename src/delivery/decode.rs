//! Objects back into records: what `encode` does, the other way.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer as _};
use serde_json::value::RawValue;

use crate::delivery::settings::{Codec, Format};

/// Layout and compression as the name of an object tells them.
pub fn form(key: &str) -> Option<(Format, Codec)> {
    for codec in [Codec::Gzip, Codec::Zstd, Codec::None] {
        let Some(rest) = key.strip_suffix(codec.extension()) else { continue };
        // The longer name first: one ends like the other.
        for format in [Format::Envelope, Format::Ndjson, Format::JsonArray, Format::Raw] {
            if rest.strip_suffix(format.extension()).is_some_and(|name| name.ends_with('.')) {
                return Some((format, codec));
            }
        }
    }
    None
}

/// Reads the bytes before compression, which may be any number of times as many: nothing of them is
/// held.
///
/// # Errors
/// When it cannot begin; reading fails when the body is not whole or not of this codec.
fn reader(codec: Codec, body: &[u8]) -> std::io::Result<Box<dyn Read + '_>> {
    Ok(match codec {
        Codec::None => Box::new(body),
        Codec::Gzip => Box::new(flate2::read::MultiGzDecoder::new(body)),
        Codec::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(body)?),
    })
}

/// Is this what comes out?
///
/// # Errors
/// What reading or decompressing it fails with.
pub fn is_same(codec: Codec, body: &[u8], mut expected: &[u8]) -> std::io::Result<bool> {
    let (mut raw, mut chunk) = (reader(codec, body)?, vec![0; CHUNK]);
    loop {
        let read = raw.read(&mut chunk)?;
        if read == 0 {
            return Ok(expected.is_empty());
        }
        match expected.strip_prefix(&chunk[..read]) {
            Some(rest) => expected = rest,
            None => return Ok(false),
        }
    }
}

/// How many payloads an object holds, as [`payloads`] would find them; of its bytes little is held at
/// a time.
///
/// # Errors
/// What is wrong with it.
pub fn count(format: Format, codec: Codec, body: &[u8]) -> Result<Option<u64>, String> {
    let raw = reader(codec, body).map_err(|e| e.to_string())?;
    let mut raw = BufReader::with_capacity(CHUNK, raw);
    match format {
        Format::Raw => {
            std::io::copy(&mut raw, &mut std::io::sink()).map_err(|e| e.to_string())?;
            Ok(None)
        }
        Format::Ndjson => {
            let (mut lines, mut last) = (0, b'\n');
            loop {
                let chunk = raw.fill_buf().map_err(|e| e.to_string())?;
                let Some(end) = chunk.last() else { break };
                last = *end;
                lines += memchr::memchr_iter(b'\n', chunk).count() as u64;
                let read = chunk.len();
                raw.consume(read);
            }
            Ok(Some(lines + u64::from(last != b'\n')))
        }
        Format::Envelope => {
            let (mut lines, mut text) = (0, Vec::new());
            loop {
                text.clear();
                let read = raw.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut text);
                match read.map_err(|e| e.to_string())? as u64 {
                    0 => return Ok(Some(lines)),
                    LONGEST_LINE => {
                        return Err(format!("a line is longer than {LONGEST_LINE} bytes"));
                    }
                    _ => {}
                }
                if text != b"\n" {
                    lines += payloads(format, &text)?.map_or(0, |found| found.len() as u64);
                }
            }
        }
        Format::JsonArray => {
            let mut json =
                serde_json::Deserializer::from_reader(Utf8 { inner: raw, rest: Vec::new() });
            let items = json.deserialize_seq(Items).map_err(|e| e.to_string())?;
            json.end().map_err(|e| e.to_string())?;
            Ok(Some(items))
        }
    }
}

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;
/// Longest line that a record can become: 10 MiB in base64, and what is said of it.
const LONGEST_LINE: u64 = 16 << 20;

/// Counts the elements of an array.
struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = u64;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<u64, A::Error> {
        let mut items = 0;
        while array.next_element::<IgnoredAny>()?.is_some() {
            items += 1;
        }
        Ok(items)
    }
}

/// Passes UTF-8 on, and nothing else.
struct Utf8<R> {
    inner: R,
    /// The beginning of a character whose end was not read yet.
    rest: Vec<u8>,
}

impl<R: Read> Read for Utf8<R> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(to)?;
        self.rest.extend_from_slice(&to[..read]);
        let whole = match std::str::from_utf8(&self.rest) {
            Ok(text) => text.len(),
            Err(broken) if broken.error_len().is_none() && read > 0 => broken.valid_up_to(),
            Err(broken) => {
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, broken));
            }
        };
        self.rest.drain(..whole);
        Ok(read)
    }
}

/// The bytes before compression.
///
/// # Errors
/// When the body is not whole or not of this codec.
pub fn decompress(codec: Codec, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    match codec {
        Codec::None => raw.extend_from_slice(body),
        Codec::Gzip => {
            flate2::read::MultiGzDecoder::new(body).read_to_end(&mut raw)?;
        }
        Codec::Zstd => zstd::stream::copy_decode(body, &mut raw)?,
    }
    Ok(raw)
}

#[derive(Deserialize)]
struct DecodedLine {
    data: String,
}

/// The payloads of an object; `None` for raw objects, which do not say where records end. A payload
/// of several lines counts as several in NDJSON.
///
/// # Errors
/// What is wrong with the layout.
pub fn payloads(format: Format, raw: &[u8]) -> Result<Option<Vec<Cow<'_, [u8]>>>, String> {
    Ok(Some(match format {
        Format::Raw => return Ok(None),
        Format::Ndjson if raw.is_empty() => Vec::new(),
        Format::Ndjson => {
            let lines = raw.strip_suffix(b"\n").unwrap_or(raw);
            lines.split(|b| *b == b'\n').map(Cow::Borrowed).collect()
        }
        Format::Envelope => {
            let mut payloads = Vec::new();
            for line in raw.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                let line: DecodedLine = serde_json::from_slice(line).map_err(|e| e.to_string())?;
                payloads.push(Cow::Owned(STANDARD.decode(line.data).map_err(|e| e.to_string())?));
            }
            payloads
        }
        Format::JsonArray => {
            let items: Vec<&RawValue> = serde_json::from_slice(raw).map_err(|e| e.to_string())?;
            items.iter().map(|item| Cow::Borrowed(item.get().as_bytes())).collect()
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_form() {
        for format in [Format::Raw, Format::Ndjson, Format::JsonArray, Format::Envelope] {
            for codec in [Codec::None, Codec::Gzip, Codec::Zstd] {
                let key = format!("a/s-shardId-0-1-2.{}{}", format.extension(), codec.extension());
                assert_eq!(form(&key), Some((format, codec)), "{key}");
            }
        }
        assert_eq!(form("a/s-shardId-0-1-2.gap.json"), Some((Format::JsonArray, Codec::None)));
        assert_eq!(form("a/notes.txt"), None);
    }

    #[test]
    fn damage_is_told() {
        assert!(decompress(Codec::Zstd, b"no frame").is_err());
        assert!(decompress(Codec::Gzip, b"no member").is_err());
        assert!(payloads(Format::JsonArray, b"[1,").is_err());
        assert!(payloads(Format::Envelope, b"{}\n").is_err());
        assert_eq!(payloads(Format::Ndjson, b"a\n\nb\n").unwrap().unwrap().len(), 3);
    }

    #[test]
    fn counting_finds_what_decoding_finds() {
        let envelope = b"{\"data\":\"YQ==\"}\n\n{\"data\":\"\"}\n".as_slice();
        let long = format!("[\"{}\",2]", "\u{e9}".repeat(CHUNK));
        for (format, raw) in [
            (Format::Ndjson, b"".as_slice()),
            (Format::Ndjson, b"\n"),
            (Format::Ndjson, b"a\n\nb"),
            (Format::Ndjson, b"a\n\nb\n"),
            (Format::Envelope, envelope),
            (Format::Envelope, b"{}\n"),
            (Format::JsonArray, b"[]"),
            (Format::JsonArray, b"[1,[2,3],\"x\"]"),
            (Format::JsonArray, b"[1,"),
            (Format::JsonArray, b"[1] 2"),
            (Format::JsonArray, b"[\"\xff\"]"),
            (Format::JsonArray, b"[1]\xc3"),
            (Format::JsonArray, long.as_bytes()),
            (Format::Raw, b"anything"),
        ] {
            let found = payloads(format, raw).map(|found| found.map(|all| all.len() as u64));
            let counted = count(format, Codec::None, raw);
            assert_eq!(
                counted.as_ref().ok(),
                found.as_ref().ok(),
                "{format} {:?}",
                &raw[..raw.len().min(40)]
            );
            let packed = zstd::encode_all(raw, 1).unwrap();
            assert_eq!(count(format, Codec::Zstd, &packed).ok(), counted.ok());
            assert!(is_same(Codec::Zstd, &packed, raw).unwrap());
            assert!(!is_same(Codec::Zstd, &packed, &[raw, b"x"].concat()).unwrap());
        }
        assert!(count(Format::Ndjson, Codec::Gzip, b"no member").is_err());
    }

    /// A few kilobytes that would be gigabytes: nothing of that size is made.
    #[test]
    fn a_bomb_is_counted_as_it_comes() {
        let frame = zstd::encode_all([b'\n'; 1 << 20].as_slice(), 1).unwrap();
        let bomb = frame.repeat(64);
        assert!(bomb.len() < 64 << 10);
        assert_eq!(count(Format::Ndjson, Codec::Zstd, &bomb), Ok(Some(64 << 20)));
        let line = zstd::encode_all([b'a'; 1 << 20].as_slice(), 1).unwrap().repeat(64);
        assert!(count(Format::Envelope, Codec::Zstd, &line).unwrap_err().contains("longer"));
        assert!(!is_same(Codec::Zstd, &bomb, b"short").unwrap());
    }
}
