//! The strict services and the network through the real SDK clients, one behaviour at a time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_kinesis::types::ShardIteratorType;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;

use crate::faults::{Fault, Outage, Scope, Script, Window};
use crate::fleet::{BUCKET, Fleet, STREAM};
use crate::node::{End, Node, NodeOptions};
use crate::services::Backend;
use crate::services::kinesis_api::stream_arn;
use crate::sim::{Report, Setup, Sim, run};

/// Runs one node's code to its end on a calm network and returns what it found.
fn on_a_node<T: Send + 'static, F>(
    setup: Setup,
    options: NodeOptions,
    prepare: impl FnOnce(&Sim),
    body: impl FnOnce(Node, Sim) -> F,
) -> (T, Report)
where
    F: Future<Output = T> + Send + 'static,
{
    let found = Arc::new(Mutex::new(None));
    let keep = found.clone();
    let (end, report) = run(setup, async |sim| {
        let now = sim.net.now();
        sim.net.world().kinesis.create(STREAM, 2, now.wall_ms);
        sim.net
            .world()
            .objects
            .lock()
            .unwrap()
            .buckets
            .entry(BUCKET.to_owned())
            .or_default();
        prepare(&sim);
        let node = Node::new(&sim, "w0.1", &options);
        let work = body(node.clone(), sim.clone());
        node.run(async move { *keep.lock().unwrap() = Some(work.await) });
        node.ended().await
    });
    assert_eq!(end, End::Returned);
    let value = found.lock().unwrap().take().unwrap();
    (value, report)
}

fn put(sim: &Sim, hash: u128, data: &str) -> String {
    let now = sim.net.now();
    let mut world = sim.net.world();
    let stream = world.kinesis.stream(STREAM).unwrap();
    let (_, n) = stream.put(None, Some(hash), Bytes::from(data.to_owned()), now.wall_ms);
    crate::services::kinesis::sequence_number(n)
}

#[test]
fn kinesis_reads_a_split_shard_to_its_children() {
    let ((), _) = on_a_node(
        Setup::calm(1),
        NodeOptions::default(),
        |_| {},
        |node, sim| async move {
            let first = put(&sim, 0, "a");
            put(&sim, 1, "b");
            let now = sim.net.now().wall_ms;
            let split = |sim: &Sim| {
                sim.net.world().kinesis.stream(STREAM).unwrap().split(
                    "shardId-000000000000",
                    None,
                    now,
                )
            };
            let children = split(&sim).unwrap();
            let get = node
                .kinesis
                .get_shard_iterator()
                .stream_arn(stream_arn(STREAM));
            let get = get
                .shard_id("shardId-000000000000")
                .starting_sequence_number(&first);
            let after = get
                .clone()
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber);
            let iterator = after.send().await.unwrap().shard_iterator.unwrap();
            let page = node
                .kinesis
                .get_records()
                .shard_iterator(&iterator)
                .send()
                .await
                .unwrap();
            assert_eq!(page.records().len(), 1);
            assert_eq!(page.records()[0].data().as_ref(), b"b");
            assert_eq!(page.next_shard_iterator(), None);
            let told: Vec<_> = page
                .child_shards()
                .iter()
                .map(|c| c.shard_id().to_owned())
                .collect();
            assert_eq!(told, children);
            // Used again: the same page. Five minutes later: expired.
            assert!(
                node.kinesis
                    .get_records()
                    .shard_iterator(&iterator)
                    .send()
                    .await
                    .is_ok()
            );
            node.clock.sleep(Duration::from_secs(301)).await;
            let late = node
                .kinesis
                .get_records()
                .shard_iterator(&iterator)
                .send()
                .await;
            assert!(
                late.unwrap_err()
                    .into_service_error()
                    .is_expired_iterator_exception()
            );
            // A trimmed number starts silently at the horizon; one of another shard is refused.
            sim.net.world().kinesis.stream(STREAM).unwrap().trim(now);
            assert!(
                get.clone()
                    .shard_iterator_type(ShardIteratorType::AtSequenceNumber)
                    .send()
                    .await
                    .is_ok()
            );
            let other = get
                .shard_id("shardId-000000000001")
                .shard_iterator_type(ShardIteratorType::AtSequenceNumber);
            assert!(
                other
                    .send()
                    .await
                    .unwrap_err()
                    .into_service_error()
                    .is_invalid_argument_exception()
            );
            // Closed and past retention: no longer listed.
            sim.net
                .world()
                .kinesis
                .stream(STREAM)
                .unwrap()
                .trim(now + 1);
            let listed = node
                .kinesis
                .list_shards()
                .stream_name(STREAM)
                .send()
                .await
                .unwrap();
            let listed: Vec<_> = listed.shards().iter().map(|s| s.shard_id()).collect();
            assert_eq!(
                listed,
                [
                    "shardId-000000000001",
                    "shardId-000000000002",
                    "shardId-000000000003"
                ]
            );
        },
    );
}

fn s3_behaves(backend: Backend) {
    let setup = Setup {
        backend,
        ..Setup::calm(2)
    };
    let ((), report) = on_a_node(
        setup,
        NodeOptions::default(),
        |_| {},
        |node, sim| async move {
            sim.net.world().objects.lock().unwrap().min_part = 4;
            let put = || {
                node.s3
                    .put_object()
                    .bucket(BUCKET)
                    .key("a/b c+d")
                    .if_none_match("*")
                    .metadata("shard", "0")
            };
            put()
                .body(Bytes::from_static(b"one").into())
                .send()
                .await
                .unwrap();
            let again = put()
                .body(Bytes::from_static(b"two").into())
                .send()
                .await
                .unwrap_err();
            assert_eq!(again.raw_response().map(|r| r.status().as_u16()), Some(412));
            let got = node
                .s3
                .get_object()
                .bucket(BUCKET)
                .key("a/b c+d")
                .send()
                .await
                .unwrap();
            assert_eq!(
                got.metadata()
                    .and_then(|m| m.get("shard"))
                    .map(String::as_str),
                Some("0")
            );
            assert_eq!(got.body.collect().await.unwrap().to_vec(), b"one");
            let none = node
                .s3
                .head_object()
                .bucket(BUCKET)
                .key("nothing")
                .send()
                .await;
            assert!(none.unwrap_err().into_service_error().is_not_found());
            for create_only in [false, true] {
                let start = node
                    .s3
                    .create_multipart_upload()
                    .bucket(BUCKET)
                    .key("big")
                    .send()
                    .await
                    .unwrap();
                let id = start.upload_id().unwrap().to_owned();
                let mut done = CompletedMultipartUpload::builder();
                for number in 1..=2 {
                    let part = node
                        .s3
                        .upload_part()
                        .bucket(BUCKET)
                        .key("big")
                        .upload_id(&id)
                        .part_number(number);
                    let part = part
                        .body(Bytes::from_static(b"part ").into())
                        .send()
                        .await
                        .unwrap();
                    let etag = part.e_tag().unwrap();
                    done = done.parts(
                        CompletedPart::builder()
                            .part_number(number)
                            .e_tag(etag)
                            .build(),
                    );
                }
                let complete = node
                    .s3
                    .complete_multipart_upload()
                    .bucket(BUCKET)
                    .key("big")
                    .upload_id(&id);
                let complete = complete.multipart_upload(done.build());
                if create_only {
                    let refused = complete.if_none_match("*").send().await.unwrap_err();
                    assert_eq!(
                        refused.raw_response().map(|r| r.status().as_u16()),
                        Some(412)
                    );
                    node.s3
                        .abort_multipart_upload()
                        .bucket(BUCKET)
                        .key("big")
                        .upload_id(&id)
                        .send()
                        .await
                        .unwrap();
                } else {
                    complete.send().await.unwrap();
                }
            }
            let listed = node
                .s3
                .list_objects_v2()
                .bucket(BUCKET)
                .delimiter("/")
                .send()
                .await
                .unwrap();
            assert_eq!(
                listed
                    .contents()
                    .iter()
                    .filter_map(|o| o.key())
                    .collect::<Vec<_>>(),
                ["big"]
            );
            assert_eq!(listed.common_prefixes()[0].prefix(), Some("a/"));
            node.s3
                .delete_object()
                .bucket(BUCKET)
                .key("big")
                .send()
                .await
                .unwrap();
            let missing = node.s3.put_object().bucket("missing").key("x").send().await;
            assert!(missing.is_err());
        },
    );
    assert!(report.effects.iter().any(|e| e.error == "NoSuchBucket"));
}

#[test]
fn s3_creates_once() {
    s3_behaves(Backend::Strict);
}

#[cfg(feature = "local")]
#[test]
fn s3_of_the_library_creates_once() {
    s3_behaves(Backend::Libraries);
}

/// A node 50 minutes off is refused, learns the time from the refusal, and signs anew.
#[test]
fn a_skewed_clock_is_corrected_by_the_sdk() {
    let options = NodeOptions {
        skew_ms: -3_000_000,
        ..NodeOptions::default()
    };
    let (ok, report) = on_a_node(
        Setup::calm(3),
        options,
        |_| {},
        |node, _| async move {
            let put = node
                .s3
                .put_object()
                .bucket(BUCKET)
                .key("k")
                .send()
                .await
                .is_ok();
            put && node
                .kinesis
                .list_shards()
                .stream_name(STREAM)
                .send()
                .await
                .is_ok()
        },
    );
    assert!(ok);
    assert_eq!(
        report
            .effects
            .iter()
            .filter(|e| e.fault == "skewed")
            .count(),
        2
    );
}

/// The sender has given up; its PUT lands all the same.
#[test]
fn a_late_request_lands_after_its_sender_gave_up() {
    let late = |sim: &Sim| {
        for extra in 0..4 {
            let fault = Fault::Late(Duration::from_secs(60 + extra));
            sim.net.script(Script {
                node: Some("w0"),
                op: "PutObject",
                skip: 0,
                fault,
            });
        }
    };
    let ((failed, waited, landed), _) = on_a_node(
        Setup::calm(4),
        NodeOptions::default(),
        late,
        |node, sim| async move {
            let put = node
                .s3
                .put_object()
                .bucket(BUCKET)
                .key("k")
                .if_none_match("*");
            let failed = put
                .body(Bytes::from_static(b"x").into())
                .send()
                .await
                .is_err();
            let waited = node.clock.now();
            let before = sim
                .net
                .world()
                .objects
                .lock()
                .unwrap()
                .get(BUCKET, "k")
                .is_some();
            node.clock.sleep(Duration::from_secs(120)).await;
            let after = sim
                .net
                .world()
                .objects
                .lock()
                .unwrap()
                .get(BUCKET, "k")
                .is_some();
            (failed, waited, (before, after))
        },
    );
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
        sim.net.cut(Window {
            scope: s3,
            from_ms: 0,
            to_ms: 20_000,
            kind: Outage::Silent,
        });
        let deaf = Scope::Replies("w0".into());
        sim.net.cut(Window {
            scope: deaf,
            from_ms: 30_000,
            to_ms: 50_000,
            kind: Outage::Silent,
        });
    };
    let (told, report) = on_a_node(
        Setup::calm(5),
        NodeOptions::default(),
        cuts,
        |node, _| async move {
            let mut told = Vec::new();
            for at in [0, 22, 32, 52] {
                node.clock.sleep_until(Duration::from_secs(at)).await;
                told.push(node.s3.head_bucket().bucket(BUCKET).send().await.is_ok());
            }
            told
        },
    );
    assert_eq!(told, [false, true, false, true]);
    assert!(
        report
            .effects
            .iter()
            .any(|e| e.at > 30_000 && e.at < 50_000 && e.status == 200)
    );
}

/// A frozen process does nothing while the world goes on; a crashed one never again.
#[test]
fn freeze_and_crash() {
    let (ticks, _) = run(
        Fleet::calm(6, 1, 1, 0).setup(Box::new(crate::effects::Unobserved)),
        async |sim| {
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
        },
    );
    assert_eq!(ticks, [1, 2, 12, 13]);
}
