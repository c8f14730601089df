//! Simulation: a fleet of workers with the real AWS SDK clients against simulated services, over a
//! simulated network, in virtual time. One seed is one fleet, one thread, one trace.
//!
//! [`sim`] runs a seed; [`net`] carries requests, [`feed`] what is pushed; [`node`] is a process that can die; [`services`]
//! answer; [`effects`] records and lets an oracle judge; [`fleet`] draws what happens, and [`drive`] does it.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "this is all test code")]

/// Fleets allocate millions of small things, and this one is a fifth faster than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(feature = "local")]
mod agreement;
mod conformance;
mod consumer;
mod drive;
mod effects;
mod faults;
mod feed;
mod fleet;
mod leases_test;
mod load;
mod meta;
mod net;
mod net_test;
mod node;
mod operator;
mod oracle;
mod resume;
mod services;
mod sim;
mod sweep;
mod wire_test;
mod worker;
mod worker_test;
