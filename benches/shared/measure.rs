//! What the benchmarks of one thread measure with.

use std::time::Duration;

use crate::Outcome;

/// CPU seconds of this thread so far: the kernel's count in nanoseconds, not of ticks.
pub(crate) fn cpu() -> Outcome<f64> {
    // The kernel counts when a thread is taken off its core, else only with its clock.
    std::thread::sleep(Duration::from_micros(50));
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos: f64 = stat.split_whitespace().next().ok_or("unexpected schedstat")?.parse()?;
    Ok(nanos / 1e9)
}

/// The middle one.
pub(crate) fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
