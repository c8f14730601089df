//! The front door: a caller's file becomes one versioned event in the stream.
//!
//! `caller → [API Gateway: token check] → handler → Kinesis → worker → S3`. Who may call is decided
//! in [`claims`]; [`handler`] awaits and obeys. The event itself is [`crate::upload::event`].

pub mod claims;
#[cfg(feature = "lambda")]
pub mod handler;
pub mod media;
#[cfg(feature = "lambda")]
mod reply;
#[cfg(feature = "lambda")]
mod request;
