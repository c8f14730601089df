//! Records as the bytes of an object, before compression: raw, lines, an array, or envelopes.

use serde::Serialize;

use crate::delivery::dead_letter::Reject;
use crate::delivery::settings::{Format, Settings};
use crate::ids::ShardId;
use crate::stream::Record;
use crate::stream::deaggregate::WHOLE;

/// Deepest nesting of an element of a JSON array: with the array itself it is what readers take that
/// are careful (DuckDB 128, jq 256).
const DEEPEST: usize = 127;

/// Can the archive format hold this record?
///
/// # Errors
/// [`Reject`] when it has to become a dead letter.
pub fn accepts(settings: &Settings, record: Record<'_>) -> Result<(), Reject> {
    let reject = |reason| Err(Reject { kind: "invalid-json", reason });
    if settings.format != Format::JsonArray {
        return Ok(());
    }
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(record.data) {
        return reject(error.to_string());
    }
    if settings.is_earlier() {
        return Ok(());
    }
    // One of these makes the whole array unreadable.
    if let Err(error) = std::str::from_utf8(record.data) {
        return reject(error.to_string());
    }
    if depth(record.data) > DEEPEST {
        return reject(format!("it is nested deeper than {DEEPEST} levels"));
    }
    Ok(())
}

/// Lays out the records of one object, one behind the other.
#[derive(Debug)]
pub(super) struct RecordLayout {
    format: Format,
    records: u64,
}

/// What is known about a record, as envelope lines and dead letters carry it; `data` in base64
/// comes last, and is written without serde, which would go through `Display` for it.
#[derive(Serialize)]
struct EnvelopeLine<'a> {
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
}

impl RecordLayout {
    /// Of an object without records yet.
    pub(super) fn new(format: Format) -> Self {
        Self { format, records: 0 }
    }

    /// Bytes the next record takes, at most in all likelihood: room that spares growing.
    pub(super) fn estimate(&self, record: Record<'_>) -> usize {
        let more = if self.format == Format::Envelope { record.data.len() / 3 + 512 } else { 2 };
        record.data.len() + more
    }

    /// Appends a record to what is in `to`.
    ///
    /// # Errors
    /// Never the data's fault: `serde_json` failed to write.
    pub(super) fn append(
        &mut self,
        record: Record<'_>,
        stream: &str,
        shard: &ShardId,
        reject: Option<&Reject>,
        to: &mut Vec<u8>,
    ) -> std::io::Result<()> {
        match self.format {
            Format::Raw => to.extend_from_slice(record.data),
            Format::Ndjson => {
                to.extend_from_slice(record.data);
                if !record.data.ends_with(b"\n") {
                    to.push(b'\n');
                }
            }
            Format::JsonArray => {
                to.push(if self.records == 0 { b'[' } else { b',' });
                to.extend_from_slice(record.data);
            }
            Format::Envelope => {
                let line = EnvelopeLine {
                    stream,
                    shard: shard.as_str(),
                    sequence: record.sequence(),
                    sub: if record.sub == WHOLE { 0 } else { record.sub },
                    arrival_ms: record.arrival_ms,
                    partition_key: record.partition_key(),
                    kind: reject.map(|r| r.kind),
                    reason: reject.map(|r| r.reason.as_str()),
                };
                serde_json::to_writer(&mut *to, &line).map_err(std::io::Error::from)?;
                to.pop();
                to.extend_from_slice(b",\"data\":\"");
                base64_simd::STANDARD.encode_append(record.data, to);
                to.extend_from_slice(b"\"}\n");
            }
        }
        self.records += 1;
        Ok(())
    }

    /// What closes the object, behind its last record.
    pub(super) fn end(&self) -> &'static [u8] {
        match (self.format, self.records) {
            (Format::JsonArray, 0) => b"[]",
            (Format::JsonArray, _) => b"]",
            (Format::Raw | Format::Ndjson | Format::Envelope, _) => b"",
        }
    }
}

/// Levels of nesting of a JSON text.
fn depth(json: &[u8]) -> usize {
    if memchr::memchr2_iter(b'[', b'{', json).nth(DEEPEST).is_none() {
        return 0;
    }
    let (mut depth, mut deepest, mut text, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'[' | b'{' if !text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::settings::ForeignRecords;

    fn record(data: &[u8]) -> Record<'_> {
        Record::new("12", Some(5), None, data).unwrap()
    }

    #[test]
    fn json_arrays_refuse_what_is_not_json() {
        let array = Settings { format: Format::JsonArray, ..Settings::sample() };
        assert!(accepts(&array, record(b"[1")).is_err());
        assert!(accepts(&array, record(b" {} ")).is_ok());
        assert!(accepts(&Settings::sample(), record(b"[1")).is_ok());
    }

    #[test]
    fn an_array_takes_what_its_readers_can_read() {
        let new = Settings { format: Format::JsonArray, ..Settings::sample() };
        let deep = |n: usize| [b"[".repeat(n), b"]".repeat(n)].concat();
        let text = [b"\"", b"[".repeat(500).as_slice(), b"\\\"", &b"[".repeat(500), b"\""].concat();
        let wide = format!("[{}0]", "{},".repeat(500)).into_bytes();
        for (data, fits) in [
            (b"{\"a\":\"\xc3\xa9\"}".to_vec(), true),
            (b"{\"a\":\"\xff\"}".to_vec(), false),
            (deep(127), true),
            (deep(128), false),
            (text, true),
            (wide, true),
        ] {
            let record = Record::new("1", None, None, &data).unwrap();
            assert_eq!(accepts(&new, record).is_ok(), fits, "{data:?}");
            // As announced by builds that did not look.
            let earlier = Settings { foreign_records: ForeignRecords::LeftOut, ..new.clone() };
            assert!(accepts(&earlier, record).is_ok());
        }
        let broken = Record::new("1", None, None, b"{").unwrap();
        assert!(accepts(&new, broken).is_err());
        assert!(accepts(&Settings::sample(), broken).is_ok());
    }
}
