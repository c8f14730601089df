//! Objects by the fields of their records.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    Running, catchment, eventually, lines, objects, send, services, stderr, worker,
};

const PREFIX: &str = "clicks/customer=!{field:customer.id}/dt=!{timestamp:yyyy-MM-dd}/";

fn line(n: u64) -> Vec<u8> {
    // Some of every kind: a customer with a name that needs care in a key, none at all, no JSON.
    match n % 97 {
        0 => format!("{{\"n\":{n},\"customer\":null}}"),
        1 => format!("line {n}"),
        2 => format!(
            "{{\"n\":{n},\"customer\":{{\"id\":\"a/b c\"}},\"at\":\"1999-12-31T23:00:00Z\"}}"
        ),
        _ => format!("{{\"n\":{n},\"customer\":{{\"id\":{}}},\"at\":{}}}", n % 60, 86_400 * 365),
    }
    .into_bytes()
}

/// The folder that `line` asks for.
fn folder(line: &[u8]) -> String {
    let record: Value = serde_json::from_slice(line).unwrap_or_default();
    match &record["customer"]["id"] {
        Value::Number(n) => format!("clicks/customer={n}/dt=1971-01-01/"),
        Value::String(_) => "clicks/customer=a%2Fb%20c/dt=1999-12-31/".to_owned(),
        _ => "clicks/customer=__HIVE_DEFAULT_PARTITION__/".to_owned(),
    }
}

#[test]
fn each_record_is_under_its_fields_once_through_a_kill_and_another_policy() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 2);
    let sent: Vec<Vec<u8>> = (0..6_000).map(line).collect();
    let settings = |overflow, most| {
        [
            ("delivery.prefix", PREFIX),
            ("delivery.time_field", "at"),
            ("delivery.overflow", overflow),
            ("delivery.partitions", most),
            ("delivery.batch_age", "300ms"),
            ("lease.failover", "2s"),
        ]
    };
    let first = worker(&services, &settings("cut", "50"));
    send(&services, dir.path(), "one", &sent[..3_000]);
    eventually("some batches", || (lines(dir.path()).len() > 500).then_some(()));
    // SIGKILL.
    drop(first);
    let mut second = worker(&services, &settings("spill", "20"));
    send(&services, dir.path(), "two", &sent[3_000..]);
    eventually("every record", || (lines(dir.path()).len() >= sent.len()).then_some(()));
    second.signal("TERM");
    assert!(second.wait(Duration::from_secs(40)).success());

    let mut expected = sent.clone();
    expected.sort();
    assert!(lines(dir.path()) == expected, "missing or twice");
    let mut spilled = 0;
    for (key, raw) in objects(dir.path(), "archive") {
        for line in raw.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            if key.starts_with("clicks/customer=__overflow__/") {
                spilled += 1;
            } else {
                assert!(key.starts_with(&folder(line)), "{key}: {}", folder(line));
            }
        }
    }
    assert!(spilled > 0, "forty partitions of sixty found no room");
    let (code, text) = verify(&services, &[]);
    assert_eq!(code, Some(0), "{text}");
}

/// `catchment verify` with the templates of this file.
fn verify(services: &Running, more: &[&str]) -> (Option<i32>, String) {
    let prefix = format!("delivery.prefix={PREFIX}");
    let known = ["verify", "--stream", "local", "--bucket", "archive", "--set", &prefix];
    let fixed = ["--set", "delivery.time_field=at", "--set", "aws.path_style=true"];
    let output = catchment(&[&known[..], &fixed, more].concat(), &services.environment);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
    (output.status.code(), text)
}

#[test]
fn spilled_partitions_are_made_again_from_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let sent: Vec<Vec<u8>> = (0..500).map(line).collect();
    send(&services, dir.path(), "input", &sent);
    let settings = [
        ("delivery.prefix", PREFIX),
        ("delivery.time_field", "at"),
        ("delivery.overflow", "spill"),
        ("delivery.partitions", "10"),
        ("delivery.batch_records", "200"),
        ("delivery.batch_age", "300ms"),
    ];
    let mut running = worker(&services, &settings);
    eventually("every record", || (lines(dir.path()).len() >= sent.len()).then_some(()));
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(40)).success());
    let spill = ["--set", "delivery.overflow=spill", "--set", "delivery.partitions=10"];
    let (code, text) = verify(&services, &[&["--deep"], &spill[..]].concat());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("compared with the stream: 500 records"), "{text}");
    // With another number the same records belong elsewhere: the comparison sees that.
    let (code, text) = verify(&services, &["--deep"]);
    assert_eq!(code, Some(3), "{text}");
}

#[test]
fn what_is_no_field_is_refused_with_the_remedy() {
    for (set, remedy) in [
        ("delivery.prefix=!{partitionKeyFromQuery:customer}/", "!{field:customer.id}"),
        ("delivery.prefix=!{field:customer[0]}/", "a path of names"),
        ("delivery.error_prefix=!{field:customer}/", "delivery.prefix only"),
        ("delivery.time_field=.at | tonumber", "a path of names"),
        ("delivery.overflow=drop", "cut, spill"),
        ("delivery.partitions=0", "from 1 to"),
    ] {
        let arguments = ["config", "check", "--stream", "s", "--bucket", "archive", "--set", set];
        let output = catchment(&arguments, &[]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{set}: {text}");
        assert!(text.contains(remedy), "{set}: {text}");
    }
}
