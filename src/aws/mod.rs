//! The only place that names the AWS SDK.

pub mod clients;
#[cfg(feature = "lambda")]
pub mod door;
pub mod dynamodb;
mod fault;
pub mod kinesis;
pub mod objects;
pub mod producer;
mod records;
pub mod s3;
pub mod tables;
