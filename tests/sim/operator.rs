//! An operator with a command line: a process of its own, which may die at any point.
//!
//! What `catchment leases rewind` decides and writes is called here as the command does, over its
//! own SDK clients.

use std::collections::BTreeMap;
use std::time::Duration;

use catchment::aws::dynamodb::{LeaseTable, Written};
use catchment::aws::kinesis::Kinesis;
use catchment::aws::lookup::RecordLookup;
use catchment::checkpoint::progress::Pending;
use catchment::fault::{CallError, Fault};
use catchment::ids::ShardId;
use catchment::lease::rewind::{self, Decision};
use catchment::lease::rewind_request::{Request, Target};
use catchment::lease::row::{Attr, Lease, attr};
use catchment::lease::write::Update;
use catchment::stream::position::{Checkpoint, StartAt};

use crate::fleet::{STREAM, TABLE};
use crate::node::Node;

/// How long the operator waits for the workers before requests that nobody has met are withdrawn.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(500);

/// `catchment leases rewind`.
pub async fn rewind(node: Node, to: Target, within: Option<ShardId>) {
    match go_back(&node, &to, within.as_ref()).await {
        Ok(what) => node.note(&what),
        Err(error) => node.note(&format!("rewind gave up: {error}")),
    }
}

async fn leases(table: &LeaseTable) -> Result<Vec<Lease>, CallError> {
    let items = table.scan(true).await?;
    Ok(items.iter().filter_map(|item| Lease::parse(item).ok().flatten()).collect())
}

async fn go_back(node: &Node, to: &Target, within: Option<&ShardId>) -> Result<String, CallError> {
    let kinesis = Kinesis::new(node.kinesis.clone());
    let table = LeaseTable::new(node.dynamodb.clone(), TABLE);
    let stream = kinesis.describe(STREAM).await?;
    let leases_now = leases(&table).await?;
    let probe = RecordLookup { kinesis, arn: stream.arn, clock: node.clock.clone() };
    let start = match to {
        Target::TrimHorizon => StartAt::TrimHorizon,
        Target::Timestamp(ms) => StartAt::Timestamp(*ms),
        Target::Sequence(number) => StartAt::At(number.clone()),
    };
    let mut first = BTreeMap::new();
    for lease in &leases_now {
        let asked = !matches!(to, Target::Sequence(_)) || within == Some(&lease.shard);
        let begun = lease.progress.checkpoint.position().is_some()
            || lease.progress.last().is_some()
            || lease.progress.checkpoint == Checkpoint::ShardEnd;
        if !asked || !begun {
            continue;
        }
        match probe.first(&lease.shard, &start).await {
            Ok(found) => first.extend(found.map(|number| (lease.shard.clone(), number))),
            Err(error) if error.fault == Fault::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let decided = rewind::decide(&leases_now, to, within, &first);
    let mut asked = Vec::new();
    for (shard, decision) in decided {
        let Decision::Back(to) = decision else { continue };
        let Some(row) = leases_now.iter().find(|l| l.shard == shard) else { continue };
        let standing = row.rewind.clone();
        let request = match standing {
            Some(standing) if standing.to == to => standing,
            _ => Request::new(&node.jitter.uuid().simple().to_string(), to),
        };
        match table.update(&shard, rewind::ask(&request, row)).await {
            Ok(Written::Done(_)) => asked.push((shard, request)),
            Ok(Written::Refused(_)) => {
                withdraw(&table, &asked).await;
                return Ok("rewind refused".to_owned());
            }
            Err(error) => {
                withdraw(&table, &asked).await;
                return Err(error);
            }
        }
    }
    if asked.is_empty() {
        return Ok("nothing to rewind".to_owned());
    }
    wait(node, &table, &asked).await
}

async fn wait(
    node: &Node,
    table: &LeaseTable,
    asked: &[(ShardId, Request)],
) -> Result<String, CallError> {
    let begun = node.clock.now();
    loop {
        let leases = leases(table).await?;
        let mut open = false;
        for (shard, request) in asked {
            let row = leases.iter().find(|l| l.shard == *shard);
            let Some(row) = row.filter(|l| l.rewind.as_ref() == Some(request)) else { continue };
            let idle = (row.owner.is_none() || row.progress.checkpoint == Checkpoint::ShardEnd)
                && !matches!(row.progress.pending, Pending::Ours { .. });
            let done = idle && {
                let update = rewind::go_back(&row.progress, request, None);
                matches!(table.update(shard, update).await?, Written::Done(_))
            };
            open |= !done;
        }
        if !open {
            return Ok("rewind done".to_owned());
        }
        if node.clock.now() - begun > PATIENCE {
            withdraw(table, asked).await;
            return Ok("rewind withdrawn".to_owned());
        }
        node.clock.sleep(LOOK).await;
    }
}

async fn withdraw(table: &LeaseTable, asked: &[(ShardId, Request)]) {
    for (shard, request) in asked {
        let update = Update {
            update: format!("REMOVE {}", attr::REWIND),
            condition: format!("{} = :request", attr::REWIND),
            values: vec![(":request", Attr::S(request.raw.clone()))],
        };
        let _ = table.update(shard, update).await;
    }
}
