//! The real binary, the real SDK, the embedded services.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests; helpers outside test functions count as code for clippy"
)]

mod cli;
mod docs;
mod door;
mod exactly_once;
mod flow;
mod layering;
mod lifecycle;
mod reshard;
mod support;
mod takeover;
