//! Where in a shard: positions, checkpoints, and where to start reading.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::SequenceNumber;

/// One user record of a shard: sequence number, and the index inside a KPL aggregate (0 otherwise).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Sequence number of the Kinesis record.
    pub sequence: SequenceNumber,
    /// Index of the user record inside its aggregate; 0 for a plain record.
    pub sub: u64,
}

impl Position {
    /// A plain record.
    pub fn plain(sequence: SequenceNumber) -> Self {
        Self { sequence, sub: 0 }
    }
}

/// `49…898`, or `49…898.3` inside an aggregate: the form used in object names and intents.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sub == 0 {
            write!(f, "{}", self.sequence)
        } else {
            write!(f, "{}.{}", self.sequence, self.sub)
        }
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let (sequence, sub) = text.split_once('.').unwrap_or((&text, "0"));
        Ok(Self {
            sequence: SequenceNumber::parse(sequence).map_err(serde::de::Error::custom)?,
            sub: sub.parse().map_err(serde::de::Error::custom)?,
        })
    }
}

/// The value of a lease's checkpoint: everything up to and including it is delivered.
///
/// Ordered as the KCL orders them: `AT_TIMESTAMP` < `TRIM_HORIZON` < `LATEST` < any sequence
/// number < `SHARD_END`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Checkpoint {
    /// Not started; starts at the configured time.
    AtTimestamp,
    /// Not started; starts at the oldest record kept.
    TrimHorizon,
    /// Not started; starts at the records that came after the lease was made.
    Latest,
    /// Delivered up to and including this record.
    At(Position),
    /// Delivered to the end of a closed shard.
    ShardEnd,
}

/// A checkpoint column holds neither digits nor a known sentinel.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is no checkpoint: a sequence number, TRIM_HORIZON, LATEST, AT_TIMESTAMP or SHARD_END is expected"
)]
pub struct BadCheckpoint(pub String);

impl Checkpoint {
    /// Reads the two columns `checkpoint` and `checkpointSubSequenceNumber`.
    ///
    /// # Errors
    /// [`BadCheckpoint`] for text that is neither a sentinel nor digits.
    pub fn parse(text: &str, sub: u64) -> Result<Self, BadCheckpoint> {
        Ok(match text {
            "AT_TIMESTAMP" => Self::AtTimestamp,
            "TRIM_HORIZON" => Self::TrimHorizon,
            "LATEST" => Self::Latest,
            "SHARD_END" => Self::ShardEnd,
            digits => Self::At(Position {
                sequence: SequenceNumber::parse(digits)
                    .map_err(|_| BadCheckpoint(digits.to_owned()))?,
                sub,
            }),
        })
    }

    /// The text column.
    pub fn text(&self) -> &str {
        match self {
            Self::AtTimestamp => "AT_TIMESTAMP",
            Self::TrimHorizon => "TRIM_HORIZON",
            Self::Latest => "LATEST",
            Self::At(position) => position.sequence.as_str(),
            Self::ShardEnd => "SHARD_END",
        }
    }

    /// The sub-sequence column.
    pub fn sub(&self) -> u64 {
        match self {
            Self::At(position) => position.sub,
            Self::AtTimestamp | Self::TrimHorizon | Self::Latest | Self::ShardEnd => 0,
        }
    }

    /// The position, once something was delivered.
    pub fn position(&self) -> Option<&Position> {
        match self {
            Self::At(position) => Some(position),
            Self::AtTimestamp | Self::TrimHorizon | Self::Latest | Self::ShardEnd => None,
        }
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position() {
            Some(position) => write!(f, "{position}"),
            None => f.write_str(self.text()),
        }
    }
}

/// Where a new lease starts when nothing says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialPosition {
    /// The oldest record kept.
    TrimHorizon,
    /// Records that arrive from now on.
    Latest,
    /// The first record at or after this time, milliseconds since the epoch.
    AtTimestamp(i64),
}

/// As `stream.start` spells it.
impl fmt::Display for InitialPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TrimHorizon => f.write_str("trim-horizon"),
            Self::Latest => f.write_str("latest"),
            Self::AtTimestamp(ms) => match jiff::Timestamp::from_millisecond(*ms) {
                Ok(time) => write!(f, "{time}"),
                Err(_) => write!(f, "{ms} ms"),
            },
        }
    }
}

impl InitialPosition {
    /// The sentinel a new lease gets.
    pub fn sentinel(self) -> Checkpoint {
        match self {
            Self::TrimHorizon => Checkpoint::TrimHorizon,
            Self::Latest => Checkpoint::Latest,
            Self::AtTimestamp(_) => Checkpoint::AtTimestamp,
        }
    }
}

/// What to ask GetShardIterator for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// `TRIM_HORIZON`
    TrimHorizon,
    /// `LATEST`
    Latest,
    /// `AT_TIMESTAMP`, milliseconds since the epoch.
    Timestamp(i64),
    /// `AT_SEQUENCE_NUMBER`: inclusive.
    At(SequenceNumber),
    /// `AFTER_SEQUENCE_NUMBER`: exclusive.
    After(SequenceNumber),
}

/// Where reading of a shard begins for a checkpoint; `None` when the shard is finished.
///
/// A real position is opened *inclusively* and the caller drops records at or before it: that is
/// how the rest of a partly delivered KPL aggregate is found again, and how a trimmed checkpoint
/// is noticed. `LATEST` is pinned to the time its lease was made (`started_ms`), so that a second
/// owner does not start later than the first.
pub fn start_at(
    checkpoint: &Checkpoint,
    started_ms: Option<i64>,
    initial: InitialPosition,
) -> Option<StartAt> {
    Some(match checkpoint {
        Checkpoint::ShardEnd => return None,
        Checkpoint::At(position) => StartAt::At(position.sequence.clone()),
        Checkpoint::TrimHorizon => StartAt::TrimHorizon,
        Checkpoint::Latest => started_ms.map_or(StartAt::Latest, StartAt::Timestamp),
        Checkpoint::AtTimestamp => match (started_ms, initial) {
            (Some(at), _) | (None, InitialPosition::AtTimestamp(at)) => StartAt::Timestamp(at),
            // A KCL lease does not say which time it means; reading more loses nothing.
            (None, InitialPosition::TrimHorizon | InitialPosition::Latest) => StartAt::TrimHorizon,
        },
    })
}

/// The time to write beside a sentinel that does not say which one it means, as rows of the KCL do
/// not: now for `LATEST`, the configured time for `AT_TIMESTAMP`. Milliseconds since the epoch.
pub fn pin(checkpoint: &Checkpoint, initial: InitialPosition, now_ms: i64) -> Option<i64> {
    match (checkpoint, initial) {
        (Checkpoint::Latest, _) => Some(now_ms),
        (Checkpoint::AtTimestamp, InitialPosition::AtTimestamp(at)) => Some(at),
        // Without a time it is read from its oldest record on, whoever begins.
        (Checkpoint::AtTimestamp | Checkpoint::TrimHorizon, _)
        | (Checkpoint::At(_) | Checkpoint::ShardEnd, _) => None,
    }
}

/// Was anything lost between a checkpoint and the first record found after it?
///
/// The checkpointed record itself is gone (retention), which alone proves nothing: an idle shard
/// forgets its last record too. Records may have been lost only if the shard was last read to its
/// tip longer ago than retention reaches back. Times in milliseconds since the epoch, taken from
/// the wall clocks of two hosts; they are trusted to `CLOCKS_MS`.
pub fn may_have_lost(read_through_ms: Option<i64>, now_ms: i64, retention_ms: i64) -> bool {
    read_through_ms
        .is_none_or(|seen| now_ms.saturating_sub(seen).saturating_add(CLOCKS_MS) >= retention_ms)
}

/// How far the clocks of two hosts may be apart. Too much tells of a gap where there may be none,
/// too little passes over one.
pub(crate) const CLOCKS_MS: i64 = 2 * 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: &str, sub: u64) -> Checkpoint {
        Checkpoint::parse(sequence, sub).unwrap()
    }

    #[test]
    fn checkpoints_order_as_the_kcl_does() {
        let order = [
            Checkpoint::AtTimestamp,
            Checkpoint::TrimHorizon,
            Checkpoint::Latest,
            at("9", 0),
            at("10", 0),
            at("10", 1),
            Checkpoint::ShardEnd,
        ];
        assert!(order.windows(2).all(|w| w[0] < w[1]), "{order:?}");
    }

    #[test]
    fn columns_round_trip() {
        for (text, sub) in [("SHARD_END", 0), ("LATEST", 0), ("0012", 7)] {
            let read = Checkpoint::parse(text, sub).unwrap();
            assert_eq!((read.text(), read.sub()), (text, sub));
        }
        assert!(Checkpoint::parse("soon", 0).is_err());
    }

    #[test]
    fn positions_round_trip_as_json() {
        for text in ["\"12\"", "\"12.3\""] {
            let position: Position = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&position).unwrap(), text);
        }
    }

    #[test]
    fn latest_is_pinned_to_the_birth_of_its_lease() {
        let start = |c: &Checkpoint, ms| start_at(c, ms, InitialPosition::Latest);
        assert_eq!(start(&Checkpoint::Latest, Some(5)), Some(StartAt::Timestamp(5)));
        assert_eq!(start(&Checkpoint::Latest, None), Some(StartAt::Latest));
        assert_eq!(start(&Checkpoint::ShardEnd, None), None);
    }

    #[test]
    fn a_sentinel_without_a_time_is_pinned_when_it_is_taken() {
        use InitialPosition::{AtTimestamp, Latest, TrimHorizon};
        assert_eq!(pin(&Checkpoint::Latest, TrimHorizon, 7), Some(7));
        assert_eq!(pin(&Checkpoint::AtTimestamp, AtTimestamp(5), 7), Some(5));
        assert_eq!(pin(&Checkpoint::AtTimestamp, Latest, 7), None);
        assert_eq!(pin(&Checkpoint::TrimHorizon, Latest, 7), None);
        assert_eq!(pin(&at("9", 0), AtTimestamp(5), 7), None);
    }

    #[test]
    fn an_idle_shard_is_no_gap() {
        let hour = 3_600_000;
        assert!(!may_have_lost(Some(0), 21 * hour, 24 * hour));
        assert!(may_have_lost(Some(0), 22 * hour, 24 * hour));
        assert!(may_have_lost(None, 0, 24 * hour));
    }
}
