//! Names that travel through every stage: parsed once, then impossible to get wrong.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A name that is kept as it was given.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps the text.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A Kinesis shard id such as `shardId-000000000000`.
    ShardId
}

name! {
    /// The identity of one worker process, as it stands in `leaseOwner`; unique per process life.
    WorkerId
}

/// A Kinesis sequence number: decimal digits, up to 186 bits.
///
/// Ordered by value, never as text: services and emulators differ in length and zero padding.
/// The text is kept as received, because that is what goes back over the wire.
///
/// Numbers of today's length (56 digits) are held in place: positions are made for many records and
/// kept long after the page they came with, so they may neither cost an allocation each nor keep a
/// page alive.
#[derive(Clone)]
pub struct SequenceNumber(Digits);

/// Digits that fit into the space an enum with a fat pointer of this alignment rounds up to.
const IN_PLACE: usize = 62;

#[derive(Clone)]
enum Digits {
    InPlace { length: u8, text: [u8; IN_PLACE] },
    Shared(Arc<str>),
}

/// The text is not a sequence number.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a sequence number (decimal digits expected)")]
pub struct BadSequenceNumber(pub String);

impl SequenceNumber {
    /// Parses decimal digits.
    ///
    /// # Errors
    /// [`BadSequenceNumber`] when the text is empty or holds anything but digits.
    pub fn parse(text: &str) -> Result<Self, BadSequenceNumber> {
        if !Self::is_number(text.as_bytes()) {
            return Err(BadSequenceNumber(text.to_owned()));
        }
        Ok(Self(match u8::try_from(text.len()) {
            Ok(length) if text.len() <= IN_PLACE => {
                let mut held = [0; IN_PLACE];
                held[..text.len()].copy_from_slice(text.as_bytes());
                Digits::InPlace { length, text: held }
            }
            _ => Digits::Shared(Arc::from(text)),
        }))
    }

    /// Is this text a sequence number?
    pub fn is_number(text: &[u8]) -> bool {
        // Without an early exit the compiler takes many digits at once.
        !text.is_empty() && text.iter().fold(true, |all, b| all & b.is_ascii_digit())
    }

    /// The digits as received.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // Digits only, by construction.
            Digits::InPlace { length, text } => {
                std::str::from_utf8(&text[..usize::from(*length)]).unwrap_or_default()
            }
            Digits::Shared(text) => text,
        }
    }

    fn digits(&self) -> &[u8] {
        significant(match &self.0 {
            Digits::InPlace { length, text } => &text[..usize::from(*length)],
            Digits::Shared(text) => text.as_bytes(),
        })
    }

    /// By value with another number, in digits.
    pub fn cmp_digits(&self, digits: &[u8]) -> Ordering {
        by_value(self.digits(), significant(digits))
    }
}

/// Sequence numbers in digits, by value.
pub(crate) fn cmp_numbers(a: &[u8], b: &[u8]) -> Ordering {
    by_value(significant(a), significant(b))
}

/// Without zeros in front.
fn significant(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|b| **b == b'0').count();
    &digits[zeros..]
}

fn by_value(a: &[u8], b: &[u8]) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

impl Serialize for SequenceNumber {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SequenceNumber {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

impl PartialEq for SequenceNumber {
    fn eq(&self, other: &Self) -> bool {
        self.digits() == other.digits()
    }
}

impl Eq for SequenceNumber {}

impl std::hash::Hash for SequenceNumber {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.digits().hash(state);
    }
}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        by_value(self.digits(), other.digits())
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_compare_by_value() {
        let parse = |t| SequenceNumber::parse(t).unwrap();
        assert!(parse("9") < parse("10"));
        assert_eq!(parse("0010"), parse("10"));
        assert_eq!(parse("000"), parse("0"));
        assert!(
            parse("49590338271490256608559692538361571095921575989136588898")
                > parse("9223372036854775807")
        );
        assert_eq!(parse("0010").as_str(), "0010");
    }

    #[test]
    fn numbers_of_any_length_are_kept_as_received() {
        let parse = |t: &str| SequenceNumber::parse(t).unwrap();
        for length in [1, 56, IN_PLACE, IN_PLACE + 1, 129, 300] {
            let text = format!("4{}", "9".repeat(length - 1));
            assert_eq!(parse(&text).as_str(), text);
            assert_eq!(parse(&format!("{}{text}", "0".repeat(IN_PLACE))), parse(&text));
            assert!(parse(&text) < parse(&format!("{text}0")));
        }
        assert_eq!(size_of::<SequenceNumber>(), 64);
    }

    #[test]
    fn garbage_is_refused() {
        for text in ["", "-1", "1e3", "TRIM_HORIZON", " 1"] {
            assert!(SequenceNumber::parse(text).is_err(), "{text}");
        }
    }
}
