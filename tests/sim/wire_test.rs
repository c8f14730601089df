//! The services through the real SDK clients, one behaviour at a time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_kinesis::types::ShardIteratorType;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;

use crate::fleet::{BUCKET, STREAM};
use crate::node::{End, Node, NodeOptions};
use crate::services::Backend;
use crate::services::kinesis_api::stream_arn;
use crate::sim::{Report, Setup, Sim, run};

/// Runs one node's code to its end on a calm network and returns what it found.
pub fn on_a_node<T: Send + 'static, F>(
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
        sim.net.world().objects.lock().unwrap().buckets.entry(BUCKET.to_owned()).or_default();
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

/// Both parsers are at work in a simulation, and it makes no difference which.
#[test]
fn kinesis_is_read_on_the_fast_path_and_beside_it() {
    let ((), _) = on_a_node(
        Setup::calm(1),
        NodeOptions::default(),
        |sim| (0..200).for_each(|n| drop(put(sim, 0, &format!("record {n}")))),
        |node, _| async move {
            let fast = catchment::aws::kinesis::Kinesis::new(node.kinesis.clone());
            let strict = fast.clone().strict();
            let shard = fast.list_shards(&stream_arn(STREAM)).await.unwrap().remove(0).id;
            let start = catchment::stream::position::StartAt::TrimHorizon;
            let (mut taken, mut left) = (0, 0);
            let mut iterator = fast.iterator(&stream_arn(STREAM), &shard, &start).await.unwrap();
            loop {
                let page = fast.get_records(&stream_arn(STREAM), &iterator, 3).await.unwrap();
                let same = strict.get_records(&stream_arn(STREAM), &iterator, 3).await.unwrap();
                assert_eq!(format!("{:?}", page.records), format!("{:?}", same.records));
                assert!(same.strict);
                if page.records.is_empty() {
                    break;
                }
                *(if !page.strict { &mut taken } else { &mut left }) += page.records.len();
                iterator = page.next.unwrap();
            }
            assert_eq!(taken + left, 200);
            assert!(taken > 100 && left > 0, "{taken} taken, {left} left to the SDK");
        },
    );
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
            let get = node.kinesis.get_shard_iterator().stream_arn(stream_arn(STREAM));
            let get = get.shard_id("shardId-000000000000").starting_sequence_number(&first);
            let after = get.clone().shard_iterator_type(ShardIteratorType::AfterSequenceNumber);
            let iterator = after.send().await.unwrap().shard_iterator.unwrap();
            let page = node.kinesis.get_records().shard_iterator(&iterator).send().await.unwrap();
            assert_eq!(page.records().len(), 1);
            assert_eq!(page.records()[0].data().as_ref(), b"b");
            assert_eq!(page.next_shard_iterator(), None);
            let told: Vec<_> =
                page.child_shards().iter().map(|c| c.shard_id().to_owned()).collect();
            assert_eq!(told, children);
            // Used again: the same page. Five minutes later: expired.
            assert!(node.kinesis.get_records().shard_iterator(&iterator).send().await.is_ok());
            node.clock.sleep(Duration::from_secs(301)).await;
            let late = node.kinesis.get_records().shard_iterator(&iterator).send().await;
            assert!(late.unwrap_err().into_service_error().is_expired_iterator_exception());
            // A trimmed number starts silently at the horizon; one of another shard is refused.
            sim.net.world().kinesis.stream(STREAM).unwrap().trim(now, now);
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
            sim.net.world().kinesis.stream(STREAM).unwrap().trim(now + 1, now + 1);
            let listed = node.kinesis.list_shards().stream_name(STREAM).send().await.unwrap();
            let listed: Vec<_> = listed.shards().iter().map(|s| s.shard_id()).collect();
            assert_eq!(
                listed,
                ["shardId-000000000001", "shardId-000000000002", "shardId-000000000003"]
            );
        },
    );
}

fn s3_behaves(backend: Backend) {
    let setup = Setup { backend, ..Setup::calm(2) };
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
            put().body(Bytes::from_static(b"one").into()).send().await.unwrap();
            let again = put().body(Bytes::from_static(b"two").into()).send().await.unwrap_err();
            assert_eq!(again.raw_response().map(|r| r.status().as_u16()), Some(412));
            let got = node.s3.get_object().bucket(BUCKET).key("a/b c+d").send().await.unwrap();
            assert_eq!(got.metadata().and_then(|m| m.get("shard")).map(String::as_str), Some("0"));
            assert_eq!(got.body.collect().await.unwrap().to_vec(), b"one");
            let none = node.s3.head_object().bucket(BUCKET).key("nothing").send().await;
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
                    let part = part.body(Bytes::from_static(b"part ").into()).send().await.unwrap();
                    let etag = part.e_tag().unwrap();
                    done = done
                        .parts(CompletedPart::builder().part_number(number).e_tag(etag).build());
                }
                let complete =
                    node.s3.complete_multipart_upload().bucket(BUCKET).key("big").upload_id(&id);
                let complete = complete.multipart_upload(done.build());
                if create_only {
                    let refused = complete.if_none_match("*").send().await.unwrap_err();
                    assert_eq!(refused.raw_response().map(|r| r.status().as_u16()), Some(412));
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
            let listed =
                node.s3.list_objects_v2().bucket(BUCKET).delimiter("/").send().await.unwrap();
            assert_eq!(
                listed.contents().iter().filter_map(|o| o.key()).collect::<Vec<_>>(),
                ["big"]
            );
            assert_eq!(listed.common_prefixes()[0].prefix(), Some("a/"));
            node.s3.delete_object().bucket(BUCKET).key("big").send().await.unwrap();
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
