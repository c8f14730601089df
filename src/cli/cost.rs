//! `catchment cost`: a month of Catchment against what AWS sells for the same.

use std::fmt::Write;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use crate::cost::{self, Mode, PRICES, SOURCE, TrafficLoad};

use super::Failure;

#[derive(Debug, Args)]
pub(super) struct CostOptions {
    /// Payload per month, such as 10TB.
    #[arg(long, value_name = "BYTES")]
    volume: ByteSize,
    /// Mean size of a record; Firehose charges each in steps of 5 KB.
    #[arg(long, default_value = "1KB", value_name = "BYTES")]
    record: ByteSize,
    /// Open shards; enough for 1 MB/s each if not given.
    #[arg(long)]
    shards: Option<u32>,
    /// How the stream is paid for.
    #[arg(long, value_enum, default_value = "provisioned")]
    mode: Paid,
    /// Running tasks.
    #[arg(long, default_value_t = 2)]
    tasks: u32,
    /// vCPU of each.
    #[arg(long, default_value_t = 0.5)]
    vcpu: f64,
    /// GB of memory of each.
    #[arg(long, default_value_t = 1.0)]
    memory: f64,
    /// delivery.batch_bytes.
    #[arg(long, default_value = "64MiB", value_name = "BYTES")]
    batch_bytes: ByteSize,
    /// delivery.batch_age.
    #[arg(long, default_value = "60s", value_name = "TIME")]
    batch_age: humantime::Duration,
    /// Another price in dollars, for instance `--price vcpu-hour=0.04048`. May be repeated.
    #[arg(long, value_name = "NAME=DOLLARS")]
    price: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Paid {
    /// By shard.
    Provisioned,
    /// On demand, Standard.
    Standard,
    /// On demand, Advantage.
    Advantage,
}

pub(super) fn run(options: &CostOptions) -> Result<(), Failure> {
    let mut prices = PRICES.to_vec();
    for pair in &options.price {
        let (name, dollars) = pair.split_once('=').unwrap_or((pair, ""));
        cost::change(&mut prices, name, dollars).map_err(|e| Failure::new(2, e))?;
    }
    // What does not make sense is refused before it is multiplied.
    let bytes = options.volume.as_u64() as f64;
    let record_bytes = options.record.as_u64() as f64;
    let batch_age = options.batch_age.as_secs_f64();
    let positive = [bytes, record_bytes, options.batch_bytes.as_u64() as f64, batch_age];
    if positive.iter().any(|n| *n <= 0.0) || options.shards == Some(0) {
        return Err(Failure::new(2, "--volume, --record, --shards and batches are above 0"));
    }
    // A stream without a size of its own gets the shards that its mean rate needs.
    let per_second = bytes / (730.0 * 3600.0);
    let shards = options.shards.map_or_else(|| (per_second / 1e6).ceil().max(1.0), f64::from);
    let costs = cost::month(
        &TrafficLoad {
            bytes,
            record_bytes,
            shards,
            mode: match options.mode {
                Paid::Provisioned => Mode::Provisioned,
                Paid::Standard => Mode::Standard,
                Paid::Advantage => Mode::Advantage,
            },
            tasks: f64::from(options.tasks),
            vcpu: options.vcpu,
            memory_gb: options.memory,
            batch_bytes: options.batch_bytes.as_u64() as f64,
            batch_age,
            failover: 10.0,
            scan: 1.0,
        },
        &prices,
    );
    // One table: Catchment line by line, then what else does the job.
    let per_tb = 1e12 / bytes;
    let mut text = format!(
        "{shards} shards, {:.2} MB/s on average\n{:<28} {:>12} {:>12}\n",
        per_second / 1e6,
        "dollars",
        "a month",
        "per TB"
    );
    let mut line = |name: &str, dollars: f64| {
        let _ = writeln!(text, "{name:<28} {dollars:>12.2} {:>12.2}", dollars * per_tb);
    };
    for (name, dollars) in &costs.catchment {
        line(&format!("  {name}"), *dollars);
    }
    line("Catchment", costs.total());
    line("Amazon Data Firehose", costs.firehose);
    match costs.channel {
        Some(dollars) => line("the stream's S3 channel", dollars),
        None => {
            let _ = writeln!(text, "{:<28} {:>12}", "the stream's S3 channel", "not offered");
        }
    }
    let _ = write!(
        text,
        "\nThe stream and what is stored cost the same either way and are left out.\n\
         Prices: {SOURCE}:\n"
    );
    for price in &prices {
        let _ = writeln!(text, "  {:<18} {:>9} per {}", price.name, price.dollars, price.per);
    }
    print!("{text}");
    Ok(())
}
