//! The leases of this worker: takes them, keeps them alive, gives them back.
//!
//! What to do is decided in [`crate::lease`]; these tasks call the lease table and obey.

pub mod change_publisher;
pub mod change_signal;
pub mod context;
pub mod hand_back;
pub mod heartbeat;
pub mod held;
pub mod scanner;
pub mod shard_sync;
pub mod taker;
