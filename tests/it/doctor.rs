//! `catchment doctor` against services that are well, ill, or refuse.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::proxy::{Fault, Proxy, Rule};
use crate::support::{Running, catchment, eventually, objects, send, services, stderr, worker};

const OF: [&str; 6] = [
    "--set",
    "stream.name=local",
    "--set",
    "delivery.bucket=archive",
    "--set",
    "aws.path_style=true",
];

pub(crate) fn doctor(environment: &[(String, String)], more: &[&str]) -> (Output, Value) {
    let arguments = [&["doctor", "--json"][..], &OF, more].concat();
    let output = catchment(&arguments, environment);
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|e| panic!("{e}: {}", stderr(&output)));
    (output, report)
}

pub(crate) fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    let found = report["checks"].as_array().unwrap().iter().find(|c| c["check"] == check);
    found.unwrap_or_else(|| panic!("{check} is missing in {report:#}"))
}

pub(crate) fn verdict<'a>(report: &'a Value, check: &str) -> &'a str {
    finding(report, check)["verdict"].as_str().unwrap()
}

fn behind(proxy: &Proxy, services: &Running) -> Vec<(String, String)> {
    let mut environment = services.environment.clone();
    for (name, value) in &mut environment {
        if name == "AWS_ENDPOINT_URL" {
            *value = proxy.endpoint();
        }
    }
    environment
}

/// Has a worker deliver something, so that there is a table with leases.
fn delivered(services: &Running, dir: &std::path::Path) {
    let mut running = worker(services, &[("delivery.batch_age", "200ms")]);
    send(services, dir, "input", &[b"a".to_vec(), b"b".to_vec()]);
    eventually("it is delivered", || (!objects(dir, "archive").is_empty()).then_some(()));
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(30)).success());
}

#[test]
fn all_is_well_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 2);
    delivered(&services, dir.path());
    let rows = || {
        let output = catchment(&["leases", "list", "--json"], &services.environment);
        String::from_utf8(output.stdout).unwrap()
    };
    let before = (rows(), objects(dir.path(), "archive"));
    for role in ["worker", "operator"] {
        let (output, report) = doctor(&services.environment, &["--role", role]);
        assert!(output.status.success(), "{report:#}");
        assert_eq!(report["verdict"], "ok", "{report:#}");
        for check in ["credentials", "clock", "stream", "read", "table", "rows", "kcl-peers"] {
            assert_eq!(verdict(&report, check), "ok", "{report:#}");
        }
        for check in ["table-writes", "lag", "bucket", "object-reads"] {
            assert_eq!(verdict(&report, check), "ok", "{report:#}");
        }
        let writes = if role == "worker" { "ok" } else { "skipped" };
        assert_eq!(verdict(&report, "object-writes"), writes, "{report:#}");
        let lag = finding(&report, "lag")["found"].as_str().unwrap();
        assert!(lag.contains("of 2 lease(s)") && lag.contains("24 h retention"), "{lag}");
    }
    assert!(before == (rows(), objects(dir.path(), "archive")));
    // For people: a line for each check.
    let output = catchment(&[&["doctor"][..], &OF].concat(), &services.environment);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("ok ")).count(), 12, "{text}");
}

#[test]
fn what_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    // No worker has run: the table will be made. That is no failure.
    let (output, report) = doctor(&services.environment, &[]);
    assert!(output.status.success(), "{report:#}");
    assert_eq!((&report["verdict"], verdict(&report, "table")), (&"warn".into(), "warn"));
    assert!(finding(&report, "table")["remedy"].as_str().unwrap().contains("CreateTable"));

    let auto = ["--set", "stream.reader=auto"];
    let (output, report) = doctor(&services.environment, &auto);
    assert!(output.status.success() && verdict(&report, "consumer") == "warn", "{report:#}");

    let (output, report) = doctor(&services.environment, &["--bucket", "elsewhere"]);
    assert_eq!(output.status.code(), Some(3), "{report:#}");
    assert_eq!((verdict(&report, "bucket"), verdict(&report, "stream")), ("fail", "ok"));
    assert!(stderr(&output).contains("1 of "), "{}", stderr(&output));

    let (output, report) = doctor(&services.environment, &["--stream", "nowhere"]);
    assert_eq!(output.status.code(), Some(3), "{report:#}");
    assert_eq!((verdict(&report, "stream"), verdict(&report, "read")), ("fail", "skipped"));
    assert!(finding(&report, "stream")["remedy"].as_str().unwrap().contains("AWS_REGION"));

    let output = catchment(&["doctor", "--stream", "local"], &services.environment);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("delivery.bucket"), "{}", stderr(&output));
}

#[test]
fn a_denied_permission_is_named_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    delivered(&services, dir.path());
    let proxy = Proxy::start(&services);
    let environment = behind(&proxy, &services);
    for (operation, check, action) in [
        ("Kinesis.GetRecords", "read", "kinesis:GetRecords"),
        ("Kinesis.ListShards", "read", "kinesis:ListShards"),
        ("DynamoDB.DescribeTable", "table", "dynamodb:DescribeTable"),
        ("DynamoDB.Scan", "rows", "dynamodb:Scan"),
        ("DynamoDB.UpdateItem", "table-writes", "dynamodb:UpdateItem"),
        ("DynamoDB.PutItem", "table-writes", "dynamodb:PutItem"),
        ("DynamoDB.DeleteItem", "table-writes", "dynamodb:DeleteItem"),
        ("S3.HeadBucket", "bucket", "s3:ListBucket"),
        ("S3.HeadObject", "object-reads", "s3:GetObject"),
        ("S3.CreateMultipartUpload", "object-writes", "s3:PutObject"),
        ("S3.AbortMultipartUpload", "object-writes", "s3:AbortMultipartUpload"),
    ] {
        let code =
            if operation.starts_with("S3.") { "AccessDenied" } else { "AccessDeniedException" };
        let status = if operation.starts_with("S3.") { 403 } else { 400 };
        proxy.add(Rule::new(operation, Fault::Refuse(status, code)));
        let (output, report) = doctor(&environment, &[]);
        assert_eq!(output.status.code(), Some(3), "{operation}: {report:#}");
        let told = finding(&report, check);
        assert_eq!(told["verdict"], "fail", "{operation}: {report:#}");
        assert!(told["remedy"].as_str().unwrap().contains(action), "{operation}: {told}");
        proxy.heal();
    }
    // The operator's role does without the writes of workers.
    proxy.add(Rule::new("DynamoDB.PutItem", Fault::Refuse(400, "AccessDeniedException")));
    proxy.add(Rule::new("S3.CreateMultipartUpload", Fault::Refuse(403, "AccessDenied")));
    let (output, report) = doctor(&environment, &["--role", "operator"]);
    assert!(output.status.success(), "{report:#}");
}

#[test]
fn credentials_that_are_refused_or_absent_end_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let proxy = Proxy::start(&services);
    proxy.add(Rule::new("Kinesis.*", Fault::Refuse(400, "UnrecognizedClientException")));
    let (output, report) = doctor(&behind(&proxy, &services), &[]);
    assert_eq!(output.status.code(), Some(3), "{report:#}");
    assert_eq!((verdict(&report, "credentials"), verdict(&report, "bucket")), ("fail", "skipped"));
    assert_eq!(proxy.operations(), ["Kinesis.DescribeStreamSummary"]);
    let output = std::process::Command::new(crate::support::BIN)
        .args(["doctor", "--stream", "local", "--bucket", "archive"])
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_REGION", "eu-west-1")
        .env("AWS_ENDPOINT_URL", proxy.endpoint())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("FAIL credentials") && text.contains("AWS_ACCESS_KEY_ID"), "{text}");
}

#[test]
fn a_clock_that_is_off_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let proxy = Proxy::start(&services);
    for (seconds, expected, words) in
        [(7_200, "fail", "behind the service"), (-120, "warn", "ahead of the service")]
    {
        proxy.add(Rule::new("Kinesis.DescribeStreamSummary", Fault::Later(seconds)));
        let (_, report) = doctor(&behind(&proxy, &services), &[]);
        let told = finding(&report, "clock");
        assert_eq!(told["verdict"], expected, "{told}");
        assert!(told["found"].as_str().unwrap().contains(words), "{told}");
        proxy.heal();
    }
}
