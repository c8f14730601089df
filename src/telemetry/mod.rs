//! What the worker shows of itself.

pub mod http;
pub mod logs;
pub mod metrics;
pub mod table;
