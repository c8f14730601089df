//! Policies against the calls: those in the source, and those a running worker makes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use catchment::iam::{CALLS, LOCAL_ONLY, Role};
use serde_json::Value;

use crate::proxy::{Fault, Proxy, Rule};
use crate::support::{BIN, Running, catchment, eventually, objects, services, stderr};

/// `Service.Operation` of every SDK call in a file of `src/aws`.
fn operations(file: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/aws").join(file);
    let text = fs::read_to_string(path).unwrap();
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .collect();
    let own =
        if matches!(file, "kinesis.rs" | "fan_out.rs" | "producer.rs") { "Kinesis" } else { "S3" };
    let tables = ["dynamodb.rs", "dynamodb/admin.rs", "tables.rs"];
    let own = if tables.contains(&file) { "DynamoDB" } else { own };
    let mut found = BTreeSet::new();
    for (receiver, service) in [
        ("self.client.", own),
        ("=client.", own),
        ("self.client().", own),
        ("self.kinesis.", "Kinesis"),
        ("self.dynamodb.", "DynamoDB"),
        ("self.s3.", "S3"),
    ] {
        for rest in code.split(receiver).skip(1) {
            let Some((method, _)) = rest.split_once("()") else { continue };
            let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            if !method.bytes().all(legal) || matches!(method, "clone" | "config") {
                continue;
            }
            let camel: String = method
                .split('_')
                .map(|word| format!("{}{}", word[..1].to_ascii_uppercase(), &word[1..]))
                .collect();
            found.insert(format!("{service}.{camel}"));
        }
    }
    found
}

fn granted(role: Role) -> BTreeSet<String> {
    let calls = CALLS.iter().filter(|c| c.roles.contains(&role));
    calls.map(|c| c.operation.to_owned()).collect()
}

#[test]
fn every_call_of_the_source_is_granted_to_its_role_and_nothing_else_is() {
    let of = |files: &[&str]| files.iter().flat_map(|f| operations(f)).collect::<BTreeSet<_>>();
    let told = "src/iam.rs and the calls in src/aws disagree";
    assert_eq!(
        granted(Role::Worker),
        of(&["kinesis.rs", "fan_out.rs", "dynamodb.rs", "dynamodb/admin.rs", "s3.rs"]),
        "{told}"
    );
    assert_eq!(granted(Role::UploadApi), of(&["front_door.rs"]), "{told}");
    let local: BTreeSet<String> = LOCAL_ONLY.iter().map(|s| (*s).to_owned()).collect();
    let beside: BTreeSet<String> =
        of(&["objects.rs", "producer.rs"]).difference(&local).cloned().collect();
    assert_eq!(beside, ["S3.GetObject", "S3.ListObjectsV2"].map(str::to_owned).into(), "{told}");
    assert!(beside.is_subset(&granted(Role::Operator)), "{told}");
    let tables = of(&["tables.rs"]);
    assert!(tables.is_subset(&granted(Role::Replay)) && tables.len() == 2, "{told}: {tables:?}");
    // The doctor asks for what a worker may do; as an operator it makes fewer of these calls.
    let probes = of(&["preflight.rs"]);
    assert!(probes.is_subset(&granted(Role::Worker)) && probes.len() == 6, "{told}: {probes:?}");
    // A new file under src/aws must be looked at here.
    let aws = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/aws");
    let listing = [aws.join("dynamodb"), aws];
    let listing = listing.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let known = ["clients.rs", "front_door.rs", "dynamodb", "dynamodb.rs", "admin.rs"];
    let known = [
        &known[..],
        &[
            "fan_out.rs",
            "fault.rs",
            "kinesis.rs",
            "lookup.rs",
            "mod.rs",
            "objects.rs",
            "preflight.rs",
            "producer.rs",
        ],
        &[
            "records",
            "records.rs",
            "reply",
            "reply.rs",
            "silence.rs",
            "subscriptions.rs",
            "transport.rs",
        ],
        &["s3.rs", "tables.rs", "events", "events.rs", "wire", "wire.rs"],
    ]
    .concat();
    for entry in listing {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name.as_str()), "{name}: say whose calls these are");
    }
}

fn print_policy(role: &str, more: &[&str]) -> Value {
    let mut arguments = vec!["iam-policy", "--role", role, "--stream", "local"];
    arguments.extend(["--bucket", "archive", "--region", "us-east-1"]);
    arguments.extend(["--account", "000000000000"]);
    arguments.extend(more);
    let output = catchment(&arguments, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn actions(policy: &Value) -> BTreeSet<String> {
    let statements = policy["Statement"].as_array().unwrap();
    let all = statements.iter().flat_map(|s| s["Action"].as_array().unwrap());
    all.map(|a| a.as_str().unwrap().to_owned()).collect()
}

/// The actions that allow what went through the proxy.
fn used(proxy: &Proxy) -> BTreeSet<String> {
    let action = |operation: &str| {
        let call = CALLS.iter().find(|c| c.operation == operation);
        call.unwrap_or_else(|| panic!("{operation} is called and no policy knows it")).action
    };
    proxy.operations().iter().map(|o| action(o).to_owned()).collect()
}

fn behind(proxy: &Proxy, services: &Running) -> Vec<(String, String)> {
    let mut environment = services.environment.clone();
    environment.retain(|(name, _)| name != "AWS_ENDPOINT_URL");
    environment.push(("AWS_ENDPOINT_URL".into(), proxy.endpoint()));
    environment
}

#[test]
fn a_worker_and_its_operator_use_what_they_are_granted() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let proxy = Proxy::start(&services);
    let environment = behind(&proxy, &services);
    let worker = || {
        let child = std::process::Command::new(BIN)
            .args(["run", "--stream", "local", "--bucket", "archive"])
            .args(["--set", "aws.path_style=true", "--set", "telemetry.listen=off"])
            .args(["--set", "delivery.multipart_bytes=5MiB", "--set", "delivery.batch_bytes=6MiB"])
            // Cut by size, however slow the machine; the rest follows when it drains.
            .args(["--set", "delivery.batch_age=10m", "--set", "delivery.compression=none"])
            .args(["--set", "stream.bytes_per_second=0B"])
            .args(["--set", "delivery.upload_deadline=1s"])
            .envs(environment.iter().cloned())
            .stderr(std::process::Stdio::null())
            .spawn();
        Running { child: child.unwrap(), environment: Vec::new() }
    };
    // An object in parts that cannot be completed is given up, aborted, and put again.
    let rule = Rule::new("S3.CompleteMultipartUpload", Fault::Refuse(403, "AccessDenied"));
    let rule = proxy.add(rule);
    let file = dir.path().join("input");
    fs::write(&file, format!("{}\n", "x".repeat(250_000)).repeat(40)).unwrap();
    let sent = catchment(
        &["send", "--stream", "local", "--input", file.to_str().unwrap()],
        &services.environment,
    );
    assert!(sent.status.success(), "{}", stderr(&sent));
    let mut running = worker();
    eventually("an upload in parts was refused, given up and aborted", || {
        (rule.hits() > 0 && proxy.calls("S3.AbortMultipartUpload") > 0).then_some(())
    });
    proxy.heal();
    eventually("it is stored", || (!objects(dir.path(), "archive").is_empty()).then_some(()));
    running.signal("TERM");
    assert!(running.wait(std::time::Duration::from_secs(40)).success());

    let granted = actions(&print_policy("worker", &[]));
    let used_by_worker = used(&proxy);
    let beyond: Vec<_> = used_by_worker.difference(&granted).collect();
    assert!(beyond.is_empty(), "used and not granted: {beyond:?}");
    // DeleteItem: a finished shard that left the stream. GetObject: an upload whose key is taken.
    // GetItem: an unclear outcome. Their calls are held by the test of the source.
    let idle: BTreeSet<_> = granted.difference(&used_by_worker).map(String::as_str).collect();
    let rare = ["dynamodb:DeleteItem", "dynamodb:GetItem", "s3:GetObject"];
    assert!(idle.is_subset(&BTreeSet::from(rare)), "granted and not used: {idle:?}");

    let pushed = actions(&print_policy("worker", &["--set", "stream.reader=fan-out"]));
    let fan_out: BTreeSet<_> = pushed.difference(&granted).map(String::as_str).collect();
    let consumer = ["DescribeStreamConsumer", "RegisterStreamConsumer", "SubscribeToShard"];
    assert_eq!(
        fan_out,
        consumer.map(|c| format!("kinesis:{c}")).iter().map(String::as_str).collect()
    );

    let proxy = Proxy::start(&services);
    let environment = behind(&proxy, &services);
    let shard = "shardId-000000000000";
    for arguments in [
        &["leases", "list", "--lag"][..],
        &["leases", "rewind", "--from-trim-horizon", "--dry-run"],
        &[
            "verify",
            "--deep",
            "--stream",
            "local",
            "--bucket",
            "archive",
            "--set",
            "aws.path_style=true",
        ],
        &[
            "doctor",
            "--role",
            "operator",
            "--stream",
            "local",
            "--bucket",
            "archive",
            "--set",
            "aws.path_style=true",
        ],
        &["leases", "show", shard],
        &["leases", "release", shard],
        &["leases", "reset", shard, "--to", "trim-horizon", "--yes"],
    ] {
        let output = catchment(arguments, &environment);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    }
    assert_eq!(used(&proxy), actions(&print_policy("operator", &[])));

    let proxy = Proxy::start(&services);
    let environment = behind(&proxy, &services);
    let of = ["--stream", "local", "--bucket", "archive", "--set", "aws.path_style=true"];
    for arguments in [
        &["replay", "--from-trim-horizon", "--id", "policy"][..],
        &["replay", "list"],
        &["replay", "delete", "policy", "--yes"],
    ] {
        let arguments = [arguments, &of].concat();
        let output = catchment(&arguments, &environment);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    }
    let (granted, used) = (actions(&print_policy("replay", &[])), used(&proxy));
    let beyond: Vec<_> = used.difference(&granted).collect();
    assert!(beyond.is_empty(), "used and not granted: {beyond:?}");
}

#[test]
fn a_policy_that_cannot_be_narrowed_is_refused() {
    let output = std::process::Command::new(BIN)
        .args(["iam-policy", "--stream", "local", "--bucket", "archive", "--region", "eu-west-1"])
        .env_remove("AWS_REGION")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--account"), "{}", stderr(&output));
    let arn = "stream.name=arn:aws:kinesis:eu-west-1:123456789012:stream/local";
    let made = print_policy("upload-api", &["--set", arn]);
    assert_eq!(actions(&made), BTreeSet::from(["kinesis:PutRecord".into(), "s3:GetObject".into()]));
}

#[test]
fn the_version_names_commit_and_features() {
    let output = catchment(&["--version"], &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [env!("CARGO_PKG_VERSION"), "commit ", "features: local lambda"] {
        assert!(text.contains(part), "{text}");
    }
}
