//! Processes are killed without warning; every record must end up in exactly one object.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{BIN, Running, eventually, lines, services, worker};

fn numbered(count: u32) -> (String, Vec<Vec<u8>>) {
    let lines: Vec<String> =
        (0..count).map(|n| format!("{{\"record\":{n},\"pad\":\"{n:0>80}\"}}")).collect();
    let mut sorted: Vec<Vec<u8>> = lines.iter().map(|l| l.clone().into_bytes()).collect();
    sorted.sort();
    (lines.join("\n") + "\n", sorted)
}

/// `local --once` is killed at a different moment each time, then allowed to finish.
#[test]
fn a_run_killed_at_any_moment_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (text, expected) = numbered(30_000);
    let file = dir.path().join("input");
    fs::write(&file, text).unwrap();
    let data = dir.path().join("data");
    let start = || {
        Command::new(BIN)
            .args(["local", "--once", "--json", "--input"])
            .arg(&file)
            .arg("--data-dir")
            .arg(&data)
            .args(["--set", "delivery.batch_bytes=100KB", "--set", "lease.failover=1s"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    for moment in [150, 400, 700, 1000, 1300, 250, 1600] {
        let mut child = start();
        std::thread::sleep(Duration::from_millis(moment));
        let _ = child.kill();
        child.wait().unwrap();
    }
    let output = start().wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(lines(&data) == expected, "{}", difference(&lines(&data), &expected));
}

/// Three workers on one table, one of which is killed every little while, and replaced.
#[test]
fn workers_killed_one_after_another_lose_and_repeat_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 6);
    let settings = [
        ("delivery.batch_bytes", "50KB"),
        ("delivery.batch_age", "500ms"),
        ("lease.failover", "2s"),
    ];
    let (text, expected) = numbered(40_000);
    let file = dir.path().join("input");
    fs::write(&file, text).unwrap();
    let mut workers: Vec<Running> = (0..3).map(|_| worker(&services, &settings)).collect();
    let mut producer = send(&services, &file);
    for turn in 0..9 {
        std::thread::sleep(Duration::from_millis(1000));
        // Dropping kills with SIGKILL.
        workers[turn % 3] = worker(&services, &settings);
    }
    assert!(producer.wait().unwrap().success());
    eventually("every record is delivered", || {
        (lines(dir.path()).len() >= expected.len()).then_some(())
    });
    // Whatever is still under way would add duplicates: let everybody finish first.
    for mut running in workers {
        running.signal("TERM");
        assert!(running.wait(Duration::from_secs(40)).success());
    }
    assert!(lines(dir.path()) == expected, "{}", difference(&lines(dir.path()), &expected));
}

/// Sends a file to the stream of running services.
fn send(services: &Running, file: &Path) -> std::process::Child {
    Command::new(BIN)
        .args(["send", "--stream", "local", "--input"])
        .arg(file)
        .envs(services.environment.iter().cloned())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn difference(found: &[Vec<u8>], expected: &[Vec<u8>]) -> String {
    use std::collections::BTreeMap;
    let mut counts: BTreeMap<&[u8], i64> = BTreeMap::new();
    expected.iter().for_each(|l| *counts.entry(l).or_default() -= 1);
    found.iter().for_each(|l| *counts.entry(l).or_default() += 1);
    let missing = counts.values().filter(|n| **n < 0).count();
    let twice = counts.values().filter(|n| **n > 0).count();
    format!("{missing} missing, {twice} more often than sent, of {}", expected.len())
}
