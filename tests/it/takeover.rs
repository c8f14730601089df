//! Tables of KCL applications are taken over, shared, or left alone.

mod doctor;
pub(crate) mod fixtures;
mod rules;

use std::sync::Arc;
use std::time::Duration;

use catchment::lease::keys;

use crate::proxy::{Fault, Moment, Proxy, Rule};
use crate::support::{catchment, eventually, lines, objects, stderr, worker};
use fixtures::{Java, Row, TABLE, coordinator, kcl1, kcl2, kcl3, metrics, multi, now_seconds, s};

const SETTINGS: [(&str, &str); 4] = [
    ("lease.application", TABLE),
    ("lease.failover", "1s"),
    ("lease.shard_sync", "1s"),
    ("delivery.batch_age", "200ms"),
];

/// Runs a worker until what Java left is delivered, and looks for what is missing or twice.
fn delivers_the_rest(java: &Java, settings: &[(&str, &str)]) {
    let settings: Vec<_> = SETTINGS.iter().chain(settings).copied().collect();
    let mut running = worker(&java.services, &settings);
    eventually("the rest is delivered", || {
        (lines(java.dir.path()).len() >= java.rest.len()).then_some(())
    });
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(30)).success());
    assert!(lines(java.dir.path()) == java.rest);
}

/// Starts a worker that cannot start, and returns what it says.
fn refused(java: &Java, environment: &[(String, String)], settings: &[&str]) -> String {
    let mut arguments = vec!["run", "--stream", "local", "--bucket", "archive"];
    let always =
        ["aws.path_style=true", "telemetry.listen=off", "lease.application=java-application"];
    arguments.extend(always.iter().chain(settings).flat_map(|setting| ["--set", setting]));
    let output = catchment(&arguments, environment);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(lines(java.dir.path()).is_empty());
    text
}

fn is_ours(row: &Row) {
    for gone in ["leaseOwner", "pendingCheckpoint", "pendingCheckpointState", "checkpointOwner"] {
        assert!(!row.contains_key(gone), "{gone} is left behind: {row:?}");
    }
    assert!(row.contains_key("catchment_stream"), "a row taken is bound to the stream: {row:?}");
}

#[test]
fn tables_of_one_stream_are_continued_at_their_checkpoints() {
    for generation in [1, 2, 3] {
        let java = Java::new(2);
        java.table(TABLE, "leaseKey");
        for (shard, checkpoint) in java.shards.iter().zip(&java.checkpoints) {
            java.put(
                TABLE,
                match generation {
                    1 => kcl1(shard.id.as_str(), checkpoint),
                    2 => kcl2(shard, checkpoint),
                    _ => kcl3(shard, checkpoint),
                },
            );
        }
        if generation == 3 {
            // What a stopped application of 3.5 leaves behind.
            java.put(TABLE, metrics("leaseKey", "java-host:6a1e", now_seconds() - 600));
            for row in coordinator("leaseKey", "java-host:6a1e", "1") {
                java.put(TABLE, row);
            }
        }
        assert_eq!((java.delivered.len(), java.rest.len()), (14, 86));
        delivers_the_rest(&java, &[]);
        for shard in &java.shards {
            let row = java.row(shard.id.as_str());
            is_ours(&row);
            // KCL 1.x did not write it; aggregates are filtered by it.
            let (first, last) = shard.hash_range.clone().unwrap();
            assert_eq!((&row["startingHashKey"], &row["endingHashKey"]), (&s(&first), &s(&last)));
        }
        let others = java.rows(TABLE).len() - java.shards.len();
        assert_eq!(others, if generation == 3 { 4 } else { 0 }, "other items are left alone");
    }
}

#[test]
fn the_rows_of_our_stream_in_a_multi_stream_table_are_continued() {
    let java = Java::new(2);
    let id = keys::stream_id(&java.stream);
    java.table(TABLE, "leaseKey");
    // Java knows one shard; the lease of the other is for us to make.
    java.put(TABLE, multi(&id, &java.shards[0], &java.checkpoints[0]));
    let account = id.split(':').next().unwrap();
    let other = multi(&format!("{account}:other:1772003600"), &java.shards[0], "LATEST");
    java.put(TABLE, other.clone());
    let settings = SETTINGS.to_vec();
    let mut running = worker(&java.services, &settings);
    // Everything Java had delivered of the second shard comes again: it had no lease there.
    let expected = 100 - 7;
    eventually("the rest is delivered", || {
        (lines(java.dir.path()).len() >= expected).then_some(())
    });
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(30)).success());
    assert_eq!(lines(java.dir.path()).len(), expected);
    let rows = java.rows(TABLE);
    assert_eq!(rows.len(), 3);
    for shard in &java.shards {
        let row = java.row(&format!("{id}:{}", shard.id));
        is_ours(&row);
        assert_eq!((&row["streamName"], &row["shardId"]), (&s(&id), &s(shard.id.as_str())));
    }
    assert!(rows.contains(&other), "the row of the other stream is as it was");
    // The command line finds a lease by its shard where that is enough, else by its key.
    let leases = |arguments: &[&str]| {
        let set = ["leases", "--set", "lease.application=java-application"];
        let all: Vec<&str> = set.iter().chain(arguments).copied().collect();
        let output = catchment(&all, &java.services.environment);
        String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output)
    };
    let second = java.shards[1].id.as_str();
    assert!(leases(&["show", second]).contains(&format!("{id}:{second}")));
    let both = leases(&["show", java.shards[0].id.as_str()]);
    assert!(both.contains("several streams"), "{both}");
    let listed = leases(&["list", "--json", "--lag"]);
    assert_eq!(listed.matches("\"behind_ms\":0").count(), 2, "{listed}");
    assert!(leases(&["reset", "--all", "--to", "latest"]).contains("name each lease"));
}

#[test]
fn a_multi_stream_table_that_does_not_fit_is_refused_with_the_row_and_the_remedy() {
    let java = Java::new(1);
    let own = keys::stream_id(&java.stream);
    let old = format!("{}:1", own.rsplit_once(':').unwrap().0);
    java.table(TABLE, "leaseKey");
    java.put(TABLE, multi(&old, &java.shards[0], &java.checkpoints[0]));
    let text = refused(&java, &java.services.environment, &[]);
    let row = format!("{old}:{}", java.shards[0].id);
    for part in [&row, &own, &format!("lease.stream_id = \"{old}\"")] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    delivers_the_rest(&java, &[("lease.stream_id", &old)]);
    java.put(TABLE, kcl1(java.shards[0].id.as_str(), "TRIM_HORIZON"));
    for (key, _) in objects(java.dir.path(), "archive") {
        std::fs::remove_file(java.dir.path().join("archive").join(key)).unwrap();
    }
    let text = refused(&java, &java.services.environment, &[]);
    assert!(text.contains("no one application writes") && text.contains(&row), "{text}");
}

#[test]
fn a_live_kcl_3_fleet_is_left_alone_in_either_layout() {
    let java = Java::new(1);
    java.table(TABLE, "leaseKey");
    java.put(TABLE, kcl3(&java.shards[0], &java.checkpoints[0]));
    let before = java.row(java.shards[0].id.as_str());
    let tables = ["java-application-WorkerMetricStats", "java-application-CoordinatorState"];
    java.table(tables[0], "wid");
    java.table(tables[1], "key");
    java.put(tables[0], metrics("wid", "java-host:6a1e", now_seconds()));
    for row in coordinator("key", "java-host:6a1e", "1") {
        java.put(tables[1], row);
    }
    let text = refused(&java, &java.services.environment, &[]);
    for part in [tables[0], "`java-host:6a1e`, the leader", "Stop that application", "beside it"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    java.put(tables[0], metrics("wid", "java-host:6a1e", now_seconds() - 600));
    java.put(TABLE, metrics("leaseKey", "java-host:6a1f", now_seconds()));
    let text = refused(&java, &java.services.environment, &[]);
    assert!(text.contains("java-host:6a1f") && text.contains("lease.application"), "{text}");
    assert_eq!(java.row(java.shards[0].id.as_str()), before, "the lease is as it was");
    // Stopped for good: the same table is taken over, lock and reports notwithstanding.
    java.put(TABLE, metrics("leaseKey", "java-host:6a1f", now_seconds() - 600));
    delivers_the_rest(&java, &[]);
}

#[test]
fn tables_we_may_not_look_into_stop_nobody_and_a_leader_is_waited_for() {
    let mut java = Java::new(1);
    java.table(TABLE, "leaseKey");
    java.put(TABLE, kcl2(&java.shards[0], &java.checkpoints[0]));
    java.table("java-application-CoordinatorState", "key");
    for row in coordinator("key", "java-host:6a1e", "1") {
        java.put("java-application-CoordinatorState", row);
    }
    let proxy = Proxy::start(&java.services);
    let denied = Fault::Refuse(400, "AccessDeniedException");
    let deny = |table: &str| Rule::new("DynamoDB.Scan", denied.clone()).with_body(table);
    let reports = proxy.add(deny("WorkerMetricStats"));
    let locks = Arc::default();
    let lock = Rule::new("DynamoDB.Scan", Fault::Record(Arc::clone(&locks)));
    proxy.add(lock.with_body("CoordinatorState"));
    let mut environment = java.services.environment.clone();
    environment.retain(|(name, _)| name != "AWS_ENDPOINT_URL");
    environment.push(("AWS_ENDPOINT_URL".into(), proxy.endpoint()));
    // The reports may not be read: the leader's lock is watched, and it moves.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually("the worker looks for reports", || (reports.hits() > 0).then_some(()));
            eventually("the worker has seen the lock", || {
                locks.lock().unwrap().iter().any(|moment: &Moment| moment.answered).then_some(())
            });
            for row in coordinator("key", "java-host:6a1e", "2").into_iter().take(1) {
                java.put("java-application-CoordinatorState", row);
            }
        });
        let text = refused(&java, &environment, &[]);
        assert!(text.contains("java-host:6a1e") && text.contains("renews the lock"), "{text}");
    });
    // Neither may be read: nobody is stopped.
    proxy.heal();
    let (reports, locks) =
        (proxy.add(deny("WorkerMetricStats")), proxy.add(deny("CoordinatorState")));
    java.services.environment = environment;
    delivers_the_rest(&java, &[]);
    assert!(reports.hits() > 0 && locks.hits() > 0);
}

#[test]
fn a_start_that_is_ignored_is_told_loudly() {
    let java = Java::new(1);
    java.table(TABLE, "leaseKey");
    java.put(TABLE, kcl2(&java.shards[0], &java.checkpoints[0]));
    let address = crate::lifecycle::free_port();
    let log = java.dir.path().join("log");
    let run = |start: &str| {
        let mut command = std::process::Command::new(crate::support::BIN);
        command.args(["run", "--stream", "local", "--bucket", "archive"]);
        for setting in [
            "aws.path_style=true",
            "lease.application=java-application",
            "lease.failover=1s",
            &format!("telemetry.listen={address}"),
            &format!("stream.start={start}"),
        ] {
            command.args(["--set", setting]);
        }
        let child = command
            .envs(java.services.environment.iter().cloned())
            .stdout(std::process::Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut running = crate::support::Running { child, environment: Vec::new() };
        let seen = eventually("the worker answers", || {
            let (_, status) = crate::lifecycle::get(&address, "/status")?;
            let (_, metrics) = crate::lifecycle::get(&address, "/metrics")?;
            let status: serde_json::Value = serde_json::from_str(&status).ok()?;
            (status["ready"] == true).then_some((status["start_ignored"].clone(), metrics))
        });
        running.signal("TERM");
        assert!(running.wait(Duration::from_secs(30)).success());
        (seen.0, seen.1, std::fs::read_to_string(&log).unwrap())
    };
    let (ignored, metrics, text) = run("latest");
    assert_eq!(ignored, 1);
    assert!(metrics.contains("\ncatchment_start_ignored{stream=\"local\"} 1"), "{metrics}");
    let shard = java.shards[0].id.as_str();
    for part in ["\\\"latest\\\" is ignored", shard, &java.checkpoints[0], "catchment leases reset"]
    {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let (ignored, metrics, text) = run("trim-horizon");
    assert_eq!(ignored, 0);
    assert!(
        metrics.contains("\ncatchment_start_ignored{stream=\"local\"} 0")
            && !text.contains("is ignored")
    );
}
