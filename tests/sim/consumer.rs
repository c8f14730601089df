//! Objects as a consumer reads them: by the extension of the key, with no help from the product.

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The records of an object, in order, by what its key says about it.
pub fn decode(key: &str, body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut bytes = Vec::new();
    let plain = if let Some(plain) = key.strip_suffix(".zst") {
        bytes = zstd::decode_all(body).map_err(|e| format!("{key}: {e}"))?;
        plain
    } else if let Some(plain) = key.strip_suffix(".gz") {
        let mut gzip = flate2::read::MultiGzDecoder::new(body);
        gzip.read_to_end(&mut bytes).map_err(|e| format!("{key}: {e}"))?;
        plain
    } else {
        bytes.extend_from_slice(body);
        key
    };
    let lines = || bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    // What is kept beside a gap has its old key behind `errors/gap/<stream>/<day>/`.
    let kept = plain.strip_prefix("errors/gap/").and_then(|rest| rest.splitn(3, '/').nth(2));
    let letters = kept.unwrap_or(plain).starts_with("errors/");
    if letters || plain.ends_with(".envelope.ndjson") {
        return lines()
            .map(|line| {
                let line: serde_json::Value =
                    serde_json::from_slice(line).map_err(|e| format!("{key}: {e}"))?;
                let data = line["data"].as_str().unwrap_or_default();
                STANDARD.decode(data).map_err(|e| format!("{key}: {e}"))
            })
            .collect();
    }
    if plain.ends_with(".ndjson") {
        return Ok(lines().map(<[u8]>::to_vec).collect());
    }
    if plain.ends_with(".json") {
        let items: Vec<Box<serde_json::value::RawValue>> =
            serde_json::from_slice(&bytes).map_err(|e| format!("{key}: {e}"))?;
        return Ok(items.iter().map(|item| item.get().as_bytes().to_vec()).collect());
    }
    if plain.ends_with(".raw") {
        let (mut records, mut rest) = (Vec::new(), bytes.as_slice());
        while !rest.is_empty() {
            let stop = rest.iter().position(|b| *b == b'.').ok_or(format!("{key} is cut off"))?;
            let tail = match rest[0] {
                b'{' => 3,
                b'"' => 2,
                _ => 1,
            };
            let (record, left) = rest.split_at(stop + tail);
            records.push(record.to_vec());
            rest = left;
        }
        return Ok(records);
    }
    Err(format!("{key} has an extension nobody knows"))
}
