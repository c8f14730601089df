//! What is still retained.

/// The oldest arrival, in epoch seconds, that is still retained.
pub(super) fn horizon(now_ms: i64, hours: u32) -> f64 {
    now_ms as f64 / 1000.0 - f64::from(hours) * 3600.0
}
