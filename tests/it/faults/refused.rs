//! The key of a file is taken, and the store does not show by what.

use super::*;
use crate::flow::envelope;

/// Denied for good: it may be another file. It is put aside with its content, told and counted, and
/// what comes behind it is delivered.
#[test]
fn a_file_whose_key_is_taken_is_put_aside_if_the_store_does_not_show_by_what() {
    let mut scene = Scene::new(1);
    let mut worker = scene.worker(&[]);
    let put = |scene: &Scene, content: &str| {
        let call = scene.clients.kinesis.put_record().stream_name("local").partition_key("k");
        let event = envelope("uploads/a.txt", content);
        let call = call.data(aws_sdk_kinesis::primitives::Blob::new(event));
        scene.runtime.block_on(call.send()).unwrap();
    };
    let below = |scene: &Scene, prefix: &str| {
        let mut found = objects(scene.data(), "archive");
        found.retain(|(key, _)| key.starts_with(prefix));
        found
    };
    put(&scene, "first");
    eventually("the file is stored", || (!below(&scene, "uploads/").is_empty()).then_some(()));
    let refused = scene.proxy.add(Rule::new("S3.HeadObject", Fault::Refuse(403, "AccessDenied")));
    put(&scene, "second");
    scene.send(10);
    eventually("it is put aside, and what is behind it delivered", || {
        let aside = below(&scene, "errors/upload-conflict/").len();
        (aside == 1 && !below(&scene, "local/").is_empty()).then_some(())
    });
    assert!(refused.hits() > 1, "it was looked at more than once");
    let letter: serde_json::Value =
        serde_json::from_slice(&below(&scene, "errors/upload-conflict/")[0].1).unwrap();
    assert_eq!(letter["file_key"], "uploads/a.txt");
    assert_eq!(letter["data"], "c2Vjb25k");
    assert!(letter["reason"].as_str().unwrap().contains("cannot be looked at"), "{letter}");
    assert_eq!(worker.metric("catchment_dead_letters_total"), Some(1.0), "{}", worker.text());
    assert_eq!(worker.metric("catchment_shard_failures_total"), Some(0.0), "{}", worker.text());
    worker.stop();
    assert_eq!(below(&scene, "uploads/")[0].1, b"first");
}
