//! Delivering a range again, beside live traffic: own leases, own keys, the same worker.

pub mod plan;
pub mod progress;
pub mod resolve;
pub mod store;
