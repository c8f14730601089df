//! The real binary, the real SDK, the embedded services.

mod cli;
mod docs;
mod exactly_once;
mod layering;
mod lifecycle;
mod support;
