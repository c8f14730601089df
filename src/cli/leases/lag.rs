//! How far checkpoints are behind the stream.

use std::collections::BTreeMap;

use futures::StreamExt;
use serde::Serialize;

use crate::aws::kinesis::Kinesis;
use crate::clock::Clock;
use crate::fault::CallError;
use crate::ids::ShardId;
use crate::lease::keys;
use crate::lease::row::Lease;
use crate::stream::position::{InitialPosition, StartAt, start_at};

use super::{Failure, Tools};

/// Shards asked at once.
pub(in crate::cli) const PARALLEL: usize = 8;

/// What one read behind a checkpoint says.
#[derive(Debug, Default, Serialize)]
pub(in crate::cli) struct Lag {
    /// Age of the first record that is not committed, ms; absent if the read found none.
    next_record_age_ms: Option<i64>,
    /// MillisBehindLatest of that read.
    behind_ms: Option<i64>,
    /// The read failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Lag {
    /// Age of the next record, else how far the read was behind, ms.
    pub(in crate::cli) fn behind_ms(&self) -> Option<i64> {
        self.next_record_age_ms.or(self.behind_ms)
    }

    /// For a column: the age of the next record, else how far the read was behind.
    pub(super) fn short(&self) -> String {
        match (&self.error, self.behind_ms()) {
            (Some(_), _) => "failed".to_owned(),
            (None, Some(ms)) => format!("{:.1}s", ms as f64 / 1000.0),
            (None, None) => "-".to_owned(),
        }
    }
}

/// The lag of every lease with work left; leases of other streams of the table are left out.
pub(super) async fn of(tools: &Tools, leases: &[Lease]) -> Result<BTreeMap<ShardId, Lag>, Failure> {
    let bound = leases.iter().find_map(|lease| lease.stream.as_deref()?.rsplit_once('@'));
    let name = match (&tools.stream, bound) {
        (Some(name), _) => name.as_str(),
        (None, Some((arn, _))) => arn,
        (None, None) => {
            return Err(Failure::new(2, "--lag needs the stream: add --stream NAME"));
        }
    };
    let stream = tools.kinesis.describe(name).await.map_err(|e| Failure::new(1, e))?;
    let own = keys::stream_id(&stream);
    let of_stream = |lease: &&Lease| match keys::split(lease.shard.as_str()) {
        Some((id, _)) => id.rsplit_once(':').map(|p| p.0) == own.rsplit_once(':').map(|p| p.0),
        None => true,
    };
    let kinesis = &tools.kinesis;
    let arn = stream.arn.as_str();
    let asked = leases.iter().filter(|l| !l.is_finished()).filter(of_stream);
    let lags = futures::stream::iter(asked).map(|lease| async move {
        let lag = read(kinesis, arn, lease).await.unwrap_or_else(|error| {
            eprintln!("catchment: {}: {error}", lease.shard);
            Lag { error: Some(error.to_string()), ..Lag::default() }
        });
        (lease.shard.clone(), lag)
    });
    Ok(lags.buffer_unordered(PARALLEL).collect().await)
}

/// Reads one record behind a lease's checkpoint.
pub(in crate::cli) async fn read(
    kinesis: &Kinesis,
    arn: &str,
    lease: &Lease,
) -> Result<Lag, CallError> {
    let shard = match keys::split(lease.shard.as_str()) {
        Some((_, shard)) => ShardId::new(shard),
        None => lease.shard.clone(),
    };
    let checkpoint = &lease.progress.checkpoint;
    let start = match start_at(checkpoint, lease.started_ms, InitialPosition::TrimHorizon) {
        // The checkpointed record itself is done.
        Some(StartAt::At(sequence)) => StartAt::After(sequence),
        Some(start) => start,
        None => return Ok(Lag::default()),
    };
    let iterator = kinesis.iterator(arn, &shard, &start).await?;
    let page = kinesis.get_records(arn, &iterator, 1).await?;
    let arrival = page.records.first().and_then(|record| record.arrival_ms);
    Ok(Lag {
        next_record_age_ms: arrival.map(|ms| (Clock::system().wall() - ms).max(0)),
        behind_ms: page.behind_ms,
        error: None,
    })
}
