//! The only place that names the AWS SDK.

pub mod clients;
#[cfg(feature = "lambda")]
pub mod door;
pub mod dynamodb;
mod events;
pub mod fan_out;
mod fault;
pub mod kinesis;
pub mod objects;
pub mod probe;
pub mod producer;
mod records;
pub mod s3;
pub mod tables;
mod wire;
