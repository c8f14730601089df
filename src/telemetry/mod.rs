//! What the worker shows of itself.

pub mod http;
pub mod logs;
pub mod metrics;
mod page;
pub mod table;
