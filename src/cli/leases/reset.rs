//! `reset`: checkpoints are moved by hand, under guard.

use clap::Args;

use crate::aws::dynamodb::LeaseTable;
use crate::checkpoint::progress::Pending;
use crate::clock::Clock;
use crate::lease::keys;
use crate::lease::row::Lease;
use crate::lease::write;
use crate::stream::position::Checkpoint;

use super::{Failure, all, apply, find, tell_fleet};

#[derive(Debug, Args)]
pub(super) struct ResetOptions {
    /// Shard id, or the whole key in a multi-stream table.
    #[arg(required_unless_present = "all")]
    shard: Option<String>,
    /// Every lease that has work left. If one of them is guarded, none is moved.
    #[arg(long, conflicts_with = "shard")]
    all: bool,
    /// `trim-horizon`, `latest`, a time such as `2026-11-23T07:00:00Z`, or the sequence number of the
    /// last record to count as delivered.
    #[arg(long)]
    to: String,
    /// Do it; without this, only say what would be done.
    #[arg(long)]
    yes: bool,
    /// Say what would be done, and do nothing: the default.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

/// Where to: the checkpoint, and the time it means if it means one (ms since the epoch).
fn target(to: &str, now_ms: i64) -> Result<(Checkpoint, Option<i64>), Failure> {
    let bad = || {
        let what =
            "`trim-horizon`, `latest`, a time such as 2026-11-23T07:00:00Z or a sequence number";
        Failure::new(2, format!("--to {to}: {what} is expected"))
    };
    Ok(match to {
        "trim-horizon" => (Checkpoint::TrimHorizon, None),
        "latest" => (Checkpoint::Latest, Some(now_ms)),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            (Checkpoint::parse(digits, 0).map_err(|_| bad())?, None)
        }
        time => {
            let time: jiff::Timestamp = time.parse().map_err(|_| bad())?;
            (Checkpoint::AtTimestamp, Some(time.as_millisecond()))
        }
    })
}

/// Refuses what workers and the new checkpoint would disagree about.
fn guard(lease: &Lease) -> Result<(), Failure> {
    let shard = &lease.shard;
    if let Some(owner) = lease.effective_owner() {
        return Err(Failure::new(
            1,
            format!(
                "{shard} is owned by {owner}: stop the workers first, or they and the new checkpoint \
                 would disagree about what is delivered. If that worker is dead for good, `catchment \
                 leases release {shard}` frees it"
            ),
        ));
    }
    if !matches!(lease.progress.pending, Pending::None) {
        return Err(Failure::new(
            1,
            format!(
                "{shard} has announced batches that may be partly in the bucket: let a worker finish \
                 them (run one until the lease shows none), then stop it and try again"
            ),
        ));
    }
    Ok(())
}

/// The leases with work left, if they are of one stream.
fn of_one_stream(mut leases: Vec<Lease>) -> Result<Vec<Lease>, Failure> {
    let mut streams: Vec<_> =
        leases.iter().map(|l| keys::split(l.shard.as_str()).map(|(stream, _)| stream)).collect();
    streams.sort_unstable();
    streams.dedup();
    if streams.len() > 1 {
        return Err(Failure::new(
            2,
            format!(
                "--all: the table has leases of several streams ({streams:?}); name each lease"
            ),
        ));
    }
    leases.retain(|lease| !lease.is_finished());
    Ok(leases)
}

pub(super) async fn run(table: &LeaseTable, options: &ResetOptions) -> Result<(), Failure> {
    let (to, pin_ms) = target(&options.to, Clock::system().wall())?;
    let leases = match &options.shard {
        Some(shard) => vec![find(table, shard).await?],
        None => of_one_stream(all(table).await?)?,
    };
    for lease in &leases {
        guard(lease)?;
    }
    for lease in &leases {
        let (shard, from) = (&lease.shard, &lease.progress.checkpoint);
        let effect = if to < *from {
            "records in between are delivered again"
        } else {
            "records in between are NOT delivered"
        };
        if options.yes {
            apply(table, lease, write::reset(lease, &to, pin_ms)).await?;
        }
        println!("{shard}: {from} -> {}; {effect}", options.to);
    }
    if options.yes {
        tell_fleet(table).await;
    } else {
        println!("Nothing was done; add --yes to do it");
    }
    Ok(())
}
