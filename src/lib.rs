//! Catchment moves an Amazon Kinesis stream into Amazon S3: completely, once, cheaply and fast.

pub mod aws;
pub mod clock;
pub mod ids;
pub mod task;
pub mod upload;

#[cfg(feature = "local")]
pub mod local;
