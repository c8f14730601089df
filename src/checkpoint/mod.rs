//! Exactly-once: intents before objects, checkpoints after them.

pub mod ledger;
pub mod progress;
