//! What can go wrong between a node and a service, and how often, drawn per seed.
//!
//! Swarm testing: each seed switches every class on or off and picks its own rate, so that some
//! seeds are all of one fault and others are calm enough for rare interleavings to finish.

use std::sync::Arc;
use std::time::Duration;

use crate::services::Service;

/// What the network does to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Never arrives; the sender waits.
    RequestLost,
    /// Takes effect; the sender waits.
    ResponseLost,
    /// Refused with a 5xx, no effect.
    ErrorBefore,
    /// Takes effect, answered with a 5xx.
    ErrorAfter,
    /// Refused as too fast, no effect.
    Throttled,
    /// The connection breaks, no effect.
    ResetBefore,
    /// Takes effect, then the connection breaks.
    ResetAfter,
    /// Takes effect now and once more after this long.
    Duplicated(Duration),
    /// Takes effect only after this long, when the sender has usually given up.
    Late(Duration),
    /// S3's 409 for a conditional write that raced another.
    Conflict,
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Fault::RequestLost => "request-lost",
            Fault::ResponseLost => "response-lost",
            Fault::ErrorBefore => "error-before",
            Fault::ErrorAfter => "error-after",
            Fault::Throttled => "throttled",
            Fault::ResetBefore => "reset-before",
            Fault::ResetAfter => "reset-after",
            Fault::Duplicated(_) => "duplicated",
            Fault::Late(_) => "late",
            Fault::Conflict => "conflict",
        }
    }
}

/// Rates, in a thousand requests, and latencies.
#[derive(Clone, Debug, Default)]
pub struct FaultMix {
    pub request_lost: u32,
    pub response_lost: u32,
    pub error_before: u32,
    pub error_after: u32,
    pub throttled: u32,
    pub reset_before: u32,
    pub reset_after: u32,
    pub duplicated: u32,
    pub late: u32,
    pub conflict: u32,
    /// Every leg takes at least this long.
    pub latency_ms: u64,
    /// And up to this much longer, evenly.
    pub spread_ms: u64,
    /// How many legs are slow instead, and how slow they may be.
    pub slow: u32,
    pub slow_ms: u64,
}

impl FaultMix {
    /// A network without faults: 2 to 5 ms a leg.
    pub fn calm() -> Self {
        Self { latency_ms: 2, spread_ms: 3, ..Self::default() }
    }

    /// A mix of its own for each seed.
    pub fn draw(rng: &mut fastrand::Rng) -> Self {
        let rates = [2, 5, 10, 20, 50, 90];
        let mut rate = || {
            if rng.bool() { 0 } else { rates[rng.usize(0..rates.len())] }
        };
        let (request_lost, response_lost) = (rate(), rate());
        let (error_before, error_after) = (rate(), rate());
        let (reset_before, reset_after) = (rate(), rate());
        let (throttled, duplicated, late, conflict, slow) =
            (rate(), rate(), rate(), rate(), rate());
        Self {
            request_lost,
            response_lost,
            error_before,
            error_after,
            throttled,
            reset_before,
            reset_after,
            duplicated,
            late,
            conflict,
            latency_ms: rng.u64(1..15),
            spread_ms: rng.u64(1..60),
            slow,
            slow_ms: rng.u64(200..8_000),
        }
    }

    /// The fault of one request. Always takes the same number of draws.
    pub fn pick(&self, rng: &mut fastrand::Rng, conditional_put: bool) -> Option<Fault> {
        let mut dice = rng.u32(0..1000);
        // Most stragglers land within a minute, some only before their signature expires.
        let straggle = if rng.u32(0..8) == 0 { 890_000 } else { 60_000 };
        let straggle = Duration::from_millis(rng.u64(50..straggle));
        let classes = [
            (self.request_lost, Fault::RequestLost),
            (self.response_lost, Fault::ResponseLost),
            (self.error_before, Fault::ErrorBefore),
            (self.error_after, Fault::ErrorAfter),
            (self.throttled, Fault::Throttled),
            (self.reset_before, Fault::ResetBefore),
            (self.reset_after, Fault::ResetAfter),
            (self.duplicated, Fault::Duplicated(straggle)),
            (self.late, Fault::Late(straggle)),
            (if conditional_put { self.conflict } else { 0 }, Fault::Conflict),
        ];
        for (rate, fault) in classes {
            if dice < rate {
                return Some(fault);
            }
            dice -= rate;
        }
        None
    }

    /// The two legs of one request.
    pub fn legs(&self, rng: &mut fastrand::Rng) -> (Duration, Duration) {
        let mut leg = || {
            let slow = rng.u32(0..1000) < self.slow;
            let span = if slow { self.slow_ms } else { self.spread_ms };
            Duration::from_millis(self.latency_ms + rng.u64(0..=span))
        };
        (leg(), leg())
    }
}

/// Who a window concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every request to a service.
    Service(Service),
    /// Both directions between a node (all its incarnations) and everything.
    Node(Arc<str>),
    /// Only what comes back to a node: its requests still land.
    Replies(Arc<str>),
}

/// What a service answers while it is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Connections are refused.
    Refused,
    /// Nothing comes back.
    Silent,
    /// 5xx.
    Unavailable,
    /// Throttled.
    Throttled,
    /// The credentials of everybody have expired.
    Expired,
    /// 5xx for half of all paths, always the same: some objects of a batch get through.
    Half,
}

impl Outage {
    pub const ALL: [Outage; 5] =
        [Outage::Refused, Outage::Silent, Outage::Unavailable, Outage::Throttled, Outage::Expired];
}

/// A stretch of virtual time in which a part of the world is cut off.
#[derive(Clone, Debug)]
pub struct Window {
    pub scope: Scope,
    pub from_ms: u64,
    pub to_ms: u64,
    /// For services; nodes are simply silent.
    pub kind: Outage,
}

/// A fault for exactly one request, chosen by a test.
#[derive(Clone, Debug)]
pub struct Script {
    /// The node's name, or any.
    pub node: Option<&'static str>,
    pub op: &'static str,
    /// How many matching requests pass first.
    pub skip: u32,
    pub fault: Fault,
}
