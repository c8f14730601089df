//! Intents: what a worker announces in the lease row before it writes any object.
//!
//! An intent fixes everything its objects depend on: the range of records, the settings they are
//! encoded with, and the time stamp used where a record has none. Whoever finds the intent can
//! therefore finish it and arrive at the same objects. StoredIntent as JSON in `pendingCheckpointState`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::delivery::gap::Certainty;
use crate::delivery::settings::{ENCODER_VERSION, Settings};
use crate::mutant;
use crate::stream::position::Position;

/// Layout version of the stored list.
const LAYOUT: u32 = 1;

/// One announced batch: the records after the previous intent (or the checkpoint), up to `last`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// First record of the batch.
    pub first: Position,
    /// Last record of the batch; the checkpoint once delivered.
    pub last: Position,
    /// User records in the range.
    pub records: u64,
    /// Their payload, bytes.
    pub bytes: u64,
    /// When the batch was opened, ms since the epoch; used where a record has no arrival time.
    pub stamp_ms: i64,
    /// When its first record arrived, ms since the epoch, if that was long before it was read: a
    /// backlog leaves retention earlier than the stamp tells.
    pub arrived_ms: Option<i64>,
    /// Records between the previous position and `first` left retention unread, or may have.
    pub gap: Option<Certainty>,
    /// How to encode, where to put.
    pub settings: Arc<Settings>,
}

/// A first record that arrived less than this before its batch was opened is not worth the room in
/// the row, ms.
const LATELY_MS: i64 = 60_000;

impl Intent {
    /// What is recorded of the arrival of the first record.
    pub fn arrived(arrival_ms: Option<i64>, stamp_ms: i64) -> Option<i64> {
        arrival_ms.filter(|at| stamp_ms.saturating_sub(*at) > LATELY_MS)
    }

    /// How long the first record has been in the stream, about: since this time, ms since the epoch.
    pub fn since_ms(&self) -> i64 {
        self.arrived_ms.unwrap_or(self.stamp_ms)
    }
}

/// The stored form of an ordered list of intents.
#[derive(Serialize, Deserialize)]
pub struct IntentList {
    catchment: u32,
    #[serde(rename = "s")]
    settings: Vec<Settings>,
    #[serde(rename = "i")]
    intents: Vec<StoredIntent>,
}

#[derive(Serialize, Deserialize)]
struct StoredIntent {
    #[serde(rename = "f")]
    first: Position,
    #[serde(rename = "l")]
    last: Position,
    #[serde(rename = "n")]
    records: u64,
    #[serde(rename = "b")]
    bytes: u64,
    #[serde(rename = "t")]
    stamp_ms: i64,
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    arrived_ms: Option<i64>,
    #[serde(rename = "g", default, skip_serializing_if = "std::ops::Not::not")]
    gap: bool,
    /// The gap is only possible.
    #[serde(rename = "p", default, skip_serializing_if = "std::ops::Not::not")]
    possible: bool,
    /// Index into `settings`: a list usually has one.
    #[serde(rename = "s", default, skip_serializing_if = "is_zero")]
    settings: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_zero(index: &usize) -> bool {
    *index == 0
}

/// An intent that this version must not touch.
#[derive(Debug, thiserror::Error)]
pub enum BadIntent {
    /// Written by a later version.
    #[error(
        "its pending intent needs {what} version {found}, this build knows up to {known}: \
         run the version that wrote it until it is delivered, or upgrade"
    )]
    Newer {
        /// `layout` or `encoder`.
        what: &'static str,
        /// The version found.
        found: u32,
        /// The last version known here.
        known: u32,
    },
    /// Not readable at all.
    #[error("its pending intent cannot be read: {0}")]
    Unreadable(String),
}

const MARK: &[u8] = b"{\"catchment\":";

impl IntentList {
    /// Was this written by Catchment (any version)?
    pub fn is_ours(raw: &[u8]) -> bool {
        raw.starts_with(MARK)
    }

    /// The bytes to store.
    pub fn encode(intents: &[Intent]) -> Vec<u8> {
        let mut settings: Vec<Settings> = Vec::new();
        let intents = intents
            .iter()
            .map(|intent| {
                let known = settings.iter().position(|s| *s == *intent.settings);
                let index = known.unwrap_or_else(|| {
                    settings.push((*intent.settings).clone());
                    settings.len() - 1
                });
                StoredIntent {
                    first: intent.first.clone(),
                    last: intent.last.clone(),
                    records: intent.records,
                    bytes: intent.bytes,
                    stamp_ms: intent.stamp_ms,
                    arrived_ms: intent.arrived_ms,
                    gap: intent.gap.is_some(),
                    possible: intent.gap == Some(Certainty::Possible),
                    settings: index,
                }
            })
            .collect();
        // Plain data: serialisation has no failing path.
        serde_json::to_vec(&Self { catchment: LAYOUT, settings, intents }).unwrap_or_default()
    }

    /// Reads stored bytes.
    ///
    /// # Errors
    /// [`BadIntent`]: later layout or encoder, or damaged.
    pub fn decode(raw: &[u8]) -> Result<Vec<Intent>, BadIntent> {
        #[derive(Deserialize)]
        struct Version {
            catchment: u32,
        }
        let unreadable = |e: serde_json::Error| BadIntent::Unreadable(e.to_string());
        let version: Version = serde_json::from_slice(raw).map_err(unreadable)?;
        if version.catchment > LAYOUT {
            return Err(BadIntent::Newer {
                what: "layout",
                found: version.catchment,
                known: LAYOUT,
            });
        }
        #[derive(Deserialize)]
        struct Encoders {
            #[serde(rename = "s")]
            settings: Vec<IntentEncoder>,
        }
        #[derive(Deserialize)]
        struct IntentEncoder {
            #[serde(rename = "v")]
            encoder: u32,
        }
        let encoders: Encoders = serde_json::from_slice(raw).map_err(unreadable)?;
        let known = mutant::known(ENCODER_VERSION);
        if let Some(newer) = encoders.settings.iter().find(|s| s.encoder > known) {
            return Err(BadIntent::Newer { what: "encoder", found: newer.encoder, known });
        }
        let list: Self = serde_json::from_slice(raw).map_err(unreadable)?;
        let settings: Vec<Arc<Settings>> = list.settings.into_iter().map(Arc::new).collect();
        list.intents
            .into_iter()
            .map(|stored| {
                let settings = settings.get(stored.settings).cloned().ok_or_else(|| {
                    BadIntent::Unreadable(format!("no settings number {}", stored.settings))
                })?;
                Ok(Intent {
                    first: stored.first,
                    last: stored.last,
                    records: stored.records,
                    bytes: stored.bytes,
                    stamp_ms: stored.stamp_ms,
                    arrived_ms: stored.arrived_ms,
                    gap: stored.gap.then_some(if stored.possible {
                        Certainty::Possible
                    } else {
                        Certainty::Known
                    }),
                    settings,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SequenceNumber;

    fn intent(first: &str, last: &str) -> Intent {
        let position = |t| Position::plain(SequenceNumber::parse(t).unwrap());
        Intent {
            first: position(first),
            last: position(last),
            records: 3,
            bytes: 300,
            stamp_ms: 1_700_000_000_000,
            arrived_ms: None,
            gap: None,
            settings: Arc::new(Settings::sample()),
        }
    }

    #[test]
    fn a_list_round_trips_and_shares_its_settings() {
        let late = Intent { arrived_ms: Some(7), ..intent("6", "9") };
        let lost = Intent { gap: Some(Certainty::Known), ..intent("10", "11") };
        let perhaps = Intent { gap: Some(Certainty::Possible), ..intent("12", "13") };
        let list = [intent("1", "5"), late, lost, perhaps];
        let raw = IntentList::encode(&list);
        assert!(IntentList::is_ours(&raw));
        assert_eq!(IntentList::decode(&raw).unwrap(), list);
        assert_eq!(String::from_utf8(raw).unwrap().matches("\"v\":").count(), 1);
    }

    #[test]
    fn later_versions_are_refused_with_the_remedy() {
        let raw = IntentList::encode(&[intent("1", "5")]);
        let text = String::from_utf8(raw).unwrap();
        for (from, to) in [("\"catchment\":1", "\"catchment\":9"), ("\"v\":4", "\"v\":9")] {
            let later = text.replace(from, to);
            assert_ne!(later, text);
            let error = IntentList::decode(later.as_bytes()).unwrap_err();
            assert!(matches!(error, BadIntent::Newer { found: 9, .. }), "{error}");
            assert!(error.to_string().contains("upgrade"));
        }
        assert!(IntentList::decode(&text.as_bytes()[..20]).is_err());
    }
}
