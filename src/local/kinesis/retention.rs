//! What is still retained, and counters of shards.

/// The oldest arrival, in epoch seconds, that is still retained.
pub(super) fn horizon(now_ms: i64, hours: u32) -> f64 {
    now_ms as f64 / 1000.0 - f64::from(hours) * 3600.0
}

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
