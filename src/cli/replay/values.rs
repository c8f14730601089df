//! Values of the arguments: times, sequence numbers, prefixes.

use crate::cli::Failure;
use crate::clock::Clock;
use crate::delivery::object_key::Template;
use crate::ids::SequenceNumber;

/// A prefix for archive, dead letters and uploads alike: literal text.
pub(super) fn prefix(text: &str) -> Result<String, Failure> {
    let prefix = if text.ends_with('/') { text.to_owned() } else { format!("{text}/") };
    let bad = |why: String| Failure::new(2, format!("--prefix {text}: {why}"));
    if text.is_empty() {
        return Err(bad("is empty: a replay must not write among the live objects".into()));
    }
    if prefix.contains("!{") {
        return Err(
            bad("variables belong into delivery.prefix, this is put in front of it".into()),
        );
    }
    Template::parse(&prefix, false).map_err(|e| bad(e.to_string()))?;
    Ok(prefix)
}

pub(super) fn time(flag: &str, text: &str) -> Result<i64, Failure> {
    let parsed = text.parse::<jiff::Timestamp>();
    parsed.map(jiff::Timestamp::as_millisecond).map_err(|_| {
        Failure::new(2, format!("{flag} {text}: a time such as 2026-11-23T07:00:00Z is expected"))
    })
}

/// Kinesis refuses to begin in the future.
pub(in crate::cli) fn past(flag: &str, text: &str, clock: &Clock) -> Result<i64, Failure> {
    let ms = time(flag, text)?;
    if ms > clock.wall() {
        return Err(Failure::new(2, format!("{flag} {text}: is in the future")));
    }
    Ok(ms)
}

pub(super) fn number(flag: &str, text: &str) -> Result<SequenceNumber, Failure> {
    SequenceNumber::parse(text).map_err(|e| Failure::new(2, format!("{flag}: {e}")))
}
