//! The network and the ways a process can end, through the real SDK clients.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use crate::faults::{Fault, Outage, Scope, Script, Window};
use crate::fleet::{BUCKET, Fleet, STREAM};
use crate::node::{End, Node, NodeOptions};
use crate::sim::{Setup, Sim, run};
use crate::wire_test::on_a_node;

/// A node 50 minutes off is refused, learns the time from the refusal, and signs anew.
#[test]
fn a_skewed_clock_is_corrected_by_the_sdk() {
    let options = NodeOptions { skew_ms: -3_000_000, ..NodeOptions::default() };
    let (ok, report) = on_a_node(
        Setup::calm(3),
        options,
        |_| {},
        |node, _| async move {
            let put = node.s3.put_object().bucket(BUCKET).key("k").send().await.is_ok();
            put && node.kinesis.list_shards().stream_name(STREAM).send().await.is_ok()
        },
    );
    assert!(ok);
    assert_eq!(report.effects.iter().filter(|e| e.fault == "skewed").count(), 2);
}

/// The sender has given up; its PUT lands all the same.
#[test]
fn a_late_request_lands_after_its_sender_gave_up() {
    let late = |sim: &Sim| {
        for extra in 0..4 {
            let fault = Fault::Late(Duration::from_secs(60 + extra));
            sim.net.script(Script { node: Some("w0"), op: "PutObject", skip: 0, fault });
        }
    };
    let ((failed, waited, landed), _) =
        on_a_node(Setup::calm(4), NodeOptions::default(), late, |node, sim| async move {
            let put = node.s3.put_object().bucket(BUCKET).key("k").if_none_match("*");
            let failed = put.body(Bytes::from_static(b"x").into()).send().await.is_err();
            let waited = node.clock.now();
            let before = sim.net.world().objects.lock().unwrap().get(BUCKET, "k").is_some();
            node.clock.sleep(Duration::from_secs(120)).await;
            let after = sim.net.world().objects.lock().unwrap().get(BUCKET, "k").is_some();
            (failed, waited, (before, after))
        });
    assert!(
        failed && waited < Duration::from_secs(15),
        "the operation time-out ends the wait: {waited:?}"
    );
    assert_eq!(landed, (false, true));
}

/// A service that is silent for a while, then is there again; a node whose replies are cut.
#[test]
fn outages_and_deafness_end() {
    let cuts = |sim: &Sim| {
        let s3 = Scope::Service(crate::services::Service::S3);
        sim.net.cut(Window { scope: s3, from_ms: 0, to_ms: 20_000, kind: Outage::Silent });
        let deaf = Scope::Replies("w0".into());
        sim.net.cut(Window { scope: deaf, from_ms: 30_000, to_ms: 50_000, kind: Outage::Silent });
    };
    let (told, report) =
        on_a_node(Setup::calm(5), NodeOptions::default(), cuts, |node, _| async move {
            let mut told = Vec::new();
            for at in [0, 22, 32, 52] {
                node.clock.sleep_until(Duration::from_secs(at)).await;
                told.push(node.s3.head_bucket().bucket(BUCKET).send().await.is_ok());
            }
            told
        });
    assert_eq!(told, [false, true, false, true]);
    assert!(report.effects.iter().any(|e| e.at > 30_000 && e.at < 50_000 && e.status == 200));
}

/// A frozen process does nothing while the world goes on; a crashed one never again.
#[test]
fn freeze_and_crash() {
    let (ticks, _) =
        run(Fleet::calm(6, 1, 1, 0).setup(Box::new(crate::effects::Unobserved)), async |sim| {
            let node = Node::new(&sim, "w0.1", &NodeOptions::default());
            let ticks = Arc::new(Mutex::new(Vec::new()));
            let (log, clock, tasks) = (ticks.clone(), node.clock.clone(), node.tasks.clone());
            node.run(async move {
                let inner = clock.clone();
                let ticking = tasks.spawn("ticks", async move {
                    loop {
                        inner.sleep(Duration::from_secs(1)).await;
                        log.lock().unwrap().push(inner.now().as_secs());
                    }
                });
                let _: Result<Option<()>, _> = ticking.await;
            });
            sim.clock.sleep(Duration::from_millis(2_500)).await;
            node.freeze(Duration::from_secs(10));
            sim.clock.sleep(Duration::from_secs(12)).await;
            node.crash();
            assert_eq!(node.ended().await, End::Crashed);
            let polls = node.polls();
            sim.clock.sleep(Duration::from_secs(10)).await;
            assert_eq!(node.polls(), polls);
            ticks.lock().unwrap().clone()
        });
    assert_eq!(ticks, [1, 2, 12, 13]);
}
