//! The only place that names the AWS SDK.

pub mod clients;
pub mod dynamodb;
mod events;
pub mod fan_out;
mod fault;
#[cfg(feature = "lambda")]
pub mod front_door;
pub mod kinesis;
pub mod lookup;
pub mod objects;
pub mod preflight;
pub mod producer;
mod records;
mod reply;
pub mod s3;
mod silence;
mod subscriptions;
pub mod tables;
pub mod transport;
mod wire;
