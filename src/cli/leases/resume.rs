//! `resume`: accepts the gaps that shards are parked at.

use clap::Args;

use crate::aws::dynamodb::LeaseTable;
use crate::lease::parking;
use crate::lease::row::Lease;

use super::{Failure, all, apply, find, tell_fleet};

#[derive(Debug, Args)]
pub(super) struct ResumeOptions {
    /// Shard ids, or whole keys in a multi-stream table.
    #[arg(value_name = "SHARD", required_unless_present = "all")]
    shards: Vec<String>,
    /// Every shard that is parked.
    #[arg(long, conflicts_with = "shards")]
    all: bool,
}

pub(super) async fn run(table: &LeaseTable, options: &ResumeOptions) -> Result<(), Failure> {
    let mut leases: Vec<Lease> = Vec::new();
    if options.all {
        leases = all(table).await?.into_iter().filter(|l| l.parked().is_some()).collect();
    }
    for shard in &options.shards {
        leases.push(find(table, shard).await?);
    }
    if leases.is_empty() {
        println!("table `{}`: no lease is parked", table.name());
        return Ok(());
    }
    for lease in &leases {
        let Some(parked) = lease.parked() else {
            println!("{} is not parked", lease.shard);
            continue;
        };
        apply(table, lease, parking::accept(parked)).await?;
        println!("{}: accepted that records {} are lost; it goes on", lease.shard, parked.gap);
    }
    tell_fleet(table).await;
    Ok(())
}
