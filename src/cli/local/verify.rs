//! Reads every object back and counts: the summary is what was found, not what was hoped.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::aws::objects::Objects;
use crate::config::Config;
use crate::delivery::object_key::parse_object_name;
use crate::delivery::settings::{Codec, Format};
use crate::fault::CallError;

use crate::cli::send::{Print, Sent, print};

/// The figures of a finished run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) records_sent: u64,
    pub(super) records_delivered: u64,
    pub(super) missing: u64,
    pub(super) duplicated: u64,
    pub(super) objects: u64,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    #[serde(skip)]
    stored: u64,
}

/// An object could not be read back.
#[derive(Debug, thiserror::Error)]
pub(super) enum VerifyError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("object {key} cannot be decoded: {reason}")]
    Object { key: String, reason: String },
}

#[derive(Deserialize)]
struct Line {
    data: String,
}

pub(super) async fn verify(
    config: &Config,
    objects: &Objects,
    sent: &Sent,
    seconds: f64,
) -> Result<Report, VerifyError> {
    let bucket = &config.delivery.bucket;
    let mut found: HashMap<Print, u32> = HashMap::with_capacity(sent.payloads.len());
    let (mut count, mut stored) = (0, 0);
    for (key, size) in objects.list(bucket, "").await? {
        let body = objects.get(bucket, &key).await?;
        count += 1;
        stored += size;
        let bad = |reason: String| VerifyError::Object { key: key.clone(), reason };
        let raw = decode(config.delivery.codec, &key, &body).map_err(|e| bad(e.to_string()))?;
        let mut add = |payload: &[u8]| *found.entry(print(payload)).or_default() += 1;
        if key.ends_with(".gap.json") {
            continue;
        }
        // Dead letters are envelope lines, whatever the archive's format.
        let format =
            if is_dead_letter(config, &key) { Format::Envelope } else { config.delivery.format };
        match format {
            Format::Ndjson => {
                let lines = raw.strip_suffix(b"\n").unwrap_or(&raw);
                if !raw.is_empty() {
                    lines.split(|b| *b == b'\n').for_each(&mut add);
                }
            }
            Format::Envelope => {
                for line in raw.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                    let line: Line =
                        serde_json::from_slice(line).map_err(|e| bad(e.to_string()))?;
                    let payload = STANDARD.decode(line.data).map_err(|e| bad(e.to_string()))?;
                    add(&payload);
                }
            }
            Format::JsonArray => {
                let items: Vec<&RawValue> =
                    serde_json::from_slice(&raw).map_err(|e| bad(e.to_string()))?;
                items.iter().for_each(|item| add(item.get().as_bytes()));
            }
            Format::Raw => raw_records(sent, &key, &raw).map_err(bad)?.into_iter().for_each(add),
        }
    }
    let mut report = Report {
        records_sent: sent.payloads.values().map(|n| u64::from(*n)).sum(),
        records_delivered: found.values().map(|n| u64::from(*n)).sum(),
        missing: 0,
        duplicated: 0,
        objects: count,
        bytes: sent.bytes,
        seconds,
        stored,
    };
    for (payload, expected) in &sent.payloads {
        let delivered = found.remove(payload).unwrap_or(0);
        report.missing += u64::from(expected.saturating_sub(delivered));
        report.duplicated += u64::from(delivered.saturating_sub(*expected));
    }
    // Payloads that nobody sent.
    report.duplicated += found.values().map(|n| u64::from(*n)).sum::<u64>();
    Ok(report)
}

fn is_dead_letter(config: &Config, key: &str) -> bool {
    let fixed = config.delivery.errors.split("!{").next().unwrap_or_default();
    !fixed.is_empty() && key.starts_with(fixed)
}

fn decode(codec: Codec, key: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    match codec {
        Codec::Gzip if key.ends_with(".gz") => {
            flate2::read::MultiGzDecoder::new(body).read_to_end(&mut raw)?;
        }
        Codec::Zstd if key.ends_with(".zst") => zstd::stream::copy_decode(body, &mut raw)?,
        Codec::None | Codec::Gzip | Codec::Zstd => raw.extend_from_slice(body),
    }
    Ok(raw)
}

/// Raw objects do not say where records end; what was sent to the shard does.
fn raw_records<'a>(sent: &Sent, key: &str, raw: &'a [u8]) -> Result<Vec<&'a [u8]>, String> {
    let (shard, first, last) = parse_object_name(key).ok_or("not an object of ours")?;
    let empty = BTreeMap::new();
    let records = sent.by_shard.get(&shard).unwrap_or(&empty);
    let (mut rest, mut payloads) = (raw, Vec::new());
    for (length, expected) in records.range(first.sequence..=last.sequence).map(|(_, r)| r) {
        // A record of the range may stand in another partition's object.
        if let Some((payload, after)) = rest.split_at_checked(*length)
            && print(payload) == *expected
        {
            payloads.push(payload);
            rest = after;
        }
    }
    if rest.is_empty() { Ok(payloads) } else { Err(format!("{} bytes nobody sent", rest.len())) }
}

impl Report {
    pub(super) fn print(&self, json: bool, objects: &Path) {
        let megabytes = self.bytes as f64 / 1e6;
        eprintln!(
            "{} records, {megabytes:.1} MB in {:.1} s ({:.1} MB/s) became {} objects of {:.1} MB \
             under {}\nread back: {} missing, {} twice",
            self.records_sent,
            self.seconds,
            megabytes / self.seconds.max(1e-9),
            self.objects,
            self.stored as f64 / 1e6,
            objects.display(),
            self.missing,
            self.duplicated,
        );
        if json && let Ok(line) = serde_json::to_string(self) {
            println!("{line}");
        }
    }
}
