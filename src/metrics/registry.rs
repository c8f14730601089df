//! The registry and its handles: what [`TABLE`] says, counted.
//!
//! Series: [`constant_series`] for the process, and [`SHARD_SERIES`] for each shard, of which the
//! gauges go with the lease and the counters [`KEEP`] later. Calls that failed
//! (`catchment_call_failures_total`) add a series for each pair of operation and kind.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::table as metric;
use super::table::{Bytes, Counter, FloatCounter, FloatGauge, Gauge, Seconds};
pub use super::table::{Def, KNOWN, MetricKind, TABLE};
use crate::ids::ShardId;

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

/// A metric with all its series.
enum Series {
    Counter(IntCounterVec),
    FloatCounter(CounterVec),
    Gauge(IntGaugeVec),
    FloatGauge(GaugeVec),
    Distribution(HistogramVec),
}

/// The registry and its metrics.
pub struct Metrics {
    registry: Registry,
    /// In the order of [`TABLE`].
    rows: Vec<Series>,
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
            rows: Vec::new(),
            shard_labels,
            seen: Mutex::default(),
        };
        for def in TABLE {
            let opts = Opts::new(def.name, def.help);
            let histogram =
                |buckets: &[f64]| HistogramOpts::new(def.name, def.help).buckets(buckets.to_vec());
            // The table is constant: a name or bucket it cannot register is caught by the tests.
            let series = match def.kind {
                MetricKind::Counter => Series::Counter(
                    this.register(IntCounterVec::new(opts, def.labels).expect(def.name)),
                ),
                MetricKind::FloatCounter => Series::FloatCounter(
                    this.register(CounterVec::new(opts, def.labels).expect(def.name)),
                ),
                MetricKind::Gauge => Series::Gauge(
                    this.register(IntGaugeVec::new(opts, def.labels).expect(def.name)),
                ),
                MetricKind::FloatGauge => Series::FloatGauge(
                    this.register(GaugeVec::new(opts, def.labels).expect(def.name)),
                ),
                MetricKind::Seconds | MetricKind::Bytes => {
                    let buckets = if def.kind == MetricKind::Seconds { SECONDS } else { BYTES };
                    let metric = HistogramVec::new(histogram(buckets), def.labels);
                    Series::Distribution(this.register(metric.expect(def.name)))
                }
            };
            begin(def, this.rows.len(), &series);
            this.rows.push(series);
        }
        this
    }

    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> C {
        self.registry.register(Box::new(metric.clone())).expect("names are unique");
        metric
    }

    /// Adds to a counter.
    pub fn add(&self, metric: Counter, labels: &[&str], by: u64) {
        debug_assert!(is_known(metric.0, labels), "{metric:?}: {labels:?} is not in KNOWN");
        if let Series::Counter(metric) = &self.rows[metric.0] {
            metric.with_label_values(labels).inc_by(by);
        }
    }

    /// Adds to a fractional counter.
    pub fn add_float(&self, metric: FloatCounter, labels: &[&str], by: f64) {
        if let Series::FloatCounter(metric) = &self.rows[metric.0] {
            metric.with_label_values(labels).inc_by(by);
        }
    }

    /// A fractional counter as it stands.
    pub fn amount(&self, metric: FloatCounter, labels: &[&str]) -> f64 {
        match &self.rows[metric.0] {
            Series::FloatCounter(metric) => metric.with_label_values(labels).get(),
            _ => 0.0,
        }
    }

    /// Sets a gauge. More than an `i64` holds is shown as the most it holds.
    pub fn set(&self, metric: Gauge, labels: &[&str], to: impl TryInto<i64>) {
        if let Series::Gauge(metric) = &self.rows[metric.0] {
            metric.with_label_values(labels).set(to.try_into().unwrap_or(i64::MAX));
        }
    }

    /// Sets a fractional gauge.
    pub fn set_float(&self, metric: FloatGauge, labels: &[&str], to: f64) {
        if let Series::FloatGauge(metric) = &self.rows[metric.0] {
            metric.with_label_values(labels).set(to);
        }
    }

    /// Observes how long something took.
    pub fn observe(&self, metric: Seconds, took: Duration) {
        self.distribution(metric.0, took.as_secs_f64());
    }

    /// Observes how large something is.
    pub fn observe_bytes(&self, metric: Bytes, bytes: usize) {
        self.distribution(metric.0, bytes as f64);
    }

    fn distribution(&self, row: usize, value: f64) {
        if let Series::Distribution(metric) = &self.rows[row] {
            metric.with_label_values::<&str>(&[]).observe(value);
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
            self.show(metric::BEHIND_LATEST_SECONDS, label, row.behind);
            self.show(metric::OLDEST_UNDELIVERED_SECONDS, label, Some(row.oldest));
            self.show(metric::NO_PROGRESS_SECONDS, label, Some(row.still));
        }
        seen.retain(|label, at| {
            if !rows.contains_key(label.as_str()) {
                for metric in &self.rows {
                    if let Series::FloatGauge(metric) = metric {
                        let _ = metric.remove_label_values(&[label.as_str()]);
                    }
                }
            }
            let keep = now.saturating_sub(*at) <= KEEP;
            if !keep {
                for (def, metric) in TABLE.iter().zip(&self.rows) {
                    if let (["shard"], Series::Counter(metric)) = (def.labels, metric) {
                        let _ = metric.remove_label_values(&[label.as_str()]);
                    }
                }
            }
            keep
        });
    }

    fn show(&self, metric: FloatGauge, label: &str, value: Option<f64>) {
        if let Series::FloatGauge(metric) = &self.rows[metric.0] {
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
            self.set(metric::PROCESS_RESIDENT_MEMORY_BYTES, &[], pages * PAGE);
        }
        if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
            && let Some((_, rest)) = stat.rsplit_once(") ")
        {
            let ticks: f64 =
                rest.split(' ').skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
            let total = metric::PROCESS_CPU_SECONDS_TOTAL;
            let more = ticks / TICKS_PER_SECOND - self.amount(total, &[]);
            self.add_float(total, &[], more.max(0.0));
        }
    }
}

/// Series that exist whatever the worker does, apart from `catchment_build_info` and failed calls.
pub fn constant_series() -> usize {
    let one = |def: &Def| match def.kind {
        // Its buckets, +Inf, sum and count.
        MetricKind::Seconds => SECONDS.len() + 3,
        MetricKind::Bytes => BYTES.len() + 3,
        _ => 1,
    };
    let known: usize = KNOWN.iter().map(|(_, values)| values.len()).sum();
    TABLE.iter().filter(|def| def.labels.is_empty()).map(one).sum::<usize>() + known
}

/// Series without labels, and those with labels known beforehand, exist from the start, at zero.
fn begin(def: &Def, row: usize, series: &Series) {
    let known = KNOWN.iter().find(|(known, _)| *known == row);
    let known: Vec<&[&str]> = match known {
        Some((_, values)) => values.iter().map(std::slice::from_ref).collect(),
        None if def.labels.is_empty() => vec![&[]],
        None => Vec::new(),
    };
    for labels in known {
        match series {
            Series::Counter(metric) => drop(metric.with_label_values(labels)),
            Series::FloatCounter(metric) => drop(metric.with_label_values(labels)),
            Series::Gauge(metric) => drop(metric.with_label_values(labels)),
            // There is no lag where there is no replay.
            Series::FloatGauge(_) => {}
            Series::Distribution(metric) => drop(metric.with_label_values(labels)),
        }
    }
}

fn is_known(row: usize, labels: &[&str]) -> bool {
    let known = KNOWN.iter().find(|(known, _)| *known == row);
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
            let counter = matches!(def.kind, MetricKind::Counter | MetricKind::FloatCounter);
            assert!(!counter || counter_name, "{}", def.name);
        }
        metrics.add(metric::BATCHES_TOTAL, &["size"], 2);
        metrics.observe(metric::PUT_SECONDS, Duration::from_millis(200));
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
            for (row, def) in TABLE.iter().enumerate() {
                if def.kind == MetricKind::Counter && def.labels == ["shard"] {
                    metrics.add(Counter(row), &[metrics.shard(id)], 1);
                }
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
        for (row, values) in KNOWN {
            let def = &TABLE[*row];
            let name = def.name;
            for value in *values {
                let mut labels =
                    ["stream=\"clicks\"".to_owned(), format!("{}=\"{value}\"", def.labels[0])];
                labels.sort();
                let line = format!("{name}{{{}}} 0\n", labels.join(","));
                assert!(text.contains(&line), "{line}");
            }
        }
    }
}
