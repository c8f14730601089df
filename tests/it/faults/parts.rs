//! Uploads in parts fail half-way: they go on where they were, memory follows what is stored, and
//! an upload that is gone is made good.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::*;

const MIB: u64 = 1 << 20;
/// One object, of five parts.
const BATCH: u64 = 22 * MIB;
const SETTINGS: [(&str, &str); 5] = [
    ("delivery.multipart_bytes", "5MiB"),
    ("delivery.batch_bytes", "22MiB"),
    ("delivery.batch_age", "1h"),
    ("delivery.compression", "none"),
    ("stream.bytes_per_second", "0B"),
];

/// A stream whose records are just one batch.
fn scene() -> (Scene, PathBuf) {
    let scene = Scene::new(1);
    let file = scene.dir.path().join("input");
    // The 77th reaches the size of a batch.
    let (size, _) = noise(&file, 77 * 300_001, 300_000);
    assert!((BATCH..BATCH + 300_000).contains(&size));
    sent(&scene, &file);
    (scene, file)
}

fn denied() -> Fault {
    // The SDK does not try this again by itself.
    Fault::Refuse(403, "AccessDenied")
}

fn arrives(scene: &Scene, file: &Path, mut worker: Worker) {
    within(Duration::from_secs(120), "the large object is stored", || {
        (stored(scene.data()) >= BATCH).then_some(())
    });
    worker.stop();
    same_lines(file, scene.data());
}

/// What somebody who tidies up does: ends every upload under way.
fn abort_uploads(scene: &Scene) {
    let s3 = &scene.clients.s3;
    let open = scene.runtime.block_on(s3.list_multipart_uploads().bucket("archive").send());
    let open = open.unwrap();
    assert_eq!(open.uploads().len(), 1);
    for upload in open.uploads() {
        let call = s3.abort_multipart_upload().bucket("archive").key(upload.key().unwrap());
        scene.runtime.block_on(call.upload_id(upload.upload_id().unwrap()).send()).unwrap();
    }
}

#[test]
fn an_upload_goes_on_with_the_part_that_failed() {
    let (scene, file) = scene();
    let parts = Arc::new(Mutex::new(Vec::new()));
    let failed = scene.proxy.add(Rule::new("S3.UploadPart", denied()).every(2));
    scene.proxy.add(Rule::new("S3.UploadPart", Fault::Record(Arc::clone(&parts))));
    let once = Rule::new("S3.CompleteMultipartUpload", denied()).every(usize::MAX);
    let once = scene.proxy.add(once);
    let worker = scene.worker(&SETTINGS);
    within(Duration::from_secs(120), "the large object is stored", || {
        (stored(scene.data()) >= BATCH).then_some(())
    });
    assert_eq!((failed.hits(), once.hits()), (5, 1), "{}", worker.text());
    assert_eq!(worker.metric("catchment_put_retries_total"), Some(6.0));
    assert_eq!(scene.proxy.calls("S3.CreateMultipartUpload"), 1);
    assert_eq!(scene.proxy.calls("S3.AbortMultipartUpload"), 0);
    arrives(&scene, &file, worker);
    let (mut numbers, mut ids) = (Vec::new(), BTreeSet::new());
    for moment in parts.lock().unwrap().iter().filter(|moment| moment.answered) {
        let query = moment.target.split_once('?').unwrap().1;
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "partNumber" => numbers.push(value.parse::<u32>().unwrap()),
                "uploadId" => _ = ids.insert(value.to_owned()),
                _ => {}
            }
        }
    }
    assert_eq!((numbers, ids.len()), (vec![1, 2, 3, 4, 5], 1));
}

#[test]
fn parts_leave_memory_and_come_back_from_the_stream_if_their_upload_is_gone() {
    let (scene, file) = scene();
    let stuck = scene.proxy.add(Rule::new("S3.UploadPart", denied()).after(2));
    let worker = scene.worker(&SETTINGS);
    within(Duration::from_secs(120), "two parts are stored", || (stuck.hits() > 0).then_some(()));
    // Fetches reserve memory now and then; what is held is held all the time.
    let left = BATCH - 2 * 5 * MIB;
    let least = within(Duration::from_secs(30), "the budget gets two parts back", || {
        let held = worker.metric("catchment_buffer_bytes")? as u64;
        // Chunks of 2 MiB, and the open batch, are counted whole.
        (held < left + 7 * MIB).then_some(held)
    });
    assert!(least >= left, "{least} are counted, at least {left} are held");
    abort_uploads(&scene);
    scene.proxy.heal();
    eventually("the announced batch is finished", || {
        (worker.metric("catchment_intents_recovered_total")? >= 1.0).then_some(())
    });
    assert_eq!(worker.metric("catchment_intents_recovered_total"), Some(1.0));
    assert_eq!(worker.metric("catchment_shard_failures_total"), Some(1.0));
    assert_eq!(worker.metric("catchment_leases_lost_total"), Some(0.0));
    assert_eq!(scene.proxy.calls("S3.CreateMultipartUpload"), 2);
    let text = worker.text();
    assert!(text.contains("is gone from the bucket") && text.contains("lifecycle"), "{text}");
    arrives(&scene, &file, worker);
}

#[test]
fn an_upload_that_is_gone_begins_again_while_memory_has_all_of_it() {
    let (scene, file) = scene();
    let stuck = scene.proxy.add(Rule::new("S3.UploadPart", denied()));
    let worker = scene.worker(&SETTINGS);
    within(Duration::from_secs(120), "a part is refused", || (stuck.hits() > 0).then_some(()));
    abort_uploads(&scene);
    scene.proxy.heal();
    within(Duration::from_secs(120), "the large object is stored", || {
        (stored(scene.data()) >= BATCH).then_some(())
    });
    assert_eq!(scene.proxy.calls("S3.CreateMultipartUpload"), 2, "{}", worker.text());
    assert_eq!(worker.metric("catchment_intents_recovered_total"), Some(0.0));
    assert_eq!(worker.metric("catchment_shard_failures_total"), Some(0.0));
    arrives(&scene, &file, worker);
}

#[test]
fn an_upload_given_up_is_aborted() {
    let (scene, file) = scene();
    let stuck = scene.proxy.add(Rule::new("S3.UploadPart", denied()).after(2));
    let deadline = ("delivery.upload_deadline", "1s");
    let worker = scene.worker(&[&SETTINGS[..], &[deadline]].concat());
    within(Duration::from_secs(120), "an upload is given up", || {
        (scene.proxy.calls("S3.AbortMultipartUpload") > 0).then_some(())
    });
    assert!(stuck.hits() > 1, "{}", worker.text());
    scene.proxy.heal();
    arrives(&scene, &file, worker);
    let open = scene.clients.s3.list_multipart_uploads().bucket("archive").send();
    let open = scene.runtime.block_on(open).unwrap();
    assert_eq!(open.uploads().len(), 0);
}

#[test]
fn objects_of_a_batch_leave_memory_one_by_one() {
    let scene = Scene::new(1);
    let file = scene.dir.path().join("input");
    let text = (0..16).fold(String::new(), |text, n| {
        let pad = "x".repeat(1 << 20);
        text + &format!("{{\"k\":{},\"n\":{n},\"pad\":\"{pad}\"}}\n", n % 2)
    });
    fs::write(&file, text).unwrap();
    sent(&scene, &file);
    let stuck = scene.proxy.add(Rule::new("S3.PutObject", denied()).after(1));
    let mut worker = scene.worker(&[
        ("delivery.prefix", "k=!{field:k}/"),
        ("delivery.batch_records", "16"),
        ("delivery.batch_age", "1h"),
        ("delivery.compression", "none"),
        ("stream.bytes_per_second", "0B"),
    ]);
    within(Duration::from_secs(120), "one of two objects is stored", || {
        (stuck.hits() > 0 && stored(scene.data()) > 0).then_some(())
    });
    let held = within(Duration::from_secs(30), "the budget gets one object back", || {
        let held = worker.metric("catchment_buffer_bytes")? as u64;
        (held < 12 * MIB).then_some(held)
    });
    assert!(held >= 8 * MIB, "{held} are counted, an object of 8 MiB is held");
    scene.proxy.heal();
    within(Duration::from_secs(60), "the other is stored", || {
        (lines(scene.data()).len() == 16).then_some(())
    });
    worker.stop();
    same_lines(&file, scene.data());
}
