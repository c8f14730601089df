//! What the worker shows of itself.

pub mod http;
pub mod logs;
mod page;
