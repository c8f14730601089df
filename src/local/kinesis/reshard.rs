//! SplitShard, MergeShards and UpdateShardCount, with the lineage AWS keeps.

use ferrokinesis::sequence::{self, SeqObj};
use ferrokinesis::types::{HashKeyRange, SequenceNumberRange, Shard, Stream};
use serde_json::{Value, json};

use super::shards::{created, shard};
use super::{Answer, Inner, KinesisFault, SHARD_LIMIT, invalid};

fn is_open(shard: &Shard) -> bool {
    shard.sequence_number_range.ending_sequence_number.is_none()
}

/// Closes a shard: no sequence number after this one will ever be given out in it.
fn close(stream: &mut Stream, shard_ix: usize, now_ms: u64) {
    let shard = &mut stream.shards[shard_ix];
    let created = created(shard);
    shard.sequence_number_range.ending_sequence_number =
        Some(sequence::stringify_sequence(&SeqObj {
            shard_create_time: created,
            seq_ix: Some(sequence::MAX_SEQ_IX),
            byte1: None,
            seq_time: Some(now_ms.max(created)),
            seq_rand: None,
            shard_ix: shard_ix as i64,
            version: 2,
        }));
}

/// Adds an open shard whose sequence numbers are all above those of its parents.
fn add(stream: &mut Stream, range: (u128, u128), parents: (usize, Option<usize>), now_ms: u64) {
    let shard_ix = stream.shards.len() as i64;
    let oldest = [Some(parents.0), parents.1]
        .into_iter()
        .flatten()
        .map(|parent| created(&stream.shards[parent]) + 1000)
        .fold(now_ms, u64::max);
    let id = |ix: usize| stream.shards[ix].shard_id.clone();
    let child = Shard {
        shard_id: sequence::shard_id_name(shard_ix),
        hash_key_range: HashKeyRange::new(range.0.to_string(), range.1.to_string()),
        sequence_number_range: SequenceNumberRange {
            starting_sequence_number: sequence::stringify_sequence(&SeqObj {
                shard_create_time: oldest,
                seq_ix: None,
                byte1: None,
                seq_time: None,
                seq_rand: None,
                shard_ix,
                version: 2,
            }),
            ending_sequence_number: None,
        },
        parent_shard_id: Some(id(parents.0)),
        adjacent_parent_shard_id: parents.1.map(id),
    };
    stream.shards.push(child);
}

fn split(stream: &mut Stream, shard_ix: usize, at: u128, now_ms: u64) -> Result<(), KinesisFault> {
    let shard = &stream.shards[shard_ix];
    let (start, end) = (shard.hash_key_range.start_u128(), shard.hash_key_range.end_u128());
    refuse_closed(stream, shard_ix)?;
    if at <= start || at > end {
        return Err(invalid(format!(
            "NewStartingHashKey {at} used in SplitShard() on shard {} in stream {} is not both greater than one plus the shard's StartingHashKey {start} and less than the shard's EndingHashKey {end}.",
            shard.shard_id, stream.stream_name
        )));
    }
    close(stream, shard_ix, now_ms);
    add(stream, (start, at - 1), (shard_ix, None), now_ms);
    add(stream, (at, end), (shard_ix, None), now_ms);
    Ok(())
}

fn merge(stream: &mut Stream, left: usize, right: usize, now_ms: u64) -> Result<(), KinesisFault> {
    refuse_closed(stream, left)?;
    refuse_closed(stream, right)?;
    // AWS takes the two in either order.
    let (left, right) = {
        let start = |ix: usize| stream.shards[ix].hash_key_range.start_u128();
        if start(left) <= start(right) { (left, right) } else { (right, left) }
    };
    let (one, two) = (&stream.shards[left], &stream.shards[right]);
    let next = one.hash_key_range.end_u128().checked_add(1);
    if left == right || next != Some(two.hash_key_range.start_u128()) {
        return Err(invalid(format!(
            "Shards {} and {} in stream {} are not an adjacent pair of shards eligible for merging",
            one.shard_id, two.shard_id, stream.stream_name
        )));
    }
    let range = (one.hash_key_range.start_u128(), two.hash_key_range.end_u128());
    close(stream, left, now_ms);
    close(stream, right, now_ms);
    add(stream, range, (left, Some(right)), now_ms);
    Ok(())
}

fn refuse_closed(stream: &Stream, shard_ix: usize) -> Result<(), KinesisFault> {
    let shard = &stream.shards[shard_ix];
    if is_open(shard) {
        return Ok(());
    }
    let message = format!(
        "Shard {} in stream {} is closed; only open shards can be split or merged.",
        shard.shard_id, stream.stream_name
    );
    Err(KinesisFault::client_error("ResourceInUseException", Some(&message)))
}

/// Where `target` equal parts of the hash range begin, rounded as CreateStream rounds.
fn starts(target: u128) -> Vec<u128> {
    if target == 1 {
        return vec![0];
    }
    // 2^128 / target, without having 2^128.
    let size = u128::MAX / target + u128::from(u128::MAX % target + 1 == target);
    (0..target).map(|part| part * size).collect()
}

/// Splits and merges until `target` shards of equal size are open.
fn resize(stream: &mut Stream, target: u128, now_ms: u64) -> Result<(), KinesisFault> {
    let starts = starts(target);
    for &start in &starts {
        let holder = stream.shards.iter().position(|shard| {
            let range = &shard.hash_key_range;
            is_open(shard) && range.start_u128() < start && start <= range.end_u128()
        });
        if let Some(holder) = holder {
            split(stream, holder, start, now_ms)?;
        }
    }
    loop {
        let surplus = stream.shards.iter().position(|shard| {
            is_open(shard) && !starts.contains(&shard.hash_key_range.start_u128())
        });
        let Some(right) = surplus else {
            return Ok(());
        };
        let before = stream.shards[right].hash_key_range.start_u128() - 1;
        let left = stream
            .shards
            .iter()
            .position(|shard| is_open(shard) && shard.hash_key_range.end_u128() == before)
            .ok_or_else(|| KinesisFault::server_error(None, Some("the open shards have a gap")))?;
        merge(stream, left, right, now_ms)?;
    }
}

impl Inner {
    async fn reshard<T>(
        &self,
        name: &str,
        change: impl FnOnce(&mut Stream, u64) -> Result<T, KinesisFault>,
    ) -> Result<T, KinesisFault> {
        let mut counters = self.writing.lock().await;
        let now_ms = u64::try_from(self.clock.wall()).unwrap_or(0);
        let others: usize = {
            let all = self.store.sum_open_shards().await as usize;
            let stream = self.store.get_stream(name).await?;
            all - stream.shards.iter().filter(|s| is_open(s)).count()
        };
        let result = self
            .store
            .update_stream(name, |stream| {
                let result = change(stream, now_ms)?;
                let open = stream.shards.iter().filter(|s| is_open(s)).count();
                if others + open > SHARD_LIMIT as usize {
                    let message = format!("This request would exceed {SHARD_LIMIT} open shards.");
                    return Err(KinesisFault::client_error(
                        "LimitExceededException",
                        Some(&message),
                    ));
                }
                Ok(result)
            })
            .await?;
        self.keep(name, &mut counters).await?;
        Ok(result)
    }

    pub(super) async fn split_shard(&self, data: &Value) -> Answer {
        let name = data["StreamName"].as_str().unwrap_or_default();
        let id = data["ShardToSplit"].as_str().unwrap_or_default();
        let at = data["NewStartingHashKey"].as_str().unwrap_or_default();
        let at = at
            .parse()
            .map_err(|_| invalid(format!("NewStartingHashKey `{at}` is not a hash key")))?;
        self.reshard(name, |stream, now_ms| split(stream, shard(stream, id)?, at, now_ms)).await?;
        Ok(None)
    }

    pub(super) async fn merge_shards(&self, data: &Value) -> Answer {
        let name = data["StreamName"].as_str().unwrap_or_default();
        let one = data["ShardToMerge"].as_str().unwrap_or_default();
        let two = data["AdjacentShardToMerge"].as_str().unwrap_or_default();
        self.reshard(name, |stream, now_ms| {
            let (one, two) = (shard(stream, one)?, shard(stream, two)?);
            merge(stream, one, two, now_ms)
        })
        .await?;
        Ok(None)
    }

    pub(super) async fn update_shard_count(&self, data: &Value) -> Answer {
        let name = data["StreamName"].as_str().unwrap_or_default();
        let target = data["TargetShardCount"].as_u64().unwrap_or(0);
        if target == 0 || target > u64::from(SHARD_LIMIT) {
            return Err(invalid(format!("TargetShardCount must be between 1 and {SHARD_LIMIT}")));
        }
        let (current, arn) = self
            .reshard(name, |stream, now_ms| {
                let current = stream.shards.iter().filter(|s| is_open(s)).count();
                resize(stream, u128::from(target), now_ms)?;
                Ok((current, stream.stream_arn.clone()))
            })
            .await?;
        Ok(Some(json!({
            "StreamName": name,
            "StreamARN": arn,
            "CurrentShardCount": current,
            "TargetShardCount": target,
        })))
    }
}
