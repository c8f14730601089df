use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, GlobalSecondaryIndex, KeySchemaElement,
    KeyType, Projection, ProjectionType, ReturnValuesOnConditionCheckFailure, ScalarAttributeType,
    TableStatus,
};

use super::*;

pub(super) fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

fn key(name: &str) -> KeySchemaElement {
    KeySchemaElement::builder().attribute_name(name).key_type(KeyType::Hash).build().unwrap()
}

fn attribute(name: &str) -> AttributeDefinition {
    AttributeDefinition::builder()
        .attribute_name(name)
        .attribute_type(ScalarAttributeType::S)
        .build()
        .unwrap()
}

pub(super) async fn create(dynamodb: &ddb::Client) {
    let index = GlobalSecondaryIndex::builder()
        .index_name("by-owner")
        .key_schema(key("leaseOwner"))
        .projection(Projection::builder().projection_type(ProjectionType::All).build())
        .build()
        .unwrap();
    dynamodb
        .create_table()
        .table_name("leases")
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(attribute("leaseKey"))
        .attribute_definitions(attribute("leaseOwner"))
        .key_schema(key("leaseKey"))
        .global_secondary_indexes(index)
        .send()
        .await
        .unwrap();
    for _ in 0..100 {
        let table = dynamodb.describe_table().table_name("leases").send().await.unwrap();
        if table.table().unwrap().table_status() == Some(&TableStatus::Active) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the table never became ACTIVE");
}

#[tokio::test]
async fn leases_as_the_worker_uses_them() {
    let run = fresh().await;
    let db = &run.clients.dynamodb;
    create(db).await;
    for (lease, owner) in [("s-1", "me"), ("s-2", "you"), ("s-3", "me")] {
        db.put_item()
            .table_name("leases")
            .item("leaseKey", text(lease))
            .item("leaseOwner", text(owner))
            .item("leaseCounter", AttributeValue::N("1".to_owned()))
            .condition_expression("attribute_not_exists(leaseKey)")
            .send()
            .await
            .unwrap();
    }
    let update = |counter: &str| {
        db.update_item()
            .table_name("leases")
            .key("leaseKey", text("s-1"))
            .update_expression(
                "SET leaseCounter = leaseCounter + :one, checkpoint = :c REMOVE pending",
            )
            .condition_expression("leaseCounter = :counter")
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .expression_attribute_values(":counter", AttributeValue::N(counter.to_owned()))
            .expression_attribute_values(
                ":c",
                text("49590338271490256608559692538361571095921575989136588898"),
            )
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
    };
    update("1").await.unwrap();
    let lost = update("1").await.unwrap_err().into_service_error();
    let ddb::operation::update_item::UpdateItemError::ConditionalCheckFailedException(lost) = lost
    else {
        panic!("{lost:?}")
    };
    let old = lost.item().unwrap();
    assert_eq!(old["leaseCounter"], AttributeValue::N("2".to_owned()));
    assert_eq!(old["leaseOwner"], text("me"));

    let get = db.get_item().table_name("leases").key("leaseKey", text("s-1")).consistent_read(true);
    assert_eq!(get.send().await.unwrap().item().unwrap()["leaseOwner"], text("me"));
    let mine = db
        .query()
        .table_name("leases")
        .index_name("by-owner")
        .key_condition_expression("leaseOwner = :me")
        .expression_attribute_values(":me", text("me"))
        .send()
        .await
        .unwrap();
    assert_eq!(mine.count(), 2);
    let all = db.scan().table_name("leases").consistent_read(true).send().await.unwrap();
    assert_eq!(all.count(), 3);
    db.delete_item().table_name("leases").key("leaseKey", text("s-3")).send().await.unwrap();
    assert_eq!(db.scan().table_name("leases").send().await.unwrap().count(), 2);
}

#[tokio::test]
async fn refusals_have_their_types() {
    use aws_sdk_dynamodb::error::ProvideErrorMetadata;
    let run = fresh().await;
    let db = &run.clients.dynamodb;
    let missing = db.describe_table().table_name("missing").send().await;
    assert!(missing.unwrap_err().into_service_error().is_resource_not_found_exception());
    create(db).await;
    let number = db
        .put_item()
        .table_name("leases")
        .item("leaseKey", text("k"))
        .item(
            "n",
            AttributeValue::N(
                "49590338271490256608559692538361571095921575989136588898".to_owned(),
            ),
        )
        .send()
        .await
        .unwrap_err();
    assert_eq!(number.code(), Some("ValidationException"));
    assert!(!number.message().unwrap().contains("VALIDATION"), "{number:?}");
    let wrong = db.put_item().table_name("leases").item("other", text("k")).send().await;
    assert_eq!(wrong.unwrap_err().code(), Some("ValidationException"));
    let unknown = db.list_backups().send().await.unwrap_err();
    assert_eq!(unknown.raw_response().unwrap().status().as_u16(), 400);
}
