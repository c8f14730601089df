//! ListShards, and what a stream's description says about its shards.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ferrokinesis::sequence;
use ferrokinesis::types::{Shard, Stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Answer, Inner, KinesisFault, invalid};

const MAX_RESULTS: u64 = 10_000;
const DEFAULT_RESULTS: u64 = 1_000;

/// The index of a shard in its stream.
pub(super) fn shard(stream: &Stream, id: &str) -> Result<usize, KinesisFault> {
    stream.shards.iter().position(|shard| shard.shard_id == id).ok_or_else(|| {
        let message = format!("Could not find shard {id} in stream {}.", stream.stream_name);
        KinesisFault::client_error("ResourceNotFoundException", Some(&message))
    })
}

/// When the shard was made, in epoch milliseconds.
pub(super) fn created(shard: &Shard) -> u64 {
    sequence::parse_sequence(&shard.sequence_number_range.starting_sequence_number)
        .map_or(0, |number| number.shard_create_time)
}

/// When the shard was closed, in epoch milliseconds; `None` while it is open.
pub(super) fn closed(shard: &Shard) -> Option<u64> {
    let number = shard.sequence_number_range.ending_sequence_number.as_ref()?;
    Some(sequence::parse_sequence(number).map_or(0, |number| number.seq_time.unwrap_or(0)))
}

/// `ChildShards` of a finished shard.
pub(super) fn children(stream: &Stream, parent_ix: usize) -> Vec<Value> {
    let parent = &stream.shards[parent_ix].shard_id;
    let parents_of = |shard: &Shard| -> Vec<String> {
        [&shard.parent_shard_id, &shard.adjacent_parent_shard_id]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    };
    stream
        .shards
        .iter()
        .map(|shard| (shard, parents_of(shard)))
        .filter(|(_, parents)| parents.contains(parent))
        .map(|(shard, parents)| {
            json!({
                "ShardId": shard.shard_id,
                "ParentShards": parents,
                "HashKeyRange": shard.hash_key_range,
            })
        })
        .collect()
}

/// A `NextToken`: everything of the request that the next page needs.
#[derive(Serialize, Deserialize)]
struct Token {
    stream: String,
    after: String,
    filter: Value,
}

impl Inner {
    pub(super) async fn list_shards(&self, data: &Value) -> Answer {
        let max = data["MaxResults"].as_u64().unwrap_or(DEFAULT_RESULTS);
        if !(1..=MAX_RESULTS).contains(&max) {
            return Err(invalid("MaxResults must be between 1 and 10000"));
        }
        let from = match (data["NextToken"].as_str(), data["StreamName"].as_str()) {
            (Some(_), Some(_)) => {
                return Err(invalid("NextToken and StreamName cannot be provided together."));
            }
            (None, None) => {
                return Err(invalid("Either NextToken or StreamName should be provided."));
            }
            (Some(token), None) => URL_SAFE_NO_PAD
                .decode(token)
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .ok_or_else(|| invalid("NextToken is invalid."))?,
            (None, Some(stream)) => Token {
                stream: stream.to_owned(),
                after: data["ExclusiveStartShardId"].as_str().unwrap_or_default().to_owned(),
                filter: data["ShardFilter"].clone(),
            },
        };
        let stream = self.store.get_stream(&from.stream).await?;
        let oldest =
            super::retention::horizon(self.clock.wall(), stream.retention_period_hours) * 1000.0;
        // A stream younger than its retention begins with its first shards.
        let first = stream.shards.iter().map(created).min().unwrap_or(0);
        let oldest = first.max(oldest.max(0.0) as u64);
        let mut kept = Vec::new();
        for shard in &stream.shards {
            // AWS forgets closed shards together with their records.
            let gone = closed(shard).is_some_and(|at| at < oldest);
            if !gone && shard.shard_id > from.after && wanted(shard, &from.filter, oldest)? {
                kept.push(shard);
            }
        }
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let more = kept.len() > max;
        kept.truncate(max);
        let mut answer = json!({ "Shards": kept });
        if more && let Some(last) = kept.last() {
            let token = Token { after: last.shard_id.clone(), ..from };
            let bytes = serde_json::to_vec(&token).unwrap_or_default();
            answer["NextToken"] = URL_SAFE_NO_PAD.encode(bytes).into();
        }
        Ok(Some(answer))
    }
}

/// Whether a `ShardFilter` lets the shard through.
fn wanted(shard: &Shard, filter: &Value, oldest: u64) -> Result<bool, KinesisFault> {
    let at = || {
        let seconds = filter["Timestamp"].as_f64();
        seconds
            .map(|seconds| (seconds * 1000.0).max(0.0) as u64)
            .ok_or_else(|| invalid("ShardFilter needs a Timestamp"))
    };
    let open_at = |at: u64| created(shard) <= at && closed(shard).is_none_or(|end| end >= at);
    let open_since = |at: u64| closed(shard).is_none_or(|end| end >= at);
    match filter["Type"].as_str() {
        None => Ok(true),
        Some("AFTER_SHARD_ID") => {
            Ok(filter["ShardId"].as_str().is_some_and(|id| shard.shard_id.as_str() > id))
        }
        Some("AT_LATEST") => Ok(closed(shard).is_none()),
        Some("AT_TRIM_HORIZON") => Ok(open_at(oldest)),
        Some("FROM_TRIM_HORIZON") => Ok(open_since(oldest)),
        Some("AT_TIMESTAMP") => Ok(open_at(at()?)),
        Some("FROM_TIMESTAMP") => Ok(open_since(at()?)),
        Some(other) => Err(invalid(format!("`{other}` is not a ShardFilter type"))),
    }
}
