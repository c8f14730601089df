//! Every metric, in one table: name, type, labels, help.
//!
//! Base units only; the help texts carry the AWS words that operators search for.
//!
//! Series: [`constant_series`] for the process, and [`SHARD_SERIES`] for each shard, of which the
//! gauges go with the lease and the counters [`KEEP`] later. Calls that failed in an unusual way
//! (`catchment_call_failures_total`) add a series for each pair of operation and kind.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::ids::ShardId;

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Only grows, by fractions.
    FloatCounter,
    /// Integer that goes up and down.
    Gauge,
    /// Fraction that goes up and down.
    FloatGauge,
    /// Distribution of seconds.
    Seconds,
    /// Distribution of bytes.
    Bytes,
}

/// One row of the table.
#[derive(Debug)]
pub struct Def {
    /// Full name.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Label names.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

const fn def(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Def {
    Def { name, kind, labels, help }
}

/// The table.
pub const TABLE: &[Def] = &[
    def(
        "catchment_build_info",
        Kind::Gauge,
        &["version", "worker"],
        "Always 1; names the running version and worker.",
    ),
    def(
        "catchment_records_read_total",
        Kind::Counter,
        &["shard"],
        "User records read from the stream.",
    ),
    def(
        "catchment_bytes_read_total",
        Kind::Counter,
        &["shard"],
        "Payload bytes read from the stream.",
    ),
    def("catchment_aggregates_total", Kind::Counter, &[], "KPL aggregates taken apart."),
    def(
        "catchment_foreign_records_total",
        Kind::Counter,
        &[],
        "User records inside KPL aggregates whose hash key belongs to another shard; that shard delivers them.",
    ),
    def(
        "catchment_get_records_total",
        Kind::Counter,
        &["result"],
        "GetRecords calls by result: records, empty, or the kind of failure (throttled is ReadProvisionedThroughputExceeded).",
    ),
    def(
        "catchment_behind_latest_seconds",
        Kind::FloatGauge,
        &["shard"],
        "MillisBehindLatest of the last page, in seconds (the IteratorAge of an owned shard).",
    ),
    def(
        "catchment_oldest_undelivered_seconds",
        Kind::FloatGauge,
        &["shard"],
        "Time since the oldest record in hand was read, in seconds; 0 if all is committed (DataFreshness).",
    ),
    def(
        "catchment_no_progress_seconds",
        Kind::FloatGauge,
        &["shard"],
        "Time since a page of the shard was read, or a batch announced or committed; /livez fails at 600.",
    ),
    def(
        "catchment_retention_seconds",
        Kind::Gauge,
        &[],
        "How long the stream keeps records, as it was when the worker started.",
    ),
    def(
        "catchment_records_delivered_total",
        Kind::Counter,
        &["shard"],
        "User records committed: in an object, or in the dead letters.",
    ),
    def("catchment_bytes_delivered_total", Kind::Counter, &["shard"], "Payload bytes committed."),
    def(
        "catchment_batches_total",
        Kind::Counter,
        &["cause"],
        "Batches cut, by cause: size, count, time, pressure, shard_end, drain.",
    ),
    def(
        "catchment_intents_recovered_total",
        Kind::Counter,
        &[],
        "Batches finished that another owner had announced.",
    ),
    def(
        "catchment_commits_total",
        Kind::Counter,
        &[],
        "Writes that moved progress in the lease table.",
    ),
    def(
        "catchment_objects_written_total",
        Kind::Counter,
        &["kind"],
        "Objects created in S3: archive, upload or dead_letter.",
    ),
    def(
        "catchment_objects_existed_total",
        Kind::Counter,
        &[],
        "Creations answered 412 because the object was there: a duplicate prevented.",
    ),
    def("catchment_object_bytes", Kind::Bytes, &[], "Size of created objects."),
    def("catchment_put_seconds", Kind::Seconds, &[], "Time to store one object, retries included."),
    def(
        "catchment_upload_seconds",
        Kind::Seconds,
        &[],
        "Time from the front door's acceptance of a file to its object in S3, by the clocks of both.",
    ),
    def(
        "catchment_put_retries_total",
        Kind::Counter,
        &["class"],
        "Failed attempts to store an object, by kind of failure.",
    ),
    def(
        "catchment_dead_letters_total",
        Kind::Counter,
        &["kind"],
        "Records that could not be processed and were put aside, by kind.",
    ),
    def(
        "catchment_gaps_total",
        Kind::Counter,
        &[],
        "Ranges of records that left retention before they were delivered.",
    ),
    def("catchment_leases_owned", Kind::Gauge, &[], "Leases this worker holds (CurrentLeases)."),
    def(
        "catchment_leases",
        Kind::Gauge,
        &["state"],
        "Leases of the table as this worker last saw them: active, waiting for a parent shard, or finished.",
    ),
    def(
        "catchment_workers",
        Kind::Gauge,
        &[],
        "Workers that hold leases of the table, this one included.",
    ),
    def("catchment_leases_taken_total", Kind::Counter, &[], "Leases taken, free or expired."),
    def(
        "catchment_leases_lost_total",
        Kind::Counter,
        &[],
        "Leases lost to another worker or to silence (LostLeases).",
    ),
    def(
        "catchment_lease_handoffs_total",
        Kind::Counter,
        &["step"],
        "Graceful handoffs by step: asked, received, or given to another worker.",
    ),
    def("catchment_leases_released_total", Kind::Counter, &[], "Leases given back."),
    def(
        "catchment_lease_renewals_total",
        Kind::Counter,
        &["result"],
        "Heartbeats by result: ok, retry or lost.",
    ),
    def(
        "catchment_lease_news_total",
        Kind::Counter,
        &["result"],
        "Times this worker told the fleet that there are leases to take, by result: told or failed.",
    ),
    def(
        "catchment_lease_scans_total",
        Kind::Counter,
        &[],
        "Readings of the whole lease table to find leases to take (Scan).",
    ),
    def(
        "catchment_leases_freed_total",
        Kind::Counter,
        &[],
        "Leases of dead workers that this worker, as the lookout, freed for all to take.",
    ),
    def(
        "catchment_shards_finished_total",
        Kind::Counter,
        &[],
        "Shards delivered to their end (SHARD_END).",
    ),
    def(
        "catchment_rewinds_total",
        Kind::Counter,
        &[],
        "Shards gone back in place on request (catchment leases rewind).",
    ),
    def(
        "catchment_replay_shards",
        Kind::Gauge,
        &["state"],
        "In a replay: shards of its range by state, active or finished, whoever works on them.",
    ),
    def(
        "catchment_replay_records",
        Kind::Gauge,
        &[],
        "In a replay: user records committed so far, by all its workers.",
    ),
    def(
        "catchment_replay_bytes",
        Kind::Gauge,
        &[],
        "In a replay: payload bytes committed so far, by all its workers.",
    ),
    def(
        "catchment_replay_lag_seconds",
        Kind::FloatGauge,
        &[],
        "In a replay: how far the slowest shard of this worker is from the end of the range.",
    ),
    def("catchment_leases_created_total", Kind::Counter, &[], "Leases created for shards found."),
    def(
        "catchment_start_ignored",
        Kind::Gauge,
        &[],
        "Leases with a checkpoint that overruled a configured stream.start when the worker started; it counts for new leases only.",
    ),
    def(
        "catchment_leases_unreadable",
        Kind::Gauge,
        &[],
        "Items of the lease table that cannot be read; see the log.",
    ),
    def(
        "catchment_shard_failures_total",
        Kind::Counter,
        &[],
        "Shards given up and retried after an error.",
    ),
    def(
        "catchment_call_failures_total",
        Kind::Counter,
        &["operation", "class"],
        "Failed AWS calls by operation and kind of failure.",
    ),
    def(
        "catchment_dynamodb_consumed_units_total",
        Kind::FloatCounter,
        &["kind"],
        "Request units of the lease table used by this worker, as the replies tell them: read or write (ConsumedReadCapacityUnits, ConsumedWriteCapacityUnits); a refused write counts as one.",
    ),
    def("catchment_buffer_bytes", Kind::Gauge, &[], "Bytes of the budget in use."),
    def("catchment_budget_bytes", Kind::Gauge, &[], "The byte budget."),
    def("catchment_budget_waiting", Kind::Gauge, &[], "Fetches waiting for room in the budget."),
    def(
        "process_cpu_seconds_total",
        Kind::FloatCounter,
        &[],
        "User and system CPU time of the process, in seconds.",
    ),
    def("process_resident_memory_bytes", Kind::Gauge, &[], "Resident memory of the process."),
];

/// Values of a label that are known beforehand. Their counters stand at zero from the start:
/// Prometheus does not count the step from no series to the first value.
pub const KNOWN: &[(&str, &[&str])] = &[
    (
        "catchment_get_records_total",
        &[
            "records",
            "empty",
            "throttled",
            "unavailable",
            "denied",
            "not_found",
            "expired_iterator",
            "invalid",
        ],
    ),
    ("catchment_batches_total", &["size", "count", "time", "pressure", "shard_end", "drain"]),
    ("catchment_objects_written_total", &["archive", "upload", "dead_letter"]),
    (
        "catchment_put_retries_total",
        &["throttled", "unavailable", "denied", "not_found", "expired_iterator", "invalid"],
    ),
    (
        "catchment_dead_letters_total",
        &[
            "invalid-json",
            "upload-malformed",
            "upload-version",
            "upload-key",
            "upload-field",
            "upload-body",
            "upload-checksum",
            "upload-conflict",
        ],
    ),
    ("catchment_lease_handoffs_total", &["asked", "received", "given"]),
    ("catchment_lease_renewals_total", &["ok", "retry", "lost"]),
    ("catchment_lease_news_total", &["told", "failed"]),
    ("catchment_dynamodb_consumed_units_total", &["read", "write"]),
];

/// Series of one shard: four counters and three gauges.
pub const SHARD_SERIES: usize = 7;

/// How long the counters of a shard stay after it was last ours: long enough to be scraped.
pub const KEEP: Duration = Duration::from_secs(900);

const SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
const BYTES: &[f64] = &[
    1024.0,
    16_384.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
];

/// The registry and its handles.
pub struct Metrics {
    registry: Registry,
    counters: Vec<(&'static str, IntCounterVec)>,
    amounts: Vec<(&'static str, CounterVec)>,
    gauges: Vec<(&'static str, IntGaugeVec)>,
    floats: Vec<(&'static str, GaugeVec)>,
    histograms: Vec<(&'static str, HistogramVec)>,
    shard_labels: bool,
    /// Shard labels that have series, and when the shard was last ours (clock of the process).
    seen: Mutex<BTreeMap<String, Duration>>,
}

/// What is measured of a shard at the moment somebody asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardGauges {
    /// MillisBehindLatest, in seconds; `None` if Kinesis has not said.
    pub behind: Option<f64>,
    /// Age in seconds of the oldest record in hand.
    pub oldest: f64,
    /// Seconds since something moved.
    pub still: f64,
}

impl Metrics {
    /// Registers the whole table. Every series gets the label `stream`: one Prometheus job may read
    /// several, and a join would need to know which labels tell its processes apart.
    pub fn new(stream: &str, shard_labels: bool) -> Self {
        let common = HashMap::from([("stream".to_owned(), stream.to_owned())]);
        let mut this = Self {
            registry: Registry::new_custom(None, Some(common)).expect("no prefix to be wrong"),
            counters: Vec::new(),
            amounts: Vec::new(),
            gauges: Vec::new(),
            floats: Vec::new(),
            histograms: Vec::new(),
            shard_labels,
            seen: Mutex::default(),
        };
        for def in TABLE {
            let opts = Opts::new(def.name, def.help);
            let histogram =
                |buckets: &[f64]| HistogramOpts::new(def.name, def.help).buckets(buckets.to_vec());
            // The table is constant: a name or bucket it cannot register is caught by the tests.
            match def.kind {
                Kind::Counter => {
                    let metric = IntCounterVec::new(opts, def.labels).expect(def.name);
                    this.counters.push((def.name, this.register(metric)));
                }
                Kind::FloatCounter => {
                    let metric = CounterVec::new(opts, def.labels).expect(def.name);
                    this.amounts.push((def.name, this.register(metric)));
                }
                Kind::Gauge => {
                    let metric = IntGaugeVec::new(opts, def.labels).expect(def.name);
                    this.gauges.push((def.name, this.register(metric)));
                }
                Kind::FloatGauge => {
                    let metric = GaugeVec::new(opts, def.labels).expect(def.name);
                    this.floats.push((def.name, this.register(metric)));
                }
                Kind::Seconds => {
                    let metric = HistogramVec::new(histogram(SECONDS), def.labels).expect(def.name);
                    this.histograms.push((def.name, this.register(metric)));
                }
                Kind::Bytes => {
                    let metric = HistogramVec::new(histogram(BYTES), def.labels).expect(def.name);
                    this.histograms.push((def.name, this.register(metric)));
                }
            }
            this.begin(def);
        }
        this
    }

    /// Series without labels, and those with labels known beforehand, exist from the start, at zero.
    fn begin(&self, def: &Def) {
        let known = KNOWN.iter().find(|(name, _)| *name == def.name);
        let known: Vec<&[&str]> = match known {
            Some((_, values)) => values.iter().map(std::slice::from_ref).collect(),
            None if def.labels.is_empty() => vec![&[]],
            None => Vec::new(),
        };
        for labels in known {
            match def.kind {
                Kind::Counter => self.add(def.name, labels, 0),
                Kind::FloatCounter => self.add_float(def.name, labels, 0.0),
                Kind::Gauge => self.set(def.name, labels, 0),
                // There is no lag where there is no replay.
                Kind::FloatGauge => {}
                Kind::Seconds | Kind::Bytes => {
                    if let Some((_, metric)) = self.histograms.iter().find(|(n, _)| *n == def.name)
                    {
                        let _ = metric.with_label_values(labels);
                    }
                }
            }
        }
    }

    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> C {
        self.registry.register(Box::new(metric.clone())).expect("names are unique");
        metric
    }

    /// Adds to a counter of the table.
    pub fn add(&self, name: &'static str, labels: &[&str], by: u64) {
        debug_assert!(is_known(name, labels), "{name}: {labels:?} is not in KNOWN");
        if let Some((_, metric)) = self.counters.iter().find(|(n, _)| *n == name) {
            metric.with_label_values(labels).inc_by(by);
        } else {
            debug_assert!(false, "{name} is no counter");
        }
    }

    /// Adds to a fractional counter of the table.
    pub fn add_float(&self, name: &'static str, labels: &[&str], by: f64) {
        if let Some((_, metric)) = self.amounts.iter().find(|(n, _)| *n == name) {
            metric.with_label_values(labels).inc_by(by);
        } else {
            debug_assert!(false, "{name} is no fractional counter");
        }
    }

    /// A fractional counter of the table as it stands.
    pub fn amount(&self, name: &'static str, labels: &[&str]) -> f64 {
        let found = self.amounts.iter().find(|(n, _)| *n == name);
        found.map_or(0.0, |(_, metric)| metric.with_label_values(labels).get())
    }

    /// Sets a gauge of the table.
    pub fn set(&self, name: &'static str, labels: &[&str], to: i64) {
        if let Some((_, metric)) = self.gauges.iter().find(|(n, _)| *n == name) {
            metric.with_label_values(labels).set(to);
        } else {
            debug_assert!(false, "{name} is no gauge");
        }
    }

    /// Sets a fractional gauge of the table.
    pub fn set_float(&self, name: &'static str, labels: &[&str], to: f64) {
        if let Some((_, metric)) = self.floats.iter().find(|(n, _)| *n == name) {
            metric.with_label_values(labels).set(to);
        } else {
            debug_assert!(false, "{name} is no fractional gauge");
        }
    }

    /// Observes a value of a distribution of the table.
    pub fn observe(&self, name: &'static str, value: f64) {
        if let Some((_, metric)) = self.histograms.iter().find(|(n, _)| *n == name) {
            metric.with_label_values::<&str>(&[]).observe(value);
        } else {
            debug_assert!(false, "{name} is no distribution");
        }
    }

    /// The label of a shard: its id, or `all` where per-shard series are off.
    pub fn shard<'a>(&self, shard: &'a ShardId) -> &'a str {
        if self.shard_labels { shard.as_str() } else { "all" }
    }

    /// Sets the gauges of the shards we have, and takes away those of the others. Shards that share
    /// a label (see [`Metrics::shard`]) show the worst of them. `now` is the clock of the process.
    pub fn shards(&self, now: Duration, shards: &[(ShardId, ShardGauges)]) {
        let mut rows: BTreeMap<&str, ShardGauges> = BTreeMap::new();
        for (id, gauges) in shards {
            let row = rows.entry(self.shard(id)).or_default();
            row.behind = row.behind.into_iter().chain(gauges.behind).reduce(f64::max);
            row.oldest = row.oldest.max(gauges.oldest);
            row.still = row.still.max(gauges.still);
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (label, row) in &rows {
            seen.insert((*label).to_owned(), now);
            self.show("catchment_behind_latest_seconds", label, row.behind);
            self.show("catchment_oldest_undelivered_seconds", label, Some(row.oldest));
            self.show("catchment_no_progress_seconds", label, Some(row.still));
        }
        seen.retain(|label, at| {
            if !rows.contains_key(label.as_str()) {
                for (_, metric) in &self.floats {
                    let _ = metric.remove_label_values(&[label.as_str()]);
                }
            }
            let keep = now.saturating_sub(*at) <= KEEP;
            if !keep {
                for def in TABLE.iter().filter(|def| def.labels == ["shard"]) {
                    let metric = self.counters.iter().find(|(name, _)| *name == def.name);
                    let _ = metric.map(|(_, m)| m.remove_label_values(&[label.as_str()]));
                }
            }
            keep
        });
    }

    fn show(&self, name: &str, label: &str, value: Option<f64>) {
        if let Some((_, metric)) = self.floats.iter().find(|(n, _)| *n == name) {
            match value {
                Some(value) => metric.with_label_values(&[label]).set(value),
                None => drop(metric.remove_label_values(&[label])),
            }
        }
    }

    /// A shard is no longer ours: its counters go after a while, also if nobody looked in between.
    pub fn leave(&self, now: Duration, shard: &ShardId) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(self.shard(shard).to_owned(), now);
    }

    /// The text exposition.
    pub fn render(&self) -> String {
        self.process();
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// Reads the process figures where the kernel offers them.
    fn process(&self) {
        const PAGE: i64 = 4096;
        const TICKS_PER_SECOND: f64 = 100.0;
        if let Ok(statm) = std::fs::read_to_string("/proc/self/statm")
            && let Some(pages) = statm.split(' ').nth(1).and_then(|p| p.parse::<i64>().ok())
        {
            self.set("process_resident_memory_bytes", &[], pages * PAGE);
        }
        if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
            && let Some((_, rest)) = stat.rsplit_once(") ")
        {
            let ticks: f64 =
                rest.split(' ').skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
            let name = "process_cpu_seconds_total";
            let more = ticks / TICKS_PER_SECOND - self.amount(name, &[]);
            self.add_float(name, &[], more.max(0.0));
        }
    }
}

/// Series that exist whatever the worker does, apart from `catchment_build_info` and failed calls.
pub fn constant_series() -> usize {
    let one = |def: &Def| match def.kind {
        // Its buckets, +Inf, sum and count.
        Kind::Seconds => SECONDS.len() + 3,
        Kind::Bytes => BYTES.len() + 3,
        _ => 1,
    };
    let known: usize = KNOWN.iter().map(|(_, values)| values.len()).sum();
    TABLE.iter().filter(|def| def.labels.is_empty()).map(one).sum::<usize>() + known
}

fn is_known(name: &str, labels: &[&str]) -> bool {
    let known = KNOWN.iter().find(|(known, _)| *known == name);
    known.is_none_or(|(_, values)| labels.len() == 1 && values.contains(&labels[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_registers_and_every_row_is_described() {
        let metrics = Metrics::new("clicks", true);
        for def in TABLE {
            assert!(def.help.ends_with('.') && def.help.len() > 15, "{}", def.name);
            let counter_name = def.name.ends_with("_total");
            let counter = matches!(def.kind, Kind::Counter | Kind::FloatCounter);
            assert!(!counter || counter_name, "{}", def.name);
        }
        metrics.add("catchment_batches_total", &["size"], 2);
        metrics.observe("catchment_put_seconds", 0.2);
        let text = metrics.render();
        assert!(
            text.contains("catchment_batches_total{cause=\"size\",stream=\"clicks\"} 2"),
            "{text}"
        );
        assert!(text.contains("catchment_leases_lost_total{stream=\"clicks\"} 0"));
        assert!(text.contains("catchment_put_seconds_bucket"));
    }

    #[test]
    fn shard_labels_can_be_folded() {
        let shard = ShardId::new("shardId-000000000001");
        assert_eq!(Metrics::new("clicks", false).shard(&shard), "all");
        assert_eq!(Metrics::new("clicks", true).shard(&shard), "shardId-000000000001");
    }

    fn series(metrics: &Metrics) -> usize {
        metrics.render().lines().filter(|line| !line.starts_with('#')).count()
    }

    fn busy(metrics: &Metrics, shards: &[(ShardId, ShardGauges)]) {
        for (id, _) in shards {
            for def in TABLE.iter().filter(|d| d.kind == Kind::Counter && d.labels == ["shard"]) {
                metrics.add(def.name, &[metrics.shard(id)], 1);
            }
        }
    }

    fn many(range: std::ops::Range<usize>) -> Vec<(ShardId, ShardGauges)> {
        let gauges = ShardGauges { behind: Some(1.0), oldest: 2.0, still: 3.0 };
        range.map(|n| (ShardId::new(format!("shardId-{n:012}")), gauges)).collect()
    }

    #[test]
    fn series_grow_with_the_shards_in_hand_and_shrink_again() {
        let metrics = Metrics::new("clicks", true);
        let rest = series(&metrics);
        // Outside a replay its lag has no series.
        assert_eq!(rest, constant_series() - 1);
        let (first, second) = (many(0..5000), many(5000..10_000));
        busy(&metrics, &first);
        metrics.shards(Duration::from_secs(1), &first);
        assert_eq!(series(&metrics), rest + SHARD_SERIES * 5000);
        // All are split: the gauges go at once, the counters later.
        busy(&metrics, &second);
        metrics.shards(Duration::from_secs(2), &second);
        assert_eq!(series(&metrics), rest + SHARD_SERIES * 5000 + 4 * 5000);
        metrics.shards(KEEP + Duration::from_secs(3), &second);
        assert_eq!(series(&metrics), rest + SHARD_SERIES * 5000);
        // One that came and went between two looks.
        let brief = many(20_000..20_001);
        busy(&metrics, &brief);
        metrics.leave(KEEP * 2, &brief[0].0);
        metrics.shards(KEEP * 2, &second);
        assert_eq!(series(&metrics), rest + SHARD_SERIES * 5000 + 4);
        metrics.shards(KEEP * 4, &[]);
        assert_eq!(series(&metrics), rest);
    }

    #[test]
    fn folded_shards_show_the_worst_and_cost_the_series_of_one() {
        let metrics = Metrics::new("clicks", false);
        let rest = series(&metrics);
        let mut shards = many(0..5000);
        shards[7].1 = ShardGauges { behind: Some(70.0), oldest: 80.0, still: 90.0 };
        shards[8].1.behind = None;
        busy(&metrics, &shards);
        metrics.shards(Duration::from_secs(1), &shards);
        assert_eq!(series(&metrics), rest + SHARD_SERIES);
        let text = metrics.render();
        for line in [
            "catchment_behind_latest_seconds{shard=\"all\",stream=\"clicks\"} 70",
            "catchment_oldest_undelivered_seconds{shard=\"all\",stream=\"clicks\"} 80",
            "catchment_no_progress_seconds{shard=\"all\",stream=\"clicks\"} 90",
        ] {
            assert!(text.contains(line), "{line}");
        }
        // Kinesis has not said how far behind: nothing is made up.
        metrics.shards(Duration::from_secs(2), &shards[8..9]);
        assert!(!metrics.render().contains("catchment_behind_latest_seconds{"));
    }

    #[test]
    fn known_labels_belong_to_metrics_of_one_label_and_start_at_zero() {
        let text = Metrics::new("clicks", true).render();
        for (name, values) in KNOWN {
            let def = TABLE.iter().find(|def| def.name == *name).expect(name);
            for value in *values {
                let mut labels =
                    [format!("stream=\"clicks\""), format!("{}=\"{value}\"", def.labels[0])];
                labels.sort();
                let line = format!("{name}{{{}}} 0\n", labels.join(","));
                assert!(text.contains(&line), "{line}");
            }
        }
    }
}
