//! The only source of time and chance.
//!
//! Everything that decides takes `now` as an argument; everything that waits uses tokio's timer,
//! which a simulation can pause. Two time lines exist and never mix: [`Clock::now`] is monotonic
//! and private to the process (leases, deadlines), [`Clock::wall`] is UTC (object stamps, logs).

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Reads time. Cheap to clone.
#[derive(Clone)]
pub struct Clock {
    origin: tokio::time::Instant,
    wall: Wall,
}

#[derive(Clone)]
enum Wall {
    System,
    /// Follows the (pausable) monotonic clock from a fixed start, plus a skew in milliseconds.
    Virtual {
        start: tokio::time::Instant,
        epoch_ms: Arc<AtomicI64>,
    },
}

impl Clock {
    /// The machine's clocks.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn system() -> Self {
        Self { origin: tokio::time::Instant::now(), wall: Wall::System }
    }

    /// A wall clock that starts at `epoch_ms` and advances with tokio's clock: for simulations,
    /// where several nodes share one timer and differ in `epoch_ms`.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn simulated(epoch_ms: i64) -> Self {
        let now = tokio::time::Instant::now();
        let epoch_ms = Arc::new(AtomicI64::new(epoch_ms));
        Self { origin: now, wall: Wall::Virtual { start: now, epoch_ms } }
    }

    /// Monotonic time since this clock was made.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(&self) -> Duration {
        tokio::time::Instant::now() - self.origin
    }

    /// Milliseconds since the Unix epoch, UTC.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn wall(&self) -> i64 {
        match &self.wall {
            Wall::System => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)),
            Wall::Virtual { start, epoch_ms } => {
                let elapsed = (tokio::time::Instant::now() - *start).as_millis();
                let epoch_ms = epoch_ms.load(Ordering::Relaxed);
                epoch_ms.saturating_add(i64::try_from(elapsed).unwrap_or(i64::MAX))
            }
        }
    }

    /// Sets a simulated wall clock forward or back, as time services do to real ones.
    pub fn step_wall(&self, by_ms: i64) {
        if let Wall::Virtual { epoch_ms, .. } = &self.wall {
            epoch_ms.fetch_add(by_ms, Ordering::Relaxed);
        }
    }

    /// Waits.
    pub async fn sleep(&self, for_: Duration) {
        tokio::time::sleep(for_).await;
    }

    /// Waits until [`Clock::now`] reaches `at`.
    pub async fn sleep_until(&self, at: Duration) {
        tokio::time::sleep_until(self.origin + at).await;
    }
}

/// Randomness for jitter, shuffles and ids. Cheap to clone; clones share one sequence.
#[derive(Clone)]
pub struct Jitter {
    sequence: Arc<Mutex<fastrand::Rng>>,
    /// Ids come from the operating system: 64 bits of state are too few for names that must never
    /// meet across processes, and one id must not betray the next.
    system: bool,
}

impl Jitter {
    /// Seeded by the operating system.
    pub fn system() -> Self {
        Self { sequence: Arc::new(Mutex::new(fastrand::Rng::new())), system: true }
    }

    /// The same sequence for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self { sequence: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))), system: false }
    }

    fn draw<T>(&self, f: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        f(&mut self.sequence.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// `base` scaled by a factor drawn evenly from [1 - spread, 1 + spread].
    pub fn spread(&self, base: Duration, spread: f64) -> Duration {
        base.mul_f64((1.0 + spread * (2.0 * self.draw(|r| r.f64()) - 1.0)).max(0.0))
    }

    /// Evenly from [0, max].
    pub fn up_to(&self, max: Duration) -> Duration {
        max.mul_f64(self.draw(|r| r.f64()))
    }

    /// A random (version 4) UUID.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn uuid(&self) -> uuid::Uuid {
        if self.system {
            return uuid::Uuid::new_v4();
        }
        let bytes = self.draw(|r| r.u128(..)).to_be_bytes();
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// An unguessable text of 244 random bits (when seeded by the operating system).
    pub fn secret(&self) -> String {
        format!("{}{}", self.uuid().simple(), self.uuid().simple())
    }
}
