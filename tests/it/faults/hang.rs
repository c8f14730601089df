//! Many leases of one worker: a write that hangs, and writes that are all due at the same time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::*;
use crate::proxy::Moment;

/// So long a write hangs: longer than a lease lives without one.
const HANG: Duration = Duration::from_secs(15);
/// All of its writes hang.
const STUCK: &str = "shardId-000000000007";

/// Owner and counter of every lease.
fn leases(scene: &Scene) -> BTreeMap<String, (String, u64)> {
    let table = catchment::aws::dynamodb::LeaseTable::new(scene.clients.dynamodb.clone(), TABLE);
    let rows = scene.runtime.block_on(table.scan(true)).unwrap();
    rows.iter()
        .map(|row| {
            let lease = catchment::lease::row::Lease::parse(row).unwrap().unwrap();
            let owner = lease.owner.map(|owner| owner.to_string()).unwrap_or_default();
            (lease.shard.to_string(), (owner, lease.counter))
        })
        .collect()
}

/// One heartbeat hangs, once; and one lease cannot be written at all. The first costs nothing, the
/// second that lease alone, which is taken back as soon as it can be. Unoptimised builds make do
/// with fifty leases, unless `SWEEP=1`: their services are slow.
#[test]
fn one_hanging_write_among_many_leases_costs_no_other_lease() {
    let few = cfg!(debug_assertions) && std::env::var("SWEEP").is_err();
    let count = if few { 50 } else { 1_000 };
    let mut scene = Scene::new(count as u32);
    let begun = Instant::now();
    // Polls are not what this is about, and on this machine they would be ten thousand a second.
    let worker = scene.worker(&[("stream.idle", "5s")]);
    let owned = || worker.metric("catchment_leases_owned");
    let beats = || worker.metric("catchment_lease_renewals_total").unwrap_or(0.0);
    eventually("all leases are held", || (owned() == Some(count as f64)).then_some(()));
    let started = begun.elapsed();
    let before = leases(&scene);
    let me = before[STUCK].0.clone();
    assert!(before.values().all(|(owner, _)| *owner == me), "{before:?}");

    let stuck = Rule::new("DynamoDB.UpdateItem", Fault::Hang(HANG)).with_body(STUCK);
    let stuck = scene.proxy.add(stuck);
    let once = Rule::new("DynamoDB.UpdateItem", Fault::Hang(HANG)).with_body(RENEW);
    let once = scene.proxy.add(once.every(usize::MAX));
    let at = beats();
    scene.send(100);
    // Three beats of each lease in a failover time of ten seconds: longer than the write hangs.
    let enough = at + 6.0 * count as f64;
    eventually("beats of two failover times", || (beats() >= enough).then_some(()));
    assert_eq!(once.hits(), 1);
    assert!(stuck.hits() > 1);

    let after = leases(&scene);
    assert_eq!(after.len(), count);
    for (shard, (owner, counter)) in after.iter().filter(|(shard, _)| *shard != STUCK) {
        assert!(*owner == me && *counter > before[shard].1 + 3, "{shard}: {owner} at {counter}");
    }
    let text = worker.text();
    let lost: Vec<&str> = text.lines().filter(|line| line.contains("lease lost")).collect();
    assert!(lost.len() == 1 && lost[0].contains(STUCK), "{lost:#?}");
    assert_eq!(worker.metric("catchment_leases_lost_total"), Some(1.0));

    scene.proxy.heal();
    eventually("it is taken back", || (owned() == Some(count as f64)).then_some(()));
    println!(
        "{count} leases held after {started:.1?}; {} writes of one lease hung, and one of another",
        stuck.hits()
    );
    scene.settle(worker);
}

/// Progress writes and releases in flight at once, see `worker/leases/context.rs`.
const PLACES: usize = 32;
const RELEASE: &str = "REMOVE leaseOwner";

/// A worker that is told to stop cuts the batches of all shards in the same moment. Their writes
/// would outlast the time of an attempt if they were all under way together.
#[test]
fn leases_that_are_all_written_at_once_wait_for_their_turn() {
    let mut scene = Scene::new(200);
    // However busy the machine is, this is not about leases that expire.
    let calm = ("lease.failover", "60s");
    let mut worker = scene.worker(&[("stream.idle", "1s"), ("delivery.batch_age", "10m"), calm]);
    scene.send(400);
    eventually("everything is read", || (taken(&worker.listen)? >= scene.sent).then_some(()));
    let log: Arc<Mutex<Vec<Moment>>> = Arc::default();
    scene.proxy.add(Rule::new("DynamoDB.UpdateItem", Fault::Record(Arc::clone(&log))));
    worker.stop();
    let (mut open, mut peak, mut writes) = (0_usize, 0, 0);
    for Moment { body, answered, .. } in log.lock().unwrap().iter() {
        // Heartbeats and the change marker have their own.
        let body = String::from_utf8_lossy(body);
        if !body.contains(PROGRESS) && !body.contains(RELEASE) {
            continue;
        }
        if *answered {
            open -= 1;
        } else {
            (open, writes) = (open + 1, writes + 1);
            peak = peak.max(open);
        }
    }
    // Every lease is released, and most have a batch to announce and to commit.
    assert!(writes > 400, "{writes} writes: {}", worker.text());
    assert!((2..=PLACES).contains(&peak), "{peak} writes at once");
    assert!(!worker.text().contains("releasing a lease failed"), "{}", worker.text());
    assert!(lines(scene.data()) == scene.expected());
}
