//! One worker: starts in order, runs until told to stop, stops in reverse.

pub mod context;
pub mod describing;
pub mod fleet;
pub mod health;
pub mod leases;
pub mod node;
pub mod reader;
pub mod shard;
pub mod spreading;
pub mod start;
pub mod status;
pub mod supervisor;
pub mod view;

pub use node::Node;
pub use start::{StartError, Worker, prepare, prepare_for};
