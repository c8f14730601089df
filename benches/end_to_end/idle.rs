//! Shards that have nothing new: what each poll costs, and what each shard holds.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::backlog::Backlog;
use crate::front::Front;
use crate::process::{self, Process};
use crate::report::{Report, Series, plot};
use crate::{Bench, Outcome};

/// What is left of a start when all shards have been polled: connections, tables that grow.
const SETTLE: Duration = Duration::from_secs(10);

/// A window of time.
#[derive(Clone, Copy, Default)]
struct Window {
    seconds: f64,
    cpu: f64,
    polls: f64,
    table: f64,
    resident: f64,
}

impl Window {
    /// Of one core, percent.
    fn percent(self) -> f64 {
        100.0 * self.cpu / self.seconds
    }

    /// CPU microseconds per call of any kind.
    fn per_call(self) -> f64 {
        1e6 * self.cpu / (self.polls + self.table)
    }
}

pub(crate) async fn run(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let counts: &[u64] = if bench.quick { &[1, 20] } else { &[1, 10, 100, 1000, 5000] };
    let (settle, length) = match bench.quick {
        true => (Duration::from_secs(1), Duration::from_secs(2)),
        false => (SETTLE, Duration::from_secs(20)),
    };
    let mut rows = Vec::new();
    let front = bench.front(Some(Backlog::new(1, 0, 0, bench.clock.wall())))?;
    let mut tight = process::role("sdk", front.address, &[])?;
    let (warm, busy) = (Duration::from_secs(1), length / 4);
    let tight_cost = window(bench, &front, &mut tight, warm, busy).await?.per_call();
    drop(tight);
    for &shards in counts {
        eprintln!("idle: {shards} shards");
        let front = bench.front(Some(Backlog::new(shards, 0, 0, bench.clock.wall())))?;
        let settings = [format!("lease.application=idle-{shards}")];
        let mut worker = [process::worker("events", front.address, &settings, None)?];
        bench.until("every shard is polled", &mut worker, || front.polled(0) == shards).await?;
        let [mut worker] = worker;
        let ours = window(bench, &front, &mut worker, settle, length).await?;
        drop(worker);
        let arguments = ["--shards".to_owned(), shards.to_string()];
        let mut sdk = process::role("sdk-idle", front.address, &arguments)?;
        let plain = window(bench, &front, &mut sdk, settle / 2, length).await?;
        rows.push((shards, ours, plain));
    }
    tell(&rows, tight_cost, report);
    Ok(())
}

async fn window(
    bench: &Bench,
    front: &Front,
    process: &mut Process,
    settle: Duration,
    length: Duration,
) -> Outcome<Window> {
    bench.clock.sleep(settle).await;
    let look = |process: &Process| {
        Outcome::Ok(Window {
            seconds: bench.clock.now().as_secs_f64(),
            cpu: process.cpu()?,
            polls: front.seen.get_records.load(Relaxed) as f64,
            table: front.seen.table.load(Relaxed) as f64,
            resident: process.memory()?.resident as f64,
        })
    };
    let before = look(process)?;
    bench.clock.sleep(length).await;
    process.check()?;
    let after = look(process)?;
    Ok(Window {
        seconds: after.seconds - before.seconds,
        cpu: after.cpu - before.cpu,
        polls: after.polls - before.polls,
        table: after.table - before.table,
        resident: after.resident,
    })
}

fn tell(rows: &[(u64, Window, Window)], tight: f64, report: &mut Report) {
    let mut text = String::from(
        "| idle shards | polls/s | table calls/s | worker, % of a core | beyond the SDK's, % | \
         µs per call | SDK loop, µs per call | RSS, MiB | RSS per further shard, KiB |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let mut before: Option<(u64, f64)> = None;
    for (shards, ours, plain) in rows {
        // What the calls cost a loop that does nothing else.
        let beyond = ours.percent()
            - 100.0 * (ours.polls + ours.table) / ours.seconds * plain.per_call() / 1e6;
        let further = before.map(|(n, held)| {
            format!("{:.1}", (ours.resident - held) / (shards - n) as f64 / 1024.0)
        });
        let _ = writeln!(
            text,
            "| {shards} | {:.0} | {:.0} | {:.1} | {beyond:.1} | {:.0} | {:.0} | {:.0} | {} |",
            ours.polls / ours.seconds,
            ours.table / ours.seconds,
            ours.percent(),
            ours.per_call(),
            plain.per_call(),
            ours.resident / 1048576.0,
            further.as_deref().unwrap_or("–"),
        );
        before = Some((*shards, ours.resident));
    }
    let _ = writeln!(
        text,
        "\nThe plain SDK, one GetRecords after the other without a pause: {tight:.0} µs per call."
    );
    report.part("idle", &text);
    let series = |name: &'static str, of: fn(&Window) -> f64, ours: bool| Series {
        name,
        points: rows.iter().map(|(n, a, b)| (*n as f64, of(if ours { a } else { b }))).collect(),
    };
    let cpu = [
        series("worker", |w| w.percent(), true),
        series("plain SDK loops, polls only", |w| w.percent(), false),
    ];
    let memory = [
        series("worker", |w| w.resident / 1048576.0, true),
        series("plain SDK loops, polls only", |w| w.resident / 1048576.0, false),
    ];
    report.picture(
        "idle.svg",
        plot(&[("CPU, % of a core", &cpu), ("RSS, MiB", &memory)], "idle shards"),
    );
}
