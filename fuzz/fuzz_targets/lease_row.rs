//! Lease rows of any table: a lease, an item of another kind, or an error that names the key.
#![no_main]

use catchment::lease::row::{Attr, Item, Lease};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_slice(input) else { return };
    let mut item = Item::new();
    for (name, value) in fields {
        let attr = match value {
            serde_json::Value::String(text) => Attr::S(text),
            serde_json::Value::Number(number) => Attr::N(number.to_string()),
            serde_json::Value::Array(list) => {
                let texts: Vec<_> = list.iter().filter_map(|v| v.as_str()).collect();
                if texts.len() == 1 {
                    Attr::B(texts[0].as_bytes().to_vec())
                } else {
                    Attr::Ss(texts.into_iter().map(str::to_owned).collect())
                }
            }
            _ => Attr::Other,
        };
        item.insert(name, attr);
    }
    match Lease::parse(&item) {
        Ok(Some(lease)) => assert!(!lease.shard.as_str().is_empty()),
        Ok(None) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
