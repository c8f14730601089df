//! What the command line answers: results, and one clear message for everything that is wrong.

use std::fs;

use serde_json::Value;

use crate::support::{BIN, catchment, objects, services, stderr};

fn input() -> Vec<u8> {
    let mut text = Vec::new();
    for n in 0..2_000_u32 {
        text.extend_from_slice(format!("{{\"n\":{n}}}\n").as_bytes());
        if n % 50 == 0 {
            text.extend_from_slice(b"\n\xff\xfe not UTF-8\n");
        }
    }
    text.extend(std::iter::repeat_n(b'x', 150_000));
    text.extend_from_slice(b"\nno newline at the end");
    text
}

#[test]
fn local_delivers_every_line_in_every_format() {
    for (format, codec, name) in [
        ("ndjson", "zstd", ".ndjson.zst"),
        ("ndjson", "gzip", ".ndjson.gz"),
        ("raw", "none", ".raw"),
        ("envelope", "zstd", ".envelope.ndjson.zst"),
        ("json-array", "none", ".json"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("input");
        fs::write(&file, input()).unwrap();
        let data = dir.path().join("data");
        let output = catchment(
            &[
                "local",
                "--once",
                "--json",
                "--input",
                file.to_str().unwrap(),
                "--data-dir",
                data.to_str().unwrap(),
                "--set",
                &format!("delivery.format={format}"),
                "--set",
                &format!("delivery.compression={codec}"),
            ],
            &[],
        );
        assert!(output.status.success(), "{format}: {}", stderr(&output));
        let line = String::from_utf8(output.stdout).unwrap();
        let report: Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
        assert_eq!(report["records_sent"], 2_000 + 2 * 40 + 2, "{format}");
        assert_eq!(report["records_delivered"], report["records_sent"], "{format}");
        assert_eq!((&report["missing"], &report["duplicated"]), (&0.into(), &0.into()));
        let keys: Vec<String> = objects(&data, "archive").into_iter().map(|(k, _)| k).collect();
        assert!(keys.iter().any(|k| k.ends_with(name)), "{format}: {keys:?}");
        // What a JSON array cannot hold is put aside, not lost.
        let aside = keys.iter().filter(|k| k.starts_with("errors/invalid-json/")).count();
        assert_eq!(aside > 0, format == "json-array", "{keys:?}");
    }
}

#[test]
fn a_second_run_over_the_same_directory_sends_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("input");
    fs::write(&file, "a\nb\nc\n").unwrap();
    for _ in 0..2 {
        let output = catchment(
            &[
                "local",
                "--once",
                "--json",
                "--input",
                file.to_str().unwrap(),
                "--data-dir",
                dir.path().to_str().unwrap(),
            ],
            &[],
        );
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_eq!(crate::support::lines(dir.path()), [b"a", b"b", b"c"]);
}

#[test]
fn every_configuration_problem_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("catchment.toml");
    fs::write(&file, "[stream]\nname = \"a b\"\n[delivery]\nbucket = \"X\"\nprefx = \"\"\n")
        .unwrap();
    let output =
        catchment(&["run", "--config", file.to_str().unwrap(), "--set", "lease.max=0"], &[]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    for part in [
        "4 problems",
        "stream.name",
        "delivery.bucket",
        "did you mean `delivery.prefix`",
        "lease.max",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[test]
fn wrong_usage_is_code_two() {
    for arguments in [
        vec!["run", "--config", "/does/not/exist"],
        vec!["run", "--set", "nonsense"],
        vec!["local", "--once"],
        vec!["local", "--once", "--input", "/does/not/exist"],
        vec!["local", "--once", "--input", "-", "--workers", "0"],
        vec!["frobnicate"],
        vec!["cost"],
        vec!["cost", "--volume", "0B"],
        vec!["cost", "--volume", "1TB", "--price", "firehouse=1"],
        vec!["iam-policy", "--stream", "clicks"],
    ] {
        let output = catchment(&arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("panicked"));
    }
}

#[test]
fn what_is_missing_at_the_service_is_named_with_its_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let run = |stream: &str, bucket: &str, table: &str| {
        let output = catchment(
            &[
                "run",
                "--stream",
                stream,
                "--bucket",
                bucket,
                "--set",
                "aws.path_style=true",
                "--set",
                "telemetry.listen=off",
                "--set",
                &format!("lease.table={table}"),
            ],
            &services.environment,
        );
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    let text = run("nowhere", "archive", "leases");
    assert!(
        text.contains("stream `nowhere` does not exist") && text.contains("AWS_REGION"),
        "{text}"
    );
    let text = run("local", "nobucket", "leases");
    assert!(text.contains("bucket `nobucket`") && text.contains("delivery.bucket"), "{text}");
}

#[test]
fn missing_credentials_and_region_are_told_at_once() {
    for (environment, part) in [
        (vec![("AWS_REGION", "eu-west-1")], "AWS_ACCESS_KEY_ID"),
        (vec![("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")], "AWS_REGION"),
    ] {
        let output = std::process::Command::new(BIN)
            .args(["run", "--stream", "a", "--bucket", "abc", "--set", "telemetry.listen=off"])
            .env_clear()
            .env("HOME", "/nonexistent")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(environment)
            .output()
            .unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let output = catchment(
        &[
            "run",
            "--stream",
            "local",
            "--bucket",
            "archive",
            "--set",
            "aws.path_style=true",
            "--set",
            &format!("telemetry.listen={address}"),
        ],
        &services.environment,
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));
    let output = catchment(&["healthcheck", "--address", "127.0.0.1:1"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(std::path::Path::new(BIN).exists());
}

#[test]
fn leases_are_listed_released_and_reset_under_guard() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 2);
    let leases = |arguments: &[&str]| {
        let all: Vec<&str> = ["leases"].iter().chain(arguments).copied().collect();
        let output = catchment(&all, &services.environment);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
        (output.status.code().unwrap(), text)
    };
    let (code, text) = leases(&["list"]);
    assert!(code == 1 && text.contains("lease.table"), "{text}");
    let mut running = crate::support::worker(&services, &[("delivery.batch_age", "200ms")]);
    crate::support::eventually("both shards are owned", || {
        let (_, text) = leases(&["list", "--json"]);
        (text.matches("\"state\":\"owned\"").count() == 2).then_some(())
    });
    let shard = "shardId-000000000001";
    let (code, text) = leases(&["reset", shard, "--to", "latest", "--yes"]);
    assert!(code == 1 && text.contains("is owned by"), "{text}");
    running.signal("TERM");
    assert!(running.wait(std::time::Duration::from_secs(20)).success());
    assert!(leases(&["list"]).1.contains("free"));
    // The fleet is told: by the worker that stopped, and by the operator.
    let clients = crate::support::clients(&services);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let news = || {
        let rows = runtime.block_on(clients.dynamodb.scan().table_name("catchment").send());
        let rows = rows.unwrap();
        let board = rows.items().iter().min_by_key(|row| row["leaseKey"].as_s().unwrap().clone());
        let news = board.unwrap().get("catchment_news");
        news.map_or(0, |n| n.as_n().unwrap().parse::<u64>().unwrap())
    };
    let before = news();
    assert!(before > 0);
    let (code, text) = leases(&["reset", shard, "--to", "12"]);
    assert!(code == 0 && text.contains("Nothing was done"), "{text}");
    assert_eq!(leases(&["reset", shard, "--to", "12", "--yes"]).0, 0);
    assert_eq!(news(), before + 1);
    assert!(leases(&["show", shard]).1.contains("\"checkpoint\": \"12\""));
    assert_eq!(leases(&["reset", shard, "--to", "soon"]).0, 2);
    assert_eq!(leases(&["show", "shardId-9"]).0, 1);
}

#[test]
fn leases_tell_the_age_of_counters_and_lag_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 2);
    let leases = |arguments: &[&str]| {
        let all: Vec<&str> = ["leases"].iter().chain(arguments).copied().collect();
        let output = catchment(&all, &services.environment);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
        (output.status.code().unwrap(), text)
    };
    let rows = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let (code, text) = leases(arguments);
        assert_eq!(code, 0, "{text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let mut running = crate::support::worker(
        &services,
        &[("delivery.batch_age", "10m"), ("lease.failover", "6s")],
    );
    crate::support::eventually("both shards are owned", || {
        (leases(&["list", "--json"]).1.matches("\"state\":\"owned\"").count() == 2).then_some(())
    });
    let file = dir.path().join("input");
    std::fs::write(&file, (0..40).map(|n| format!("{n}\n")).collect::<String>()).unwrap();
    let sent = ["send", "--stream", "local", "--input", file.to_str().unwrap()];
    assert!(catchment(&sent, &services.environment).status.success());
    // Nothing that takes time unless it is asked for.
    for row in rows(&["list", "--json"]) {
        assert!(row.get("counter_age").is_none() && row.get("lag").is_none(), "{row}");
    }
    // Hearts beat every two seconds, and the open batch keeps the checkpoints behind.
    for row in rows(&["list", "--json", "--watch", "3s", "--lag"]) {
        assert_eq!(row["counter_age"]["moved"], true, "{row}");
        assert!(row["lag"]["next_record_age_ms"].as_i64().unwrap() > 0, "{row}");
    }
    let (_, table) = leases(&["list", "--watch", "1s", "--lag"]);
    assert!(table.contains("STILL") && table.contains("LAG"), "{table}");
    running.signal("TERM");
    assert!(running.wait(std::time::Duration::from_secs(20)).success());
    // All is delivered, and nobody's heart beats.
    for row in rows(&["list", "--json", "--watch", "500ms", "--lag"]) {
        assert_eq!(row["counter_age"]["moved"], false, "{row}");
        assert!(row["counter_age"]["still_ms"].as_u64().unwrap() >= 500, "{row}");
        assert_eq!(row["lag"]["next_record_age_ms"], serde_json::Value::Null, "{row}");
        assert_eq!(row["lag"]["behind_ms"], 0, "{row}");
    }
    let (_, table) = leases(&["list", "--watch", "500ms", "--lag"]);
    assert!(table.matches('>').count() == 2 && table.matches(" 0.0s").count() == 2, "{table}");
    let (_, one) = leases(&["show", "shardId-000000000000", "--watch", "300ms", "--lag"]);
    let one: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!(
        (&one["counter_age"]["moved"], &one["lag"]["behind_ms"]),
        (&false.into(), &0.into())
    );
}

#[test]
fn reset_prints_its_plan_and_is_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 3);
    let leases = |arguments: &[&str]| {
        let all: Vec<&str> = ["leases"].iter().chain(arguments).copied().collect();
        let output = catchment(&all, &services.environment);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
        (output.status.code().unwrap(), text)
    };
    let list = || leases(&["list", "--json"]).1;
    let mut running = crate::support::worker(&services, &[]);
    crate::support::eventually("all shards are owned", || {
        (list().matches("\"state\":\"owned\"").count() == 3).then_some(())
    });
    let (code, text) = leases(&["reset", "--all", "--to", "latest", "--dry-run"]);
    assert!(code == 1 && text.contains("is owned by") && text.contains("leases release"), "{text}");
    running.signal("TERM");
    assert!(running.wait(std::time::Duration::from_secs(20)).success());
    let before = list();
    let (code, text) = leases(&["reset", "--all", "--to", "2026-01-01T00:00:00Z", "--dry-run"]);
    assert!(code == 0 && text.contains("Nothing was done"), "{text}");
    assert_eq!(text.matches("TRIM_HORIZON -> 2026-01-01T00:00:00Z").count(), 3, "{text}");
    assert_eq!(leases(&["reset", "--all", "--to", "latest", "--dry-run", "--yes"]).0, 2);
    assert_eq!(leases(&["reset", "--to", "latest"]).0, 2, "which lease?");
    assert_eq!(list(), before);
    let (code, text) = leases(&["reset", "--all", "--to", "2026-01-01T00:00:00Z", "--yes"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(list().matches("\"checkpoint\":\"AT_TIMESTAMP\"").count(), 3);
}
