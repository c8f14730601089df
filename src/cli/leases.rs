//! `catchment leases`: look at the lease table, give leases back, move checkpoints.

mod rewind;

use std::fmt::Write;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::aws::clients::Clients;
use crate::aws::dynamodb::{LeaseTable, Written};
use crate::config::Config;
use crate::config::raw::Layers;
use crate::fault::CallError;
use crate::ids::ShardId;
use crate::lease::row::{Lease, Pending};
use crate::lease::write;
use crate::stream::position::Checkpoint;

use super::{Failure, Settings, runtime};

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// All leases, one line each.
    List {
        /// As JSON lines.
        #[arg(long)]
        json: bool,
    },
    /// One lease, as JSON.
    Show {
        /// Shard id.
        shard: String,
    },
    /// Take a lease from its owner, so that another worker may take it. The owner notices within a
    /// third of the failover time; nothing is lost or repeated.
    Release {
        /// Shard id.
        shard: String,
    },
    /// Go back to an earlier record while the workers run: each shard delivers what it has in hand,
    /// moves its checkpoint back, and goes on from there.
    Rewind(rewind::Options),
    /// Move the checkpoint of a lease nobody owns. Records behind it are delivered again, in objects
    /// with other ranges in their names; records skipped are not delivered.
    Reset {
        /// Shard id.
        shard: String,
        /// `trim-horizon`, `latest`, or the sequence number of the last record to count as delivered.
        #[arg(long)]
        to: String,
        /// Do it; without this, only say what would be done.
        #[arg(long)]
        yes: bool,
    },
}

/// A lease as shown.
#[derive(Serialize)]
struct Shown<'a> {
    shard: &'a ShardId,
    owner: Option<&'a str>,
    handing_over: Option<&'a str>,
    counter: u64,
    checkpoint: String,
    /// Ends of the announced batches.
    announced: Vec<String>,
    state: &'static str,
    parents: &'a [ShardId],
    children: &'a [ShardId],
    stream: Option<&'a str>,
}

impl<'a> Shown<'a> {
    fn of(lease: &'a Lease) -> Self {
        let state = match (&lease.progress, lease.is_free()) {
            _ if lease.is_finished() => "finished",
            (_, _) if lease.checkpoint_owner.is_some() => "handing over",
            (_, true) => "free",
            (_, false) => "owned",
        };
        Self {
            shard: &lease.shard,
            owner: lease.owner.as_ref().map(|w| w.as_str()),
            handing_over: lease.checkpoint_owner.as_ref().map(|w| w.as_str()),
            counter: lease.counter,
            checkpoint: lease.progress.checkpoint.to_string(),
            announced: lease
                .progress
                .pending
                .intents()
                .iter()
                .map(|i| i.last.to_string())
                .collect(),
            state,
            parents: &lease.parents,
            children: &lease.children,
            stream: lease.stream.as_deref(),
        }
    }
}

/// Stands for a name that is not configured.
const UNSET: &str = "unused";

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    // Only the table matters here: stream and bucket need not be configured.
    let mut layers = Layers::default();
    for key in ["stream.name", "delivery.bucket"] {
        layers.set(key, UNSET.to_owned(), crate::config::raw::Source::Default);
    }
    let config = options.settings.load(layers)?;
    let (runtime, _tasks) = runtime(1)?;
    runtime.block_on(async {
        let clients =
            Clients::from_environment(&config.aws).await.map_err(|e| Failure::new(2, e))?;
        let table = LeaseTable::new(clients.dynamodb.clone(), &config.lease.table);
        act(&config, clients, &table, &options.action).await
    })
}

async fn act(
    config: &Config,
    clients: Clients,
    table: &LeaseTable,
    action: &Action,
) -> Result<(), Failure> {
    match action {
        Action::List { json } => list(table, *json).await,
        Action::Show { shard } => {
            let lease = find(table, shard).await?;
            let text = serde_json::to_string_pretty(&Shown::of(&lease));
            println!("{}", text.map_err(|e| Failure::new(1, e))?);
            Ok(())
        }
        Action::Release { shard } => {
            let lease = find(table, shard).await?;
            let Some(owner) = &lease.owner else {
                println!("{shard} is free already");
                return Ok(());
            };
            apply(table, &lease, write::release(owner)).await?;
            println!("{shard} was taken from {owner}");
            Ok(())
        }
        Action::Reset { shard, to, yes } => reset(table, shard, to, *yes).await,
        Action::Rewind(options) => rewind::run(config, clients, table, options).await,
    }
}

async fn list(table: &LeaseTable, json: bool) -> Result<(), Failure> {
    let mut leases = Vec::new();
    for item in table.scan().await.map_err(|e| told(table, e))? {
        match Lease::parse(&item) {
            Ok(lease) => leases.extend(lease),
            Err(error) => eprintln!("catchment: {error}"),
        }
    }
    leases.sort_by(|a, b| a.shard.cmp(&b.shard));
    let mut text = String::new();
    if !json {
        let _ = writeln!(
            text,
            "{:24} {:12} {:>8} {:60} OWNER",
            "SHARD", "STATE", "COUNTER", "CHECKPOINT"
        );
    }
    for lease in &leases {
        let shown = Shown::of(lease);
        if json {
            let line = serde_json::to_string(&shown).map_err(|e| Failure::new(1, e))?;
            text.push_str(&line);
            text.push('\n');
        } else {
            let _ = writeln!(
                text,
                "{:24} {:12} {:>8} {:60} {}",
                shown.shard.as_str(),
                shown.state,
                shown.counter,
                shown.checkpoint,
                shown.owner.unwrap_or("-"),
            );
        }
    }
    print!("{text}");
    Ok(())
}

async fn reset(table: &LeaseTable, shard: &str, to: &str, yes: bool) -> Result<(), Failure> {
    let target = match to {
        "trim-horizon" => Checkpoint::TrimHorizon,
        "latest" => Checkpoint::Latest,
        digits => match Checkpoint::parse(digits, 0) {
            Ok(at @ Checkpoint::At(_)) => at,
            _ => {
                return Err(Failure::new(
                    2,
                    format!(
                        "--to {digits}: `trim-horizon`, `latest` or a sequence number is expected"
                    ),
                ));
            }
        },
    };
    let lease = find(table, shard).await?;
    if let Some(owner) = lease.effective_owner() {
        return Err(Failure::new(
            1,
            format!(
                "{shard} is owned by {owner}: stop the workers first, or they and the new checkpoint \
                 would disagree about what is delivered"
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
    let from = &lease.progress.checkpoint;
    let effect = if target < *from {
        "records in between are delivered again"
    } else {
        "records in between are NOT delivered"
    };
    if !yes {
        println!("{shard}: {from} -> {target}; {effect}. Nothing was done; add --yes to do it");
        return Ok(());
    }
    apply(table, &lease, write::reset(&lease, &target)).await?;
    println!("{shard}: {from} -> {target}; {effect}");
    Ok(())
}

async fn find(table: &LeaseTable, shard: &str) -> Result<Lease, Failure> {
    let item = table.get(&ShardId::new(shard)).await.map_err(|e| told(table, e))?;
    let item = item.ok_or_else(|| {
        Failure::new(
            1,
            format!(
                "table `{}` has no lease `{shard}`; `catchment leases list` shows them",
                table.name()
            ),
        )
    })?;
    let lease = Lease::parse(&item).map_err(|e| Failure::new(1, e))?;
    lease.ok_or_else(|| Failure::new(1, format!("`{shard}` is an item of the table, but no lease")))
}

async fn apply(table: &LeaseTable, lease: &Lease, update: write::Update) -> Result<(), Failure> {
    match table.update(&lease.shard, update).await.map_err(|e| told(table, e))? {
        Written::Done(_) => Ok(()),
        Written::Refused(_) => Err(Failure::new(
            1,
            format!(
                "{} changed in the meantime; nothing was done. Look again and repeat",
                lease.shard
            ),
        )),
    }
}

fn told(table: &LeaseTable, error: CallError) -> Failure {
    Failure::new(
        1,
        format!(
            "table `{}`: {error}; set lease.application or lease.table to the right one",
            table.name()
        ),
    )
}
