//! Counters of shards: the next record of each.

/// Raises the counter of the shard in a record key past that record.
pub(super) fn count(counters: &mut Vec<u64>, key: &str) {
    let Some((_, number)) = key.split_once('/') else {
        return;
    };
    let Ok(number) = ferrokinesis::sequence::parse_sequence(number) else {
        return;
    };
    let Ok(shard) = usize::try_from(number.shard_ix) else {
        return;
    };
    if counters.len() <= shard {
        counters.resize(shard + 1, 1);
    }
    counters[shard] = counters[shard].max(number.seq_ix.unwrap_or(0) + 1);
}
