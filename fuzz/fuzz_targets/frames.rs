//! Messages of an event stream: hostile lengths and headers harm nothing, and the message with
//! another payload is one of the same kind.
#![no_main]

use catchment::stream::eventstream::{Prelude, write};
use libfuzzer_sys::fuzz_target;

const KIND: &str = "SubscribeToShardEvent";

fuzz_target!(|bytes: &[u8]| {
    // As it is.
    if let Some(prelude) = Prelude::read(bytes) {
        let _ = prelude.event(bytes, KIND);
    }
    // As headers and payload of a message that is sound.
    let Some((length, rest)) = bytes.split_first() else { return };
    let (headers, payload) = rest.split_at(usize::from(*length).min(rest.len()));
    let message = write(headers, payload);
    let prelude = Prelude::read(&message).expect("sound");
    let Some(range) = prelude.event(&message, KIND) else { return };
    assert_eq!(&message[range], payload);
    let other = prelude.with_payload(&message, b"{}");
    let prelude = Prelude::read(&other).expect("sound");
    let range = prelude.event(&other, KIND).expect("of the same kind");
    assert_eq!(&other[range], b"{}");
});
