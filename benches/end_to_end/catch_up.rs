//! A backlog, as fast as it goes: read, compressed, stored and committed.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use crate::backlog::{Backlog, PARTITIONS};
use crate::report::Report;
use crate::{Bench, Outcome, median, process};

/// Payload of a record, bytes.
const SIZE: u64 = 1000;
/// The worker's default of `memory.budget`.
const BUDGET: f64 = (256 << 20) as f64;

#[derive(Clone, Copy, Default)]
struct Figures {
    /// MB/s of payload.
    rate: f64,
    /// CPU seconds per GB of payload, all workers.
    cost: f64,
    /// Peak RSS, bytes; the largest worker's.
    peak: f64,
    objects: u64,
}

/// How many workers, and what each may use.
struct Way {
    name: &'static str,
    cores: &'static [Option<usize>],
    threads: Option<usize>,
}

const WAYS: [Way; 4] = [
    Way { name: "one worker, default (a thread for each core)", cores: &[None], threads: None },
    Way { name: "one worker, `runtime.threads = 1`", cores: &[None], threads: Some(1) },
    Way { name: "one worker, held to one core", cores: &[Some(1)], threads: None },
    Way { name: "a worker held to each of two cores", cores: &[Some(0), Some(1)], threads: None },
];

pub(crate) async fn run(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let (whole, part, rounds) = match bench.quick {
        true => (32_000_000, 32_000_000, 1),
        false => (2_000_000_000, 500_000_000, 5),
    };
    let mut number = 0;
    let mut runs = Vec::new();
    for round in 0..if bench.quick { 1 } else { 3 } {
        eprintln!("catch-up: round {}", round + 1);
        number += 1;
        runs.push(Box::pin(replay(bench, number, 8, whole, &WAYS[2], &[])).await?);
    }
    let of = |get: fn(&Figures) -> f64| median(&mut runs.iter().map(get).collect::<Vec<_>>());
    let mut text = String::from(
        "| backlog | MB/s on one core | CPU s/GB | objects | peak RSS, MiB | of `memory.budget` |\n\
         |---|---:|---:|---:|---:|---:|\n",
    );
    let _ = writeln!(
        text,
        "| {:.1} GB in 8 shards | {:.0} | {:.2} | {} | {:.0} | {:.2} |",
        whole as f64 / 1e9,
        of(|f| f.rate),
        of(|f| f.cost),
        runs.last().map_or(0, |f| f.objects),
        of(|f| f.peak) / 1048576.0,
        of(|f| f.peak) / BUDGET,
    );
    report.part("catch-up", &text);
    let ways = if bench.quick { &WAYS[..2] } else { &WAYS[..] };
    let mut all = vec![Vec::new(); ways.len()];
    for round in 0..rounds {
        eprintln!("runtimes: round {}", round + 1);
        for (way, figures) in ways.iter().zip(&mut all) {
            number += 1;
            figures.push(Box::pin(replay(bench, number, 16, part, way, &[])).await?);
        }
    }
    let mut text = String::from(
        "| runtime | CPU s/GB | by the default's | MB/s | peak RSS, MiB |\n|---|---:|---:|---:|---:|\n",
    );
    for (way, figures) in ways.iter().zip(&all) {
        let of =
            |get: fn(&Figures) -> f64| median(&mut figures.iter().map(get).collect::<Vec<_>>());
        // Of one round each: whatever disturbs the machine disturbs both.
        let each = figures.iter().zip(&all[0]).map(|(a, b)| a.cost / b.cost);
        let _ = writeln!(
            text,
            "| {} | {:.2} | {:.2} | {:.0} | {:.0} |",
            way.name,
            of(|f| f.cost),
            median(&mut each.collect::<Vec<_>>()),
            of(|f| f.rate),
            of(|f| f.peak) / 1048576.0,
        );
    }
    report.part("runtimes", &text);
    Ok(())
}

/// The same with objects by a field of the record; none: by the time of arrival.
pub(crate) async fn partitions(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let (payload, rounds) = if bench.quick { (16_000_000, 1) } else { (500_000_000, 5) };
    let counts: Vec<u64> = [0].into_iter().chain(PARTITIONS).collect();
    let counts = if bench.quick { &counts[..3] } else { &counts[..] };
    let mut all = vec![Vec::new(); counts.len()];
    for round in 0..rounds {
        eprintln!("partitions: round {}", round + 1);
        for (slot, (count, figures)) in counts.iter().zip(&mut all).enumerate() {
            let mut more = vec!["delivery.partitions=2000".to_owned()];
            if *count > 0 {
                more.push(format!("delivery.prefix=!{{stream}}/of=!{{field:of_{count}}}/"));
            }
            let number = 1000 + round * counts.len() + slot;
            figures.push(Box::pin(replay(bench, number, 4, payload, &WAYS[2], &more)).await?);
        }
    }
    let mut text = String::from(
        "| partitions in a batch | CPU s/GB | by none | MB/s on one core | objects | peak RSS, MiB |\n\
         |---:|---:|---:|---:|---:|---:|\n",
    );
    for (count, figures) in counts.iter().zip(&all) {
        let of =
            |get: fn(&Figures) -> f64| median(&mut figures.iter().map(get).collect::<Vec<_>>());
        let each = figures.iter().zip(&all[0]).map(|(a, b)| a.cost / b.cost);
        let _ = writeln!(
            text,
            "| {} | {:.2} | {:.2} | {:.0} | {} | {:.0} |",
            if *count == 0 { "by time of arrival".to_owned() } else { count.to_string() },
            of(|f| f.cost),
            median(&mut each.collect::<Vec<_>>()),
            of(|f| f.rate),
            figures.last().map_or(0, |f| f.objects),
            of(|f| f.peak) / 1048576.0,
        );
    }
    report.part("partitions", &text);
    Ok(())
}

/// Closed shards, so that the end is sharp: their children are read when everything is committed.
async fn replay(
    bench: &Bench,
    number: usize,
    shards: u64,
    payload: u64,
    way: &Way,
    more: &[String],
) -> Outcome<Figures> {
    let records = payload / SIZE / shards;
    let backlog = Backlog::new(shards, records, SIZE as usize, bench.clock.wall());
    let front = bench.front(Some(backlog))?;
    let mut settings = vec![
        format!("lease.application=backlog-{number}"),
        // Kinesis gives 2 MB/s of a shard: this is the load of a hundred of them.
        "stream.bytes_per_second=0B".into(),
        "stream.calls_per_second=1000".into(),
    ];
    settings.extend_from_slice(more);
    settings.extend(way.threads.map(|threads| format!("runtime.threads={threads}")));
    let start = |core: &Option<usize>| process::worker("events", front.address, &settings, *core);
    let mut workers = way.cores.iter().map(start).collect::<Outcome<Vec<_>>>()?;
    let done = || front.polled(shards) == shards;
    bench.until("the backlog is delivered", &mut workers, done).await?;
    let (mut cpu, mut peak) = (0.0, 0_u64);
    for worker in &workers {
        cpu += worker.cpu()?;
        peak = peak.max(worker.memory()?.peak);
    }
    let stored = front.seen.records.load(Relaxed);
    if stored != records * shards {
        return Err(format!("{} records were there, {stored} stored", records * shards).into());
    }
    let bytes = (stored * SIZE) as f64;
    Ok(Figures {
        rate: bytes / 1e6 / front.span().as_secs_f64(),
        cost: cpu / (bytes / 1e9),
        peak: peak as f64,
        objects: front.seen.objects.load(Relaxed),
    })
}
