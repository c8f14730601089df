//! Every metric, in one table: name, type, labels, help.
//!
//! Base units only; the help texts carry the AWS words that operators search for.

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
        &["version", "stream", "worker"],
        "Always 1; names the running version, stream and worker.",
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
        "catchment_strict_replies_total",
        Kind::Counter,
        &[],
        "GetRecords replies in a form the fast path does not take; the SDK's parser read them, at three times the CPU. Nothing is lost by it.",
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
        "Age of the oldest record read and not yet committed, in seconds (data freshness).",
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
        "Leases of the table as this worker sees them: active or finished.",
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
        Kind::FloatGauge,
        &[],
        "User and system CPU time of the process, in seconds.",
    ),
    def("process_resident_memory_bytes", Kind::Gauge, &[], "Resident memory of the process."),
];

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
}

impl Metrics {
    /// Registers the whole table.
    pub fn new(shard_labels: bool) -> Self {
        let mut this = Self {
            registry: Registry::new(),
            counters: Vec::new(),
            amounts: Vec::new(),
            gauges: Vec::new(),
            floats: Vec::new(),
            histograms: Vec::new(),
            shard_labels,
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
            // Series without labels exist from the start, at zero.
            if def.labels.is_empty() {
                match def.kind {
                    Kind::Counter => this.add(def.name, &[], 0),
                    Kind::Gauge => this.set(def.name, &[], 0),
                    Kind::FloatCounter | Kind::FloatGauge | Kind::Seconds | Kind::Bytes => {}
                }
            }
        }
        this
    }

    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> C {
        self.registry.register(Box::new(metric.clone())).expect("names are unique");
        metric
    }

    /// Adds to a counter of the table.
    pub fn add(&self, name: &'static str, labels: &[&str], by: u64) {
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

    /// Forgets the gauges of a shard that is no longer ours.
    pub fn forget(&self, shard: &ShardId) {
        for (_, metric) in &self.floats {
            let _ = metric.remove_label_values(&[self.shard(shard)]);
        }
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
            self.set_float("process_cpu_seconds_total", &[], ticks / TICKS_PER_SECOND);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_registers_and_every_row_is_described() {
        let metrics = Metrics::new(true);
        for def in TABLE {
            assert!(def.help.ends_with('.') && def.help.len() > 15, "{}", def.name);
            let counter_name = def.name.ends_with("_total");
            let counter = matches!(def.kind, Kind::Counter | Kind::FloatCounter);
            assert!(!counter || counter_name, "{}", def.name);
        }
        metrics.add("catchment_batches_total", &["size"], 2);
        metrics.observe("catchment_put_seconds", 0.2);
        let text = metrics.render();
        assert!(text.contains("catchment_batches_total{cause=\"size\"} 2"), "{text}");
        assert!(text.contains("catchment_leases_lost_total 0"));
        assert!(text.contains("catchment_put_seconds_bucket"));
    }

    #[test]
    fn shard_labels_can_be_folded() {
        let shard = ShardId::new("shardId-000000000001");
        assert_eq!(Metrics::new(false).shard(&shard), "all");
        assert_eq!(Metrics::new(true).shard(&shard), "shardId-000000000001");
    }
}
