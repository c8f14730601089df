//! Objects back into records: what `encode` does, the other way.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
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

/// The bytes before compression.
///
/// # Errors
/// When the body is not whole or not of this codec.
pub fn decompress(codec: Codec, body: &[u8]) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
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
}
