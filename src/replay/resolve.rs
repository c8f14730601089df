//! From what was asked to a plan: looks at the stream to find shards, samples and losses.

use std::collections::BTreeMap;

use futures::StreamExt;

use crate::aws::lookup::{PARALLEL, RecordLookup};
use crate::delivery::settings::Settings;
use crate::fault::CallError;
use crate::ids::{SequenceNumber, ShardId};
use crate::lease::row::NewLease;
use crate::replay::plan::{BadRange, From, LAYOUT, Plan, Until};
use crate::replay::progress::Sample;
use crate::stream::position::{Checkpoint, StartAt};
use crate::stream::{ShardInfo, StreamInfo};

/// Records looked at for an estimate.
const SAMPLE: i32 = 1_000;

/// A begin as asked.
#[derive(Clone, Debug)]
pub enum Begin {
    /// The oldest record kept.
    TrimHorizon,
    /// ms since the epoch.
    Timestamp(i64),
    /// A record.
    Sequence(SequenceNumber),
}

/// An end as asked.
#[derive(Clone, Debug)]
pub enum End {
    /// The moment of planning.
    Now,
    /// ms since the epoch.
    Timestamp(i64),
    /// A record.
    Sequence(SequenceNumber),
}

/// A range as asked.
pub struct ReplayRequest {
    /// Name of the replay.
    pub id: String,
    /// Begin.
    pub from: Begin,
    /// End.
    pub until: End,
    /// Lineage, and the shard of a begin.
    pub shard: Option<ShardId>,
    /// The shard of an end.
    pub until_shard: Option<ShardId>,
    /// In front of every key.
    pub prefix: String,
    /// Encoding, with the prefix in it.
    pub settings: Settings,
    /// By name, to compare with later.
    pub asked: BTreeMap<String, String>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The record was not found, or not in one shard.
    #[error(
        "record {number} is in {found} shards of the stream: sequence numbers do not name their \
         shard, and the record itself was not found (retention may have passed it); name the shard \
         with {flag}"
    )]
    Undecided {
        /// The number.
        number: SequenceNumber,
        /// Shards that hold it.
        found: usize,
        /// What to add.
        flag: &'static str,
    },
    /// The range is wrong.
    #[error(transparent)]
    Range(#[from] BadRange),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Makes the plan.
///
/// # Errors
/// [`ResolveError`]
pub async fn plan(
    probe: &RecordLookup,
    stream: &StreamInfo,
    shards: &[ShardInfo],
    asked: ReplayRequest,
) -> Result<Plan, ResolveError> {
    let from = match asked.from {
        Begin::TrimHorizon => From::TrimHorizon,
        Begin::Timestamp(ms) => From::Timestamp(ms),
        Begin::Sequence(number) => {
            let shard = holder(probe, shards, asked.shard.clone(), &number, "--shard").await?;
            From::Sequence(shard, number)
        }
    };
    let until = match asked.until {
        End::Now => Until::Timestamp(probe.clock.wall()),
        End::Timestamp(ms) => Until::Timestamp(ms),
        End::Sequence(number) => {
            let named = asked.until_shard;
            let shard = holder(probe, shards, named, &number, "--until-shard").await?;
            Until::Sequence(shard, number)
        }
    };
    let mut plan = Plan {
        catchment: LAYOUT,
        id: asked.id,
        stream: stream.identity(),
        planned_ms: probe.clock.wall(),
        from,
        until,
        shard: asked.shard,
        path: None,
        prefix: asked.prefix,
        settings: asked.settings,
        asked: asked.asked,
    };
    plan.check()?;
    if let Until::Sequence(end, _) = &plan.until {
        let path = Plan::scope(shards, plan.root(), Some(end))?;
        plan.path = Some(path.into_iter().collect());
    }
    Ok(plan)
}

async fn holder(
    probe: &RecordLookup,
    shards: &[ShardInfo],
    named: Option<ShardId>,
    number: &SequenceNumber,
    flag: &'static str,
) -> Result<ShardId, ResolveError> {
    if let Some(named) = named {
        return Ok(named);
    }
    let mut found = probe.holders(shards, number).await?;
    match (found.pop(), found.len()) {
        (Some(shard), 0) => Ok(shard),
        (one, more) => Err(ResolveError::Undecided {
            number: number.clone(),
            found: usize::from(one.is_some()) + more,
            flag,
        }),
    }
}

/// One reply per shard, at the begin of its range.
///
/// # Errors
/// [`CallError`]
pub async fn samples(
    probe: &RecordLookup,
    plan: &Plan,
    rows: &[NewLease],
) -> Result<BTreeMap<ShardId, Sample>, CallError> {
    let looks = rows.iter().map(|row| async move {
        let start = match (&plan.from, &row.checkpoint) {
            (From::Sequence(shard, first), _) if *shard == row.shard => StartAt::At(first.clone()),
            (From::Timestamp(ms), Checkpoint::AtTimestamp) => StartAt::Timestamp(*ms),
            _ => StartAt::TrimHorizon,
        };
        let mut page = probe.first_page(&row.shard, &start, SAMPLE).await?;
        let mut at_tip = page.next.is_none() || page.behind_ms == Some(0);
        if let Some(inside) = plan.bound(&row.shard).and_then(|bound| bound.cut(&page.records)) {
            page.records.truncate(inside);
            at_tip = true;
        }
        let sample = Sample {
            records: page.records.len() as u64,
            bytes: page.records.iter().map(|r| r.data.len() as u64).sum(),
            first_ms: page.records.first().and_then(|r| r.arrival_ms),
            last_ms: page.records.last().and_then(|r| r.arrival_ms),
            at_tip,
        };
        Ok((row.shard.clone(), sample))
    });
    let mut looks = futures::stream::iter(looks).buffer_unordered(PARALLEL);
    let mut samples = BTreeMap::new();
    while let Some(look) = looks.next().await {
        let (shard, sample) = look?;
        samples.insert(shard, sample);
    }
    Ok(samples)
}
