//! `catchment leases`: look at the lease table, give leases back, move checkpoints.

pub(super) mod lag;
mod reset;
mod resume;
mod rewind;
mod show;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};

use crate::aws::clients::Clients;
use crate::aws::dynamodb::{LeaseTable, Written};
use crate::aws::kinesis::Kinesis;
use crate::config::Config;
use crate::config::raw::Layers;
use crate::fault::CallError;
use crate::ids::ShardId;
use crate::lease::change_marker;
use crate::lease::keys::{self, Keys};
use crate::lease::row::Lease;
use crate::lease::write;
use crate::stream::StreamInfo;

use super::{Failure, SettingsArgs, runtime};

#[derive(Debug, Args)]
pub(super) struct LeasesOptions {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(subcommand)]
    action: LeasesAction,
}

/// What is worth waiting or calling for.
#[derive(Debug, Args)]
struct Depth {
    /// Watch the counters for this long, and say since when each stands still. Owners move them
    /// three times per failover time.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    watch: Option<std::time::Duration>,
    /// Say how far each checkpoint is behind the stream; asks Kinesis once per shard, within its
    /// limit of five reads per second and shard.
    #[arg(long)]
    lag: bool,
}

#[derive(Debug, Subcommand)]
enum LeasesAction {
    /// All leases, one line each.
    List {
        /// As JSON lines.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        depth: Depth,
    },
    /// One lease, as JSON.
    Show {
        /// Shard id, or the whole key in a multi-stream table.
        shard: String,
        #[command(flatten)]
        depth: Depth,
    },
    /// Take a lease from its owner, so that another worker may take it. The owner notices within a
    /// third of the failover time; nothing is lost or repeated.
    Release {
        /// Shard id, or the whole key in a multi-stream table.
        shard: String,
    },
    /// Go back to an earlier record while the workers run: each shard delivers what it has in hand,
    /// moves its checkpoint back, and goes on from there.
    Rewind(rewind::RewindOptions),
    /// Go on with shards that are parked, because records left the stream's retention before they
    /// were delivered (`delivery.on_gap = "stop"`): the gap is reported under the error prefix, and
    /// what follows is delivered.
    Resume(resume::ResumeOptions),
    /// Move the checkpoint of leases nobody owns. Records behind it are delivered again, in objects
    /// with other ranges in their names; records skipped are not delivered.
    Reset(reset::ResetOptions),
}

/// What the actions work with.
struct Tools {
    table: LeaseTable,
    kinesis: Kinesis,
    /// `stream.name`, if it is configured.
    stream: Option<String>,
}

/// Stands for a name that is not configured and not needed.
const UNUSED: &str = "unused";

pub(super) fn run(options: &LeasesOptions) -> Result<(), Failure> {
    // Only the table matters here: stream and bucket need not be configured.
    let mut layers = Layers::default();
    for key in ["stream.name", "delivery.bucket"] {
        layers.set(key, UNUSED.to_owned(), crate::config::raw::Source::Default);
    }
    let config = options.settings.load(layers)?;
    let (runtime, _tasks) = runtime(1)?;
    runtime.block_on(async {
        let clients =
            Clients::from_environment(&config.aws).await.map_err(|e| Failure::new(2, e))?;
        let tools = Tools {
            table: LeaseTable::new(clients.dynamodb, &config.lease.table),
            kinesis: Kinesis::over(clients.kinesis, &clients.transport),
            stream: Some(config.stream.name.clone()).filter(|name| name != UNUSED),
        };
        match &options.action {
            LeasesAction::List { json, depth } => show::list(&tools, *json, depth).await,
            LeasesAction::Show { shard, depth } => show::one(&tools, shard, depth).await,
            LeasesAction::Release { shard } => release(&tools.table, shard).await,
            LeasesAction::Resume(options) => resume::run(&tools.table, options).await,
            LeasesAction::Reset(options) => reset::run(&tools.table, options).await,
            LeasesAction::Rewind(options) => rewind::run(&config, &tools, options).await,
        }
    })
}

async fn release(table: &LeaseTable, shard: &str) -> Result<(), Failure> {
    let lease = find(table, shard).await?;
    let Some(owner) = &lease.owner else {
        println!("{shard} is free already");
        return Ok(());
    };
    apply(table, &lease, write::release(owner)).await?;
    println!("{shard} was taken from {owner}");
    tell_fleet(table).await;
    Ok(())
}

/// Every lease that can be read, in the order of the keys; the others are named.
async fn all(table: &LeaseTable) -> Result<Vec<Lease>, Failure> {
    let mut leases = Vec::new();
    for item in table.scan(true).await.map_err(|e| told(table, e))? {
        match Lease::parse(&item) {
            Ok(lease) => leases.extend(lease),
            Err(error) => eprintln!("catchment: {error}"),
        }
    }
    leases.sort_by(|a, b| a.shard.cmp(&b.shard));
    Ok(leases)
}

/// The lease of a key, or of a shard id that ends one key only.
async fn find(table: &LeaseTable, shard: &str) -> Result<Lease, Failure> {
    let item = table.get(&ShardId::new(shard)).await.map_err(|e| told(table, e))?;
    if let Some(item) = item {
        let lease = Lease::parse(&item).map_err(|e| Failure::new(1, e))?;
        return lease.ok_or_else(|| {
            Failure::new(1, format!("`{shard}` is an item of the table, but no lease"))
        });
    }
    let of_shard = |lease: &Lease| {
        keys::split(lease.shard.as_str()).is_some_and(|(_, of_stream)| of_stream == shard)
    };
    let mut found: Vec<Lease> = all(table).await?.into_iter().filter(of_shard).collect();
    match (found.pop(), found.len()) {
        (Some(lease), 0) => Ok(lease),
        (Some(lease), _) => Err(Failure::new(
            1,
            format!(
                "table `{}` has the leases of several streams: give the whole key, such as `{}`",
                table.name(),
                lease.shard
            ),
        )),
        (None, _) => Err(Failure::new(
            1,
            format!(
                "table `{}` has no lease `{shard}`; `catchment leases list` shows them",
                table.name()
            ),
        )),
    }
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

/// The table with its way of naming the rows of a stream, see [`Keys`].
pub(super) async fn of_stream(
    table: &LeaseTable,
    stream: &StreamInfo,
    config: &Config,
) -> Result<LeaseTable, Failure> {
    let items = table.scan(true).await.map_err(|e| told(table, e))?;
    let keys = Keys::recognise(&items, stream, config.lease.stream_id.as_deref());
    Ok(table.clone().with_keys(keys.map_err(|e| Failure::new(2, e))?))
}

/// Has the fleet look at once. If that fails, it looks later by itself.
async fn tell_fleet(table: &LeaseTable) {
    let bumped = async {
        // A table of several streams has a change marker for each.
        let mut streams: BTreeMap<String, Vec<Lease>> = BTreeMap::new();
        for lease in all(table).await? {
            let stream = keys::split(lease.shard.as_str()).map(|(stream, _)| stream.to_owned());
            streams.entry(stream.unwrap_or_default()).or_default().push(lease);
        }
        for board in streams.values().filter_map(|leases| change_marker::place(leases)) {
            table.update(&board, change_marker::bump()).await.map_err(|e| told(table, e))?;
        }
        Ok::<_, Failure>(())
    };
    if let Err(error) = bumped.await {
        eprintln!("catchment: {}; workers will notice within lease.full_scan", error.message);
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
