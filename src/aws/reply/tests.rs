use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{Credentials, Region, SharedHttpClient};
use serde_json::{Value, json};

use crate::aws::clients::behavior;
use crate::aws::dynamodb::LeaseTable;
use crate::aws::kinesis::Kinesis;
use crate::aws::objects::Objects;
use crate::aws::records::tests::{Answers, Canned, asking, now, read};
use crate::aws::s3::ObjectStore;
use crate::aws::tables::Tables;
use crate::delivery::body::Body;
use crate::delivery::object::{Object, ObjectKind};
use crate::fault::{CallError, Fault};
use crate::ids::ShardId;
use crate::lease::write::Update;
use crate::stream::position::StartAt;

const ARN: &str = "arn:aws:kinesis:eu-west-1:123456789012:stream/s";

fn answer(body: &str) -> Canned {
    Canned::of(200, body.as_bytes(), 100)
}

/// The shapes an answer takes without this field: absent, null, and empty where that says nothing.
fn without(whole: &Value, field: &str, empty: Option<Value>) -> Vec<String> {
    let with = |value: Option<Value>| {
        let mut reply = whole.clone();
        let (path, name) = field.rsplit_once('/').unwrap();
        let object = reply.pointer_mut(path).and_then(Value::as_object_mut).unwrap();
        object.remove(name).unwrap();
        object.extend(value.map(|value| (name.to_owned(), value)));
        reply.to_string()
    };
    let mut shapes = vec![String::new(), "{}".into(), with(None), with(Some(Value::Null))];
    shapes.extend(empty.map(|empty| with(Some(empty))));
    shapes
}

fn failed<T>(shape: &str, answer: Result<T, CallError>) {
    let Err(error) = answer else { panic!("taken for an answer: {shape}") };
    assert_eq!(error.fault, Fault::Unavailable, "{shape}: {error}");
    // A field of an enumeration is one that the SDK misses by itself.
    assert!(
        ["IncompleteReply", "ResponseError"].contains(&error.code.as_str()),
        "{shape}: {error}"
    );
}

macro_rules! config {
    ($sdk:ident, $body:expr) => {
        $sdk::Client::from_conf(
            $sdk::Config::builder()
                .behavior_version(behavior())
                .region(Region::new("eu-west-1"))
                .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
                .http_client(SharedHttpClient::new(Answers::of(vec![answer($body)])))
                .retry_config(RetryConfig::standard().with_max_attempts(1))
                .build(),
        )
    };
}

fn kinesis(body: &str) -> Kinesis {
    asking(vec![answer(body)]).0
}

#[test]
fn a_stream_without_arn_creation_time_status_or_retention_is_none() {
    let whole = json!({"StreamDescriptionSummary": {
        "StreamName": "s", "StreamARN": "arn:aws:kinesis:eu-west-1:1:stream/s",
        "StreamStatus": "ACTIVE", "StreamCreationTimestamp": 1.7e9, "RetentionPeriodHours": 24,
        "EnhancedMonitoring": [], "OpenShardCount": 1,
    }});
    now(async {
        assert!(kinesis(&whole.to_string()).describe("s").await.unwrap().readable);
        for (field, empty) in [
            ("/StreamDescriptionSummary", Some(json!({}))),
            ("/StreamDescriptionSummary/StreamName", Some(json!(""))),
            ("/StreamDescriptionSummary/StreamARN", Some(json!(""))),
            ("/StreamDescriptionSummary/StreamStatus", Some(json!(""))),
            ("/StreamDescriptionSummary/StreamCreationTimestamp", Some(json!(0))),
            ("/StreamDescriptionSummary/RetentionPeriodHours", Some(json!(0))),
        ] {
            for shape in without(&whole, field, empty) {
                failed(&shape, kinesis(&shape).describe("s").await);
            }
        }
    });
}

#[test]
fn shards_and_their_ranges_are_there() {
    let whole = json!({"Shards": [{
        "ShardId": "shardId-0", "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "9"},
        "SequenceNumberRange": {"StartingSequenceNumber": "1"},
    }]});
    now(async {
        assert_eq!(kinesis(&whole.to_string()).list_shards(ARN).await.unwrap().len(), 1);
        for (field, empty) in [
            ("/Shards", Some(json!([]))),
            ("/Shards/0/ShardId", Some(json!(""))),
            ("/Shards/0/SequenceNumberRange", None),
        ] {
            for shape in without(&whole, field, empty) {
                failed(&shape, kinesis(&shape).list_shards(ARN).await);
            }
        }
    });
}

#[test]
fn iterators_and_consumers_are_named() {
    let iterator = json!({"ShardIterator": "i"});
    let consumer = json!({"ConsumerDescription": {
        "ConsumerName": "c", "ConsumerARN": "arn", "ConsumerStatus": "ACTIVE",
        "ConsumerCreationTimestamp": 1.7e9, "StreamARN": "arn",
    }});
    let shard = ShardId::new("shardId-0");
    now(async {
        assert!(kinesis(&consumer.to_string()).consumer(ARN, "c").await.unwrap().active);
        for shape in without(&iterator, "/ShardIterator", Some(json!(""))) {
            failed(&shape, kinesis(&shape).iterator(ARN, &shard, &StartAt::Latest).await);
        }
        for field in ["/ConsumerDescription/ConsumerARN", "/ConsumerDescription/ConsumerStatus"] {
            for shape in without(&consumer, field, Some(json!(""))) {
                failed(&shape, kinesis(&shape).consumer(ARN, "c").await);
            }
        }
    });
}

#[test]
fn a_page_has_a_list_of_records_and_a_way_on() {
    let whole = json!({"Records": [], "NextShardIterator": "n"});
    now(async {
        assert!(read(&kinesis(&whole.to_string())).await.unwrap().records.is_empty());
        // An empty list is an answer.
        for shape in without(&whole, "/Records", None) {
            failed(&shape, read(&kinesis(&shape)).await);
        }
        for shape in without(&whole, "/NextShardIterator", Some(json!(""))) {
            failed(&shape, read(&kinesis(&shape)).await);
        }
        // The end of a shard, as it is told by different services.
        for end in [
            r#"{"Records":[],"NextShardIterator":null,"MillisBehindLatest":0}"#,
            r#"{"Records":[],"ChildShards":[{"ShardId":"c","ParentShards":["p"],"HashKeyRange":
                {"StartingHashKey":"0","EndingHashKey":"9"}}]}"#,
        ] {
            assert!(read(&kinesis(end)).await.unwrap().next.is_none(), "{end}");
        }
    });
}

#[test]
fn an_empty_table_says_so() {
    let table = |body: &str| LeaseTable::new(config!(aws_sdk_dynamodb, body), "t");
    now(async {
        assert!(table(r#"{"Items":[],"Count":0}"#).scan(true).await.unwrap().is_empty());
        for shape in without(&json!({"Items": []}), "/Items", None) {
            failed(&shape, table(&shape).scan(true).await);
        }
        let item = json!({"Attributes": {"leaseKey": {"S": "shardId-0"}}});
        for shape in without(&item, "/Attributes", Some(json!({}))) {
            let update = Update {
                update: "REMOVE x".into(),
                condition: "attribute_exists(leaseKey)".into(),
                values: Vec::new(),
            };
            failed(&shape, table(&shape).update(&ShardId::new("shardId-0"), update).await);
        }
        for shape in without(&json!({"TableNames": []}), "/TableNames", None) {
            failed(&shape, Tables::new(config!(aws_sdk_dynamodb, &shape)).list("").await);
        }
    });
}

#[test]
fn no_item_is_told_from_no_answer_by_its_price() {
    let priced = r#"{"ConsumedCapacity":{"TableName":"t","CapacityUnits":0.5}}"#;
    let key = ShardId::new("shardId-0");
    let table = |bodies: &[&str]| {
        let answers = bodies.iter().map(|body| answer(body)).collect();
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(behavior())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
            .http_client(SharedHttpClient::new(Answers::of(answers)))
            .build();
        LeaseTable::new(aws_sdk_dynamodb::Client::from_conf(config), "t")
    };
    now(async {
        let plain = table(&["{}"]);
        assert!(plain.get(&key).await.unwrap().is_none(), "of a store that names no price");
        for shape in ["", "{}", r#"{"Item":null}"#, r#"{"Item":{}}"#] {
            let table = table(&[priced, shape]);
            assert!(table.get(&key).await.unwrap().is_none());
            failed(shape, table.get(&key).await);
        }
    });
}

#[test]
fn uploads_have_ids_parts_have_tags_and_lists_say_that_they_are_empty() {
    let object = Object {
        bucket: "b".into(),
        key: "k".into(),
        kind: ObjectKind::Archive,
        body: Body::default(),
        content_type: "text/plain".into(),
        metadata: Vec::new(),
        records: 0,
        aside: None,
        accepted_ms: None,
        last: false,
    };
    now(async {
        for inner in ["", "<UploadId/>"] {
            let body =
                format!("<InitiateMultipartUploadResult>{inner}</InitiateMultipartUploadResult>");
            let store = ObjectStore::new(config!(aws_sdk_s3, &body));
            failed(&body, store.create_multipart(&object).await);
        }
        let store = ObjectStore::new(config!(aws_sdk_s3, ""));
        failed("no ETag", store.upload_part_of(&object, "id", 1, &Body::default()).await);
        for inner in ["", "<Name>b</Name>", "<IsTruncated>true</IsTruncated>"] {
            let body = format!("<ListBucketResult>{inner}</ListBucketResult>");
            failed(&body, Objects::new(config!(aws_sdk_s3, &body)).list("b", "").await);
        }
        let empty = "<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>";
        assert!(Objects::new(config!(aws_sdk_s3, empty)).list("b", "").await.unwrap().is_empty());
    });
}
