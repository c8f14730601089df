//! Upload events: what is taken survives being written and read again, and its key is confined.
#![no_main]

use catchment::upload::event::{Envelope, PREFIX, sha256_hex};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let whole = [PREFIX, input].concat();
    for record in [input, &whole] {
        if !Envelope::recognise(record) {
            continue;
        }
        if let Ok(envelope) = Envelope::parse(record) {
            let key = envelope.file_key.as_str();
            assert!(key.starts_with("uploads/") && !key.contains("/../") && !key.contains("//"));
            assert_eq!(envelope.sha256, sha256_hex(&envelope.body));
            assert!(Envelope::parse(&envelope.encode()).as_ref() == Ok(&envelope));
        }
    }
});
