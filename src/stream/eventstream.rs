//! Messages of an event stream (`application/vnd.amazon.eventstream`), as far as they hold records.
//!
//! The Smithy specification, "Amazon event stream": a message is a prelude (length of the message and
//! of its headers, CRC-32 of these eight bytes), headers, a payload, and the CRC-32 of all before it;
//! numbers are big-endian. A header is the length of its name in one byte, the name, a type, a value.
//! A message that is not sound, or not of the kind looked for, is the SDK's to judge.

use std::ops::Range;

/// Bytes of the prelude.
pub const PRELUDE: usize = 12;
/// Bytes of a checksum.
const CHECKSUM: usize = 4;
/// Messages larger than this are not taken: an event holds 2 MB, or one record of 10 MiB.
const LARGEST: usize = 32 << 20;

/// The lengths of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prelude {
    /// The whole message, bytes.
    pub total: usize,
    /// Its headers, bytes.
    headers: usize,
}

impl Prelude {
    /// Reads a prelude; `None` if it is not sound, or announces more than is taken.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (lengths, sum) = bytes.get(..PRELUDE)?.split_at(8);
        let (total, headers) = lengths.split_at(4);
        let prelude = Self { total: number(total)?, headers: number(headers)? };
        let sound = crc32fast::hash(lengths).to_be_bytes() == *sum
            && prelude.total <= LARGEST
            && prelude.headers <= prelude.total.checked_sub(PRELUDE + CHECKSUM)?;
        sound.then_some(prelude)
    }

    fn headers(self) -> Range<usize> {
        PRELUDE..PRELUDE + self.headers
    }

    /// Where the payload of a whole message stands, if the message is sound and an event of this
    /// type.
    pub fn event(self, message: &[u8], kind: &str) -> Option<Range<usize>> {
        let (content, sum) = message.split_at_checked(self.total.checked_sub(CHECKSUM)?)?;
        if crc32fast::hash(content).to_be_bytes() != *sum {
            return None;
        }
        let (mut message_type, mut event_type) = (None, None);
        let mut left = content.get(self.headers())?;
        while !left.is_empty() {
            let (name, value) = header(&mut left)?;
            let found = match name {
                b":message-type" => &mut message_type,
                b":event-type" => &mut event_type,
                _ => continue,
            };
            // Said twice: which one counts is not for us to say.
            if found.replace(value?).is_some() {
                return None;
            }
        }
        let found = message_type == Some(b"event") && event_type == Some(kind.as_bytes());
        found.then_some(self.headers().end..content.len())
    }

    /// The message with another payload.
    pub fn with_payload(self, message: &[u8], payload: &[u8]) -> Vec<u8> {
        write(message.get(self.headers()).unwrap_or_default(), payload)
    }
}

/// A message of these headers, already in their form.
pub fn write(headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let total = PRELUDE + headers.len() + payload.len() + CHECKSUM;
    let mut message = Vec::with_capacity(total);
    for length in [total, headers.len()] {
        message.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    }
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message.extend_from_slice(headers);
    message.extend_from_slice(payload);
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message
}

fn number(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u32::from_be_bytes(bytes.try_into().ok()?)).ok()
}

/// Takes the next header off: its name, and its value if that is text.
fn header<'a>(left: &mut &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let length = usize::from(*left.split_off_first()?);
    let name = left.split_off(..length)?;
    let kind = *left.split_off_first()?;
    let size = match kind {
        // True, false; numbers of 1, 2, 4 and 8 bytes; a time; a UUID.
        0 | 1 => 0,
        2 => 1,
        3 => 2,
        4 => 4,
        5 | 8 => 8,
        9 => 16,
        // Bytes and text.
        6 | 7 => {
            let length = left.split_off(..2)?;
            usize::from(u16::from_be_bytes(length.try_into().ok()?))
        }
        _ => return None,
    };
    let value = left.split_off(..size)?;
    Some((name, (kind == 7).then_some(value)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(name: &str, value: &str) -> Vec<u8> {
        let mut header = vec![u8::try_from(name.len()).unwrap()];
        header.extend(name.as_bytes());
        header.push(7);
        header.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        header.extend(value.as_bytes());
        header
    }

    fn event(kind: &str, payload: &[u8]) -> Vec<u8> {
        let headers = [text(":message-type", "event"), text(":event-type", kind)].concat();
        write(&headers, payload)
    }

    fn payload<'a>(message: &'a [u8], kind: &str) -> Option<&'a [u8]> {
        let prelude = Prelude::read(message)?;
        prelude.event(message, kind).map(|range| &message[range])
    }

    #[test]
    fn the_examples_of_the_specification() {
        // Smithy, "Amazon event stream", examples: no headers and no payload; a payload of "{'foo':'bar'}".
        let empty = b"\0\0\0\x10\0\0\0\0\x05\xc2\x48\xeb\x7d\x98\xc8\xff";
        assert_eq!(Prelude::read(empty), Some(Prelude { total: 16, headers: 0 }));
        assert_eq!(write(b"", b""), empty);
        let some = b"\0\0\0\x1d\0\0\0\0\xfd\x52\x8c\x5a{'foo':'bar'}\xc3\x65\x39\x36";
        assert_eq!(write(b"", b"{'foo':'bar'}"), some);
    }

    #[test]
    fn only_sound_events_of_the_kind_are_found() {
        assert_eq!(payload(&event("A", b"payload"), "A"), Some(b"payload".as_slice()));
        assert_eq!(payload(&event("A", b""), "A"), Some(b"".as_slice()));
        assert_eq!(payload(&event("initial-response", b"{}"), "A"), None);
        let exception = [text(":message-type", "exception"), text(":event-type", "A")].concat();
        assert_eq!(payload(&write(&exception, b"{}"), "A"), None);
        // Values of every other type before it.
        let mut headers = Vec::new();
        for (kind, value) in [
            (0, b"".as_slice()),
            (1, b""),
            (2, b"1"),
            (3, b"22"),
            (4, b"4444"),
            (5, b"88888888"),
            (6, b"\0\x03abc"),
            (8, b"88888888"),
            (9, b"0123456789abcdef"),
        ] {
            headers.extend([1, b'x', kind]);
            headers.extend(value);
        }
        headers.extend([text(":message-type", "event"), text(":event-type", "A")].concat());
        assert_eq!(payload(&write(&headers, b"p"), "A"), Some(b"p".as_slice()));
        let twice = [headers.as_slice(), &text(":event-type", "B")].concat();
        assert_eq!(payload(&write(&twice, b"p"), "A"), None);
        assert_eq!(payload(&write(&twice, b"p"), "B"), None);
        headers.push(3);
        assert_eq!(payload(&write(&headers, b"p"), "A"), None, "a header cut short");
    }

    #[test]
    fn lengths_are_only_claims() {
        for (total, headers) in [(15, 0), (16, 1), (u32::MAX, 0), (20, u32::MAX), (0, 0)] {
            let mut bytes = [total.to_be_bytes(), headers.to_be_bytes()].concat();
            bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
            assert_eq!(Prelude::read(&bytes), None, "{total} {headers}");
        }
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_noticed(
            body in prop::collection::vec(any::<u8>(), 0..90),
            at in any::<prop::sample::Index>(), bit in 0_u8..8,
        ) {
            let mut message = event("A", &body);
            prop_assert_eq!(payload(&message, "A"), Some(body.as_slice()));
            let prelude = Prelude::read(&message).unwrap();
            prop_assert_eq!(prelude.with_payload(&message, b"new"), event("A", b"new"));
            let at = at.index(message.len());
            message[at] ^= 1 << bit;
            prop_assert_eq!(payload(&message, "A"), None);
        }

        #[test]
        fn noise_is_no_harm(noise in prop::collection::vec(any::<u8>(), 0..90)) {
            let _ = payload(&noise, "A");
            let message = write(&noise, b"");
            let _ = payload(&message, "A");
        }
    }
}
