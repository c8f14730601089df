//! Key templates: one that is taken renders at any time, the same each time; object names read
//! from a key are those that were written.
#![no_main]

use catchment::delivery::object_key::{Template, parse_object_name};
use catchment::ids::ShardId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (i64, bool, &str)| {
    let (ms, errors, text) = input;
    let _ = parse_object_name(text);
    let Ok(template) = Template::parse(text, errors) else { return };
    let shard = ShardId::new("shardId-000000000007");
    let key = template.render(ms, "events", &shard, "kind");
    assert_eq!(key, template.render(ms, "events", &shard, "kind"));
    assert!(!key.contains("!{"), "{text} renders to {key}");
    // Times that a calendar has.
    let known = -62_000_000_000_000 < ms && ms < 253_000_000_000_000;
    if let Some(granularity) = template.granularity_ms().filter(|_| known) {
        // Times of one slot share a prefix: batches rely on it.
        let slot = ms.div_euclid(granularity) * granularity;
        assert_eq!(key, template.render(slot, "events", &shard, "kind"), "{text} at {ms}");
    }
});
