//! The real binary, the real SDK, the embedded services.

mod cli;
mod exactly_once;
mod faults;
mod layering;
mod lifecycle;
mod proxy;
mod support;
