//! Counters and gauges: one table of all of them, and the registry that holds their values.

pub mod registry;
pub mod table;
