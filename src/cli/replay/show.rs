//! What a replay prints.

use std::collections::BTreeMap;

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::ids::ShardId;
use crate::lease::row::NewLease;
use crate::replay::plan::Plan;
use crate::replay::progress::{ReplayProgress, Sample};

/// What a dry run found.
pub(super) struct Estimate<'a> {
    pub(super) rows: &'a [NewLease],
    pub(super) samples: &'a BTreeMap<ShardId, Sample>,
    pub(super) lost: Option<String>,
    /// Bytes per second and shard.
    pub(super) rate: f64,
    pub(super) table: &'a str,
}

impl Estimate<'_> {
    fn bytes(&self, plan: &Plan, shard: &ShardId) -> Option<u64> {
        self.samples.get(shard)?.bytes_until(plan.end_ms())
    }

    /// Time of the longest chain of parents and children: shards are read side by side, children
    /// after parents.
    fn seconds(&self, plan: &Plan) -> Option<f64> {
        let mut done: BTreeMap<&ShardId, f64> = BTreeMap::new();
        for row in self.rows {
            let before =
                row.parents.iter().filter_map(|p| done.get(p).copied()).fold(0.0, f64::max);
            let own = self.bytes(plan, &row.shard)? as f64 / self.rate;
            done.insert(&row.shard, before + own);
        }
        Some(done.values().copied().fold(0.0, f64::max))
    }
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec_short().to_string()
}

fn duration(seconds: f64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds as u64)).to_string()
}

/// The plan, for `--dry-run`.
pub(super) fn plan(plan: &Plan, estimate: &Estimate<'_>, as_json: bool) {
    let total: Option<u64> = estimate.rows.iter().map(|r| estimate.bytes(plan, &r.shard)).sum();
    let seconds = estimate.seconds(plan);
    // For programs: one line, nothing rounded.
    if as_json {
        let shards: Vec<_> = estimate
            .rows
            .iter()
            .map(|row| {
                let sample = estimate.samples.get(&row.shard);
                json!({
                    "shard": row.shard,
                    "parents": row.parents,
                    "sample_records": sample.map(|s| s.records),
                    "sample_bytes": sample.map(|s| s.bytes),
                    "estimated_bytes": estimate.bytes(plan, &row.shard),
                })
            })
            .collect();
        println!(
            "{}",
            json!({
                "event": "plan", "id": plan.id, "table": estimate.table, "prefix": plan.prefix,
                "bucket": plan.settings.bucket, "from": plan.from, "until": plan.until,
                "shards": shards, "estimated_bytes": total, "estimated_seconds": seconds,
                "outside_retention": estimate.lost,
            })
        );
        return;
    }
    // For people: what, from where, into what; then the shards; then how long it may take.
    println!("replay {}", plan.id);
    println!("  from    {}", plan.from);
    println!("  until   {}", plan.until);
    println!("  to      s3://{}/{}", plan.settings.bucket, plan.prefix);
    println!("  leases  table {}", estimate.table);
    if let Some(lost) = &estimate.lost {
        println!("  LOST    {lost}");
    }
    println!("  shards, parents first:");
    for row in estimate.rows {
        let bytes = estimate.bytes(plan, &row.shard).map_or_else(|| "unknown".to_owned(), size);
        let sample = estimate.samples.get(&row.shard).map_or_else(String::new, |s| {
            let tip = if s.at_tip { ", nothing behind them" } else { "" };
            format!("   ({} records of {} seen{tip})", s.records, size(s.bytes))
        });
        println!("    {:24} {bytes:>12}{sample}", row.shard.as_str());
    }
    match (total, seconds) {
        (Some(bytes), Some(seconds)) => println!(
            "  about {} in {} at {}/s and shard: one GetRecords reply per shard, its rate carried on \
             to the end of the range; a rate that changes makes it wrong",
            size(bytes),
            duration(seconds.ceil()),
            size(estimate.rate as u64)
        ),
        _ => println!(
            "  size and time unknown: one GetRecords reply per shard was looked at, and not all of \
             them show a rate"
        ),
    }
    println!("Nothing was written.");
}

/// Tells progress: a bar on a terminal, JSON lines elsewhere.
pub(super) struct Teller {
    id: String,
    bar: Option<ProgressBar>,
}

impl Drop for Teller {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Teller {
    pub(super) fn new(plan: &Plan, tty: bool) -> Self {
        let to = format!("s3://{}/{}", plan.settings.bucket, plan.prefix);
        let (id, from, until) = (&plan.id, plan.from.to_string(), plan.until.to_string());
        if tty {
            eprintln!(
                "replay {id}: from {from} until {until}, to {to}\n`catchment replay --id {id}` \
                 resumes it, and shares its work where it runs already"
            );
        } else {
            let line =
                json!({"event": "started", "id": id, "from": from, "until": until, "to": to});
            println!("{line}");
        }
        let bar = tty.then(|| {
            let bar = ProgressBar::new(1000);
            if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:24} {msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(plan.id.clone());
            bar
        });
        Self { id: id.clone(), bar }
    }

    pub(super) fn tell(&mut self, progress: &ReplayProgress, ratio: f64) {
        let Some(bar) = &self.bar else {
            println!("{}", line("progress", &self.id, progress));
            return;
        };
        bar.set_position((ratio * 1000.0) as u64);
        let known = |seconds: Option<f64>| seconds.map_or_else(|| "?".to_owned(), duration);
        bar.set_message(format!(
            "{}/{} shards, {} records, {}, {} to go, eta {}",
            progress.finished,
            progress.shards,
            progress.records,
            size(progress.bytes),
            known(progress.lag_seconds),
            known(progress.eta_seconds)
        ));
    }
}

fn line(event: &str, id: &str, progress: &ReplayProgress) -> serde_json::Value {
    let mut line = json!({"event": event, "id": id});
    if let (Some(line), Ok(serde_json::Value::Object(more))) =
        (line.as_object_mut(), serde_json::to_value(progress))
    {
        line.extend(more);
    }
    line
}

/// The last line.
pub(super) fn summary(plan: &Plan, progress: &ReplayProgress, seconds: f64, tty: bool) {
    let to = format!("s3://{}/{}", plan.settings.bucket, plan.prefix);
    if tty {
        eprintln!(
            "replay {}: {} of {} shards, {} records, {} in {} by this process and its peers, under {to}",
            plan.id,
            progress.finished,
            progress.shards,
            progress.records,
            size(progress.bytes),
            duration(seconds)
        );
        return;
    }
    let mut line = line("summary", &plan.id, progress);
    line["seconds"] = seconds.into();
    line["to"] = to.into();
    println!("{line}");
}

/// Plan and progress of a replay that is looked at from outside.
pub(super) fn status(plan: &Plan, progress: &ReplayProgress, ready: bool) -> serde_json::Value {
    let mut line = line("status", &plan.id, progress);
    line["state"] = state(progress, ready).into();
    line["from"] = plan.from.to_string().into();
    line["until"] = plan.until.to_string().into();
    line["to"] = format!("s3://{}/{}", plan.settings.bucket, plan.prefix).into();
    line["planned_ms"] = plan.planned_ms.into();
    line
}

/// One word.
pub(super) fn state(progress: &ReplayProgress, ready: bool) -> &'static str {
    match (progress.complete, ready) {
        (true, _) => "complete",
        (false, false) => "planning",
        (false, true) => "active",
    }
}
