//! Exactly-once: intents before objects, checkpoints after them.

pub mod intent;
pub mod ledger;
pub mod recovery;
