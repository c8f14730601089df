//! The real binary, the real SDK, the embedded services.

mod cli;
mod docs;
mod door;
mod exactly_once;
mod flow;
mod layering;
mod lifecycle;
mod support;
