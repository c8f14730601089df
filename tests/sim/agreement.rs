//! The two implementations of DynamoDB answer the same requests alike: status, error code, and the
//! answer itself. A list rather than random requests, because each line states a rule that lease
//! code relies on.

use serde_json::{Value, json};

use crate::effects::canonical;
use crate::services::dynamodb::{Dynamo, DynamoDb};
use crate::services::error_code;
use crate::services::libraries::Dynoxide;

fn key(name: &str) -> Value {
    json!({ "leaseKey": { "S": name } })
}

fn create() -> Value {
    json!({
        "TableName": "leases",
        "KeySchema": [{ "AttributeName": "leaseKey", "KeyType": "HASH" }],
        "AttributeDefinitions": [{ "AttributeName": "leaseKey", "AttributeType": "S" }],
        "BillingMode": "PAY_PER_REQUEST",
    })
}

fn put(item: Value, more: Value) -> Value {
    let mut body = json!({ "TableName": "leases", "Item": item });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn update(name: &str, expression: &str, more: Value) -> Value {
    let mut body =
        json!({ "TableName": "leases", "Key": key(name), "UpdateExpression": expression });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn conditional(condition: &str, values: Value) -> Value {
    json!({
        "ConditionExpression": condition,
        "ExpressionAttributeValues": values,
        "ReturnValues": "ALL_NEW",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    })
}

fn lease(name: &str) -> Value {
    json!({
        "leaseKey": { "S": name },
        "leaseCounter": { "N": "1" },
        "leaseOwner": { "S": "w1" },
        "checkpoint": { "S": "TRIM_HORIZON" },
        "parentShardId": { "SS": ["b", "a"] },
    })
}

/// Requests in order; each sees what the ones before it did.
fn requests() -> Vec<(&'static str, Value)> {
    let one = json!({ ":one": { "N": "1" } });
    let c = |text: &str| conditional(text, json!({ ":one": { "N": "1" }, ":two": { "N": "2" } }));
    let absent = json!({ "ConditionExpression": "attribute_not_exists(leaseKey)" });
    let absent_old = json!({
        "ConditionExpression": "attribute_not_exists(leaseKey)",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    });
    let plus = "SET leaseCounter = leaseCounter + :one";
    let named = |names: Value, values: Value| json!({ "ExpressionAttributeNames": names, "ExpressionAttributeValues": values });
    let scan = |more: Value| {
        let mut body = json!({ "TableName": "leases" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let by_owner = |more: Value| {
        let mut body = scan(json!({
            "IndexName": "LeaseOwnerToLeaseKeyIndex",
            "KeyConditionExpression": "leaseOwner = :o",
            "ExpressionAttributeValues": { ":o": { "S": "w1" } },
        }));
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    vec![
        ("PutItem", put(lease("s0"), json!({}))), // no table yet
        ("CreateTable", create()),
        ("CreateTable", create()),
        ("PutItem", put(lease("s0"), absent.clone())),
        ("PutItem", put(lease("s0"), absent)),
        ("PutItem", put(lease("s0"), absent_old)),
        ("PutItem", put(json!({ "leaseCounter": { "N": "1" } }), json!({}))),
        ("PutItem", put(json!({ "leaseKey": { "S": "" } }), json!({}))),
        ("PutItem", put(json!({ "leaseKey": { "S": "x" }, "n": { "N": "x1" } }), json!({}))),
        (
            "PutItem",
            put(json!({ "leaseKey": { "S": "x" }, "n": { "N": "9".repeat(56) } }), json!({})),
        ),
        ("PutItem", put(json!({ "leaseKey": { "S": "x" }, "n": { "SS": [] } }), json!({}))),
        (
            "PutItem",
            put(
                json!({ "leaseKey": { "S": "x" }, "big": { "S": "a".repeat(410_000) } }),
                json!({}),
            ),
        ),
        ("GetItem", json!({ "TableName": "leases", "Key": key("s0"), "ConsistentRead": true })),
        ("GetItem", json!({ "TableName": "leases", "Key": key("none"), "ConsistentRead": true })),
        ("GetItem", json!({ "TableName": "leases", "Key": { "wrong": { "S": "s0" } } })),
        (
            "UpdateItem",
            update(
                "s0",
                plus,
                c(
                    "leaseCounter = :one AND attribute_not_exists(checkpointOwner) AND leaseCounter < :two",
                ),
            ),
        ),
        ("UpdateItem", update("s0", plus, c("leaseCounter = :one OR leaseCounter > :two"))), // now 2: fails
        ("UpdateItem", update("s0", plus, c("NOT (leaseCounter = :one OR leaseCounter > :two)"))),
        ("UpdateItem", update("s0", plus, c("lost <> :one AND leaseCounter <> :two"))),
        ("UpdateItem", update("s0", plus, c("lost = :one OR leaseOwner > :two"))), // types differ
        ("UpdateItem", update("none", plus, named(json!({}), one.clone()))),
        (
            "UpdateItem",
            update("none", plus, c("attribute_exists(leaseKey) AND leaseCounter = :two")),
        ),
        ("UpdateItem", update("s0", "SET owner = :one", named(json!({}), one.clone()))), // reserved
        ("UpdateItem", update("s0", "SET #o = :one", named(json!({ "#o": "owner" }), one.clone()))),
        ("UpdateItem", update("s0", "SET a = :one", named(json!({ "#o": "owner" }), one.clone()))), // unused name
        (
            "UpdateItem",
            update(
                "s0",
                "SET a = :one",
                json!({ "ExpressionAttributeValues": { ":one": { "N": "1" }, ":x": { "N": "1" } } }),
            ),
        ),
        ("UpdateItem", update("s0", "SET a = :nope", named(json!({}), one.clone()))),
        ("UpdateItem", update("s0", "SET a = :one, a = :one", named(json!({}), one.clone()))),
        ("UpdateItem", update("s0", "SET a = :one SET b = :one", named(json!({}), one.clone()))),
        ("UpdateItem", update("s0", "SET leaseKey = :one", named(json!({}), one.clone()))),
        (
            "UpdateItem",
            update("s0", "SET leaseOwner = leaseOwner + :one", named(json!({}), one.clone())),
        ),
        ("UpdateItem", update("s0", "SET", json!({}))),
        ("UpdateItem", update("s0", "", json!({}))),
        (
            "UpdateItem",
            update(
                "s0",
                "SET a = if_not_exists(a, :one) + :one REMOVE leaseOwner ADD n :one DELETE parentShardId :set",
                {
                    json!({ "ExpressionAttributeValues": { ":one": { "N": "1.50" }, ":set": { "SS": ["a"] } }, "ReturnValues": "ALL_NEW" })
                },
            ),
        ),
        (
            "UpdateItem",
            update("s0", "SET leaseOwner = :w DELETE parentShardId :set", {
                json!({ "ExpressionAttributeValues": { ":w": { "S": "w2" }, ":set": { "SS": ["b", "z"] } }, "ReturnValues": "UPDATED_NEW" })
            }),
        ),
        (
            "UpdateItem",
            update(
                "s0",
                "SET q = :l",
                json!({ "ExpressionAttributeValues": { ":l": { "L": [{ "S": "i1" }] } } }),
            ),
        ),
        (
            "UpdateItem",
            update("s0", "SET q = list_append(q, :l)", {
                json!({ "ExpressionAttributeValues": { ":l": { "L": [{ "S": "i2" }] } }, "ReturnValues": "UPDATED_OLD" })
            }),
        ),
        (
            "UpdateItem",
            update(
                "s0",
                "REMOVE q",
                json!({
                    "ConditionExpression": "size(q) = :two AND contains(q, :i)",
                    "ExpressionAttributeValues": { ":two": { "N": "2" }, ":i": { "S": "i2" } },
                    "ReturnValues": "ALL_OLD",
                }),
            ),
        ),
        (
            "UpdateItem",
            update(
                "s9",
                "SET a = :m",
                json!({
                    "ExpressionAttributeValues": { ":m": { "M": { "C": { "L": [{ "N": "0.10" }, { "BOOL": true }, { "NULL": true }] } } } },
                    "ReturnValues": "ALL_NEW",
                }),
            ),
        ),
        (
            "UpdateItem",
            update(
                "s0",
                plus,
                json!({ "ConditionExpression": "bogus(leaseKey)", "ExpressionAttributeValues": one.clone() }),
            ),
        ),
        (
            "UpdateItem",
            update(
                "s0",
                plus,
                json!({ "ConditionExpression": "leaseCounter = = :one", "ExpressionAttributeValues": one }),
            ),
        ),
        (
            "UpdateTable",
            json!({
                "TableName": "leases",
                "AttributeDefinitions": [
                    { "AttributeName": "leaseKey", "AttributeType": "S" },
                    { "AttributeName": "leaseOwner", "AttributeType": "S" },
                ],
                "GlobalSecondaryIndexUpdates": [{ "Create": {
                    "IndexName": "LeaseOwnerToLeaseKeyIndex",
                    "KeySchema": [
                        { "AttributeName": "leaseOwner", "KeyType": "HASH" },
                        { "AttributeName": "leaseKey", "KeyType": "RANGE" },
                    ],
                    "Projection": { "ProjectionType": "KEYS_ONLY" },
                }}],
            }),
        ),
        ("PutItem", put(lease("s2"), json!({}))),
        ("PutItem", put(lease("s1"), json!({ "ReturnValues": "ALL_OLD" }))),
        ("PutItem", put(lease("s1"), json!({ "ReturnValues": "ALL_OLD" }))),
        ("PutItem", put(lease("s1"), json!({ "ReturnValues": "ALL_NEW" }))),
        (
            "PutItem",
            put(json!({ "leaseKey": { "S": "s3" }, "leaseOwner": { "N": "1" } }), json!({})),
        ), // index key type
        ("Query", by_owner(json!({}))),
        ("Query", by_owner(json!({ "Limit": 1 }))),
        ("Query", by_owner(json!({ "ConsistentRead": true }))),
        ("Query", by_owner(json!({ "IndexName": "nope" }))),
        (
            "Query",
            json!({
                "TableName": "leases",
                "KeyConditionExpression": "leaseKey = :k",
                "ExpressionAttributeValues": { ":k": { "S": "s0" } },
            }),
        ),
        (
            "Query",
            json!({
                "TableName": "leases",
                "KeyConditionExpression": "checkpoint = :k",
                "ExpressionAttributeValues": { ":k": { "S": "s0" } },
            }),
        ),
        ("Scan", scan(json!({}))),
        ("Scan", scan(json!({ "Limit": 2 }))),
        ("Scan", scan(json!({ "Limit": 2, "ExclusiveStartKey": key("s1") }))),
        (
            "Scan",
            scan(json!({
                "FilterExpression": "leaseOwner = :o",
                "ExpressionAttributeValues": { ":o": { "S": "w2" } },
            })),
        ),
        (
            "DeleteItem",
            json!({
                "TableName": "leases", "Key": key("s1"),
                "ConditionExpression": "leaseOwner = :o",
                "ExpressionAttributeValues": { ":o": { "S": "w9" } },
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }),
        ),
        (
            "DeleteItem",
            json!({ "TableName": "leases", "Key": key("s1"), "ReturnValues": "ALL_OLD" }),
        ),
        (
            "DeleteItem",
            json!({ "TableName": "leases", "Key": key("s1"), "ReturnValues": "ALL_OLD" }),
        ),
        (
            "DeleteItem",
            json!({
                "TableName": "leases", "Key": key("s1"),
                "ConditionExpression": "attribute_exists(leaseKey)",
            }),
        ),
        ("DescribeTable", json!({ "TableName": "none" })),
        ("DeleteTable", json!({ "TableName": "leases" })),
        ("Scan", scan(json!({}))),
    ]
}

/// The parts of an answer that carry meaning.
fn essence(operation: &str, answer: &Value) -> String {
    let keep = ["Item", "Items", "Attributes", "Count", "ScannedCount", "LastEvaluatedKey"];
    match operation {
        "CreateTable" | "UpdateTable" | "DeleteTable" | "DescribeTable" => String::new(),
        _ => {
            let fields = answer.as_object().into_iter().flatten();
            let kept = fields.filter(|(k, _)| keep.contains(&k.as_str()));
            canonical(&Value::Object(kept.map(|(k, v)| (k.clone(), v.clone())).collect()))
        }
    }
}

#[test]
fn strict_dynamodb_and_dynoxide_agree() {
    let (mut strict, mut library) = (DynamoDb::default(), Dynoxide::new());
    let mut differences = Vec::new();
    for (number, (operation, body)) in requests().into_iter().enumerate() {
        let answers = [strict.call(operation, &body), library.call(operation, &body)];
        let [a, b] = answers.map(|answer| {
            let json: Value = serde_json::from_slice(answer.body()).unwrap();
            let message = json["message"].as_str().or(json["Message"].as_str()).unwrap_or_default();
            let told = format!(
                "{} {} {}",
                answer.status(),
                error_code(&answer),
                essence(operation, &json)
            );
            (told, message.to_owned())
        });
        if a.0 != b.0 {
            differences.push(format!(
                "#{number} {operation} {}\n  strict:   {} {}\n  dynoxide: {} {}",
                &canonical(&body)[..canonical(&body).len().min(300)],
                a.0,
                a.1,
                b.0,
                b.1
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
