//! The only place that names the AWS SDK.

pub mod clients;
pub mod dynamodb;
mod fault;
pub mod kinesis;
pub mod objects;
pub mod producer;
pub mod s3;
