//! Starting a worker: everything it needs is checked before the first lease is taken.

mod assemble;
pub mod error;
mod fan_out_consumer;
mod lease_table;
mod prepare;

pub use assemble::Worker;
pub use error::StartError;
pub use prepare::{prepare, prepare_for};
