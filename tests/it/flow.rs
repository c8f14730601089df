//! The user's flow, whole: log in, upload through the API, find the file in S3; and what happens to
//! events that should not be.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use catchment::upload::event::{Envelope, sha256_hex, subject_hash, validate_file_key};
use serde_json::Value;

use crate::support::{BIN, Running, catchment, eventually, objects, services, stderr, worker};

fn tool(name: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).output();
    found.is_ok_and(|o| o.status.success())
}

#[test]
fn the_tour_ends_with_a_file_in_s3() {
    if !tool("curl") || !tool("bash") {
        println!("SKIPPED: the tour needs curl and bash");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(BIN)
        .args(["local", "--data-dir"])
        .arg(dir.path())
        .args(["--set", "telemetry.listen=off", "--set", "delivery.batch_age=300ms"])
        .env("CATCHMENT_LOG", "error")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let printed = BufReader::new(child.stderr.take().unwrap());
    let mut running = Running { child, environment: Vec::new() };
    let mut tour = Vec::new();
    for line in printed.lines() {
        let line = line.unwrap();
        if line.contains("Stop with Ctrl-C") {
            break;
        }
        tour.extend(
            line.strip_prefix("  ")
                .filter(|l| l.contains("curl") && !l.contains("/status") && !l.contains("/metrics"))
                .map(str::to_owned),
        );
    }
    assert_eq!(tour.len(), 3, "{tour:?}");
    let output = Command::new("bash").arg("-c").arg(tour.join("\n")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let answer: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(answer["message"], "File uploaded and event sent", "{text}");
    let key = answer["file_key"].as_str().unwrap().to_owned();
    assert!(key.starts_with("uploads/") && key.ends_with(".txt"), "{key}");
    let file = dir.path().join("archive").join(&key);
    let stored = eventually("the file is in S3", || std::fs::read_to_string(&file).ok());
    assert_eq!(stored, "Hello, Catchment");
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(40)).success());
}

pub(crate) fn envelope(key: &str, body: &str) -> Vec<u8> {
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
}

#[test]
fn a_key_is_written_once_and_everything_else_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 3);
    let mut running = worker(&services, &[("delivery.batch_age", "300ms")]);
    let good = envelope("uploads/a.txt", "first");
    let text = String::from_utf8(good.clone()).unwrap();
    let deliver = |name: &str, events: &[Vec<u8>]| {
        let file = dir.path().join(name);
        std::fs::write(&file, events.join(&b'\n')).unwrap();
        let sent = catchment(
            &["send", "--stream", "local", "--input", file.to_str().unwrap()],
            &services.environment,
        );
        assert!(sent.status.success(), "{}", stderr(&sent));
    };
    let stored = |part: &str| {
        let all = objects(dir.path(), "archive");
        all.into_iter().filter(|(key, _)| key.contains(part)).collect::<Vec<_>>()
    };
    deliver("one", std::slice::from_ref(&good));
    eventually("the upload is stored", || (!stored("uploads/a.txt").is_empty()).then_some(()));
    deliver(
        "two",
        &[
            // The same file again; another file under the same key; and what no door would write.
            good,
            envelope("uploads/a.txt", "second"),
            text.replace("uploads/a.txt", "uploads/../../etc/passwd").into_bytes(),
            text.replace("uploads/a.txt", "elsewhere/a.txt").into_bytes(),
            text.replace("\"v\":1", "\"v\":9").into_bytes(),
            text.replace("Zmlyc3Q=", "Zmlyc3R=").into_bytes(),
            // What the door would write, and the store does not take.
            envelope(&format!("uploads/{}", "z".repeat(300)), "too long"),
            b"an ordinary record".to_vec(),
        ],
    );
    eventually("all are delivered", || {
        let dead: usize =
            stored("errors/").iter().map(|(_, raw)| raw.split(|b| *b == b'\n').count() - 1).sum();
        (dead == 6 && !stored("local/dt=").is_empty()).then_some(())
    });
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(40)).success());
    assert_eq!(stored("uploads/a.txt")[0].1, b"first");
    let uploads = stored("uploads/").into_iter().filter(|(k, _)| k.starts_with("uploads/"));
    assert_eq!(uploads.count(), 1);
    let conflict = stored("errors/upload-conflict/");
    assert_eq!(conflict.len(), 1);
    let line: Value = serde_json::from_slice(&conflict[0].1).unwrap();
    assert_eq!(line["file_key"], "uploads/a.txt");
    assert_eq!(line["data"], "c2Vjb25k");
    assert!(stored("errors/upload-key/").len() <= 2 && !stored("errors/upload-key/").is_empty());
    assert_eq!(stored("errors/upload-version/").len(), 1);
    let refused = stored("errors/upload-refused/");
    assert_eq!(refused.len(), 1);
    let line: Value = serde_json::from_slice(&refused[0].1).unwrap();
    assert_eq!((&line["kind"], &line["data"]), (&"upload-refused".into(), &"dG9vIGxvbmc=".into()));
}

/// The first is large, so it takes longer.
#[test]
fn of_two_files_with_one_key_the_first_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let file = dir.path().join("events");
    let key = |n: usize| format!("uploads/{n}.txt");
    let events: Vec<_> = (0..6)
        .flat_map(|n| {
            let first = format!("first{}", "x".repeat(400_000));
            [envelope(&key(n), &first), envelope(&key(n), "second")]
        })
        .collect();
    std::fs::write(&file, events.join(&b'\n')).unwrap();
    let sent = catchment(
        &["send", "--stream", "local", "--input", file.to_str().unwrap()],
        &services.environment,
    );
    assert!(sent.status.success(), "{}", stderr(&sent));
    let mut running = worker(&services, &[("delivery.batch_records", "3")]);
    let found = |part: &str| {
        let all = objects(dir.path(), "archive");
        all.into_iter().filter(|(key, _)| key.contains(part)).collect::<Vec<_>>()
    };
    eventually("all are delivered", || {
        let conflicts = found("errors/upload-conflict/");
        let lines = conflicts.iter().map(|(_, raw)| raw.split(|b| *b == b'\n').count() - 1);
        (lines.sum::<usize>() == 6).then_some(())
    });
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(40)).success());
    let files: Vec<_> =
        found("uploads/").into_iter().filter(|(k, _)| k.starts_with("uploads/")).collect();
    assert_eq!(files.len(), 6);
    assert!(files.iter().all(|(_, body)| body.starts_with(b"first")));
    // One object for the conflicts of a batch.
    assert!(found("errors/upload-conflict/").len() <= 4);
}
