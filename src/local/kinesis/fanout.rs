//! SubscribeToShard: enhanced fan-out as an event stream.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use ferrokinesis::event_stream::{encode_initial_response, encode_subscribe_event};
use ferrokinesis::types::ConsumerStatus;
use serde_json::{Map, Value, json};

use super::read::IteratorPosition;
use super::{KinesisFault, Streams, invalid, shards};

const LIFE: Duration = Duration::from_secs(300);
/// A second subscription to the same shard is refused for this long, then replaces the first.
const TAKEOVER: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);
const MAX_RECORDS: u64 = 10_000;
const MAX_EVENT: usize = 2 * 1024 * 1024;

/// The latest subscription of one consumer to one shard.
pub(super) struct LocalSubscription {
    since: Duration,
    turn: u64,
}

enum SubscriptionPhase {
    Start,
    Reading,
    Ended,
}

struct Feed {
    streams: Streams,
    consumer: String,
    turn: u64,
    position: IteratorPosition,
    until: Duration,
    heard: Option<Duration>,
    /// There was nothing new after so many changes.
    seen: Option<u64>,
    phase: SubscriptionPhase,
}

impl Streams {
    pub(super) async fn subscribe(&self, data: &Value) -> Result<Response, KinesisFault> {
        let inner = &self.0;
        let arn = data["ConsumerARN"].as_str().unwrap_or_default();
        let consumer = inner.store.get_consumer(arn).await.ok_or_else(|| {
            let message = format!("Consumer {arn} not found.");
            KinesisFault::client_error("ResourceNotFoundException", Some(&message))
        })?;
        if consumer.consumer_status != ConsumerStatus::Active {
            return Err(KinesisFault::client_error(
                "ResourceInUseException",
                Some("The consumer is not ACTIVE."),
            ));
        }
        let stream = super::stream_of(data).ok_or_else(|| invalid("ConsumerARN is malformed."))?;
        // A starting position is what GetShardIterator takes, under other names.
        let mut start = Map::new();
        start.insert("StreamName".to_owned(), stream.into());
        start.insert("ShardId".to_owned(), data["ShardId"].clone());
        for (from, to) in [
            ("Type", "ShardIteratorType"),
            ("SequenceNumber", "StartingSequenceNumber"),
            ("Timestamp", "Timestamp"),
        ] {
            let value = &data["StartingPosition"][from];
            if !value.is_null() {
                start.insert(to.to_owned(), value.clone());
            }
        }
        let position = inner.position(&Value::Object(start)).await?;
        let key = format!("{arn}/{}", position.shard_ix);
        let now = inner.clock.now();
        // One subscription of a consumer to a shard: a later one ends the one before,
        // but is refused for its first seconds.
        let turn = {
            let mut all = inner.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
            let before = all.get(&key);
            if before.is_some_and(|before| now < before.since + TAKEOVER) {
                return Err(KinesisFault::client_error(
                    "ResourceInUseException",
                    Some(
                        "Another active subscription exists for this consumer and shard, made less than 5 seconds ago.",
                    ),
                ));
            }
            let turn = before.map_or(0, |before| before.turn + 1);
            all.insert(key.clone(), LocalSubscription { since: now, turn });
            turn
        };
        let feed = Feed {
            streams: self.clone(),
            consumer: key,
            turn,
            position,
            until: now + LIFE,
            heard: None,
            seen: None,
            phase: SubscriptionPhase::Start,
        };
        let events = futures::stream::unfold(feed, |mut feed| async move {
            let frame = feed.next().await?;
            Some((Ok::<_, io::Error>(Bytes::from(frame)), feed))
        });
        Ok(([("content-type", "application/vnd.amazon.eventstream")], Body::from_stream(events))
            .into_response())
    }
}

impl Feed {
    /// The next frame; `None` when the subscription is over.
    async fn next(&mut self) -> Option<Vec<u8>> {
        match self.phase {
            SubscriptionPhase::Start => {
                self.phase = SubscriptionPhase::Reading;
                return Some(encode_initial_response());
            }
            SubscriptionPhase::Ended => return None,
            SubscriptionPhase::Reading => {}
        }
        loop {
            let inner = &self.streams.0;
            let now = inner.clock.now();
            if now >= self.until || self.replaced() {
                return None;
            }
            let quiet = self.heard.is_some_and(|heard| now < heard + HEARTBEAT);
            // Looking is dear where there are many shards, and there are as many subscriptions.
            let changes = inner.changes.load(Ordering::Acquire);
            if quiet && self.seen == Some(changes) {
                inner.clock.sleep(POLL).await;
                continue;
            }
            let page = inner.page(self.position.clone(), MAX_RECORDS, MAX_EVENT).await.ok()?;
            if page.records.is_empty() && !page.ended && quiet {
                self.seen = Some(changes);
                inner.clock.sleep(POLL).await;
                continue;
            }
            self.position = page.next;
            self.heard = Some(now);
            let mut event = json!({
                "Records": page.records,
                "MillisBehindLatest": page.behind_ms,
            });
            if page.ended {
                self.phase = SubscriptionPhase::Ended;
                let children = shards::children(&page.description, self.position.shard_ix);
                event["ChildShards"] = children.into();
            } else {
                event["ContinuationSequenceNumber"] = self.position.from.clone().into();
            }
            let payload = serde_json::to_vec(&event).unwrap_or_default();
            return Some(encode_subscribe_event(&payload, "application/json"));
        }
    }

    fn replaced(&self) -> bool {
        let all = self.streams.0.subscriptions.lock();
        let all = all.unwrap_or_else(PoisonError::into_inner);
        all.get(&self.consumer).is_some_and(|latest| latest.turn != self.turn)
    }
}
