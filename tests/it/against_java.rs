//! A worker of KCL 2.x on the same table, beside ours. Nothing here waits longer: named to begin first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use catchment::aws::kinesis::Kinesis;

use crate::support::{eventually, lines, worker};
use crate::takeover::fixtures::{Java, TABLE, kcl2, n, s};

/// The heartbeat of KCL 2.x: one more, on the condition of the counter alone.
async fn beat(java: &Java, key: &str, owner: &str) -> bool {
    let table = &java.clients.dynamodb;
    let row = table.get_item().table_name(TABLE).key("leaseKey", s(key)).consistent_read(true);
    let row = row.send().await.unwrap().item.unwrap();
    if row.get("leaseOwner") != Some(&s(owner)) {
        return false;
    }
    let counter: u64 = row["leaseCounter"].as_n().unwrap().parse().unwrap();
    let call = table.update_item().table_name(TABLE).key("leaseKey", s(key));
    let call =
        call.update_expression("SET leaseCounter = :n").condition_expression("leaseCounter = :o");
    let call = call.expression_attribute_values(":n", n(counter + 1));
    call.expression_attribute_values(":o", n(counter)).send().await.is_ok()
}

/// Java sorts the owners and shuffles them with a fixed seed; of two, the first of the order leads.
/// Our worker's name sorts first, so Java holds it for the leader and compares no shards with
/// leases itself. Its shard is split: the leases of the children are there all the same, are not
/// read before Java has finished the parent, and nothing is lost.
#[test]
fn a_java_worker_that_takes_us_for_the_leader_misses_nothing() {
    let java = Java::new(2);
    java.table(TABLE, "leaseKey");
    let (theirs, ours) = (&java.shards[0], &java.shards[1]);
    java.put(TABLE, kcl2(theirs, &java.checkpoints[0]));
    let mut row = kcl2(ours, &java.checkpoints[1]);
    row.remove("leaseOwner");
    java.put(TABLE, row);
    let settings = [
        ("lease.application", TABLE),
        ("lease.worker", "a-catchment-worker"),
        ("lease.failover", "3s"),
        ("lease.shard_sync", "500ms"),
        ("delivery.batch_age", "200ms"),
    ];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                java.runtime.block_on(beat(&java, theirs.id.as_str(), "java-host:6a1e"));
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        let mut running = worker(&java.services, &settings);
        eventually("our worker has its half", || {
            (java.row(ours.id.as_str()).get("leaseOwner") == Some(&s("a-catchment-worker")))
                .then_some(())
        });
        let (from, to) = theirs.hash_range.clone().unwrap();
        let (from, to): (u128, u128) = (from.parse().unwrap(), to.parse().unwrap());
        let middle = from + (to - from) / 2;
        let split = java.clients.kinesis.split_shard().stream_name("local");
        let split = split.shard_to_split(theirs.id.as_str());
        java.runtime.block_on(split.new_starting_hash_key(middle.to_string()).send()).unwrap();
        let children = |java: &Java| {
            let mut rows = java.rows(TABLE);
            rows.retain(|row| {
                row.get("parentShardId").and_then(|p| p.as_ss().ok())
                    == Some(&vec![theirs.id.as_str().to_owned()])
            });
            rows
        };
        for (hash, data) in [(from, "to the first child"), (middle, "to the second child")] {
            let put = java.clients.kinesis.put_record().stream_name("local").partition_key("k");
            let put = put.explicit_hash_key(hash.to_string());
            let put = put.data(aws_sdk_kinesis::primitives::Blob::new(data));
            java.runtime.block_on(put.send()).unwrap();
        }
        eventually("both children have leases", || (children(&java).len() == 2).then_some(()));
        let kinesis = Kinesis::new(java.clients.kinesis.clone());
        let listed = java.runtime.block_on(kinesis.list_shards(&java.stream.arn)).unwrap();
        assert_eq!(listed.len(), 4);
        // Java has not finished the parent: nobody reads the children.
        let own = |java: &Java| {
            let before = java.row(ours.id.as_str())["leaseCounter"].clone();
            eventually("our worker goes on", || {
                (java.row(ours.id.as_str())["leaseCounter"] != before).then_some(())
            });
        };
        own(&java);
        own(&java);
        for child in children(&java) {
            assert_eq!(child["checkpoint"], s("TRIM_HORIZON"));
            assert!(!child.contains_key("leaseOwner"), "{child:?}");
        }
        // Java finishes it: children exist already, which it takes for done; then SHARD_END.
        stop.store(true, Ordering::Relaxed);
        let finish = || {
            let call = java.clients.dynamodb.update_item().table_name(TABLE);
            let call = call.key("leaseKey", s(theirs.id.as_str()));
            let call = call.update_expression("SET checkpoint = :end REMOVE leaseOwner");
            let call =
                call.expression_attribute_values(":end", AttributeValue::S("SHARD_END".into()));
            java.runtime.block_on(call.send()).unwrap();
        };
        finish();
        eventually("the children are delivered", || {
            let stored = lines(java.dir.path());
            let both = ["to the first child", "to the second child"];
            both.iter().all(|d| stored.contains(&d.as_bytes().to_vec())).then_some(())
        });
        running.signal("TERM");
        assert!(running.wait(Duration::from_secs(30)).success());
    });
    let mut stored = lines(java.dir.path());
    let all = stored.len();
    stored.dedup();
    assert_eq!(stored.len(), all, "nothing is twice");
}

/// A lease as a KCL 2.x worker holds it: it knows the counter, and nothing else of the row.
struct Held<'a> {
    java: &'a Java,
    key: &'a str,
    counter: u64,
}

impl Held<'_> {
    /// Heartbeat; false when the counter is not the one it knows.
    fn beat(&mut self) -> bool {
        let call = self.java.clients.dynamodb.update_item().table_name(TABLE);
        let call = call.key("leaseKey", s(self.key)).update_expression("SET leaseCounter = :n");
        let call = call.condition_expression("leaseCounter = :o");
        let call = call.expression_attribute_values(":n", n(self.counter + 1));
        let call = call.expression_attribute_values(":o", n(self.counter));
        let done = self.java.runtime.block_on(call.send()).is_ok();
        self.counter += u64::from(done);
        done
    }
}

/// KCL operation 5: a take, or a steal. The counter is tested, the owner is not.
fn steal(java: &Java, key: &str, owner: &str) -> bool {
    let seen: u64 = java.row(key)["leaseCounter"].as_n().unwrap().parse().unwrap();
    let call = java.clients.dynamodb.update_item().table_name(TABLE).key("leaseKey", s(key));
    let call = call.update_expression(
        "SET leaseCounter = :n, leaseOwner = :me REMOVE checkpointOwner \
         ADD ownerSwitchesSinceCheckpoint :one",
    );
    let call = call.condition_expression("leaseCounter = :o");
    let call = call.expression_attribute_values(":n", n(seen + 1));
    let call = call.expression_attribute_values(":o", n(seen));
    let call = call.expression_attribute_values(":one", n(1));
    java.runtime.block_on(call.expression_attribute_values(":me", s(owner)).send()).is_ok()
}

/// Java beats for both leases and does not understand a request. Ours takes its half when its
/// patience (30 s and the failover time) is over; Java notices by its counter. Then Java steals it
/// back, and ours notices.
#[test]
fn leases_go_to_and_fro_between_java_and_us() {
    let java = Java::new(2);
    java.table(TABLE, "leaseKey");
    for (shard, checkpoint) in java.shards.iter().zip(&java.checkpoints) {
        java.put(TABLE, kcl2(shard, checkpoint));
    }
    let settings = [
        ("lease.application", TABLE),
        ("lease.worker", "ours"),
        ("lease.failover", "4s"),
        ("delivery.batch_age", "200ms"),
    ];
    let mut running = worker(&java.services, &settings);
    let mut held: Vec<Held> = java
        .shards
        .iter()
        .map(|shard| Held { java: &java, key: shard.id.as_str(), counter: 4711 })
        .collect();
    let mut asked = false;
    let taken = eventually("our worker takes its half", || {
        held.iter_mut().position(|lease| {
            let row = java.row(lease.key);
            asked |= row.get("checkpointOwner") == Some(&s("java-host:6a1e"));
            !lease.beat() && java.row(lease.key).get("leaseOwner") == Some(&s("ours"))
        })
    });
    assert!(asked, "it asks first");
    let (lost, mut kept) = (held.swap_remove(taken).key, held.remove(0));
    eventually("it delivers what Java left", || {
        assert!(kept.beat(), "Java's other lease is Java's");
        (!lines(java.dir.path()).is_empty()).then_some(())
    });
    eventually("Java steals it", || steal(&java, lost, "java-host:6a1f").then_some(()));
    let counter = java.row(lost)["leaseCounter"].as_n().unwrap().parse().unwrap();
    let mut stolen = Held { java: &java, key: lost, counter };
    let put = java.clients.kinesis.put_record().stream_name("local").partition_key("k");
    let range = java.shards.iter().find(|s| s.id.as_str() == lost).unwrap().hash_range.clone();
    let put = put.explicit_hash_key(range.unwrap().0);
    let put = put.data(aws_sdk_kinesis::primitives::Blob::new("for Java"));
    java.runtime.block_on(put.send()).unwrap();
    // Ours beats no more: Java's counter holds, for longer than the failover time.
    for _ in 0..25 {
        assert!(stolen.beat() && kept.beat(), "somebody else beats");
        std::thread::sleep(Duration::from_millis(200));
    }
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(30)).success());
    for key in [lost, kept.key] {
        let owner = java.row(key)["leaseOwner"].as_s().unwrap().clone();
        assert!(owner.starts_with("java-host:"), "{key} is left to Java: {owner}");
    }
    let stored = lines(java.dir.path());
    assert!(stored.iter().all(|line| java.rest.contains(line)), "nothing that is Java's");
    let mut distinct = stored.clone();
    distinct.dedup();
    assert_eq!(distinct, stored, "nothing is twice");
}
