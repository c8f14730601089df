//! Kinesis Data Streams, in our words.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kinesis::error::SdkError;
use aws_sdk_kinesis::operation::describe_stream_summary::DescribeStreamSummaryOutput;
use aws_sdk_kinesis::operation::get_records::builders::GetRecordsFluentBuilder;
use aws_sdk_kinesis::operation::get_records::{GetRecordsError, GetRecordsOutput};
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{self, ShardIteratorType, StreamStatus};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::timeout::TimeoutConfig;

use crate::aws::fault::describe;
use crate::aws::records::{Scanned, TakeRecords};
use crate::aws::reply::{incomplete, required};
use crate::aws::silence::unless_silent;
use crate::aws::subscriptions::{Subscribers, separate};
use crate::aws::transport::Transport;
use crate::aws::wire::{Cbor, WireFailure};
use crate::fault::{CallError, Detail, Fault};
use crate::ids::{BadSequenceNumber, ShardId};
use crate::metrics::registry::Metrics;
use crate::stream::arena::Arenas;
use crate::stream::cbor;
use crate::stream::position::StartAt;
use crate::stream::wire::WireFormat;
use crate::stream::{Page, Record, Records, ShardInfo, StreamInfo};

/// Listings begun anew, at most, because a token expired.
const LISTINGS: usize = 3;

/// Kinesis, as a client sees it.
#[derive(Clone, Debug)]
pub struct Kinesis {
    client: aws_sdk_kinesis::Client,
    /// The same without time-outs, and with a connection of its own, for GetRecords.
    reading: aws_sdk_kinesis::Client,
    /// How long a reply to it may be silent; `None`: for ever.
    patience: Option<Duration>,
    subscribers: Subscribers,
    /// Buffers of replies; `None`: the SDK's parser reads everything.
    arenas: Option<Arenas>,
    /// To ask for records in CBOR.
    cbor: Option<Cbor>,
}

impl Kinesis {
    /// Wraps a client that the SDK gives connections of its own.
    pub fn new(client: aws_sdk_kinesis::Client) -> Self {
        Self::over(client, &Transport::default())
    }

    /// Wraps a client, and makes those for reading and for subscriptions with connections of their
    /// own, over the same transport.
    pub fn over(client: aws_sdk_kinesis::Client, transport: &Transport) -> Self {
        let given = client.config().timeout_config().cloned();
        let patience = given.as_ref().and_then(TimeoutConfig::operation_attempt_timeout);
        let none = given.map_or_else(TimeoutConfig::builder, |given| given.to_builder());
        let none = none.disable_operation_timeout().disable_operation_attempt_timeout().build();
        let reading = separate(&client, transport).timeout_config(none).build();
        Self {
            reading: aws_sdk_kinesis::Client::from_conf(reading),
            patience,
            subscribers: Subscribers::like(&client, transport),
            client,
            arenas: Some(Arenas::default()),
            cbor: None,
        }
    }

    /// Leaves every reply to the SDK's own parser: what the fast path is tested and measured
    /// against.
    #[must_use]
    pub fn strict(self) -> Self {
        Self { arenas: None, cbor: None, ..self }
    }

    /// Asks for records in this form; fallbacks from it are counted.
    #[must_use]
    pub fn with_wire_format(self, wire: WireFormat, metrics: &Arc<Metrics>) -> Self {
        let cbor = match wire {
            WireFormat::Json => None,
            WireFormat::Cbor => Some(Cbor::new(metrics)),
        };
        Self { cbor, ..self }
    }

    pub(super) fn arenas(&self) -> Option<&Arenas> {
        self.arenas.as_ref()
    }

    pub(super) fn subscribers(&self) -> &Subscribers {
        &self.subscribers
    }

    pub(super) fn client(&self) -> &aws_sdk_kinesis::Client {
        &self.client
    }

    /// DescribeStreamSummary of a name or an ARN.
    ///
    /// # Errors
    /// [`CallError`]; `NotFound` when there is no such stream.
    pub async fn describe(&self, name_or_arn: &str) -> Result<StreamInfo, CallError> {
        let call = self.client.describe_stream_summary();
        let call = if name_or_arn.starts_with("arn:") {
            call.stream_arn(name_or_arn)
        } else {
            call.stream_name(name_or_arn)
        };
        let reply = call.send().await.map_err(|e| describe("DescribeStreamSummary", &e))?;
        stream_info(&reply)
    }

    /// Every page of ListShards. A token lives for five minutes; where one has expired, the listing
    /// begins again, a few times.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn list_shards(&self, arn: &str) -> Result<Vec<ShardInfo>, CallError> {
        for _ in 0..LISTINGS {
            match self.list_once(arn).await {
                Err(error) if error.code == "ExpiredNextTokenException" => {
                    tracing::warn!(%error, "listing the shards begins again");
                }
                done => return done,
            }
        }
        // Slow from end to end: that may pass.
        self.list_once(arn).await.map_err(|error| match error.code.as_str() {
            "ExpiredNextTokenException" => CallError { fault: Fault::Unavailable, ..error },
            _ => error,
        })
    }

    async fn list_once(&self, arn: &str) -> Result<Vec<ShardInfo>, CallError> {
        let mut shards = Vec::new();
        let mut token: Option<String> = None;
        loop {
            // A token already names the stream; both together are refused.
            let call = match token.take() {
                Some(token) => self.client.list_shards().next_token(token),
                None => self.client.list_shards().stream_arn(arn),
            };
            let reply = call.send().await.map_err(|e| describe("ListShards", &e))?;
            for shard in &required("ListShards", "Shards", reply.shards)? {
                shards.push(shard_info(shard)?);
            }
            token = reply.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                // A stream has a shard at any time.
                return match shards.is_empty() {
                    true => Err(incomplete("ListShards", "Shards")),
                    false => Ok(shards),
                };
            }
        }
    }

    /// GetShardIterator.
    ///
    /// # Errors
    /// [`CallError`]; `Invalid` for a sequence number that is not of this shard.
    pub async fn iterator(
        &self,
        arn: &str,
        shard: &ShardId,
        start: &StartAt,
    ) -> Result<String, CallError> {
        let call = self.client.get_shard_iterator().stream_arn(arn).shard_id(shard.as_str());
        let IteratorStart { kind, sequence, timestamp } = IteratorStart::of(start);
        let call = call.shard_iterator_type(kind).set_timestamp(timestamp);
        let call = call.set_starting_sequence_number(sequence);
        let reply = call.send().await.map_err(|e| describe("GetShardIterator", &e))?;
        required("GetShardIterator", "ShardIterator", reply.shard_iterator)
    }

    /// GetRecords.
    ///
    /// # Errors
    /// [`CallError`]; `ExpiredIterator` when a new iterator is needed.
    pub async fn get_records(
        &self,
        arn: &str,
        iterator: &str,
        limit: i32,
    ) -> Result<Page, CallError> {
        let Some(arenas) = &self.arenas else {
            let call = self.client.get_records().stream_arn(arn);
            let call = call.shard_iterator(iterator).limit(limit);
            return page(call.send().await.map_err(|e| describe("GetRecords", &e))?, None, false);
        };
        let call = self.reading.get_records().stream_arn(arn);
        let call = call.shard_iterator(iterator).limit(limit);
        let mut fallen = None;
        if let Some(cbor) = self.cbor.as_ref().filter(|cbor| cbor.is_spoken()) {
            let take = TakeRecords::new(arenas).asking(cbor::request(arn, iterator, limit));
            let reply = self.heard(call.clone(), &take).await?;
            match cbor.judge(reply, take.taken()) {
                Ok((reply, scanned)) => return page(reply, scanned, take.is_bare()),
                Err(WireFailure::Call(error)) => return Err(error),
                Err(WireFailure::Form(doubt)) => fallen = Some((cbor, doubt)),
            }
        }
        let take = TakeRecords::new(arenas);
        let reply = self.heard(call, &take).await?;
        if let Some((cbor, doubt)) = fallen {
            cbor.fell_back(&doubt, reply.is_ok());
        }
        let reply = reply.map_err(|e| describe("GetRecords", &e))?;
        page(reply, take.taken().and_then(Result::ok), take.is_bare())
    }

    /// The reply to a call, unless it is silent for too long.
    async fn heard(
        &self,
        call: GetRecordsFluentBuilder,
        take: &TakeRecords,
    ) -> Result<Result<GetRecordsOutput, SdkError<GetRecordsError, HttpResponse>>, CallError> {
        let sent = call.customize().interceptor(take.clone()).send();
        match self.patience {
            Some(patience) => unless_silent("GetRecords", patience, take.pulse(), sent).await,
            None => Ok(sent.await),
        }
    }
}

/// A reply to GetRecords; `scanned`: its records, if it has none itself; `bare`: nobody has them.
fn page(reply: GetRecordsOutput, scanned: Option<Scanned>, bare: bool) -> Result<Page, CallError> {
    if bare {
        return Err(incomplete("GetRecords", "Records"));
    }
    let strict = scanned.is_none();
    let none = scanned.as_ref().map_or(reply.records.is_empty(), |s| s.records.is_empty());
    if none {
        // An iterator of no letters is none, and no end either: at the end of a shard it is null.
        let blank = reply.next_shard_iterator.as_ref().is_some_and(String::is_empty);
        let end = reply.millis_behind_latest.is_some() || reply.child_shards.is_some();
        if blank || (reply.next_shard_iterator.is_none() && !end) {
            return Err(incomplete("GetRecords", "NextShardIterator"));
        }
    }
    Ok(Page {
        records: match scanned {
            Some(scanned) => scanned.records,
            None => records("GetRecords", &reply.records)?,
        },
        strict,
        next: reply.next_shard_iterator.filter(|next| !next.is_empty()),
        behind_ms: reply.millis_behind_latest,
        children: child_shards(reply.child_shards),
    })
}

/// Where reading begins, in the three fields of the API.
pub(super) struct IteratorStart {
    pub(super) kind: ShardIteratorType,
    pub(super) sequence: Option<String>,
    pub(super) timestamp: Option<DateTime>,
}

impl IteratorStart {
    pub(super) fn of(start: &StartAt) -> Self {
        let (kind, sequence, timestamp) = match start {
            StartAt::TrimHorizon => (ShardIteratorType::TrimHorizon, None, None),
            StartAt::Latest => (ShardIteratorType::Latest, None, None),
            StartAt::Timestamp(ms) => (ShardIteratorType::AtTimestamp, None, Some(*ms)),
            StartAt::At(first) => (ShardIteratorType::AtSequenceNumber, Some(first), None),
            StartAt::After(last) => (ShardIteratorType::AfterSequenceNumber, Some(last), None),
        };
        Self {
            kind,
            sequence: sequence.map(|number| number.as_str().to_owned()),
            timestamp: timestamp.map(DateTime::from_millis),
        }
    }
}

pub(super) fn child_shards(children: Option<Vec<types::ChildShard>>) -> Vec<ShardInfo> {
    let info = |child: types::ChildShard| ShardInfo {
        id: ShardId::new(child.shard_id),
        parents: child.parent_shards.into_iter().map(ShardId::new).collect(),
        hash_range: child.hash_key_range.map(|r| (r.starting_hash_key, r.ending_hash_key)),
        closed: false,
    };
    children.unwrap_or_default().into_iter().map(info).collect()
}

pub(super) fn records(
    operation: &'static str,
    records: &[types::Record],
) -> Result<Records, CallError> {
    fn ours(record: &types::Record) -> Result<Record<'_>, BadSequenceNumber> {
        let arrival_ms = record.approximate_arrival_timestamp.as_ref().map(millis);
        let key = record.partition_key.as_deref().filter(|key| !key.is_empty());
        Record::new(&record.sequence_number, arrival_ms, key, record.data.as_ref())
    }
    let records = records.iter().map(ours).collect::<Result<Vec<_>, _>>();
    let records = records.map_err(|e| malformed(operation, &e.to_string()))?;
    Records::copy(&records).map_err(|e| malformed(operation, &e.to_string()))
}

/// Milliseconds, rounded: the SDK reads fractional seconds through floating point, so .024 s may
/// come out as .023999 s; cutting it off would move records between partitions.
fn millis(time: &DateTime) -> i64 {
    let fraction = (i64::from(time.subsec_nanos()) + 500_000) / 1_000_000;
    time.secs().saturating_mul(1000).saturating_add(fraction)
}

fn stream_info(reply: &DescribeStreamSummaryOutput) -> Result<StreamInfo, CallError> {
    const OPERATION: &str = "DescribeStreamSummary";
    let summary = reply
        .stream_description_summary()
        .ok_or_else(|| incomplete(OPERATION, "StreamDescriptionSummary"))?;
    let created = summary.stream_creation_timestamp();
    let hours = summary.retention_period_hours();
    let status = required(OPERATION, "StreamStatus", Some(summary.stream_status().as_str()))?;
    Ok(StreamInfo {
        name: required(OPERATION, "StreamName", Some(summary.stream_name()))?.to_owned(),
        arn: required(OPERATION, "StreamARN", Some(summary.stream_arn()))?.to_owned(),
        created_ms: millis(required(OPERATION, "StreamCreationTimestamp", Some(created))?),
        retention_ms: i64::from(required(OPERATION, "RetentionPeriodHours", Some(hours))?)
            * 3_600_000,
        readable: matches!(
            StreamStatus::from(status),
            StreamStatus::Active | StreamStatus::Updating
        ),
        // Present for on-demand streams only.
        spreads: summary.record_distribution_strategy()
            == Some(&types::RecordDistributionStrategy::Auto),
    })
}

fn shard_info(shard: &types::Shard) -> Result<ShardInfo, CallError> {
    // Without it a closed shard would pass for an open one.
    let range = shard
        .sequence_number_range()
        .ok_or_else(|| incomplete("ListShards", "SequenceNumberRange"))?;
    let parents = [shard.parent_shard_id(), shard.adjacent_parent_shard_id()];
    Ok(ShardInfo {
        id: ShardId::new(required("ListShards", "ShardId", Some(shard.shard_id()))?),
        parents: parents.into_iter().flatten().map(ShardId::new).collect(),
        hash_range: shard
            .hash_key_range()
            .map(|r| (r.starting_hash_key().to_owned(), r.ending_hash_key().to_owned())),
        closed: range.ending_sequence_number().is_some(),
    })
}

pub(super) fn malformed(operation: &'static str, what: &str) -> CallError {
    CallError {
        operation,
        fault: Fault::Unavailable,
        detail: Detail::Plain,
        code: "MalformedReply".into(),
        message: what.to_owned(),
        request_id: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_to_the_millisecond_they_mean() {
        for ms in [1_772_003_600_024_i64, 1_772_003_600_999, 1_772_003_600_000] {
            let through_float = DateTime::from_secs_f64(ms as f64 / 1000.0);
            assert_eq!(millis(&through_float), ms);
        }
        assert_eq!(millis(&DateTime::from_secs(i64::MAX)), i64::MAX, "found by fuzzing");
    }
}
