//! From the moment a producer sends to the moment the object can be read.

use std::fmt::Write as _;
use std::time::Duration;

use aws_sdk_kinesis::primitives::Blob;
use catchment::aws::clients::Clients;
use catchment::config::AwsConfig;

use crate::report::Report;
use crate::{Bench, Outcome, process};

/// Records per second, to all shards together.
const RATE: u32 = 50;

/// A row: its name, settings, how long is sent, and how long the last batch may take.
struct Row {
    name: &'static str,
    settings: &'static [&'static str],
    send: Duration,
    wait: Duration,
}

const S: Duration = Duration::from_secs(1);

pub(crate) async fn run(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let rows = [
        Row {
            name: "`delivery.batch_age = 1s`",
            settings: &["delivery.batch_age=1s"],
            send: if bench.quick { 3 * S } else { 40 * S },
            wait: 4 * S,
        },
        Row {
            name: "the same, `stream.idle = 250ms`",
            settings: &["delivery.batch_age=1s", "stream.idle=250ms"],
            send: 40 * S,
            wait: 4 * S,
        },
        Row {
            name: "the same, `stream.reader = \"fan-out\"`",
            settings: &["delivery.batch_age=1s", "stream.reader=fan-out"],
            send: 40 * S,
            wait: 4 * S,
        },
        Row {
            name: "`delivery.batch_age = 60s` (default)",
            settings: &["delivery.batch_age=60s"],
            send: 130 * S,
            wait: 65 * S,
        },
    ];
    let mut text = String::from(
        "| settings | records | objects | p50, s | p99, s | longest, s |\n\
         |---|---:|---:|---:|---:|---:|\n",
    );
    for (number, row) in rows.iter().enumerate().take(if bench.quick { 1 } else { rows.len() }) {
        eprintln!("latency: {}", row.name);
        let (mut delays, objects) = Box::pin(measure(bench, number, row)).await?;
        delays.sort_unstable();
        let at = |share: f64| {
            let index = ((delays.len().max(1) - 1) as f64 * share).round() as usize;
            delays.get(index).map_or(f64::NAN, |ms| *ms as f64 / 1000.0)
        };
        let _ = writeln!(
            text,
            "| {} | {} | {objects} | {:.2} | {:.2} | {:.2} |",
            row.name,
            delays.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
    report.part("latency", &text);
    Ok(())
}

/// Delays in milliseconds, and the number of objects.
async fn measure(bench: &Bench, number: usize, row: &Row) -> Outcome<(Vec<i64>, usize)> {
    let front = bench.front(None)?;
    front.keep();
    let mut settings: Vec<String> = row.settings.iter().map(|s| (*s).to_owned()).collect();
    settings.push(format!("lease.application=latency-{number}"));
    settings.push("stream.start=latest".into());
    let mut worker = process::worker("local", front.address, &settings, None)?;
    // Until every shard is read.
    bench.clock.sleep(5 * S).await;
    let aws = AwsConfig {
        path_style: true,
        attempt_timeout: 10 * S,
        operation_timeout: 25 * S,
        table_attempt_timeout: 10 * S,
        table_operation_timeout: 25 * S,
        upload_timeout: 60 * S,
    };
    let producer = Clients::at(&format!("http://{}", bench.services), "us-east-1", &aws).kinesis;
    let begun = bench.clock.now();
    let mut sent = 0_u32;
    loop {
        let due = begun + S * sent / RATE;
        if due - begun >= row.send {
            break;
        }
        bench.clock.sleep_until(due).await;
        let data = format!("{{\"row\":{number},\"sent_ms\":{}}}", bench.clock.wall());
        let call = producer.put_record().stream_name("local").data(Blob::new(data));
        call.partition_key(sent.to_string()).send().await?;
        sent += 1;
    }
    bench.clock.sleep(row.wait).await;
    worker.check()?;
    let kept = front.kept();
    let mut delays = Vec::new();
    for (visible_ms, body) in &kept {
        let lines = zstd::stream::decode_all(body.as_slice())?;
        for line in lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let record: serde_json::Value = serde_json::from_slice(line)?;
            let sent_ms = record["sent_ms"].as_i64().ok_or("a record of somebody else")?;
            if record["row"] == number {
                delays.push(visible_ms - sent_ms);
            }
        }
    }
    if delays.len() != sent as usize {
        return Err(format!("{sent} records were sent, {} stored", delays.len()).into());
    }
    worker.terminate()?;
    Ok((delays, kept.len()))
}
