//! What survives, with and without warning.

use std::process::Stdio;
use std::time::Duration;

use aws_sdk_kinesis::types::ShardIteratorType;
use aws_sdk_s3::primitives::ByteStream;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::dynamodb::{create, text};
use super::kinesis::{FIRST, put, texts};
use super::*;

const CHILD: &str = "CATCHMENT_TEST_LOCAL_DIR";

async fn fill(clients: &Clients) -> (String, String) {
    let kinesis = &clients.kinesis;
    kinesis.create_stream().stream_name("events").shard_count(1).send().await.unwrap();
    let arn = kinesis.describe_stream_summary().stream_name("events").send().await.unwrap();
    let arn = arn.stream_description_summary().unwrap().stream_arn().to_owned();
    kinesis.register_stream_consumer().stream_arn(&arn).consumer_name("c").send().await.unwrap();
    put(kinesis, "one").await;
    let last = put(kinesis, "two").await;
    create(&clients.dynamodb).await;
    let item = clients.dynamodb.put_item().table_name("leases").item("leaseKey", text("s-1"));
    item.item("checkpoint", text(&last)).send().await.unwrap();
    clients.s3.create_bucket().bucket("bucket").send().await.unwrap();
    let object = clients.s3.put_object().bucket("bucket").key("a/b").metadata("m", "v");
    object.body(ByteStream::from_static(b"body")).send().await.unwrap();
    (last, arn)
}

async fn check(clients: &Clients, last: &str, arn: &str) {
    let kinesis = &clients.kinesis;
    assert_eq!(texts(kinesis, FIRST).await, ["one", "two"]);
    let next = put(kinesis, "three").await;
    let order = |text: &str| crate::ids::SequenceNumber::parse(text).unwrap();
    assert!(order(&next) > order(last));
    let get = kinesis.get_shard_iterator().stream_name("events").shard_id(FIRST);
    let get = get
        .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
        .starting_sequence_number(last);
    let token = get.send().await.unwrap();
    let page =
        kinesis.get_records().shard_iterator(token.shard_iterator().unwrap()).send().await.unwrap();
    assert_eq!(page.records().len(), 1);
    assert_eq!(page.records()[0].sequence_number(), next);
    let consumers = kinesis.list_stream_consumers().stream_arn(arn).send().await.unwrap();
    assert_eq!(consumers.consumers().len(), 1);
    let item = clients.dynamodb.get_item().table_name("leases").key("leaseKey", text("s-1"));
    let item = item.consistent_read(true).send().await.unwrap();
    assert_eq!(item.item().unwrap()["checkpoint"], text(last));
    let object = clients.s3.get_object().bucket("bucket").key("a/b").send().await.unwrap();
    assert_eq!(object.metadata().unwrap()["m"], "v");
    assert_eq!(object.body.collect().await.unwrap().to_vec(), b"body");
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (services, clients) = start(options(dir.path(), true)).await;
    let (last, arn) = fill(&clients).await;
    services.stop().await.unwrap();
    // A line cut short by a kill is dropped.
    let log = dir.path().join("data/.catchment/kinesis/log.jsonl");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes.extend_from_slice(b"{\"Records\":[\"events\",[[\"0000");
    std::fs::write(&log, bytes).unwrap();
    let (services, clients) = start(options(dir.path(), true)).await;
    check(&clients, &last, &arn).await;
    services.stop().await.unwrap();

    // A line that is whole but wrong is not skipped in silence.
    let mut bytes = std::fs::read(&log).unwrap();
    bytes.extend_from_slice(b"nonsense\n");
    std::fs::write(&log, bytes).unwrap();
    let again =
        Services::start(options(dir.path(), true), &Tasks::pooled(1), &Clock::system()).await;
    let error = again.err().unwrap().to_string();
    assert!(error.contains("log.jsonl") && error.contains("line"), "{error}");
}

/// Not a test: the process that the next one kills.
#[tokio::test]
async fn served_by_a_child_process() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let (services, _clients) = start(options(Path::new(&dir), true)).await;
    println!("\nready {}", services.endpoint());
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_kill_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "local::tests::restart::served_by_a_child_process", "--nocapture"])
        .env(CHILD, dir.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let endpoint = loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if let Some((_, endpoint)) = line.split_once("ready ") {
            break endpoint.to_owned();
        }
    };
    let (last, arn) = fill(&Clients::of(&endpoint)).await;
    child.kill().await.unwrap();
    let (services, clients) = start(options(dir.path(), true)).await;
    check(&clients, &last, &arn).await;
    services.stop().await.unwrap();
}
