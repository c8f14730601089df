//! Pending intents as found in a row: what is understood is written again as it was.
#![no_main]

use catchment::delivery::intent::IntentList;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(intents) = IntentList::decode(input) {
        let again = IntentList::decode(&IntentList::encode(&intents));
        assert!(again.is_ok_and(|again| again == intents));
    }
});
