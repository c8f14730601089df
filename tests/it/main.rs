//! The real binary, the real SDK, the embedded services.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests; helpers outside test functions count as code for clippy"
)]

mod against_java;
mod churn;
mod cli;
mod config;
mod docs;
mod doctor;
mod door;
mod exactly_once;
mod faults;
mod flow;
mod iam;
mod layering;
mod lifecycle;
mod names;
mod page;
mod partition;
mod proxy;
mod replay;
mod reshard;
mod rewind;
mod shell;
mod support;
mod takeover;
mod tls;
mod verify;
