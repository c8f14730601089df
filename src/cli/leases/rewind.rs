//! `catchment leases rewind`: the live application goes back, safely, while its workers run.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use clap::{ArgGroup, Args};
use futures::StreamExt;

use crate::aws::dynamodb::{LeaseTable, Written};
use crate::aws::kinesis::Kinesis;
use crate::aws::lookup::{PARALLEL, RecordLookup};
use crate::checkpoint::progress::Pending;
use crate::clock::{Clock, Jitter};
use crate::config::{Config, OnGap};
use crate::fault::Fault;
use crate::ids::{SequenceNumber, ShardId};
use crate::lease::rewind::{self, Decision};
use crate::lease::rewind_request::{Request, Target};
use crate::lease::row::{Lease, attr};
use crate::lease::write::Update;
use crate::stream::position::{Checkpoint, StartAt};
use crate::stream::{ShardInfo, StreamInfo};

use super::super::Failure;
use super::{Tools, of_stream, tell_fleet};

/// How often the rows are looked at while workers drain.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("to").required(true).multiple(false)))]
pub(super) struct RewindOptions {
    /// Go back to this record; its shard is looked for, or named with --shard.
    #[arg(long, value_name = "N", group = "to")]
    from_sequence_number: Option<String>,
    /// Go back, in every shard, to the first record that arrived at or after this time.
    #[arg(long, value_name = "TIME", group = "to")]
    from_timestamp: Option<String>,
    /// Go back to the oldest record the stream still has.
    #[arg(long, group = "to")]
    from_trim_horizon: bool,
    /// Only this shard and its descendants.
    #[arg(long, value_name = "SHARD")]
    shard: Option<String>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do it without asking.
    #[arg(long)]
    yes: bool,
    /// How long to wait for the workers; then requests nobody has met are withdrawn.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    wait: Duration,
}

const CONSEQUENCES: &str = "Records from there on are delivered again, in objects with other ranges \
    in their names: consumers meet them twice unless they drop what they know by sequence number. \
    Objects that exist stay; one of exactly the same range is not written again.";

pub(super) async fn run(
    config: &Config,
    Tools { table, kinesis, .. }: &Tools,
    options: &RewindOptions,
) -> Result<(), Failure> {
    let clock = Clock::system();
    let kinesis = kinesis.clone();
    let stream = stream(config, &kinesis, table, &leases(table).await?).await?;
    let table = &of_stream(table, &stream, config).await?;
    let leases = leases(table).await?;
    let probe = RecordLookup { kinesis, arn: stream.arn.clone(), clock: clock.clone() };
    let shards = probe.kinesis.list_shards(&stream.arn).await.map_err(|e| Failure::new(1, e))?;
    let (to, within) = target(options, &probe, &shards).await?;
    if let Some(within) = &within
        && !leases.iter().any(|l| l.shard == *within)
    {
        return Err(Failure::new(2, format!("table `{}` has no lease `{within}`", table.name())));
    }
    let first = first(&probe, &leases, &to, within.as_ref()).await?;
    retention(config, &stream, &clock, &to, within.as_ref(), &first)?;
    let decided = rewind::decide(&leases, &to, within.as_ref(), &first);
    let by_id: BTreeMap<&ShardId, &Lease> = leases.iter().map(|l| (&l.shard, l)).collect();
    let mut back = Vec::new();
    for (shard, decision) in decided {
        let at = by_id.get(&shard).map_or_else(String::new, |l| l.progress.checkpoint.to_string());
        match decision {
            Decision::Back(to) => {
                println!("{shard}: from {at} back to {to}");
                back.push((shard, to));
            }
            Decision::Stay(why) => println!("{shard}: stays at {at}: {why}"),
        }
    }
    if back.is_empty() {
        println!("No shard has to go back. Nothing was done.");
        return Ok(());
    }
    println!("{CONSEQUENCES}");
    if options.dry_run {
        println!("Nothing was done.");
        return Ok(());
    }
    confirm(options.yes)?;
    let id = Jitter::system().uuid().simple().to_string();
    let asked = ask(table, &by_id, back, &id).await?;
    tell_fleet(table).await;
    let waiting = wait(table, &clock, &asked, options.wait);
    tokio::select! {
        biased;
        done = waiting => done,
        _ = tokio::signal::ctrl_c() => {
            withdraw(table, &asked).await;
            Err(Failure::new(1, "interrupted; requests that nobody had met are withdrawn"))
        }
    }
}

async fn leases(table: &LeaseTable) -> Result<Vec<Lease>, Failure> {
    let mut leases = Vec::new();
    for item in table.scan(true).await.map_err(|e| super::told(table, e))? {
        leases.extend(Lease::parse(&item).map_err(|e| Failure::new(1, e))?);
    }
    Ok(leases)
}

/// The stream the leases belong to: they know it, a KCL's do not.
async fn stream(
    config: &Config,
    kinesis: &Kinesis,
    table: &LeaseTable,
    leases: &[Lease],
) -> Result<StreamInfo, Failure> {
    let known = leases.iter().find_map(|l| l.stream.clone());
    let name = match known.as_ref().and_then(|id| id.rsplit_once('@')) {
        Some((arn, _)) => arn.to_owned(),
        None if config.stream.name == super::UNUSED => {
            return Err(Failure::new(
                2,
                format!(
                    "table `{}` does not say which stream it belongs to: give --stream",
                    table.name()
                ),
            ));
        }
        None => config.stream.name.clone(),
    };
    let stream = kinesis.describe(&name).await.map_err(|e| Failure::new(1, e))?;
    match known {
        Some(known) if known != stream.identity() => Err(Failure::new(
            2,
            format!("the leases belong to {known}, the stream is {} now", stream.identity()),
        )),
        _ => Ok(stream),
    }
}

async fn target(
    options: &RewindOptions,
    probe: &RecordLookup,
    shards: &[ShardInfo],
) -> Result<(Target, Option<ShardId>), Failure> {
    let named = options.shard.as_deref().map(ShardId::new);
    if let Some(text) = &options.from_timestamp {
        let ms = super::super::replay::past("--from-timestamp", text, &probe.clock)?;
        return Ok((Target::Timestamp(ms), named));
    }
    let Some(text) = &options.from_sequence_number else {
        return Ok((Target::TrimHorizon, named));
    };
    let number = SequenceNumber::parse(text)
        .map_err(|e| Failure::new(2, format!("--from-sequence-number: {e}")))?;
    let shard = match named {
        Some(named) => named,
        None => {
            match probe.holders(shards, &number).await.map_err(|e| Failure::new(1, e))?.as_slice() {
                [one] => one.clone(),
                found => {
                    return Err(Failure::new(
                        2,
                        format!(
                            "record {number} is in {} shards of the stream: the record itself is looked \
                         for, and was not found; name its shard with --shard",
                            found.len()
                        ),
                    ));
                }
            }
        }
    };
    Ok((Target::Sequence(number), Some(shard)))
}

/// The first record at the target, for every shard that may have to go there.
async fn first(
    probe: &RecordLookup,
    leases: &[Lease],
    to: &Target,
    within: Option<&ShardId>,
) -> Result<BTreeMap<ShardId, SequenceNumber>, Failure> {
    let start = match to {
        Target::TrimHorizon => StartAt::TrimHorizon,
        Target::Timestamp(ms) => StartAt::Timestamp(*ms),
        Target::Sequence(number) => StartAt::At(number.clone()),
    };
    let exact = matches!(to, Target::Sequence(_));
    let looked = leases.iter().filter(|l| {
        l.progress.checkpoint.position().is_some()
            || l.progress.last().is_some()
            || l.progress.checkpoint == Checkpoint::ShardEnd
    });
    let looks = looked.filter(|l| !exact || within == Some(&l.shard)).map(|lease| {
        let (probe, start) = (probe.clone(), start.clone());
        async move {
            match probe.first(&lease.shard, &start).await {
                Ok(found) => Ok(found.map(|number| (lease.shard.clone(), number))),
                // The shard has left the stream, and its records with it.
                Err(error) if error.fault == Fault::NotFound => Ok(None),
                Err(error) if error.fault == Fault::Invalid => {
                    Err(Failure::new(2, format!("{} refuses the position: {error}", lease.shard)))
                }
                Err(error) => Err(Failure::new(1, error)),
            }
        }
    });
    let mut looks = futures::stream::iter(looks).buffer_unordered(PARALLEL);
    let mut first = BTreeMap::new();
    while let Some(look) = looks.next().await {
        first.extend(look?);
    }
    Ok(first)
}

/// Refuses to go back to what the stream no longer has, unless gaps are to be passed over.
fn retention(
    config: &Config,
    stream: &StreamInfo,
    clock: &Clock,
    to: &Target,
    within: Option<&ShardId>,
    first: &BTreeMap<ShardId, SequenceNumber>,
) -> Result<(), Failure> {
    let lost = match to {
        Target::TrimHorizon => None,
        Target::Timestamp(ms) => {
            let oldest = clock.wall() - stream.retention_ms;
            ((*ms).max(stream.created_ms) < oldest).then(|| {
                format!(
                    "{to} is outside the stream's retention of {} hours",
                    stream.retention_ms / 3_600_000
                )
            })
        }
        Target::Sequence(number) => {
            let found = within.and_then(|shard| first.get(shard));
            (found != Some(number)).then(|| format!("{to} is not in its shard (any more)"))
        }
    };
    match lost {
        Some(lost) if config.delivery.gaps.known == OnGap::Stop => Err(Failure::new(
            3,
            format!(
                "{lost}: what is gone cannot be delivered again. To go back as far as possible use \
                 --from-trim-horizon, or set delivery.on_gap=continue"
            ),
        )),
        _ => Ok(()),
    }
}

fn confirm(yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(2, "nothing was done: add --yes where nobody can be asked"));
    }
    print!("Type `yes` to go back: ");
    let _ = std::io::stdout().flush();
    let mut line = String::new();
    let _ = std::io::stdin().lock().read_line(&mut line);
    if line.trim() == "yes" { Ok(()) } else { Err(Failure::new(1, "nothing was done")) }
}

/// Writes the requests, parents first: a child that has gone back waits for its parents.
async fn ask(
    table: &LeaseTable,
    leases: &BTreeMap<&ShardId, &Lease>,
    back: Vec<(ShardId, Target)>,
    id: &str,
) -> Result<Vec<(ShardId, Request)>, Failure> {
    let mut asked = Vec::new();
    for (shard, to) in back {
        let Some(row) = leases.get(&shard) else { continue };
        let standing = row.rewind.clone();
        let request = match standing {
            // An earlier run was cut off after asking.
            Some(standing) if standing.to == to => standing,
            _ => Request::new(id, to),
        };
        let written = table.update(&shard, rewind::ask(&request, row)).await;
        match written {
            Ok(Written::Done(_)) => asked.push((shard, request)),
            Ok(Written::Refused(_)) => {
                withdraw(table, &asked).await;
                return Err(Failure::new(
                    1,
                    format!(
                        "{shard} is asked to go back elsewhere already, has gone back since it was \
                         looked at, or its row is gone; requests made now are withdrawn. Wait until \
                         the other one is done, then look again"
                    ),
                ));
            }
            Err(error) => {
                withdraw(table, &asked).await;
                return Err(super::told(table, error));
            }
        }
    }
    Ok(asked)
}

async fn wait(
    table: &LeaseTable,
    clock: &Clock,
    asked: &[(ShardId, Request)],
    patience: Duration,
) -> Result<(), Failure> {
    let begun = clock.now();
    let mut open: Vec<&(ShardId, Request)> = asked.iter().collect();
    let mut hinted = false;
    loop {
        // Each look sorts out the shards that went back; what nobody works on goes back by our own write.
        let leases = leases(table).await?;
        let mut still = Vec::new();
        for (shard, request) in open {
            let row = leases.iter().find(|l| l.shard == *shard);
            let Some(row) = row.filter(|l| l.rewind.as_ref() == Some(request)) else {
                println!("{shard}: went back to {}, by its worker", request.to);
                continue;
            };
            // Nobody holds it and nothing is announced: there is nothing to drain.
            let idle = (row.owner.is_none() || row.progress.checkpoint == Checkpoint::ShardEnd)
                && !matches!(row.progress.pending, Pending::Ours { .. });
            if idle {
                let update = rewind::go_back(&row.progress, request, None);
                let written =
                    table.update(shard, update).await.map_err(|e| super::told(table, e))?;
                if matches!(written, Written::Done(_)) {
                    println!("{shard}: went back to {}, by this command", request.to);
                    continue;
                }
            }
            still.push((shard, request, row.owner.clone()));
        }
        if still.is_empty() {
            println!("{} shard(s) went back.", asked.len());
            return Ok(());
        }
        // A request left behind would be obeyed by a worker that starts tomorrow.
        if clock.now() - begun > patience {
            withdraw(table, asked).await;
            let shards: Vec<_> = still.iter().map(|(shard, ..)| shard.as_str()).collect();
            return Err(Failure::new(
                1,
                format!(
                    "{} did not go back within {}; their requests are withdrawn, the others went \
                     back. Run a worker of this version (announced batches have to be finished \
                     first), and try again",
                    shards.join(", "),
                    humantime::format_duration(patience)
                ),
            ));
        }
        if !hinted && clock.now() - begun > Duration::from_secs(10) {
            hinted = true;
            for (shard, _, owner) in &still {
                let owner = owner.as_ref().map_or("no worker", |w| w.as_str());
                println!("{shard}: waiting for {owner} to deliver what is announced …");
            }
        }
        open = asked.iter().filter(|(s, _)| still.iter().any(|(shard, ..)| *shard == s)).collect();
        clock.sleep(LOOK).await;
    }
}

/// Takes back what nobody has done yet: a request must not be met by surprise, days later.
async fn withdraw(table: &LeaseTable, asked: &[(ShardId, Request)]) {
    for (shard, request) in asked {
        let update = Update {
            update: format!("REMOVE {}", attr::REWIND),
            condition: format!("{} = :request", attr::REWIND),
            values: vec![(":request", crate::lease::row::Attr::S(request.raw.clone()))],
        };
        if let Err(error) = table.update(shard, update).await {
            eprintln!("catchment: {shard}: the request could not be withdrawn: {error}");
        }
    }
}
