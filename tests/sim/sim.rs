//! A run: one seed, one thread, one paused clock.
//!
//! Everything random is seeded here, the SDK's retry jitter included (it draws from the thread's
//! `fastrand`). Time advances only when every task waits.

use std::future::Future;
use std::sync::{Arc, Mutex};

use catchment::clock::Clock;

use crate::effects::{Effect, Observer, Trace, Unobserved};
use crate::faults::FaultMix;
use crate::net::Net;
use crate::node::Dead;
use crate::services::world::WorldOptions;
use crate::services::{Backend, World};

/// The wall clock at the start of every run: 2026-01-01T00:00:00Z.
pub const EPOCH_MS: i64 = 1_767_225_600_000;

/// What a run is made of.
pub struct Setup {
    pub seed: u64,
    pub backend: Backend,
    pub faults: FaultMix,
    pub world: WorldOptions,
    pub observer: Box<dyn Observer>,
}

impl Setup {
    /// Strict services, no faults, no oracle.
    pub fn calm(seed: u64) -> Self {
        Self {
            seed,
            backend: Backend::Strict,
            faults: FaultMix::calm(),
            world: WorldOptions::default(),
            observer: Box::new(Unobserved),
        }
    }
}

/// A run under way. Cheap to clone.
#[derive(Clone)]
pub struct Sim {
    pub seed: u64,
    /// The true clock.
    pub clock: Clock,
    pub net: Net,
    pub trace: Trace,
    pub graveyard: Graveyard,
}

/// Tasks of dead nodes, kept until the run is over.
#[derive(Clone, Default)]
pub struct Graveyard(pub Arc<Mutex<Dead>>);

/// What a run leaves behind.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    /// Over the whole trace.
    pub hash: u64,
    /// Over (time, node, operation, status).
    pub outline: u64,
    pub virtual_ms: u64,
    pub effects: Vec<Effect>,
    pub violations: Vec<String>,
    pub sometimes: std::collections::BTreeMap<&'static str, u64>,
}

impl Report {
    /// Prints the trace, for a failing seed.
    pub fn print(&self) {
        for effect in &self.effects {
            println!("{effect}");
        }
        println!("seed {}: hash {:016x}, {} ms", self.seed, self.hash, self.virtual_ms);
    }
}

/// Runs `body` to its end.
pub fn run<T, F: Future<Output = T>>(setup: Setup, body: impl FnOnce(Sim) -> F) -> (T, Report) {
    fastrand::seed(setup.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let (trace, graveyard) = (Trace::default(), Graveyard::default());
    let (value, virtual_ms) = runtime.block_on(async {
        let clock = Clock::simulated(EPOCH_MS);
        let Setup { seed, backend, faults, world, observer } = setup;
        let world = World::new(seed, backend, world, trace.clone(), observer);
        let net = Net::new(seed, faults, world, clock.clone(), trace.clone());
        let sim = Sim {
            seed,
            clock,
            net: net.clone(),
            trace: trace.clone(),
            graveyard: graveyard.clone(),
        };
        let value = body(sim).await;
        (value, net.now().at)
    });
    // The runtime goes first: tasks of living nodes are dropped with it, the dead only after.
    drop(runtime);
    let dead = std::mem::take(&mut *graveyard.0.lock().unwrap());
    drop(dead);
    let report = Report {
        seed: setup.seed,
        hash: trace.hash(),
        outline: trace.outline(),
        virtual_ms,
        effects: trace.effects(),
        violations: trace.violations(),
        sometimes: trace.counts(),
    };
    (value, report)
}
