//! The memory bound, while nothing can be delivered.

use super::*;

// S3 refuses everything while far more than the budget waits in the stream. The hardest case is where
// nothing is compressed.

#[test]
fn memory_stays_within_the_budget_while_the_bucket_refuses_small_records() {
    outage("none", 1_000);
}

#[test]
fn memory_stays_within_the_budget_while_the_bucket_refuses_large_records() {
    outage("none", 1_000_000);
}

#[test]
fn memory_stays_within_the_budget_while_the_bucket_refuses_compressed_records() {
    outage("zstd", 40_000);
}

const MIB: u64 = 1 << 20;
const BUDGET: u64 = 64 * MIB;

fn outage(codec: &str, record: usize) {
    let backlog = if cfg!(debug_assertions) { 110_000_000 } else { 220_000_000 };
    let seconds = std::env::var(OUTAGE).ok().and_then(|s| s.parse().ok()).unwrap_or(10);
    let scene = Scene::new(4);
    let file = scene.dir.path().join("input");
    let (size, count) = noise(&file, backlog, record);
    sent(&scene, &file);
    for operation in ["S3.Put*", "S3.Create*", "S3.Upload*", "S3.Complete*"] {
        scene.proxy.add(Rule::new(operation, Fault::Refuse(503, "SlowDown")));
    }
    let mut worker = scene.worker(&[
        ("memory.budget", "64MiB"),
        ("delivery.compression", codec),
        ("stream.bytes_per_second", "0B"),
        // Nothing but the budget, and the end, cuts a batch.
        ("delivery.batch_age", "1h"),
        ("shutdown.deadline", "5m"),
    ]);
    within(Duration::from_secs(300), "the budget is used up", || {
        // Nothing read is delivered yet, and the rest of the budget is kept for replies.
        let held = worker.metric("catchment_bytes_read_total")? >= (BUDGET / 2) as f64;
        (held && worker.metric("catchment_budget_waiting")? >= 1.0).then_some(())
    });
    // The length of the outage, not a wait for something.
    std::thread::sleep(Duration::from_secs(seconds));
    let code = memory(&worker, "RssFile").unwrap();
    let in_outage = memory(&worker, "VmHWM").unwrap();
    scene.proxy.heal();
    within(Duration::from_secs(600), "every record is read", || {
        (taken(&worker.listen)? >= count as u64).then_some(())
    });
    worker.running.signal("TERM");
    let mut peak = in_outage;
    let status = within(Duration::from_secs(300), "the worker is drained", || {
        peak = peak.max(memory(&worker, "VmHWM").unwrap_or(0));
        worker.running.child.try_wait().unwrap()
    });
    assert!(status.success(), "{status}: {}", worker.text());
    println!(
        "{codec}, records of {record}: {} MiB in the outage, {} MiB at the end, of {} + 64 allowed; {} MiB of it is code; {} MB delivered",
        in_outage / MIB,
        peak / MIB,
        BUDGET / MIB,
        code / MIB,
        size / 1_000_000,
    );
    // An unoptimised binary has twice the code; what it maps beyond an optimised one's is no memory
    // of the worker's.
    let excess = if cfg!(debug_assertions) { code.saturating_sub(20 * MIB) } else { 0 };
    assert!(peak - excess <= BUDGET + 64 * MIB, "{codec}: {} MiB", peak / MIB);
    same_lines(&file, scene.data());
}

/// A size in `/proc/PID/status`, bytes; none once the worker has ended.
fn memory(worker: &Worker, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", worker.running.child.id())).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(name))?;
    let size = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    Some(size.parse::<u64>().ok()? * 1024)
}
