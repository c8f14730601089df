//! A field of a record: what a full parser finds, where there is one that can read it, and never a
//! panic.
#![no_main]

use catchment::delivery::field::Path;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: (&str, &[u8])| {
    let (text, json) = input;
    let Ok(path) = Path::parse(text) else { return };
    let found = path.find(json).ok();
    // Of a name that stands twice the parser keeps the last, so only simple paths are compared.
    let Ok(Value::Object(fields)) = serde_json::from_slice::<Value>(json) else { return };
    let twice =
        json.windows(text.len() + 2).filter(|w| w[1..w.len() - 1] == *text.as_bytes()).count() > 1;
    if twice || !text.bytes().all(|b| b.is_ascii_alphanumeric()) || json.contains(&b'\\') {
        return;
    }
    let expected = match fields.get(text) {
        Some(Value::String(value)) if !value.is_empty() => Some(value.clone()),
        Some(Value::Bool(value)) => Some(value.to_string()),
        Some(Value::Number(_)) => {
            assert!(found.is_some());
            return;
        }
        _ => None,
    };
    assert_eq!(found.as_deref(), expected.as_deref());
});
