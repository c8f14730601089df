//! Documents that are generated from the code, and samples that must load.
//!
//! `UPDATE_DOCS=1 cargo test --test it docs` writes them anew.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use catchment::config::Config;
use catchment::config::keys::KEYS;
use catchment::config::raw::Layers;
use catchment::metrics::registry::{KEEP, MetricKind, SHARD_SERIES, TABLE, constant_series};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn compare(path: &str, expected: &str) {
    let file = root().join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "{path} is out of date: UPDATE_DOCS=1 cargo test --test it docs");
}

#[test]
fn the_configuration_table_is_the_code() {
    let mut text = String::from(
        "# Configuration\n\n\
         Values come from defaults, then a TOML file (`--config FILE` or `CATCHMENT_CONFIG`), then\n\
         `CATCHMENT_*` environment variables, then flags (`--set key=value`, `--stream`, `--bucket`);\n\
         later ones win. Unknown keys are refused. All problems are reported at once, with exit code 2.\n\n\
         Durations are written `500ms`, `10s`, `5m`; sizes `64MiB` (1024-based) or `64MB` (1000-based).\n\
         In the file, the part before the dot is the section: `stream.name` is `name` under `[stream]`.\n\
         `docs/samples/` holds files to start from.\n\n\
         AWS credentials, region and endpoints come from the standard places: environment, profile,\n\
         web identity, container and instance roles; `AWS_REGION`, `AWS_ENDPOINT_URL`,\n\
         `AWS_ENDPOINT_URL_KINESIS`, `_DYNAMODB`, `_S3`; `HTTPS_PROXY` and `NO_PROXY` are obeyed. Logs follow\n\
         `CATCHMENT_LOG` or `RUST_LOG`.\n\n\
         Behind a proxy that opens TLS, or with endpoints that have certificates of your own, let\n\
         `AWS_CA_BUNDLE` name a PEM file with the authorities to trust. They are trusted besides the system's\n\
         (the AWS CLI trusts them instead), by the calls of the credential chain too. A file that cannot be\n\
         read, or has no certificate that can be, ends the start with exit code 2. `ca_bundle` of a profile is not\n\
         read.\n\n\
         | key | environment | default | meaning |\n|---|---|---|---|\n",
    );
    for key in KEYS {
        let default =
            if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
        writeln!(text, "| `{}` | `{}` | {default} | {} |", key.name, key.environment(), key.help)
            .unwrap();
    }
    compare("docs/CONFIGURATION.md", &text);
}

#[test]
fn the_metrics_table_is_the_code() {
    let mut text = String::from(
        "# Metrics\n\n\
         Served at `/metrics` in the Prometheus text format. Counters end in `_total`; times are\n\
         seconds, sizes bytes. Every series has the label `stream` besides those listed.\n\
         `telemetry.shard_labels = false` folds the label `shard` into `all`; gauges then show the worst.\n\n\
         | name | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for def in TABLE {
        let kind = match def.kind {
            MetricKind::Counter | MetricKind::FloatCounter => "counter",
            MetricKind::Gauge | MetricKind::FloatGauge => "gauge",
            MetricKind::Seconds | MetricKind::Bytes => "histogram",
        };
        writeln!(text, "| `{}` | {kind} | {} | {} |", def.name, def.labels.join(", "), def.help)
            .unwrap();
    }
    write!(
        text,
        "\n## How many series\n\n\
         A worker exposes {} series whatever it does, one for `catchment_build_info`, and {SHARD_SERIES} for\n\
         each shard it holds. The gauges of a shard go with its lease, its counters {} minutes later. So a\n\
         fleet has W × {} + {SHARD_SERIES} × L series for W workers and L leases at rest: 5,000 leases on 50\n\
         workers make {}. Each pair of operation and failure that has occurred adds one to\n\
         `catchment_call_failures_total`. With `telemetry.shard_labels = false` L counts as W.\n",
        constant_series(),
        KEEP.as_secs() / 60,
        constant_series() + 1,
        50 * (constant_series() + 1) + SHARD_SERIES * 5000,
    )
    .unwrap();
    compare("docs/METRICS.md", &text);
}

/// Dollars per month: the lines of the table in ecs/README.md.
#[test]
fn the_cost_table_is_the_code() {
    use catchment::cost::{Mode, PRICES, TrafficLoad, month};
    let mut table = String::from(
        "| a month of | stream | tasks | Catchment | Firehose | channel |\n\
         |---|---|---|---|---|---|\n",
    );
    for (tb, record_kb, mode, tasks, vcpu) in [
        (1.0_f64, 1.0, Mode::Provisioned, 2.0, 0.5),
        (10.0, 1.0, Mode::Provisioned, 2.0, 0.5),
        (10.0, 20.0, Mode::Provisioned, 2.0, 0.5),
        (100.0, 1.0, Mode::Provisioned, 4.0, 1.0),
        (10.0, 1.0, Mode::Standard, 2.0, 0.5),
        (10.0, 1.0, Mode::Advantage, 2.0, 0.5),
    ] {
        let shards = (tb * 1e6 / (730.0 * 3600.0)).ceil();
        let load = TrafficLoad {
            bytes: tb * 1e12,
            record_bytes: record_kb * 1e3,
            shards,
            mode,
            tasks,
            vcpu,
            memory_gb: vcpu * 2.0,
            batch_bytes: 64.0 * 1024.0 * 1024.0,
            batch_age: 60.0,
            failover: 10.0,
            scan: 1.0,
        };
        let costs = month(&load, PRICES);
        let stream = match mode {
            Mode::Provisioned => format!("provisioned, {shards} shards"),
            Mode::Standard => "on demand, Standard".into(),
            Mode::Advantage => "on demand, Advantage".into(),
        };
        let channel = costs.channel.map_or("not offered".into(), |c| format!("${c:.0}"));
        writeln!(
            table,
            "| {tb} TB of {record_kb} KB records | {stream} | {tasks} of {vcpu} vCPU | ${:.0} | ${:.0} | {channel} |",
            costs.total(),
            costs.firehose
        )
        .unwrap();
    }
    let (begin, end) = ("<!-- costs -->\n", "<!-- /costs -->");
    let page = fs::read_to_string(root().join("ecs/README.md")).unwrap();
    let (before, rest) = page.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    compare("ecs/README.md", &format!("{before}{begin}{table}{end}{after}"));
}

#[test]
fn samples_load() {
    let mut count = 0;
    for entry in fs::read_dir(root().join("docs/samples")).unwrap() {
        let path = entry.unwrap().path();
        let mut layers = Layers::default();
        layers.file(&path.display().to_string(), &fs::read_to_string(&path).unwrap());
        if let Err(error) = Config::from_layers(layers) {
            panic!("{}: {error}", path.display());
        }
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut pages =
        ["README.md", "ecs/README.md", "dashboards/README.md"].map(|p| root().join(p)).to_vec();
    let listing = fs::read_dir(root().join("docs")).unwrap();
    pages.extend(
        listing.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "md")),
    );
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = page.parent().unwrap_or(Path::new(".")).join(target);
            assert!(path.exists(), "{}: {target} does not exist", page.display());
        }
    }
}
