//! Table and stream misbehave or disappear under running workers: the table of docs/RUNBOOK.md,
//! line by line.

use std::sync::Arc;

use super::*;

/// Waits for a line of the worker's log.
fn says(worker: &Worker, text: &str) {
    eventually(text, || worker.text().contains(text).then_some(()));
}

fn set_of_lines(scene: &Scene) -> Vec<Vec<u8>> {
    let mut lines = lines(scene.data());
    lines.dedup();
    lines
}

fn every_record_is_there(scene: &Scene) {
    let expected = scene.expected();
    eventually("every record is delivered", || (set_of_lines(scene) == expected).then_some(()));
}

fn drop_table(scene: &Scene) {
    let call = scene.clients.dynamodb.delete_table().table_name(TABLE);
    scene.runtime.block_on(call.send()).unwrap();
}

fn throttle() -> Fault {
    Fault::Refuse(400, "ThrottlingException")
}

#[test]
fn a_throttled_table_loses_no_lease_and_stops_no_delivery() {
    let mut scene = Scene::new(3);
    scene.send(30);
    let rule = scene.proxy.add(Rule::new("DynamoDB.*", throttle()).every(2));
    let worker = scene.worker(&[("lease.failover", "6s"), ("delivery.batch_records", "2")]);
    eventually("half of everything is refused, and delivered", || {
        (rule.hits() > 20 && lines(scene.data()).len() == 30).then_some(())
    });
    scene.send(30);
    assert_eq!(worker.metric("catchment_leases_lost_total"), Some(0.0), "{}", worker.text());
    scene.settle(worker);
}

/// Nothing but heartbeats gets through, for longer than the failover time: no lease is lost, and
/// reading goes on.
#[test]
fn heartbeats_come_first() {
    let mut scene = Scene::new(2);
    scene.send(10);
    // Room for what is read meanwhile: batches that cannot be announced hold up reading in the end.
    let room = ("delivery.inflight_batches", "8");
    let worker = scene.worker(&[("lease.failover", "6s"), room, ("delivery.batch_age", "2s")]);
    eventually("the first records are delivered", || {
        (lines(scene.data()).len() == 10).then_some(())
    });
    let beats = || worker.metric("catchment_lease_renewals_total").unwrap_or(0.0);
    let read = || worker.metric("catchment_records_read_total").unwrap_or(0.0);
    let scans = scene.proxy.add(Rule::new("DynamoDB.Scan", throttle()));
    let progress = Rule::new("DynamoDB.UpdateItem", throttle()).with_body(PROGRESS);
    let progress = scene.proxy.add(progress);
    let before = beats();
    scene.send(40);
    let sent = 50.0;
    // Three beats per failover time and lease: this is twice the failover time.
    eventually("beats of two failover times", || (beats() >= before + 12.0).then_some(()));
    assert!(scans.hits() > 0 && progress.hits() > 0);
    eventually("what was sent meanwhile is read", || (read() == sent).then_some(()));
    assert_eq!(worker.metric("catchment_leases_lost_total"), Some(0.0), "{}", worker.text());
    assert_eq!(worker.metric("catchment_leases_owned"), Some(2.0));
    assert_eq!(lines(scene.data()).len(), 10, "nothing is put that is not announced");
    scene.proxy.heal();
    scene.settle(worker);
}

/// One worker looks at a table of long ago while another delivers: what it decides is refused by
/// the rows as they are, or harmless.
#[test]
fn stale_reads_lose_and_repeat_nothing() {
    let mut scene = Scene::new(3);
    scene.send(20);
    // The proxy is for the second worker alone.
    let settings = [("lease.failover", "1s"), ("delivery.batch_age", "300ms")];
    let direct = crate::support::worker(&scene.services, &settings);
    eventually("the first worker owns everything", || {
        let owned = |n: usize| scene.row(&format!("shardId-{n:012}"))?.get("leaseOwner").cloned();
        (0..3).all(|n| owned(n).is_some()).then_some(())
    });
    let stale = scene.proxy.add(Rule::new("DynamoDB.Scan", Fault::Stale(Arc::default())));
    let second = scene.worker(&[("lease.failover", "1s")]);
    scene.send(40);
    // It sees counters that stand still, and takes their leases for expired.
    let takes = scene.proxy.add(Rule::new("DynamoDB.UpdateItem", Fault::Pass).with_body(TAKE));
    eventually("it tries to take them", || (stale.hits() > 20 && takes.hits() > 3).then_some(()));
    eventually("everything is delivered", || (lines(scene.data()).len() >= 60).then_some(()));
    drop(direct);
    scene.proxy.heal();
    scene.send(10);
    scene.settle(second);
}

#[test]
fn a_deleted_table_stops_delivery_and_a_restart_makes_a_new_one() {
    let mut scene = Scene::new(2);
    scene.send(10);
    let mut worker = scene.worker(&[("lease.failover", "2s"), ("lease.shard_sync", "1s")]);
    eventually("records are delivered", || (lines(scene.data()).len() == 10).then_some(()));
    drop_table(&scene);
    eventually("the leases are given up", || {
        (worker.metric("catchment_leases_owned") == Some(0.0)).then_some(())
    });
    says(&worker, "Scan failed");
    let before = lines(scene.data()).len();
    scene.send(10);
    let scans = scene.proxy.calls("DynamoDB.Scan");
    eventually("it goes on looking", || {
        (scene.proxy.calls("DynamoDB.Scan") > scans + 5).then_some(())
    });
    assert_eq!(lines(scene.data()).len(), before, "nothing is delivered without a lease");
    let (_, status) = get(&worker.listen, "/status").unwrap();
    assert!(status.contains("ResourceNotFoundException"), "{status}");
    worker.stop();
    let mut worker = scene.worker(&[]);
    every_record_is_there(&scene);
    worker.stop();
}

#[test]
fn a_table_that_was_made_anew_is_filled_anew() {
    let mut scene = Scene::new(2);
    scene.send(10);
    let mut worker = scene.worker(&[("lease.failover", "2s"), ("lease.shard_sync", "1s")]);
    eventually("records are delivered", || (lines(scene.data()).len() == 10).then_some(()));
    drop_table(&scene);
    let table = catchment::aws::dynamodb::LeaseTable::new(scene.clients.dynamodb.clone(), TABLE);
    let clock = catchment::clock::Clock::system();
    scene.runtime.block_on(table.ensure(&clock)).unwrap();
    scene.send(10);
    every_record_is_there(&scene);
    // Whole rows, not what an update without its row would leave.
    for n in 0..2 {
        let row = scene.row(&format!("shardId-{n:012}")).unwrap();
        for name in ["leaseCounter", "checkpoint", "ownerSwitchesSinceCheckpoint"] {
            assert!(row.contains_key(name), "{name} is missing in {row:?}");
        }
    }
    worker.stop();
}

#[test]
fn a_lease_row_deleted_under_its_owner_is_made_anew_and_loses_nothing() {
    let mut scene = Scene::new(2);
    scene.send(20);
    let mut worker = scene.worker(&[("lease.failover", "6s"), ("lease.shard_sync", "1s")]);
    eventually("records are delivered", || (lines(scene.data()).len() == 20).then_some(()));
    let call = scene.clients.dynamodb.delete_item().table_name(TABLE);
    let call = call.key("leaseKey", AttributeValue::S(SHARD.into()));
    scene.runtime.block_on(call.send()).unwrap();
    says(&worker, "lease lost");
    scene.send(20);
    every_record_is_there(&scene);
    let lost = worker.metric("catchment_leases_lost_total");
    assert_eq!(lost, Some(1.0), "the other lease is not concerned: {}", worker.text());
    worker.stop();
    assert!(scene.row(SHARD).unwrap().contains_key("leaseCounter"));
}

/// As an older version, or another consumer, left it that believed an answer without NextShardIterator.
#[test]
fn a_finished_lease_of_an_open_shard_is_named_everywhere_and_can_be_set_back() {
    let mut scene = Scene::new(2);
    scene.send(20);
    let settings = [("lease.failover", "6s"), ("lease.shard_sync", "1s")];
    scene.settle(scene.worker(&settings));
    let ask = |arguments: &[&str]| {
        let common = ["--stream", "local", "--bucket", "archive", "--set", "aws.path_style=true"];
        let output = catchment(&[arguments, &common].concat(), &scene.services.environment);
        let (told, code) = (String::from_utf8_lossy(&output.stdout).into_owned(), output.status);
        (code.code(), told + &crate::support::stderr(&output))
    };
    let (code, told) = ask(&["verify"]);
    assert_eq!((code, told.contains("OPEN-END")), (Some(0), false), "{told}");
    scene.change_row(SHARD, "SET checkpoint = :v", AttributeValue::S("SHARD_END".into()));
    let remedy = format!("catchment leases rewind --shard {SHARD}");
    for (command, word) in [("verify", "OPEN-END"), ("doctor", "ends")] {
        let (code, told) = ask(&[command]);
        assert_eq!(code, Some(3), "{told}");
        let line = told.lines().find(|line| line.contains(word)).unwrap_or_default();
        assert!(line.contains(SHARD) && told.contains(&remedy), "{told}");
    }
    let mut worker = scene.worker(&settings);
    let open_ends = |count: f64| {
        let seen = || worker.metric("catchment_leases_open_ends").filter(|n| *n == count);
        eventually("the gauge", seen);
    };
    open_ends(1.0);
    says(&worker, &remedy);
    let (_, status) = get(&worker.listen, "/status").unwrap();
    assert!(status.contains(&format!("nobody reads {SHARD}")), "{status}");
    let rewind = ["leases", "rewind", "--shard", SHARD, "--from-trim-horizon", "--yes"];
    let output = catchment(&rewind, &scene.services.environment);
    assert!(output.status.success(), "{}", crate::support::stderr(&output));
    open_ends(0.0);
    scene.send(20);
    every_record_is_there(&scene);
    worker.stop();
}

fn delete_stream(scene: &Scene) {
    let call = scene.clients.kinesis.delete_stream().stream_name("local");
    scene.runtime.block_on(call.send()).unwrap();
}

/// Reads everything sent into an open batch.
fn everything_is_read(scene: &Scene, worker: &Worker) {
    eventually("every record is read", || (taken(&worker.listen)? >= scene.sent).then_some(()));
    assert!(lines(scene.data()).is_empty(), "the batch is still open");
}

#[test]
fn of_a_deleted_stream_everything_read_is_delivered_and_the_rest_is_told() {
    let mut scene = Scene::new(2);
    scene.send(20);
    let mut worker = scene.worker(&[("delivery.batch_age", "10m"), ("lease.shard_sync", "1s")]);
    everything_is_read(&scene, &worker);
    delete_stream(&scene);
    eventually("what was read is delivered", || (lines(scene.data()).len() == 20).then_some(()));
    says(&worker, "the stream was deleted");
    let (_, status) = get(&worker.listen, "/status").unwrap();
    assert!(status.contains("\"last_error\":\""), "{status}");
    // It goes on looking, at its pace.
    let before = scene.proxy.calls("Kinesis.DescribeStreamSummary");
    eventually("it goes on looking", || {
        (scene.proxy.calls("Kinesis.DescribeStreamSummary") > before + 2).then_some(())
    });
    worker.stop();
    assert!(lines(scene.data()) == scene.expected());
}

#[test]
fn a_stream_created_again_under_its_name_stops_the_worker() {
    let mut scene = Scene::new(2);
    scene.send(20);
    let settings = [("delivery.batch_age", "10m"), ("lease.shard_sync", "1s")];
    let mut worker = scene.worker(&settings);
    everything_is_read(&scene, &worker);
    delete_stream(&scene);
    let create = || {
        let call = scene.clients.kinesis.create_stream().stream_name("local").shard_count(2);
        scene.runtime.block_on(call.send()).ok()
    };
    eventually("the stream can be created again", create);
    let status = worker.running.wait(Duration::from_secs(60));
    assert_eq!(status.code(), Some(2), "{}", worker.text());
    for part in ["created again", "lease.application"] {
        assert!(worker.text().contains(part), "{part} is missing in {}", worker.text());
    }
    assert!(lines(scene.data()) == scene.expected(), "what was read is delivered");
    let text = scene.refused("local", "archive");
    assert!(text.contains("created again"), "{text}");
}
