//! `catchment verify`: do the objects hold what the lease table says is delivered?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use crate::aws::clients::Clients;
use crate::aws::dynamodb::LeaseTable;
use crate::aws::kinesis::Kinesis;
use crate::aws::lookup::RecordLookup;
use crate::aws::objects::Objects;
use crate::aws::s3::ObjectStore;
use crate::cli::replay::watch as replay;
use crate::clock::Clock;
use crate::config::Config;
use crate::config::raw::{Layers, Source};
use crate::delivery::route::is_foreign;
use crate::fault::CallError;
use crate::ids::ShardId;
use crate::lease::open_ends::open_ends;
use crate::lease::row::Lease;
use crate::replay::plan::Plan;
use crate::replay::store::Store;
use crate::verify::contents;
use crate::verify::inventory::{Places, Survey, survey};
use crate::verify::stream::{CompareDeps, Compared, compare};
use crate::verify::tiling::{CoverageProblem, LeaseWindow, ShardReport, tile};

use super::{Failure, SettingsArgs, leases, runtime};

#[derive(Debug, Args)]
pub(super) struct VerifyOptions {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Only keys that begin with this; otherwise the places that the key templates name.
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Objects and leases of this replay instead of the live ones.
    #[arg(long, value_name = "ID", conflicts_with = "prefix")]
    replay: Option<String>,
    /// Read the objects, and compare them with what the stream still has. Reads every object and
    /// every record in retention; shares the shards' read limit with live workers.
    #[arg(long)]
    deep: bool,
    /// The oldest objects of a shard may be gone, for instance by a lifecycle rule.
    #[arg(long)]
    expired_ok: bool,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &VerifyOptions) -> Result<(), Failure> {
    let mut layers = Layers::default();
    if options.replay.is_some() {
        for key in ["stream.name", "delivery.bucket"] {
            layers.set(key, "unused".to_owned(), Source::Default);
        }
    }
    let config = options.settings.load(layers)?;
    let (runtime, _tasks) = runtime(config.threads)?;
    runtime.block_on(async {
        let clients =
            Clients::from_environment(&config.aws).await.map_err(|e| Failure::new(2, e))?;
        verify(config, clients, options).await
    })
}

async fn verify(
    mut config: Config,
    clients: Clients,
    options: &VerifyOptions,
) -> Result<(), Failure> {
    let fail = |e: CallError| Failure::new(1, e);
    // A replay is verified by its plan: its table, its prefix, its settings.
    let mut prefix = options.prefix.clone();
    let plan = match &options.replay {
        Some(id) => {
            let store = Store::new(&clients, &config.lease.table, id);
            let found = store.load().await?.ok_or_else(|| {
                Failure::new(2, format!("there is no replay `{id}` (table `{}`)", store.name()))
            })?;
            replay::configure(&mut config, &found.plan, store.name());
            prefix = Some(found.plan.prefix.clone());
            Some(found.plan)
        }
        None => None,
    };
    let kinesis = Kinesis::over(clients.kinesis, &clients.transport);
    let stream = kinesis.describe(&config.stream.name).await.map_err(fail)?;
    let recipe = config.delivery.recipe(&stream.name).map_err(|e| Failure::new(2, e))?;
    let keeping = Arc::new(recipe.keeping().map_err(|e| Failure::new(2, e))?);
    let (recipe, bucket) = (Arc::new(recipe), config.delivery.settings.bucket.clone());
    let (objects, store) = (Objects::new(clients.s3.clone()), ObjectStore::new(clients.s3));
    let table = LeaseTable::new(clients.dynamodb, &config.lease.table);
    let table = leases::of_stream(&table, &stream, &config)
        .await
        .map_err(|failure| Failure { code: 2, ..failure })?;
    // What was delivered before the objects are listed must be among them.
    let before = rows(&table).await?;
    let places = Places::of(&recipe);
    let found = survey(&objects, &store, &places, prefix.as_deref()).await;
    let found = found.map_err(|e| Failure::new(1, format!("bucket `{bucket}`: {e}")))?;
    let after = rows(&table).await?;
    let mut outcome = tiled(&found, &before, &after, options.expired_ok);
    // The leases of a replay end where its range does.
    if plan.is_none() && after.values().any(Lease::is_finished) {
        let shards = kinesis.list_shards(&stream.arn).await.map_err(fail)?;
        let open = open_ends(&shards, after.values());
        outcome.problems.extend(
            open.into_iter().map(|shard| CoverageProblem::OpenEnd { shard: shard.clone() }),
        );
    }
    // Not a problem of coverage, but somebody may miss these records.
    let foreign = found.pieces.values().flatten().filter(|piece| is_foreign(&piece.key));
    let foreign: u64 = foreign.filter_map(|piece| piece.records).sum();
    if foreign > 0 {
        outcome.notes.push(format!(
            "{foreign} user records of aggregates were put aside because other shards take their hash \
             keys (delivery.foreign_records): look for them where their producer sent them again"
        ));
    }
    // Names and metadata are checked; now the contents, and by them the stream as far as it reaches.
    if options.deep {
        let pieces = found.pieces.values().flatten();
        let read = contents::check(&objects, &bucket, pieces).await.map_err(fail)?;
        let broken = !read.is_empty();
        outcome.problems.extend(read);
        if broken {
            outcome.notes.push(
                "objects that cannot be read back were not compared with the stream".to_owned(),
            );
        } else {
            let probe = RecordLookup { kinesis, arn: stream.arn, clock: Clock::system() };
            let means = CompareDeps {
                probe: &probe,
                objects: &objects,
                store: &store,
                recipe: &recipe,
                keeping: &keeping,
            };
            compared(&mut outcome, &means, &found, &before, plan.as_ref()).await?;
        }
    }
    outcome.print(&found, options);
    match outcome.problems.len() {
        0 => Ok(()),
        count => Err(Failure::new(3, format!("{count} problem(s) found"))),
    }
}

async fn rows(table: &LeaseTable) -> Result<BTreeMap<ShardId, Lease>, Failure> {
    let items = table.scan(true).await.map_err(|e| {
        Failure::new(
            2,
            format!(
                "table `{}`: {e}; set lease.application or lease.table to the right one",
                table.name()
            ),
        )
    })?;
    let mut leases = BTreeMap::new();
    for item in items {
        let lease = Lease::parse(&item).map_err(|e| Failure::new(1, e))?;
        leases.extend(lease.map(|lease| (lease.shard.clone(), lease)));
    }
    Ok(leases)
}

struct VerifyOutcome {
    shards: Vec<ShardReport>,
    problems: Vec<CoverageProblem>,
    notes: Vec<String>,
    compared: Option<Compared>,
}

fn tiled(
    found: &Survey,
    before: &BTreeMap<ShardId, Lease>,
    after: &BTreeMap<ShardId, Lease>,
    expired_ok: bool,
) -> VerifyOutcome {
    let mut outcome = VerifyOutcome {
        shards: Vec::new(),
        problems: found.problems.clone(),
        notes: Vec::new(),
        compared: None,
    };
    let ids: BTreeSet<&ShardId> = found.pieces.keys().chain(before.keys()).collect();
    for id in ids {
        let pieces = found.pieces.get(id).map_or(&[][..], Vec::as_slice);
        let around = LeaseWindow { before: before.get(id), after: after.get(id) };
        let (report, problems) = tile(id, pieces, around, expired_ok);
        if around.after.is_none() {
            outcome.notes.push(format!("{id} has no lease (any more): its end is not known"));
        }
        outcome.shards.push(report);
        outcome.problems.extend(problems);
    }
    outcome
}

async fn compared(
    outcome: &mut VerifyOutcome,
    means: &CompareDeps<'_>,
    found: &Survey,
    leases: &BTreeMap<ShardId, Lease>,
    plan: Option<&Plan>,
) -> Result<(), Failure> {
    let mut total = Compared::default();
    for (id, lease) in leases {
        let pieces = found.pieces.get(id).map_or(&[][..], Vec::as_slice);
        let bound = plan.and_then(|plan| plan.bound(id));
        let one = compare(means, lease, pieces, bound).await.map_err(|e| Failure::new(1, e))?;
        total.records += one.records;
        total.batches += one.batches;
        total.skipped += one.skipped;
        let chain = outcome.problems.len();
        outcome.problems.retain(|p| {
            !(matches!(p, CoverageProblem::Gap { shard, .. } if shard == id) && one.decides(p))
        });
        if outcome.problems.len() < chain && one.problems.is_empty() {
            outcome.notes.push(format!(
                "{id}: batches are missing in the chain, and the stream has nothing for them but \
                 uploads whose files are there"
            ));
        }
        outcome.problems.extend(one.problems);
    }
    outcome.compared = Some(total);
    Ok(())
}

/// A problem in a line.
fn told(problem: &CoverageProblem) -> String {
    match problem {
        CoverageProblem::Gap { shard, after, until } => {
            format!("GAP         {shard}: nothing covers what comes after {after}, up to {until}")
        }
        CoverageProblem::Overlap { shard, key, other } => {
            format!("OVERLAP     {shard}: {key} and {other} cover the same records")
        }
        CoverageProblem::Incomplete { shard, range, found, expected } => format!(
            "INCOMPLETE  {shard}: the objects of {range} hold {found} records of {expected}"
        ),
        CoverageProblem::Foreign { key, reason } => format!("FOREIGN     {key}: {reason}"),
        CoverageProblem::Undecodable { key, reason } => format!("UNDECODABLE {key}: {reason}"),
        CoverageProblem::Differs { key, reason } => format!("DIFFERS     {key}: {reason}"),
        CoverageProblem::OpenEnd { shard } => format!(
            "OPEN-END    {shard}: finished in the lease table, open in the stream: nobody reads it \
             (catchment leases rewind --shard {shard})"
        ),
        CoverageProblem::Lost { shard, first, last, records } => format!(
            "LOST        {shard}: {records} records of the stream, {first} to {last}, are in no object"
        ),
    }
}

impl VerifyOutcome {
    fn print(&self, found: &Survey, options: &VerifyOptions) {
        let unproven: usize = self.shards.iter().map(|s| s.unproven).sum();
        if options.json {
            let compared = self.compared.as_ref().map(|c| {
                json!({"records": c.records, "batches": c.batches, "batches_skipped": c.skipped})
            });
            println!(
                "{}",
                json!({
                    "objects": found.listed, "shards": self.shards, "problems": self.problems,
                    "notes": self.notes, "other_streams": found.others, "reported_gaps": found.gaps, "unproven_batches": unproven,
                    "compared_with_stream": compared,
                })
            );
            return;
        }
        for shard in &self.shards {
            println!(
                "{:24} {:>6} batches {:>7} objects {:>10} records, {} to {}{}",
                shard.shard.as_str(),
                shard.batches,
                shard.objects,
                shard.records,
                shard.from.as_deref().unwrap_or("-"),
                shard.until.as_deref().unwrap_or("-"),
                if shard.end_proven { ", the checkpoint" } else { "" },
            );
        }
        for problem in &self.problems {
            println!("{}", told(problem));
        }
        for key in &found.gaps {
            println!("note: records lost to retention, told at the time: {key}");
        }
        if found.others > 0 {
            println!("note: {} objects of other streams were passed over", found.others);
        }
        for note in &self.notes {
            println!("note: {note}");
        }
        if unproven > 0 {
            println!(
                "note: {unproven} batches do not say what they follow (written by an earlier \
                 version): that nothing is missing before them is not proven"
            );
        }
        match &self.compared {
            Some(c) => println!(
                "compared with the stream: {} records, {} batches whole, {} not (outside retention \
                 or other settings)",
                c.records, c.batches, c.skipped
            ),
            None => println!("contents were not read: --deep does, and compares with the stream"),
        }
        println!("{} objects, {} problems", found.listed, self.problems.len());
    }
}
