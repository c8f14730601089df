//! The operations the engine answers, made to be finished when the reply is sent.

use std::time::Duration;

use ferrokinesis::actions::{Operation, dispatch};
use ferrokinesis::persistence::PersistentStream;
use ferrokinesis::types::{
    ConsumerStatus, EpochSeconds, StreamMode, StreamModeDetails, StreamStatus,
};
use ferrokinesis::validation;
use serde_json::Value;

use super::log::LogLine;
use super::{Answer, Counters, Inner, KinesisFault, invalid, stream_of};

/// How long a change of a stream may take in the engine's background.
const SETTLE: Duration = Duration::from_secs(10);

impl Inner {
    /// Lets the engine answer, waits until its background work is done, and logs what changed.
    pub(super) async fn engine(&self, operation: Operation, data: Value) -> Answer {
        if ["Describe", "Get", "List"].iter().any(|verb| operation.as_str().starts_with(verb)) {
            return self.checked(operation, data).await;
        }
        let name = stream_of(&data);
        let mut counters = self.writing.lock().await;
        let answer = self.checked(operation, data).await?;
        if let Some(name) = name {
            self.settle(&name).await;
            self.keep(&name, &mut counters).await?;
        }
        Ok(answer)
    }

    /// Validates as the engine's own server does, then runs the operation.
    pub(super) async fn checked(&self, operation: Operation, data: Value) -> Answer {
        let rules = operation.validation_rules();
        let rules: Vec<_> = rules.iter().map(|(name, rule)| (*name, rule)).collect();
        let data = validation::check_types(&data, &rules)?;
        validation::check_validations(&data, &rules, None)?;
        dispatch(&self.store, operation, data).await
    }

    pub(super) async fn create_stream(&self, mut data: Value) -> Answer {
        let on_demand = data["StreamModeDetails"]["StreamMode"] == "ON_DEMAND";
        if on_demand && data["ShardCount"].is_null() {
            data["ShardCount"] = 4.into();
        }
        let name = data["StreamName"].as_str().unwrap_or_default().to_owned();
        let kib = data["MaxRecordSizeInKiB"].as_u64();
        let mut counters = self.writing.lock().await;
        if data["ShardCount"].as_i64().is_none_or(|count| count < 1) {
            return Err(invalid("ShardCount must be at least 1"));
        }
        self.checked(Operation::CreateStream, data).await?;
        counters.remove(&name);
        let now_ms = self.clock.wall();
        self.store
            .update_stream(&name, |stream| {
                // The engine's own is cut to seconds: a stream that is deleted and created again
                // within one would pass for the old one.
                stream.stream_creation_timestamp = EpochSeconds(now_ms as f64 / 1000.0);
                if let Some(kib) = kib.and_then(|kib| u32::try_from(kib).ok()) {
                    stream.max_record_size_kib = kib.clamp(1024, 10_240);
                }
                if on_demand {
                    stream.stream_mode_details =
                        StreamModeDetails { stream_mode: StreamMode::OnDemand };
                }
                Ok(())
            })
            .await?;
        self.settle(&name).await;
        self.keep(&name, &mut counters).await?;
        Ok(None)
    }

    /// Waits for the engine's background: a stream is ACTIVE or gone when the reply is sent.
    pub(super) async fn settle(&self, name: &str) {
        let until = self.clock.now() + SETTLE;
        while self.clock.now() < until {
            let done = match self.store.get_stream(name).await {
                Err(_) => true,
                Ok(stream) => {
                    let consumers = self.store.list_consumers_for_stream(&stream.stream_arn);
                    stream.stream_status == StreamStatus::Active
                        && consumers
                            .await
                            .iter()
                            .all(|c| c.consumer_status == ConsumerStatus::Active)
                }
            };
            if done {
                return;
            }
            self.clock.sleep(Duration::from_millis(1)).await;
        }
    }

    /// Logs a stream and its consumers as they are now.
    pub(super) async fn keep(
        &self,
        name: &str,
        counters: &mut Counters,
    ) -> Result<(), KinesisFault> {
        let Ok(stream) = self.store.get_stream(name).await else {
            counters.remove(name);
            return self.record(LogLine::Deleted(name.to_owned())).await;
        };
        if self.log.is_none() {
            return Ok(());
        }
        let arn = stream.stream_arn.clone();
        let consumers = self.store.list_consumers_for_stream(&arn).await;
        let mut numbers = counters.get(name).cloned().unwrap_or_default();
        numbers.resize(stream.shards.len(), 1);
        let stream = PersistentStream::from_stream(name.to_owned(), &stream, numbers);
        self.record(LogLine::Stream(Box::new(stream))).await?;
        self.record(LogLine::Consumers(arn, consumers)).await
    }
}
