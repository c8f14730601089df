//! `delivery.on_gap = "stop"`: a shard waits at a gap for a person, the others go on.

use super::*;

/// A hash key in the second of two shards.
const UPPER: &str = "200000000000000000000000000000000000000";

impl Scene {
    /// Sends numbered records to one of two shards; returns their sequence numbers.
    fn send_to(&mut self, upper: bool, count: u64) -> Vec<SequenceNumber> {
        let client = &self.clients.kinesis;
        let mut sequences = Vec::new();
        for n in self.sent..self.sent + count {
            let call = client
                .put_record()
                .stream_name("local")
                .partition_key("key")
                .explicit_hash_key(if upper { UPPER } else { "0" })
                .data(aws_sdk_kinesis::primitives::Blob::new(line(n)));
            let reply = self.runtime.block_on(call.send()).unwrap();
            sequences.push(SequenceNumber::parse(reply.sequence_number()).unwrap());
        }
        self.sent += count;
        sequences
    }

    /// `catchment leases …`, successful.
    fn leases(&self, arguments: &[&str]) -> String {
        let arguments = [&["leases"], arguments].concat();
        let output = catchment(&arguments, &self.services.environment);
        assert!(output.status.success(), "{}", crate::support::stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn is_parked(&self, shard: &str) -> bool {
        self.row(shard).unwrap().contains_key("catchment_parked")
    }
}

fn parked_leases(worker: &Worker) -> Option<f64> {
    let (_, text) = get(&worker.listen, "/metrics")?;
    let wanted = |l: &&str| l.starts_with("catchment_leases{") && l.contains("state=\"parked\"");
    text.lines().find(wanted)?.rsplit(' ').next()?.parse().ok()
}

/// Of two shards the first has lost four records.
fn lost_in_the_first() -> (Scene, Vec<Vec<u8>>) {
    let mut scene = Scene::new(2);
    scene.send_to(false, 5);
    scene.send_to(true, 5);
    let worker = scene.worker(&[]);
    scene.settle(worker);
    let sequences = scene.send_to(false, 10);
    let trim = Fault::Trim(sequences[4].clone());
    scene.proxy.add(Rule::new("Kinesis.GetRecords", trim));
    let long_ago = AttributeValue::N("1600000000000".into());
    scene.change_row(SHARD, "SET catchment_read_through_ms = :v", long_ago);
    let mut left: Vec<_> = (0..10).chain(14..25).map(line).collect();
    left.sort();
    (scene, left)
}

fn gap_reports(scene: &Scene) -> usize {
    objects(scene.data(), "archive")
        .iter()
        .filter(|(key, _)| key.starts_with("errors/gap/"))
        .count()
}

#[test]
fn a_shard_waits_at_its_gap_and_the_others_go_on() {
    let (mut scene, left) = lost_in_the_first();
    let before = scene.row(SHARD).unwrap()["checkpoint"].clone();
    let mut worker = scene.worker(&[]);
    eventually("the shard is parked", || scene.is_parked(SHARD).then_some(()));
    scene.send_to(true, 5);
    eventually("the other shard goes on", || (archived(&scene).len() >= 15).then_some(()));
    eventually("it is counted", || (parked_leases(&worker) == Some(1.0)).then_some(()));
    assert_eq!(worker.metric("catchment_gaps_total"), Some(1.0));
    let (_, status) = get(&worker.listen, "/status").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["health"]["state"], "bad", "{status}");
    assert!(status["health"]["reasons"].to_string().contains(&format!("{SHARD} parked")));
    assert_eq!(status["fleet"]["parked"], 1);
    // Whoever comes beside it leaves it alone as well.
    let mut second = scene.worker(&[("lease.worker", "second")]);
    eventually("a second worker sees it", || (parked_leases(&second) == Some(1.0)).then_some(()));
    second.stop();
    assert!(scene.is_parked(SHARD));
    assert_eq!(scene.row(SHARD).unwrap()["checkpoint"], before, "nothing was skipped");
    assert_eq!(gap_reports(&scene), 0);
    let shown = scene.leases(&["list"]);
    let row = shown.lines().find(|row| row.starts_with(SHARD)).unwrap();
    assert!(row.contains(" parked "), "{shown}");
    let told = scene.leases(&["resume", SHARD]);
    assert!(told.contains("are lost; it goes on"), "{told}");
    eventually("the rest is delivered", || (archived(&scene).len() >= left.len()).then_some(()));
    worker.stop();
    assert!(archived(&scene) == left);
    assert_eq!(gap_reports(&scene), 1);
    assert!(!scene.is_parked(SHARD));
    let told = scene.leases(&["resume", "--all"]);
    assert!(told.contains("no lease is parked"), "{told}");
}

#[test]
fn a_worker_ends_with_code_three_when_nothing_else_is_left() {
    let (scene, left) = passed_by_retention();
    let before = scene.row(SHARD).unwrap()["checkpoint"].clone();
    // Again and again, until somebody decides.
    for _ in 0..2 {
        let mut worker = scene.worker(&[]);
        let status = worker.running.wait(Duration::from_secs(60));
        assert_eq!(status.code(), Some(3), "{}", worker.text());
        let text = worker.text();
        for part in ["retention", "leases resume", "delivery.on_gap = \"continue\"", SHARD] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(scene.is_parked(SHARD));
    }
    assert_eq!(scene.row(SHARD).unwrap()["checkpoint"], before, "nothing was skipped");
    assert_eq!(lines(scene.data()).len(), 5);
    // Another policy is a decision too.
    let mut worker = scene.worker(&[("delivery.on_gap", "continue")]);
    eventually("what is left is delivered", || (archived(&scene).len() >= 11).then_some(()));
    worker.stop();
    assert!(archived(&scene) == left && !scene.is_parked(SHARD));
    assert_eq!(gap_reports(&scene), 1);
}

/// A row as a KCL leaves it: nothing of ours in it.
fn of_the_kcl(scene: &Scene, shard: &str) {
    let row = scene.row(shard).unwrap();
    let ours: Vec<&str> =
        row.keys().map(String::as_str).filter(|name| name.starts_with("catchment_")).collect();
    let call = scene.clients.dynamodb.update_item().table_name(TABLE);
    let call = call
        .key("leaseKey", AttributeValue::S(shard.into()))
        .update_expression(format!("REMOVE {}", ours.join(", ")));
    scene.runtime.block_on(call.send()).unwrap();
}

/// Five records of a shard delivered; then they leave retention, and five others come.
fn idle_for_longer_than_retention(change: impl Fn(&Scene)) -> Scene {
    let mut scene = Scene::new(1);
    scene.send(5);
    let worker = scene.worker(&[]);
    scene.settle(worker);
    change(&scene);
    let sequences = scene.send(5);
    scene.proxy.add(Rule::new("Kinesis.GetRecords", Fault::Trim(sequences[0].clone())));
    scene
}

#[test]
fn an_idle_shard_of_a_kcl_table_may_have_a_gap_and_is_read_on() {
    let scene = idle_for_longer_than_retention(|scene| of_the_kcl(scene, SHARD));
    let mut worker = scene.worker(&[]);
    eventually("all is delivered", || (archived(&scene) == scene.expected()).then_some(()));
    assert_eq!(worker.metric("catchment_possible_gaps_total"), Some(1.0));
    assert_eq!(worker.metric("catchment_gaps_total").unwrap_or(0.0), 0.0);
    let (_, status) = get(&worker.listen, "/status").unwrap();
    assert!(status.contains("1 possible gap(s)"), "{status}");
    worker.stop();
    let (_, report) = objects(scene.data(), "archive")
        .into_iter()
        .find(|(key, _)| key.starts_with("errors/gap/"))
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["possible"], true, "{report}");
    // From here on the row tells what is known.
    let worker = scene.worker(&[]);
    eventually("the shard is read", || worker.metric("catchment_records_read_total"));
    assert!(scene.row(SHARD).unwrap().contains_key("catchment_committed"));
}

#[test]
fn a_possible_gap_parks_the_shard_if_so_configured() {
    let scene = idle_for_longer_than_retention(|scene| of_the_kcl(scene, SHARD));
    let stop = [("delivery.on_possible_gap", "stop"), ("delivery.on_gap", "continue")];
    let mut worker = scene.worker(&stop);
    assert_eq!(worker.running.wait(Duration::from_secs(60)).code(), Some(3), "{}", worker.text());
    assert!(scene.is_parked(SHARD));
    scene.leases(&["resume", "--all"]);
    let mut worker = scene.worker(&stop);
    eventually("all is delivered", || (archived(&scene) == scene.expected()).then_some(()));
    worker.stop();
}

/// The KCL has moved on since we read the shard: what we know of it is old.
#[test]
fn a_checkpoint_that_a_kcl_moved_is_no_gap_by_what_we_knew_before_it() {
    let scene = idle_for_longer_than_retention(|scene| {
        let long_ago = AttributeValue::N("1600000000000".into());
        scene.change_row(SHARD, "SET catchment_read_through_ms = :v", long_ago);
        let other = AttributeValue::S("000000000001".into());
        scene.change_row(SHARD, "SET catchment_committed = :v", other);
    });
    let mut worker = scene.worker(&[]);
    eventually("all is delivered", || (archived(&scene) == scene.expected()).then_some(()));
    assert_eq!(worker.metric("catchment_possible_gaps_total"), Some(1.0));
    worker.stop();
}
