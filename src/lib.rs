//! Catchment moves an Amazon Kinesis stream into Amazon S3: completely, once, cheaply and fast.

pub mod clock;
pub mod ids;
pub mod task;

#[cfg(feature = "local")]
pub mod local;
