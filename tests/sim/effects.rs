//! What happened, in order: the trace of a run, and the hook an oracle hangs on.
//!
//! Every request that reaches a service leaves one [`Effect`], whether or not its sender ever hears
//! of it. The trace holds meaning, not bytes: JSON with sorted keys, bodies as length and hash. So
//! the same seed gives the same trace, although the SDK serialises maps in random order. Two hashes
//! exist: [`Trace::hash`] over everything, and [`Trace::outline`] over (time, node, operation,
//! status), which must agree between the two back ends as well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::Value;

use crate::services::attr::Row;
use crate::services::kinesis::{Kinesis, Record};
use crate::services::objects::Object;

/// One request as it took effect (or was refused) at a service.
#[derive(Clone, Debug)]
pub struct Effect {
    /// Virtual milliseconds since the start of the run.
    pub at: u64,
    pub node: Arc<str>,
    pub op: String,
    /// The fault the network added, `""` for none.
    pub fault: &'static str,
    pub status: u16,
    /// The service's error code, `""` for success.
    pub error: String,
    /// What was asked, in canonical form.
    pub what: String,
}

/// A change or a read that an oracle may want to judge.
#[derive(Debug)]
#[expect(dead_code, reason = "an oracle takes what it needs")]
pub enum Event<'a> {
    /// A write to a DynamoDB item, successful or not: equal images mean that nothing changed.
    Row { table: &'a str, key: &'a str, before: Option<&'a Row>, after: Option<&'a Row> },
    /// A PUT (or completed multipart upload) reached the store.
    Put {
        bucket: &'a str,
        key: &'a str,
        body: &'a Bytes,
        /// What stood under the key before.
        existing: Option<&'a Object>,
        /// Whether the body is now what the key holds.
        stored: bool,
    },
    /// An object was deleted.
    Delete { bucket: &'a str, key: &'a str },
    /// Records left a shard.
    Read {
        stream: &'a str,
        shard: &'a str,
        records: &'a [Record],
        /// The reader was told that the shard has ended.
        ended: bool,
    },
}

/// When and for whom an event happened.
#[derive(Clone, Debug)]
pub struct Moment {
    pub at: u64,
    pub node: Arc<str>,
}

/// Judges every event as it happens; an `Err` is a violation and fails the run.
pub trait Observer: Send {
    fn observe(
        &mut self,
        moment: &Moment,
        event: &Event<'_>,
        kinesis: &Kinesis,
    ) -> Result<(), String>;
}

/// No oracle.
pub struct Unobserved;

impl Observer for Unobserved {
    fn observe(&mut self, _: &Moment, _: &Event<'_>, _: &Kinesis) -> Result<(), String> {
        Ok(())
    }
}

/// 64-bit FNV-1a: stable across processes, platforms and releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub fn write(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self
    }

    pub fn value(self) -> u64 {
        self.0
    }

    pub fn of(bytes: &[u8]) -> u64 {
        Self::default().write(bytes).value()
    }
}

#[derive(Default)]
struct Log {
    full: Fnv,
    outline: Fnv,
    effects: Vec<Effect>,
    counts: BTreeMap<&'static str, u64>,
    violations: Vec<String>,
}

/// The trace of a run. Cheap to clone.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Log>>);

impl Trace {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn record(&self, effect: Effect) {
        let mut log = self.log();
        let outline = format!("{} {} {} {}\n", effect.at, effect.node, effect.op, effect.status);
        log.outline.write(outline.as_bytes());
        let line = format!("{effect}\n");
        log.full.write(line.as_bytes());
        log.effects.push(effect);
    }

    /// Notes something that is not a request (a crash, a freeze) in both hashes.
    pub fn note(&self, at: u64, node: &Arc<str>, what: &str) {
        self.record(Effect {
            at,
            node: node.clone(),
            op: what.to_owned(),
            fault: "",
            status: 0,
            error: String::new(),
            what: String::new(),
        });
    }

    /// Counts a "sometimes" event: over many seeds each of them must have happened.
    pub fn sometimes(&self, what: &'static str) {
        *self.log().counts.entry(what).or_default() += 1;
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.log().counts.clone()
    }

    pub fn violation(&self, text: String) {
        self.log().violations.push(text);
    }

    pub fn violations(&self) -> Vec<String> {
        self.log().violations.clone()
    }

    pub fn hash(&self) -> u64 {
        self.log().full.value()
    }

    pub fn outline(&self) -> u64 {
        self.log().outline.value()
    }

    pub fn effects(&self) -> Vec<Effect> {
        self.log().effects.clone()
    }
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:>9} {:<8} {} {} {} {} {}",
            self.at, self.node, self.op, self.status, self.error, self.fault, self.what
        )
    }
}

/// JSON with sorted keys and sorted sets, so that equal meaning is equal text.
pub fn canonical(value: &Value) -> String {
    fn write(value: &Value, sort: bool, out: &mut String) {
        match value {
            Value::Object(map) => {
                let sorted: BTreeMap<&String, &Value> = map.iter().collect();
                out.push('{');
                for (i, (key, value)) in sorted.into_iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    out.push_str(key);
                    out.push(':');
                    write(value, matches!(key.as_str(), "SS" | "NS" | "BS"), out);
                }
                out.push('}');
            }
            Value::Array(items) => {
                let mut texts: Vec<String> = items
                    .iter()
                    .map(|item| {
                        let mut text = String::new();
                        write(item, false, &mut text);
                        text
                    })
                    .collect();
                if sort {
                    texts.sort();
                }
                out.push('[');
                out.push_str(&texts.join(","));
                out.push(']');
            }
            other => out.push_str(&other.to_string()),
        }
    }
    let mut out = String::new();
    write(value, false, &mut out);
    out
}
