//! Rows our worker wrote, read by the rules of the Java KCL (1.x to 3.x).

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::support::{Running, eventually, lines, worker};

use super::SETTINGS;
use super::fixtures::{Java, Row, TABLE};

/// What any KCL throws at, or misreads; empty for a sound row.
fn complaints(row: &Row) -> Vec<String> {
    let mut found = Vec::new();
    let mut rule = |holds: bool, text: &str| {
        if !holds {
            found.push(text.to_owned());
        }
    };
    let text = |name: &str| row.get(name).and_then(|v| v.as_s().ok());
    let number = |name: &str| row.get(name).and_then(|v| v.as_n().ok()?.parse::<u64>().ok());
    // Readers throw without these.
    rule(text("leaseKey").is_some_and(|k| !k.is_empty()), "leaseKey is a string");
    rule(number("leaseCounter").is_some(), "leaseCounter is a whole number");
    rule(number("ownerSwitchesSinceCheckpoint").is_some(), "ownerSwitches is a whole number");
    rule(number("checkpointSubSequenceNumber").is_some(), "the sub-sequence is a whole number");
    // Compared as big integers, or one of the words.
    let position = |value: &str| !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let words = ["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP", "SHARD_END"];
    let checkpoint = text("checkpoint").map(String::as_str).unwrap_or_default();
    rule(words.contains(&checkpoint) || position(checkpoint), "checkpoint is a position");
    if words.contains(&checkpoint) {
        rule(number("checkpointSubSequenceNumber") == Some(0), "words have no sub-sequence");
    }
    // Two-phase checkpoints: a position with its sub-sequence; the state is bytes.
    if row.contains_key("pendingCheckpoint") {
        rule(text("pendingCheckpoint").is_some_and(|p| position(p)), "pending is a position");
        rule(number("pendingCheckpointSubSequenceNumber").is_some(), "pending has a sub-sequence");
    }
    if let Some(state) = row.get("pendingCheckpointState") {
        rule(state.is_b(), "the pending state is bytes");
        rule(row.contains_key("pendingCheckpoint"), "a state stands beside its checkpoint");
    }
    // Sets of shard ids, never empty.
    for name in ["parentShardId", "childShardIds"] {
        if let Some(value) = row.get(name) {
            let ids = value.as_ss().cloned().unwrap_or_default();
            rule(!ids.is_empty() && ids.iter().all(|i| i.starts_with("shardId-")), name);
        }
    }
    // Both hash keys or neither, and in order.
    let bound = |name: &str| text(name).and_then(|t| t.parse::<u128>().ok());
    match (row.get("startingHashKey"), row.get("endingHashKey")) {
        (None, None) => {}
        _ => rule(
            bound("startingHashKey").zip(bound("endingHashKey")).is_some_and(|(a, b)| a < b),
            "hash keys are a range",
        ),
    }
    for name in ["leaseOwner", "checkpointOwner"] {
        rule(row.get(name).is_none_or(AttributeValue::is_s), name);
    }
    rule(row.get("throughputKBps").is_none_or(AttributeValue::is_n), "throughput is a number");
    // A kind of its own, or none: readers before 3.5 take every item for a lease.
    rule(text("entityType").is_none_or(|kind| kind == "LEASE"), "entityType");
    let known = [
        "leaseKey",
        "leaseOwner",
        "leaseCounter",
        "ownerSwitchesSinceCheckpoint",
        "checkpoint",
        "checkpointSubSequenceNumber",
        "pendingCheckpoint",
        "pendingCheckpointSubSequenceNumber",
        "pendingCheckpointState",
        "parentShardId",
        "childShardIds",
        "startingHashKey",
        "endingHashKey",
        "throughputKBps",
        "checkpointOwner",
        "streamName",
        "shardId",
        "entityType",
    ];
    for name in row.keys() {
        rule(known.contains(&name.as_str()) || name.starts_with("catchment_"), name);
    }
    found
}

#[test]
fn the_rules_notice_what_java_would_throw_at() {
    use super::fixtures::{kcl1, n, s};
    assert_eq!(complaints(&kcl1("shardId-0", "12")), [""; 0]);
    let spoil = |name: &str, value: Option<AttributeValue>| {
        let mut row = kcl1("shardId-0", "12");
        row.remove(name);
        row.extend(value.map(|value| (name.to_owned(), value)));
        complaints(&row).len()
    };
    for (name, value) in [
        ("leaseCounter", None),
        ("checkpoint", Some(s("12.3"))),
        ("checkpoint", Some(n(12))),
        ("pendingCheckpointState", Some(s("text"))),
        ("startingHashKey", Some(s("7"))),
        ("entityType", Some(s("CATCHMENT"))),
        ("private", Some(s("x"))),
    ] {
        assert!(spoil(name, value) > 0, "{name}");
    }
}

/// Through everything that writes a row: creation, takes, heartbeats, intents, commits, handoffs, a
/// split, a release, a crash.
#[test]
fn java_can_read_every_row_we_write() {
    let java = Java::new(2);
    let mut settings = SETTINGS.to_vec();
    settings.push(("delivery.batch_records", "3"));
    let mut workers: Vec<Running> = (0..2).map(|_| worker(&java.services, &settings)).collect();
    let mut seen = std::collections::BTreeSet::new();
    let mut look = |what: &str| {
        let call = java.clients.dynamodb.scan().table_name(TABLE).consistent_read(true);
        let Ok(reply) = java.runtime.block_on(call.send()) else { return Vec::new() };
        let rows = reply.items.unwrap_or_default();
        for row in &rows {
            assert_eq!(complaints(row), [""; 0], "{what}: {row:?}");
            seen.extend(row.keys().cloned());
        }
        rows
    };
    eventually("everything is delivered", || {
        look("delivering");
        (lines(java.dir.path()).len() >= 100).then_some(())
    });
    let first = &java.shards[0];
    let (from, to) = first.hash_range.clone().unwrap();
    let (from, to): (u128, u128) = (from.parse().unwrap(), to.parse().unwrap());
    let split = java.clients.kinesis.split_shard().stream_name("local");
    let split = split.shard_to_split(first.id.as_str());
    let split = split.new_starting_hash_key((from + (to - from) / 2).to_string());
    java.runtime.block_on(split.send()).unwrap();
    eventually("the split shard is finished and its children have leases", || {
        let rows = look("resharding");
        let is_end = |r: &Row| r["checkpoint"].as_s().is_ok_and(|c| c == "SHARD_END");
        (rows.len() == 4 && rows.iter().any(is_end)).then_some(())
    });
    workers.pop();
    // A shard that was finished when its worker died keeps the name.
    let at_work = |r: &&Row| r["checkpoint"].as_s().is_ok_and(|c| c != "SHARD_END");
    eventually("the survivor owns everything", || {
        let rows = look("after a crash");
        let owners: std::collections::BTreeSet<_> = rows
            .iter()
            .filter(at_work)
            .filter_map(|r| r.get("leaseOwner")?.as_s().ok().cloned())
            .collect();
        (owners.len() == 1).then_some(())
    });
    workers[0].signal("TERM");
    assert!(workers[0].wait(Duration::from_secs(30)).success());
    assert_eq!(look("drained").len(), 4);
    for name in ["leaseOwner", "parentShardId", "childShardIds", "startingHashKey"] {
        assert!(seen.contains(name), "{name} was never seen: the walk was too short");
    }
    assert_eq!(lines(java.dir.path()).len(), 100);
}
