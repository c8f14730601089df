//! GetRecords replies in CBOR, as the worker reads them. Whatever the body, nothing breaks; and
//! whatever of it is understood is what another decoder reads, in the same order.
#![no_main]

use bytes::Bytes;
use catchment::stream::cbor::{error, take};
use ciborium::Value;
use libfuzzer_sys::fuzz_target;

/// The first field of this name that has a value.
fn field<'a>(map: &'a Value, name: &str) -> Option<&'a Value> {
    let fields = bare(map).as_map()?;
    let mut found = fields.iter().filter(|(found, _)| bare(found).as_text() == Some(name));
    found.find_map(|(_, value)| Some(bare(value)).filter(|value| !value.is_null()))
}

/// A value without its tags.
fn bare(value: &Value) -> &Value {
    match value {
        Value::Tag(_, inner) => bare(inner),
        value => value,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = error(&mut bytes.to_vec());
    let mut body = bytes.to_vec();
    let Ok(layout) = take(&mut body) else { return };
    let count = layout.len();
    let (records, rest) = layout.parts(Bytes::from(body), 0);
    assert_eq!(records.len(), count);
    assert!(records.iter().all(|r| r.arrival_ms.is_none_or(|ms| ms > 1_000_000_000_000)));
    let rest: serde_json::Value = serde_json::from_slice(&rest).expect("JSON");
    assert_eq!(rest["Records"], serde_json::json!([]));
    // The other decoder is stricter about what is not needed here.
    let Ok(page) = ciborium::from_reader::<Value, _>(bytes) else { return };
    let Some(others) = field(&page, "Records").and_then(Value::as_array) else { return };
    assert_eq!(records.len(), others.len());
    for (record, other) in records.iter().zip(others) {
        if let Some(data) = field(other, "Data").and_then(Value::as_bytes) {
            assert_eq!(record.data, data.as_slice());
        }
        let key = field(other, "PartitionKey").and_then(Value::as_text);
        assert_eq!(record.partition_key(), key.filter(|key| !key.is_empty()));
        if let Some(ms) = field(other, "ApproximateArrivalTimestamp").and_then(Value::as_integer) {
            assert_eq!(record.arrival_ms.map(i128::from), Some(i128::from(ms)));
        }
    }
});
