//! How much a shard carries: measured by its owner, written rarely, read by everybody.
//!
//! The number balances the fleet, so what matters is that it rests. It is a mean over minutes, and
//! the row is given a new one only when that differs by half or more: noise of a fifth either way
//! changes nothing once a number stands.

use std::time::Duration;

/// Time over which the mean forgets.
const MEMORY: Duration = Duration::from_secs(300);
/// What is known after less than this is not worth telling.
const FIRST: Duration = Duration::from_secs(60);
/// A number in the row counts as if it had been measured for this long.
const INHERITED: Duration = Duration::from_secs(120);
/// Shortest stretch the mean is moved by.
const STEP: Duration = Duration::from_secs(5);
/// Change that is worth a new number.
const NOTABLE: f64 = 1.5;
/// Below this many KiB/s a shard is as good as idle.
const IDLE: f64 = 1.0;

/// Measures one shard.
#[derive(Debug)]
pub struct Meter {
    bytes: u64,
    since: Duration,
    mean: f64,
    measured: Duration,
}

impl Meter {
    /// Begins at `now`, with what the row says (KiB/s), if it says anything.
    pub fn new(now: Duration, stored: Option<f64>) -> Self {
        let measured = stored.map_or(Duration::ZERO, |_| INHERITED);
        Self { bytes: 0, since: now, mean: stored.unwrap_or(0.0), measured }
    }

    /// Payload bytes were read.
    pub fn read(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// KiB/s to write beside a row that says `stored`, if that is notably out of date.
    pub fn tell(&mut self, now: Duration, stored: Option<f64>) -> Option<f64> {
        let stretch = now.saturating_sub(self.since);
        if stretch >= STEP {
            let rate = self.bytes as f64 / 1024.0 / stretch.as_secs_f64();
            // A plain mean at first, a forgetting one later.
            self.measured = (self.measured + stretch).min(MEMORY);
            let part = (stretch.as_secs_f64() / self.measured.as_secs_f64()).min(1.0);
            self.mean += part * (rate - self.mean);
            (self.bytes, self.since) = (0, now);
        }
        (self.measured >= FIRST && notable(stored, self.mean)).then_some(self.mean)
    }
}

/// Is `mean` so far from what the row says that it should be told?
pub fn notable(stored: Option<f64>, mean: f64) -> bool {
    let Some(stored) = stored else {
        return true;
    };
    let change = mean.max(IDLE) / stored.max(IDLE);
    change >= NOTABLE || change <= 1.0 / NOTABLE
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// Numbers told over `seconds` at a rate of bytes per second.
    fn run(
        meter: &mut Meter,
        stored: &mut Option<f64>,
        from: u32,
        seconds: u32,
        rate: impl Fn(u32) -> u64,
    ) -> Vec<f64> {
        let mut told = Vec::new();
        for second in from..from + seconds {
            meter.read(rate(second));
            if let Some(kbps) = meter.tell(second * S, *stored) {
                *stored = Some(kbps);
                told.push(kbps);
            }
        }
        told
    }

    #[test]
    fn a_steady_shard_is_told_once() {
        let (mut meter, mut stored) = (Meter::new(Duration::ZERO, None), None);
        let told = run(&mut meter, &mut stored, 1, 3_600, |s| {
            if s.is_multiple_of(2) { 24_576 } else { 16_384 }
        });
        assert_eq!(told.len(), 1, "{told:?}");
        assert!((told[0] - 20.0).abs() < 1.0, "{told:?}");
    }

    #[test]
    fn a_change_is_told_within_minutes_and_an_idle_shard_comes_to_rest() {
        let (mut meter, mut stored) = (Meter::new(Duration::ZERO, Some(20.0)), Some(20.0));
        assert!(run(&mut meter, &mut stored, 1, 600, |_| 20_480).is_empty());
        assert!(!run(&mut meter, &mut stored, 601, 300, |_| 204_800).is_empty());
        run(&mut meter, &mut stored, 901, 7_200, |_| 0);
        assert!(stored.unwrap() < 2.0);
        assert!(run(&mut meter, &mut stored, 8_101, 3_600, |_| 0).is_empty());
    }

    #[test]
    fn noise_of_a_fifth_is_not_news() {
        for (stored, mean) in [(80.0, 119.0), (120.0, 81.0), (0.0, 1.4), (1.0, 0.0)] {
            assert!(!notable(Some(stored), mean), "{stored} {mean}");
        }
        assert!(notable(None, 0.0) && notable(Some(10.0), 15.0) && notable(Some(15.0), 10.0));
    }
}
