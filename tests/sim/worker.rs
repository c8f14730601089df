//! The real worker as a simulated process.

use catchment::aws::clients::Clients;
use catchment::aws::transport::Transport;
use catchment::config::raw::{Layers, Source};
use catchment::config::{Config, OnGap};
use catchment::delivery::settings::ForeignRecords;
use catchment::worker::supervisor::{self, Exit};
use catchment::worker::{self, StartError};

use crate::drive::drive;
use crate::effects::Fnv;
use crate::fleet::{BUCKET, Fleet, STREAM, TABLE};
use crate::node::Node;
use crate::oracle::Oracle;
use crate::sim::{Report, run};

/// The configuration of one incarnation. Drawn by name: a worker that comes back has another, as
/// after a deployment.
pub fn config(fleet: &Fleet, node: &str) -> Config {
    let mut rng = fastrand::Rng::with_seed(fleet.seed ^ Fnv::of(node.as_bytes()) ^ 0x43_4f4e);
    let one = |rng: &mut fastrand::Rng, of: &[&'static str]| of[rng.usize(0..of.len())];
    let mut layers = Layers::default();
    let mut set = |name: &str, value: String| layers.set(name, value, Source::Flag("sim".into()));
    set("stream.name", STREAM.into());
    set("stream.start", if fleet.latest { "latest" } else { "trim-horizon" }.into());
    set("stream.idle", format!("{}ms", rng.u32(200..1_500)));
    set("stream.page_records", rng.u32(3..2_000).to_string());
    set("lease.application", TABLE.into());
    set("lease.worker", node.into());
    set("lease.failover", "10s".into());
    set("lease.shard_sync", format!("{}s", rng.u32(2..10)));
    set("delivery.bucket", BUCKET.into());
    let format = one(&mut rng, &["ndjson", "raw", "ndjson", "raw", "envelope", "json-array"]);
    set("delivery.format", format.into());
    set("delivery.compression", one(&mut rng, &["none", "zstd", "none", "gzip"]).into());
    // Batches that cross a minute, or ten seconds' worth of one, become several objects.
    let layouts = ["!{stream}/", "!{stream}/!{yyyy}/!{MM}/!{dd}/!{HH}/!{mm}/", "!{stream}/!{ss}/"];
    set("delivery.prefix", one(&mut rng, &layouts).into());
    if fleet.load.fields && !fleet.is_older(node) {
        // Of its own, so that the fleets without fields stay what they were.
        let mut rng = fastrand::Rng::with_seed(rng.clone().u64(..));
        let layouts = ["!{stream}/k=!{field:k}/", "!{stream}/!{HH}/!{mm}/k=!{field:k}/"];
        if rng.bool() {
            set("delivery.prefix", one(&mut rng, &layouts).into());
        }
        set("delivery.time_field", one(&mut rng, &["", "at"]).into());
        set("delivery.partitions", rng.u32(1..6).to_string());
        set("delivery.overflow", one(&mut rng, &["cut", "spill"]).into());
    }
    set("delivery.batch_records", rng.u32(1..40).to_string());
    set("delivery.batch_bytes", format!("{}B", rng.u32(30..3_000)));
    set("delivery.batch_age", format!("{}ms", rng.u32(200..8_000)));
    set("delivery.inflight_batches", rng.u32(1..5).to_string());
    set("delivery.concurrent_puts", rng.u32(1..5).to_string());
    set("delivery.upload_deadline", format!("{}s", rng.u32(10..300)));
    let stops = (fleet.stops && rng.bool()) || fleet.parks;
    set("delivery.on_gap", if stops { "stop" } else { "continue" }.into());
    set("memory.budget", one(&mut rng, &["8MiB", "40MiB", "256MiB"]).into());
    if fleet.fan_out {
        let mut rng = fastrand::Rng::with_seed(rng.clone().u64(..) ^ 0x5055_5348);
        let reader = one(&mut rng, &["fan-out", "fan-out", "auto", "polling"]);
        set("stream.reader", reader.into());
    }
    set("telemetry.listen", "off".into());
    set("shutdown.deadline", format!("{}s", rng.u32(3..25)));
    let mut config = Config::from_layers(layers).unwrap();
    if fleet.is_older(node) {
        config.delivery.settings.foreign_records = ForeignRecords::LeftOut;
    } else {
        // Not recorded anywhere but in the intents, and another one in each life.
        let mut rng = fastrand::Rng::with_seed(rng.clone().u64(..) ^ 0x464f);
        config.delivery.settings.foreign_records =
            if rng.bool() { ForeignRecords::Keep } else { ForeignRecords::DeadLetter };
    }
    if fleet.world.min_part.is_some() && rng.bool() {
        // Below what can be configured: megabytes would be slow here.
        config.delivery.multipart_bytes = rng.usize(100..400);
    }
    config
}

/// One life of a worker process.
async fn live(node: Node, config: Config, older: bool) {
    if older {
        node.note("older build");
    }
    let means = worker::Node {
        clock: node.clock.clone(),
        jitter: node.jitter.clone(),
        tasks: node.tasks.clone(),
    };
    let clients = Clients {
        kinesis: node.kinesis.clone(),
        dynamodb: node.dynamodb.clone(),
        s3: node.s3.clone(),
        transport: Transport::default(),
    };
    let on_gap = config.delivery.gaps.known;
    let prepared = tokio::select! {
        biased;
        () = node.shutdown.drain.cancelled() => return,
        prepared = Box::pin(worker::prepare(&means, config, clients)) => prepared,
    };
    let worker = match prepared {
        Ok(worker) => worker,
        Err(error) => {
            node.note(&format!("does not start: {error}"));
            match &error {
                StartError::Unavailable(..) | StartError::Table(_) | StartError::Bucket { .. } => {}
                StartError::Denied(refused) if refused.code.starts_with("ExpiredToken") => {}
                other => node.violation(&format!("does not start: {other}")),
            }
            return;
        }
    };
    let observed = worker.observed();
    let exit = Box::pin(supervisor::run(worker, node.shutdown.clone())).await;
    match exit {
        Exit::Drained => {
            // Ended tasks give back what they hold when they are next looked at.
            node.clock.sleep(std::time::Duration::from_millis(50)).await;
            let (_, used, waiting) = observed.budget.usage();
            if (used, waiting) != (0, 0) {
                node.violation(&format!("[10] drained, and {used} B, {waiting} requests left"));
            }
            node.note("drained");
        }
        Exit::Late(_) => node.note("stopped late"),
        Exit::Parked(parked) if on_gap == OnGap::Continue => {
            node.violation(&format!("stops for a gap in {:?}", parked.keys()));
        }
        Exit::Parked(_) => node.note("stopped for a gap"),
        Exit::OtherStream { is, .. } => node.violation(&format!("takes the stream for {is}")),
    }
}

/// What a run of a fleet came to.
pub struct Outcome {
    pub seed: u64,
    pub failures: Vec<String>,
    pub report: Report,
    pub story: Vec<(u64, String)>,
}

impl Outcome {
    /// What went wrong and what led to it.
    pub fn explain(&self) -> String {
        let mut lines = self.story.clone();
        let notes = self.report.effects.iter().filter(|e| e.status == 0 && e.fault.is_empty());
        lines.extend(notes.map(|e| (e.at, format!("{:<8} {}", e.node, e.op))));
        lines.sort_by_key(|(at, _)| *at);
        let story: String = lines.iter().map(|(at, line)| format!("{at:>9} {line}\n")).collect();
        format!("{story}seed {}:\n  {}", self.seed, self.failures.join("\n  "))
    }
}

/// Runs a fleet of real workers under the oracle.
pub fn fleet_of_workers(fleet: &Fleet) -> Outcome {
    fleet_watched(fleet, || ())
}

/// The same, with a look at the process while the fleet is at work.
pub fn fleet_watched(fleet: &Fleet, probe: impl Fn()) -> Outcome {
    let oracle = Oracle::of(fleet);
    let seed = fleet.seed;
    let own = fleet.clone();
    let start = move |node: &Node| -> catchment::task::BoxTask {
        Box::pin(live(node.clone(), config(&own, &node.name), own.is_older(&node.name)))
    };
    let (done, mut report) = run(fleet.setup(Box::new(oracle.clone())), async |sim| {
        let begun = sim.net.now().at;
        let done = drive(&sim, fleet, &start, |world| {
            probe();
            oracle.complete(world)
        })
        .await;
        let last = oracle.complete(&mut sim.net.world());
        let awake = (sim.net.now().at - begun).saturating_sub(fleet.dark_ms());
        let requests = sim.net.requests();
        // [11] Polls, heartbeats, scans and their retries, for as many shards as can be.
        let bound = 500 + awake / 1000 * (fleet.workers as u64 + 4) * 40;
        let storm = if requests > bound {
            Err(format!("[11] {requests} requests in {awake} ms, {bound} are plenty"))
        } else {
            Ok(())
        };
        done.and(last).and(storm)
    });
    let mut failures = report.violations.clone();
    failures.extend(done.err());
    for (what, times) in oracle.sometimes() {
        *report.sometimes.entry(what).or_default() += times;
    }
    seen_in_the_trace(&mut report);
    Outcome { seed, failures, report, story: oracle.story() }
}

/// "Sometimes" events that only the whole trace shows.
fn seen_in_the_trace(report: &mut Report) {
    let mut wrote = std::collections::BTreeSet::new();
    let mut parts = std::collections::BTreeMap::new();
    for effect in &report.effects {
        let name = match (effect.op.as_str(), effect.status) {
            ("UploadPart", 200) => {
                // The upload and its part stand in the query. The SDK tries for ten seconds.
                let first = *parts.entry(&effect.what).or_insert(effect.at);
                if effect.fault != "duplicate" && effect.at > first + 10_000 {
                    "multipart upload resumed"
                } else {
                    continue;
                }
            }
            ("UploadPart" | "CompleteMultipartUpload", 404) => "multipart upload gone",
            ("UpdateItem", 200) => {
                wrote.insert((&effect.node, &effect.what));
                continue;
            }
            ("UpdateItem", 400) if wrote.contains(&(&effect.node, &effect.what)) => {
                "condition failed after own success"
            }
            ("PutObject", 412) => "412",
            ("drained", _) => "drained",
            ("stopped late", _) => "stopped late",
            ("stopped for a gap", _) => "stopped for a gap",
            ("one survives", _) => "one survives",
            ("older build", _) => "older build",
            ("CompleteMultipartUpload", 200) => "multipart upload",
            (_, 400) if effect.error.starts_with("ExpiredToken") => "credentials expired",
            (op, _) if op.starts_with("does not start") => "did not start",
            (op, _) if op.starts_with("Split") => "split",
            (op, _) if op.starts_with("Merge") => "merge",
            (op, _) if op.starts_with("Zombie") => "zombie",
            (op, _) if op.starts_with("Step") => "clock set",
            ("blackout", _) => "blackout",
            _ => continue,
        };
        *report.sometimes.entry(name).or_default() += 1;
    }
}
