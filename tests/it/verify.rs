//! `catchment verify` finds what was done to the objects.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use serde_json::Value;

use crate::support::{
    Running, catchment, clients, eventually, lines, objects, send, services, stderr, worker,
};

fn verify(services: &Running, more: &[&str]) -> (i32, Value) {
    let output = run(services, more);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!("{}", stderr(&output));
    });
    (output.status.code().unwrap(), report)
}

fn run(services: &Running, more: &[&str]) -> Output {
    let mut arguments = vec!["verify", "--stream", "local", "--bucket", "archive", "--json"];
    arguments.extend(["--set", "aws.path_style=true"]);
    arguments.extend(more);
    catchment(&arguments, &services.environment)
}

fn kinds(report: &Value) -> Vec<&str> {
    let problems = report["problems"].as_array().unwrap();
    problems.iter().map(|p| p["problem"].as_str().unwrap()).collect()
}

/// A stream of one shard, delivered in batches of a hundred records by a worker that has left.
fn delivered(dir: &Path, format: &str) -> Running {
    let services = services(dir, 1);
    let lines_sent: Vec<Vec<u8>> =
        (0..1_000).map(|n| format!("{{\"record\":{n}}}").into_bytes()).collect();
    send(&services, dir, "input", &lines_sent);
    let mut running = worker(
        &services,
        &[
            ("delivery.batch_age", "300ms"),
            ("delivery.batch_records", "100"),
            ("delivery.format", format),
        ],
    );
    eventually("delivery", || {
        let output = run(&services, &[]);
        let report: Value = serde_json::from_slice(&output.stdout).ok()?;
        let records = report["shards"][0]["records"].as_u64()?;
        (output.status.success() && records == 1_000).then_some(())
    });
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(40)).success());
    services
}

fn paths(dir: &Path) -> Vec<PathBuf> {
    let keys = objects(dir, "archive").into_iter().map(|(key, _)| key);
    keys.map(|key| dir.join("archive").join(key)).collect()
}

#[test]
fn what_is_whole_is_called_whole_and_what_is_not_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let services = delivered(dir.path(), "ndjson");
    let (code, report) = verify(&services, &["--deep"]);
    assert_eq!((code, kinds(&report)), (0, vec![]), "{report}");
    assert_eq!(report["shards"][0]["end_proven"], true);
    assert_eq!(report["unproven_batches"], 0);
    assert_eq!(report["compared_with_stream"]["records"], 1_000);
    assert_eq!(report["compared_with_stream"]["batches_skipped"], 0);
    let batches = report["shards"][0]["batches"].as_u64().unwrap();
    assert_eq!(report["compared_with_stream"]["batches"], batches);

    // A stranger under the prefix.
    let s3 = clients(&services).s3;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let put = s3.put_object().bucket("archive").key("local/notes.txt");
    runtime.block_on(put.body(ByteStream::from_static(b"hello")).send()).unwrap();
    let (code, report) = verify(&services, &[]);
    assert_eq!((code, kinds(&report)), (3, vec!["foreign"]), "{report}");
    std::fs::remove_file(dir.path().join("archive/local/notes.txt")).unwrap();

    // The same content under a name with another range.
    let keys: Vec<String> = objects(dir.path(), "archive").into_iter().map(|(k, _)| k).collect();
    let third = keys[2].rsplit_once('-').unwrap().0;
    let copy = format!("{third}-{}", keys[3].rsplit_once('-').unwrap().1);
    // A put with the metadata that an object has: what a copy is.
    let put = |like: &str, key: &str, body: Option<Vec<u8>>| {
        runtime.block_on(async {
            let there = s3.get_object().bucket("archive").key(like).send().await.unwrap();
            let own = there.body.collect().await.unwrap().to_vec();
            let put = s3.put_object().bucket("archive").key(key).set_metadata(there.metadata);
            put.body(ByteStream::from(body.unwrap_or(own))).send().await.unwrap();
        });
    };
    put(&keys[2], &copy, None);
    let (code, report) = verify(&services, &[]);
    let found = kinds(&report);
    assert_eq!(code, 3);
    assert!(found.contains(&"overlap") && found.contains(&"foreign"), "{report}");
    std::fs::remove_file(dir.path().join("archive").join(&copy)).unwrap();
    assert_eq!(verify(&services, &[]).0, 0);

    // Any object missing: the first, one between, the last.
    let paths = paths(dir.path());
    for missing in [0, paths.len() / 2, paths.len() - 1] {
        let (path, aside) = (&paths[missing], dir.path().join("aside"));
        std::fs::rename(path, &aside).unwrap();
        let (code, report) = verify(&services, &[]);
        assert_eq!((code, kinds(&report)), (3, vec!["gap"]), "{missing}: {report}");
        let (code, report) = verify(&services, &["--deep"]);
        assert_eq!(code, 3);
        // The stream still has the records and decides, except for what stands before the first object
        // there is: that may never have been the application's to deliver.
        let expected = if missing == 0 { "gap" } else { "lost" };
        assert_eq!(kinds(&report), [expected], "{missing}: {report}");
        let (code, _) = verify(&services, &["--expired-ok"]);
        assert_eq!(code, if missing == 0 { 0 } else { 3 });
        std::fs::rename(&aside, path).unwrap();
    }
    assert_eq!(verify(&services, &["--deep"]).0, 0);

    // Damaged, and exchanged for something else that can be read.
    let whole = std::fs::read(&paths[1]).unwrap();
    put(&keys[1], &keys[1], Some(whole[..whole.len() / 2].to_vec()));
    assert_eq!(verify(&services, &[]).0, 0, "contents are not read without --deep");
    let (code, report) = verify(&services, &["--deep"]);
    assert_eq!((code, kinds(&report)), (3, vec!["undecodable"]), "{report}");
    let raw = zstd::stream::decode_all(whole.as_slice()).unwrap();
    let other = String::from_utf8(raw).unwrap().replacen("record", "rekord", 1);
    let other = zstd::stream::encode_all(other.as_bytes(), 1).unwrap();
    put(&keys[1], &keys[1], Some(other));
    let (code, report) = verify(&services, &["--deep"]);
    assert_eq!((code, kinds(&report)), (3, vec!["differs"]), "{report}");
    // In words, too.
    let mut arguments = vec!["verify", "--stream", "local", "--bucket", "archive", "--deep"];
    arguments.extend(["--set", "aws.path_style=true"]);
    let output = catchment(&arguments, &services.environment);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("DIFFERS") && text.contains("1 problems"), "{text}");
    assert_eq!(lines(dir.path()).len(), 1_000);
}

#[test]
fn other_formats_are_read_back_as_well() {
    for format in ["raw", "json-array", "envelope"] {
        let dir = tempfile::tempdir().unwrap();
        let services = delivered(dir.path(), format);
        let set = format!("delivery.format={format}");
        let (code, report) = verify(&services, &["--deep", "--set", &set]);
        assert_eq!((code, kinds(&report)), (0, vec![]), "{format}: {report}");
        assert_eq!(report["compared_with_stream"]["batches_skipped"], 0, "{format}");
        // With other settings there is nothing to compare, and nothing wrong.
        let (code, report) = verify(&services, &["--deep"]);
        assert_eq!(code, 0, "{format}: {report}");
        assert_eq!(report["compared_with_stream"]["batches"], 0, "{format}");
    }
}

#[test]
fn uploads_are_part_of_the_chain_and_duplicates_of_them_are_no_loss() {
    use catchment::upload::event::{Envelope, sha256_hex, subject_hash, validate_file_key};
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let upload = |key: &str, body: &str| {
        Envelope {
            file_key: validate_file_key(key).unwrap(),
            content_type: "text/plain".into(),
            sha256: sha256_hex(body.as_bytes()),
            subject: subject_hash("issuer", "someone"),
            request_id: "request-1".into(),
            received_at: 1_790_000_000_000,
            body: body.as_bytes().to_vec(),
        }
        .encode()
    };
    let sent = [
        b"first".to_vec(),
        upload("uploads/a.txt", "a"),
        upload("uploads/b.txt", "b"),
        upload("uploads/a.txt", "a"),
        upload("uploads/b.txt", "another b"),
        b"last".to_vec(),
    ];
    send(&services, dir.path(), "input", &sent);
    // A batch for each record: the second event of a.txt makes no object at all.
    let one = [("delivery.batch_age", "300ms"), ("delivery.batch_records", "1")];
    let mut running = worker(&services, &one);
    eventually("delivery", || {
        let found = objects(dir.path(), "archive");
        (found.iter().filter(|(key, _)| key.starts_with("local/")).count() == 2).then_some(())
    });
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(40)).success());
    let (code, report) = verify(&services, &[]);
    assert_eq!((code, kinds(&report)), (3, vec!["gap"]), "{report}");
    let (code, report) = verify(&services, &["--deep"]);
    assert_eq!((code, kinds(&report)), (0, vec![]), "{report}");
    std::fs::remove_file(dir.path().join("archive/uploads/a.txt")).unwrap();
    let (code, report) = verify(&services, &["--deep"]);
    // Both events, on either side of another batch.
    assert_eq!((code, kinds(&report)), (3, vec!["lost", "lost"]), "{report}");
}

#[test]
fn a_missing_table_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let output = run(&services, &["--set", "lease.application=elsewhere"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("elsewhere"));
    let output = run(&services, &["--replay", "none"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}
