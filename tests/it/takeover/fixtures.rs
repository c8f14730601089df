//! Items as the Java KCL writes them, generation by generation, and a table to put them into.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType,
};
use catchment::aws::clients::Clients;
use catchment::aws::kinesis::Kinesis;
use catchment::stream::position::StartAt;
use catchment::stream::{ShardInfo, StreamInfo};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::{Running, catchment, services};

pub(crate) const TABLE: &str = "java-application";

pub(crate) type Row = HashMap<String, AttributeValue>;

pub(crate) fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(crate) fn n(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(crate) fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// An owned lease of KCL 1.x: no hash range, no throughput.
pub(crate) fn kcl1(shard: &str, checkpoint: &str) -> Row {
    HashMap::from([
        ("leaseKey".into(), s(shard)),
        ("leaseOwner".into(), s("java-host:6a1e")),
        ("leaseCounter".into(), n(4711)),
        ("ownerSwitchesSinceCheckpoint".into(), n(2)),
        ("checkpoint".into(), s(checkpoint)),
        ("checkpointSubSequenceNumber".into(), n(0)),
    ])
}

/// Of KCL 2.x: with the hash range, and a checkpoint that was prepared and never finished.
pub(crate) fn kcl2(shard: &ShardInfo, checkpoint: &str) -> Row {
    let mut row = kcl1(shard.id.as_str(), checkpoint);
    let (first, last) = shard.hash_range.clone().unwrap();
    row.insert("startingHashKey".into(), s(&first));
    row.insert("endingHashKey".into(), s(&last));
    row.insert("throughputKBps".into(), AttributeValue::N("12.345678".into()));
    row.insert("pendingCheckpoint".into(), s(checkpoint));
    row.insert("pendingCheckpointSubSequenceNumber".into(), n(0));
    row.insert("pendingCheckpointState".into(), AttributeValue::B(Blob::new("java state")));
    row
}

/// Of KCL 3.5: with its kind, in the middle of a handoff whose both ends are dead.
pub(crate) fn kcl3(shard: &ShardInfo, checkpoint: &str) -> Row {
    let mut row = kcl2(shard, checkpoint);
    row.retain(|name, _| !name.starts_with("pending"));
    row.insert("entityType".into(), s("LEASE"));
    row.insert("leaseOwner".into(), s("java-host:new"));
    row.insert("checkpointOwner".into(), s("java-host:6a1e"));
    row
}

/// Of a multi-stream application (KCL 2.3 and later).
pub(crate) fn multi(id: &str, shard: &ShardInfo, checkpoint: &str) -> Row {
    let mut row = kcl2(shard, checkpoint);
    row.insert("leaseKey".into(), s(&format!("{id}:{}", shard.id)));
    row.insert("streamName".into(), s(id));
    row.insert("shardId".into(), s(shard.id.as_str()));
    row
}

/// Metrics of a worker, as KCL 3.5 keeps them in the lease table (`key` is `leaseKey`) and 3.0 to
/// 3.4 in a table of their own (`wid`).
pub(crate) fn metrics(key: &str, worker: &str, updated: u64) -> Row {
    let samples = AttributeValue::M(HashMap::from([(
        "C".to_owned(),
        AttributeValue::L(vec![AttributeValue::N("12.5".into())]),
    )]));
    let mut row = HashMap::from([
        (key.to_owned(), s(worker)),
        ("lut".to_owned(), n(updated)),
        ("sts".to_owned(), samples),
    ]);
    if key == "leaseKey" {
        row.insert("entityType".into(), s("WORKER_METRIC_STATS"));
    }
    row
}

/// Leader lock, client version and table migration.
pub(crate) fn coordinator(key: &str, leader: &str, version: &str) -> Vec<Row> {
    let item = |name: &str, kind: &str, more: Vec<(&str, AttributeValue)>| {
        let mut row = HashMap::from([(key.to_owned(), s(name))]);
        row.extend(more.into_iter().map(|(k, v)| (k.to_owned(), v)));
        if key == "leaseKey" {
            row.insert("entityType".into(), s(kind));
        }
        row
    };
    vec![
        item(
            "Leader",
            "LEADER",
            vec![
                ("ownerName", s(leader)),
                ("leaseDuration", s("120000")),
                ("recordVersionNumber", s(version)),
            ],
        ),
        item(
            "Migration3.0",
            "CLIENT_VERSION_MIGRATION",
            vec![
                ("cv", s("CLIENT_VERSION_3X")),
                ("mb", s(leader)),
                ("mts", n(1_772_003_600_000)),
                ("h", AttributeValue::L(Vec::new())),
            ],
        ),
        item(
            "TableMigration3.5",
            "TABLE_MIGRATION",
            vec![
                ("tm", s("TABLE_MIGRATION_STATUS_COMPLETE")),
                ("mb", s(leader)),
                ("mts", n(1_772_003_600_000)),
            ],
        ),
    ]
}

/// Services with a hundred records in them, of which Java has delivered some.
pub(crate) struct Java {
    pub(crate) dir: TempDir,
    pub(crate) services: Running,
    pub(crate) clients: Clients,
    pub(crate) runtime: Runtime,
    pub(crate) stream: StreamInfo,
    pub(crate) shards: Vec<ShardInfo>,
    /// Payloads Java has delivered.
    pub(crate) delivered: Vec<Vec<u8>>,
    /// The others, sorted.
    pub(crate) rest: Vec<Vec<u8>>,
    /// Java's checkpoint of each shard.
    pub(crate) checkpoints: Vec<String>,
}

impl Java {
    pub(crate) fn new(shards: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let services = services(dir.path(), shards);
        let file = dir.path().join("input");
        let all: Vec<Vec<u8>> = (0..100).map(|i| format!("{i:03}").into_bytes()).collect();
        std::fs::write(&file, all.join(&b'\n')).unwrap();
        let arguments = ["send", "--stream", "local", "--input", file.to_str().unwrap()];
        assert!(catchment(&arguments, &services.environment).status.success());
        let clients = crate::support::clients(&services);
        let runtime = Runtime::new().unwrap();
        let (mut delivered, mut checkpoints) = (Vec::new(), Vec::new());
        let kinesis = Kinesis::new(clients.kinesis.clone());
        let (stream, shards) = runtime.block_on(async {
            let stream = kinesis.describe("local").await.unwrap();
            let shards = kinesis.list_shards(&stream.arn).await.unwrap();
            for shard in &shards {
                let from = &StartAt::TrimHorizon;
                let iterator = kinesis.iterator(&stream.arn, &shard.id, from).await.unwrap();
                let page = kinesis.get_records(&stream.arn, &iterator, 7).await.unwrap();
                let last = page.records.last().unwrap().sequence().to_owned();
                checkpoints.push(last);
                delivered.extend(page.records.iter().map(|r| r.data.to_vec()));
            }
            (stream, shards)
        });
        let mut rest: Vec<_> = all.into_iter().filter(|line| !delivered.contains(line)).collect();
        rest.sort();
        Self { dir, services, clients, runtime, stream, shards, delivered, rest, checkpoints }
    }

    pub(crate) fn table(&self, name: &str, key: &str) {
        let schema = KeySchemaElement::builder().attribute_name(key).key_type(KeyType::Hash);
        let definition = AttributeDefinition::builder()
            .attribute_name(key)
            .attribute_type(ScalarAttributeType::S);
        let table = self.clients.dynamodb.create_table().table_name(name);
        let table =
            table.billing_mode(BillingMode::PayPerRequest).key_schema(schema.build().unwrap());
        let table = table.attribute_definitions(definition.build().unwrap());
        self.runtime.block_on(async {
            table.send().await.unwrap();
            loop {
                let seen = self.clients.dynamodb.describe_table().table_name(name).send().await;
                if seen.unwrap().table().unwrap().table_status().unwrap().as_str() == "ACTIVE" {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    pub(crate) fn put(&self, table: &str, row: Row) {
        let call = self.clients.dynamodb.put_item().table_name(table).set_item(Some(row));
        self.runtime.block_on(call.send()).unwrap();
    }

    pub(crate) fn rows(&self, table: &str) -> Vec<Row> {
        let call = self.clients.dynamodb.scan().table_name(table).consistent_read(true);
        self.runtime.block_on(call.send()).unwrap().items.unwrap()
    }

    pub(crate) fn row(&self, key: &str) -> Row {
        let mut rows = self.rows(TABLE);
        rows.retain(|row| row["leaseKey"] == s(key));
        rows.pop().unwrap()
    }
}
