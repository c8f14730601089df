//! When a shard may be polled again.
//!
//! Kinesis allows each shard 5 GetRecords calls and 2 MB per second, shared by every polling
//! consumer; a 10 MB reply blocks the shard for up to 5 s. Staying inside by our own arithmetic
//! is cheaper than being throttled.

use std::time::Duration;

/// What one shard allows its polling readers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaceLimits {
    /// Pause between polls of a shard that has nothing new.
    pub idle: Duration,
    /// GetRecords calls per second.
    pub calls_per_second: f64,
    /// Payload bytes per second; infinite for no limit.
    pub bytes_per_second: f64,
}

/// Payload asked for at once. A shard gives 2 MB per second, so larger replies bring nothing but
/// large allocations, which the allocator is slow to give back.
const AIM: usize = 2 << 20;
/// However slow the path is.
const LEAST_AIM: usize = 64 << 10;

/// How much is asked for at once: less after a reply that did not arrive in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim(usize);

impl Default for Aim {
    fn default() -> Self {
        Self(AIM)
    }
}

impl Aim {
    /// Payload, bytes.
    pub fn bytes(self) -> usize {
        self.0
    }

    /// A reply of that size did not arrive.
    pub fn timed_out(&mut self) {
        self.0 = (self.0 / 4).max(LEAST_AIM);
    }

    /// A reply with this much payload arrived. One that says nothing about a larger one changes
    /// nothing.
    pub fn arrived(&mut self, payload: usize) {
        if payload >= self.0 / 2 {
            self.0 = self.0.saturating_mul(2).min(AIM);
        }
    }
}

/// Longest pause after repeated throttles.
const MAX_PENALTY: Duration = Duration::from_secs(10);

/// The pacing state of one shard.
#[derive(Debug)]
pub struct Pacing {
    limits: PaceLimits,
    last_call: Option<Duration>,
    bytes_due: Duration,
    throttles: u32,
    caught_up: bool,
}

impl Pacing {
    /// Nothing called yet.
    pub fn new(limits: PaceLimits) -> Self {
        Self { limits, last_call: None, bytes_due: Duration::ZERO, throttles: 0, caught_up: false }
    }

    /// The earliest time of the next call.
    pub fn next_call(&self) -> Duration {
        let Some(last) = self.last_call else {
            return Duration::ZERO;
        };
        let pause = if self.throttles > 0 {
            Duration::from_millis(500).saturating_mul(1 << self.throttles.min(5)).min(MAX_PENALTY)
        } else if self.caught_up {
            self.limits.idle
        } else {
            Duration::from_secs_f64(1.0 / self.limits.calls_per_second)
        };
        (last + pause).max(self.bytes_due)
    }

    /// A page came: `bytes` of payload, and whether the shard has more right now.
    pub fn page(&mut self, now: Duration, bytes: usize, caught_up: bool) {
        self.last_call = Some(now);
        self.throttles = 0;
        self.caught_up = caught_up;
        let spent = Duration::from_secs_f64(bytes as f64 / self.limits.bytes_per_second);
        self.bytes_due = self.bytes_due.max(now) + spent;
    }

    /// The call was throttled.
    pub fn throttled(&mut self, now: Duration) {
        self.last_call = Some(now);
        self.throttles = self.throttles.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_is_asked_for_after_a_time_out_and_more_again_as_it_arrives() {
        let mut aim = Aim::default();
        aim.timed_out();
        assert_eq!(aim.bytes(), AIM / 4);
        aim.arrived(1000);
        assert_eq!(aim.bytes(), AIM / 4, "a small page says nothing about large ones");
        aim.arrived(AIM / 4);
        aim.arrived(AIM / 2);
        aim.arrived(AIM);
        assert_eq!(aim, Aim::default());
        for _ in 0..20 {
            aim.timed_out();
        }
        assert_eq!(aim.bytes(), LEAST_AIM);
    }

    const S: Duration = Duration::from_secs(1);
    const LIMITS: PaceLimits = PaceLimits { idle: S, calls_per_second: 4.0, bytes_per_second: 2e6 };

    #[test]
    fn a_big_reply_pays_for_itself() {
        let mut p = Pacing::new(LIMITS);
        p.page(S, 10_000_000, false);
        assert_eq!(p.next_call(), 6 * S);
    }

    #[test]
    fn backlog_is_read_at_four_calls_a_second_and_a_tip_at_the_idle_pace() {
        let mut p = Pacing::new(LIMITS);
        assert_eq!(p.next_call(), Duration::ZERO);
        p.page(S, 0, false);
        assert_eq!(p.next_call(), S + Duration::from_millis(250));
        p.page(S, 0, true);
        assert_eq!(p.next_call(), 2 * S);
    }

    #[test]
    fn throttles_back_off_and_recover() {
        let mut p = Pacing::new(LIMITS);
        let pauses: Vec<_> = (0..8)
            .map(|_| {
                p.throttled(S);
                p.next_call() - S
            })
            .collect();
        assert!(pauses.windows(2).all(|w| w[0] <= w[1]));
        assert_eq!(*pauses.last().unwrap(), MAX_PENALTY);
        p.page(S, 0, false);
        assert!(p.next_call() < 2 * S);
    }
}
