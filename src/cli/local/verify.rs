//! Reads every object back and counts: the summary is what was found, not what was hoped.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Serialize;

use crate::aws::objects::Objects;
use crate::config::Config;
use crate::delivery::decode::{decompress, payloads};
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

pub(super) async fn verify(
    config: &Config,
    objects: &Objects,
    sent: &Sent,
    seconds: f64,
) -> Result<Report, VerifyError> {
    let bucket = &config.delivery.settings.bucket;
    let mut found: HashMap<Print, u32> = HashMap::with_capacity(sent.payloads.len());
    let (mut count, mut stored) = (0, 0);
    for (key, size) in objects.list(bucket, "").await? {
        let body = objects.get(bucket, &key).await?;
        count += 1;
        stored += size;
        let bad = |reason: String| VerifyError::Object { key: key.clone(), reason };
        // Gap reports and uploads are not compressed, whatever the archive is.
        let compressed = key.ends_with(config.delivery.settings.codec.extension());
        let codec = if compressed { config.delivery.settings.codec } else { Codec::None };
        let raw = decompress(codec, &body).map_err(|e| bad(e.to_string()))?;
        let mut add = |payload: &[u8]| *found.entry(print(payload)).or_default() += 1;
        if key.ends_with(".gap.json") {
            continue;
        }
        // Dead letters are envelope lines, whatever the archive's format.
        let format = if is_dead_letter(config, &key) {
            Format::Envelope
        } else {
            config.delivery.settings.format
        };
        match payloads(format, &raw).map_err(bad)? {
            Some(payloads) => payloads.iter().for_each(|p| add(p)),
            None => raw_records(sent, &key, &raw).map_err(bad)?.into_iter().for_each(add),
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
    let fixed = config.delivery.settings.errors.split("!{").next().unwrap_or_default();
    !fixed.is_empty() && key.starts_with(fixed)
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
