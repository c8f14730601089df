//! `catchment config`: the configuration checked, and shown with its origins.

use std::fs;

use serde_json::Value;

use crate::support::{catchment, stderr};

const FILE: &str = "[stream]\nname = \"clicks\"\npage_records = 500\n[delivery]\nbucket = \"arc\"\n\
                    prefix = \"a\\\"b/\"\n";

fn environment() -> Vec<(String, String)> {
    vec![("CATCHMENT_LEASE_SCAN".to_owned(), "2s".to_owned())]
}

fn print(arguments: &[&str]) -> Value {
    let arguments = [&["config", "print", "--json"], arguments].concat();
    let output = catchment(&arguments, &environment());
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn setting<'a>(report: &'a Value, key: &str) -> &'a Value {
    report["settings"].as_array().unwrap().iter().find(|s| s["key"] == key).unwrap()
}

#[test]
fn check_says_ok_and_of_what_or_everything_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("catchment.toml");
    let path = file.to_str().unwrap();
    fs::write(&file, FILE).unwrap();
    let output = catchment(&["config", "check", "--config", path], &environment());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("ok: {path}\n"));
    let output = catchment(&["config", "check", "--stream", "a", "--bucket", "abc"], &[]);
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("ok: no file"));
    // The same words as a worker's.
    let wrong = ["--config", path, "--set", "lease.max=0", "--set", "lease.scna=1s"];
    let said = |command: &[&str]| {
        let output = catchment(&[command, &wrong].concat(), &environment());
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
        stderr(&output)
    };
    let text = said(&["config", "check"]);
    assert!(text.contains("2 problems") && text.contains("did you mean `lease.scan`"), "{text}");
    assert_eq!(text, said(&["run"]));
}

#[test]
fn print_names_the_origin_of_every_value_and_loads_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("catchment.toml");
    let path = file.to_str().unwrap();
    fs::write(&file, FILE).unwrap();
    let flags = ["--config", path, "--bucket", "other"];
    let report = print(&flags);
    for (key, value, source, from) in [
        ("stream.page_records", "500", "file", path),
        ("delivery.bucket", "other", "flag", "--bucket"),
        ("lease.scan", "2s", "environment", "CATCHMENT_LEASE_SCAN"),
        ("lease.table", "catchment", "default", "lease.application"),
    ] {
        let shown = setting(&report, key);
        assert_eq!((&shown["value"], &shown["source"]), (&value.into(), &source.into()), "{shown}");
        assert_eq!(shown["from"], from, "{shown}");
    }
    assert_eq!(setting(&report, "lease.failover")["source"], "default");
    let output = catchment(&[&["config", "print"][..], &flags].concat(), &environment());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("bucket = \"other\"  # flag --bucket\n"), "{text}");
    let again = dir.path().join("again.toml");
    fs::write(&again, &text).unwrap();
    let output =
        catchment(&["config", "print", "--json", "--config", again.to_str().unwrap()], &[]);
    let again: Value = serde_json::from_slice(&output.stdout).unwrap();
    let values = |report: &Value| -> Vec<Value> {
        report["settings"].as_array().unwrap().iter().map(|s| s["value"].clone()).collect()
    };
    assert_eq!(values(&again), values(&report));
}

#[test]
fn print_shows_also_what_is_wrong() {
    let output = catchment(&["config", "print", "--json", "--set", "lease.max=0"], &[]);
    assert_eq!(output.status.code(), Some(2));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(setting(&report, "lease.max")["value"], "0");
    assert_eq!(report["problems"].as_array().unwrap().len(), 3, "{report}");
    assert!(stderr(&output).contains("stream.name"), "{}", stderr(&output));
}
