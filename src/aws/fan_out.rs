//! Enhanced fan-out, in our words: consumers of a stream, and subscriptions to its shards.

use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::subscribe_to_shard::SubscribeToShardOutput;
use aws_sdk_kinesis::types::{ConsumerStatus, StartingPosition, SubscribeToShardEventStream};

use crate::aws::events::{EventRecords, TakeEvents};
use crate::aws::fault::{by_code, chain, describe, detail};
use crate::aws::kinesis::{IteratorStart, Kinesis, child_shards, malformed, records};
use crate::aws::reply::{incomplete, required};
use crate::aws::subscriptions::Place;
use crate::fault::{CallError, Fault};
use crate::ids::ShardId;
use crate::mutant::{self, Mutant};
use crate::stream::position::StartAt;
use crate::stream::{Consumer, Page};

/// An open subscription of one shard. Dropping it ends it.
pub struct Subscription {
    events: SubscribeToShardOutput,
    /// Its place on a connection.
    _place: Place,
    /// The records of the events; `None`: they have them themselves.
    take: Option<TakeEvents>,
}

impl Kinesis {
    /// DescribeStreamConsumer of a name or an ARN.
    ///
    /// # Errors
    /// [`CallError`]; `NotFound` if it is not registered.
    pub async fn consumer(&self, stream: &str, name_or_arn: &str) -> Result<Consumer, CallError> {
        let call = self.client().describe_stream_consumer();
        let call = if name_or_arn.starts_with("arn:") {
            call.consumer_arn(name_or_arn)
        } else {
            call.stream_arn(stream).consumer_name(name_or_arn)
        };
        let reply = call.send().await.map_err(|e| describe("DescribeStreamConsumer", &e))?;
        const OPERATION: &str = "DescribeStreamConsumer";
        let consumer = reply
            .consumer_description()
            .ok_or_else(|| incomplete(OPERATION, "ConsumerDescription"))?;
        let status =
            required(OPERATION, "ConsumerStatus", Some(consumer.consumer_status().as_str()))?;
        Ok(Consumer {
            arn: required(OPERATION, "ConsumerARN", Some(consumer.consumer_arn()))?.to_owned(),
            active: ConsumerStatus::from(status) == ConsumerStatus::Active,
        })
    }

    /// RegisterStreamConsumer. Kinesis charges for each consumer's shard-hours and bytes.
    ///
    /// # Errors
    /// [`CallError`]; `Unavailable` (`ResourceInUseException`) if somebody was faster.
    pub async fn register(&self, stream: &str, name: &str) -> Result<(), CallError> {
        let call = self.client().register_stream_consumer().stream_arn(stream).consumer_name(name);
        call.send().await.map_err(|e| describe("RegisterStreamConsumer", &e))?;
        Ok(())
    }

    /// SubscribeToShard.
    ///
    /// # Errors
    /// [`CallError`]; `Unavailable` (`ResourceInUseException`) while another subscription of the
    /// consumer to the shard is younger than five seconds.
    pub async fn subscribe(
        &self,
        consumer: &str,
        shard: &ShardId,
        start: &StartAt,
    ) -> Result<Subscription, CallError> {
        let IteratorStart { kind, sequence, timestamp } = IteratorStart::of(start);
        let position = StartingPosition::builder().r#type(kind).set_timestamp(timestamp);
        let position = position.set_sequence_number(sequence);
        let position =
            position.build().map_err(|e| malformed("SubscribeToShard", &e.to_string()))?;
        let (client, place) =
            self.subscribers().place().ok_or_else(|| malformed("SubscribeToShard", "no place"))?;
        let call = client.subscribe_to_shard();
        let call = call.consumer_arn(consumer).shard_id(shard.as_str()).starting_position(position);
        let take = self.arenas().map(TakeEvents::new);
        let reply = match &take {
            Some(take) => call.customize().interceptor(take.clone()).send().await,
            None => call.send().await,
        };
        let events = reply.map_err(|e| describe("SubscribeToShard", &e))?;
        Ok(Subscription { events, _place: place, take })
    }
}

impl Subscription {
    /// The next event as a page; `None` when the subscription is over (Kinesis ends it after five
    /// minutes). `Page::next` is the continuation, absent at the end of a closed shard.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn next(&mut self) -> Result<Option<Page>, CallError> {
        loop {
            let event = self.events.event_stream.recv().await;
            match event.map_err(|e| broken(&e))? {
                None => return Ok(None),
                Some(SubscribeToShardEventStream::SubscribeToShardEvent(event)) => {
                    let found = self.take.as_ref().map_or(EventRecords::Left, TakeEvents::next);
                    let strict = !matches!(found, EventRecords::Taken(_));
                    let records = match found {
                        // An event of which nothing was taken, and the records of another: the
                        // two are out of step, and neither may be believed.
                        EventRecords::Taken(_) if !event.records.is_empty() => {
                            return Err(malformed("SubscribeToShard", "records of two events"));
                        }
                        EventRecords::Taken(scanned) => scanned.records,
                        EventRecords::Bare(field) if !mutant::is(Mutant::BareIsEmpty) => {
                            return Err(incomplete("SubscribeToShard", field));
                        }
                        EventRecords::Bare(_) | EventRecords::Left => {
                            records("SubscribeToShard", &event.records)?
                        }
                    };
                    return Ok(Some(Page {
                        records,
                        strict,
                        next: Some(event.continuation_sequence_number).filter(|n| !n.is_empty()),
                        behind_ms: Some(event.millis_behind_latest),
                        children: child_shards(event.child_shards),
                    }));
                }
                // A kind of event of a later API.
                Some(_) => {}
            }
        }
    }
}

/// What ends a subscription early: an exception inside the stream, or the connection.
fn broken<E, R>(error: &SdkError<E, R>) -> CallError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
{
    let known = error.as_service_error().and_then(ProvideErrorMetadata::code);
    let fault = known.map_or(Fault::Unavailable, |code| by_code(code, None));
    let code = known.unwrap_or("BrokenSubscription").to_owned();
    let message = chain(error);
    let operation = "SubscribeToShard";
    let detail = detail(operation, fault, &code, &message);
    CallError { operation, fault, detail, code, message, request_id: None }
}
