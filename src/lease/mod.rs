//! Who reads which shard: the KCL's lease table.
//!
//! Leases make the fleet efficient. They do not make it correct: delivery is exactly-once by the
//! compare-and-set of [`crate::checkpoint`], whoever believes to own what.

pub mod assign;
pub mod change_marker;
pub mod expiry;
pub mod graph;
pub mod kcl3;
pub mod keys;
pub mod open_ends;
pub mod parked;
pub mod parking;
pub mod rewind;
pub mod rewind_request;
pub mod row;
pub mod scan_schedule;
pub mod throughput;
pub mod write;
