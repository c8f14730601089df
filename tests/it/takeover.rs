//! The table of a KCL application is taken over: rows item by item as the Java KCL writes them.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType,
};
use catchment::aws::clients::Clients;
use catchment::aws::kinesis::Kinesis;
use catchment::config::Aws;
use catchment::stream::position::StartAt;

use crate::support::{Running, catchment, eventually, lines, services, stderr, worker};

const TABLE: &str = "java-application";

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn n(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// What KCL 2.x leaves in the table for an owned lease.
fn kcl_row(shard: &str, checkpoint: &str) -> HashMap<String, AttributeValue> {
    HashMap::from([
        ("leaseKey".into(), s(shard)),
        ("leaseOwner".into(), s("java-host:6a1e")),
        ("leaseCounter".into(), n(4711)),
        ("ownerSwitchesSinceCheckpoint".into(), n(2)),
        ("checkpoint".into(), s(checkpoint)),
        ("checkpointSubSequenceNumber".into(), n(0)),
        ("throughputKBps".into(), AttributeValue::N("12.345678".into())),
        ("startingHashKey".into(), s("0")),
        ("endingHashKey".into(), s("340282366920938463463374607431768211455")),
    ])
}

pub(crate) fn clients(services: &Running) -> Clients {
    let endpoint = &services.environment.iter().find(|(n, _)| n == "AWS_ENDPOINT_URL").unwrap().1;
    let calls = Aws {
        attempt_timeout: Duration::from_secs(10),
        operation_timeout: Duration::from_secs(30),
        upload_timeout: Duration::from_secs(10),
        path_style: true,
    };
    Clients::at(endpoint, "us-east-1", &calls)
}

async fn create_table(clients: &Clients) {
    let key = KeySchemaElement::builder().attribute_name("leaseKey").key_type(KeyType::Hash);
    let definition = AttributeDefinition::builder()
        .attribute_name("leaseKey")
        .attribute_type(ScalarAttributeType::S);
    let table = clients.dynamodb.create_table().table_name(TABLE);
    let table = table.billing_mode(BillingMode::PayPerRequest).key_schema(key.build().unwrap());
    table.attribute_definitions(definition.build().unwrap()).send().await.unwrap();
    eventually_active(clients).await;
}

async fn eventually_active(clients: &Clients) {
    loop {
        let table = clients.dynamodb.describe_table().table_name(TABLE).send().await.unwrap();
        if table.table().unwrap().table_status().unwrap().as_str() == "ACTIVE" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_kcl_table_is_continued_at_its_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let file = dir.path().join("input");
    let all: Vec<Vec<u8>> = (0..100).map(|i| format!("{i:03}").into_bytes()).collect();
    std::fs::write(&file, all.join(&b'\n')).unwrap();
    let arguments = ["send", "--stream", "local", "--input", file.to_str().unwrap()];
    assert!(catchment(&arguments, &services.environment).status.success());
    let clients = clients(&services);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let delivered_by_java = runtime.block_on(async {
        let kinesis = Kinesis::new(clients.kinesis.clone());
        let arn = kinesis.describe("local").await.unwrap().arn;
        let shard = kinesis.list_shards(&arn).await.unwrap().remove(0).id;
        let iterator = kinesis.iterator(&arn, &shard, &StartAt::TrimHorizon).await.unwrap();
        let page = kinesis.get_records(&arn, &iterator, 40).await.unwrap();
        create_table(&clients).await;
        let last = page.records.last().unwrap().position.sequence.clone();
        let mut row = kcl_row(shard.as_str(), last.as_str());
        // A two-phase checkpoint that Java prepared and never finished.
        row.insert("pendingCheckpoint".into(), s(last.as_str()));
        row.insert("pendingCheckpointSubSequenceNumber".into(), n(0));
        row.insert("pendingCheckpointState".into(), AttributeValue::B(Blob::new("java state")));
        clients.dynamodb.put_item().table_name(TABLE).set_item(Some(row)).send().await.unwrap();
        page.records.iter().map(|r| r.data.to_vec()).collect::<Vec<_>>()
    });
    let settings =
        [("lease.application", TABLE), ("lease.failover", "1s"), ("delivery.batch_age", "200ms")];
    let mut running = worker(&services, &settings);
    let mut expected: Vec<_> =
        all.into_iter().filter(|line| !delivered_by_java.contains(line)).collect();
    expected.sort();
    assert_eq!(expected.len(), 60);
    eventually("the rest is delivered", || (lines(dir.path()).len() >= 60).then_some(()));
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(30)).success());
    assert!(lines(dir.path()) == expected);
    // The row is one that Java can read and go on from.
    runtime.block_on(async {
        let items = clients.dynamodb.scan().table_name(TABLE).send().await.unwrap();
        let row = items.items()[0].clone();
        for (name, is_number) in [
            ("leaseKey", false),
            ("leaseCounter", true),
            ("checkpoint", false),
            ("checkpointSubSequenceNumber", true),
            ("ownerSwitchesSinceCheckpoint", true),
        ] {
            assert_eq!(row[name].is_n(), is_number, "{name}");
        }
        for gone in ["leaseOwner", "pendingCheckpoint", "pendingCheckpointState", "checkpointOwner"]
        {
            assert!(!row.contains_key(gone), "{gone} is left behind");
        }
    });
}

#[test]
fn a_live_kcl_3_fleet_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(dir.path(), 1);
    let clients = clients(&services);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        create_table(&clients).await;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let metrics = HashMap::from([
            ("leaseKey".to_owned(), s("java-host:6a1e")),
            ("entityType".to_owned(), s("WORKER_METRIC_STATS")),
            ("lut".to_owned(), n(now.as_secs())),
        ]);
        clients.dynamodb.put_item().table_name(TABLE).set_item(Some(metrics)).send().await.unwrap();
    });
    let arguments = [
        "run",
        "--stream",
        "local",
        "--bucket",
        "archive",
        "--set",
        "aws.path_style=true",
        "--set",
        "telemetry.listen=off",
        "--set",
        "lease.application=java-application",
    ];
    let output = catchment(&arguments, &services.environment);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("java-host:6a1e") && text.contains("lease.application"), "{text}");
}
