//! Uploads: a caller's file becomes one versioned event in the stream, and later one object.
//!
//! `caller → [API Gateway: token check] → handler → Kinesis → worker → S3`. The vocabulary shared
//! by both ends is [`event`]; who may call is decided in [`claims`]; [`handler`] awaits and obeys.

pub mod claims;
pub mod event;
pub(crate) mod file_key;
#[cfg(feature = "lambda")]
pub mod handler;
pub mod media;
#[cfg(feature = "lambda")]
mod reply;
#[cfg(feature = "lambda")]
mod request;
