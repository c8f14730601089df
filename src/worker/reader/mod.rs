//! Reads one shard: by GetRecords or by subscription.

pub mod context;
pub mod fan_out;
pub mod poll;
