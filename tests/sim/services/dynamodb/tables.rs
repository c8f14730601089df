//! Tables and their indexes: created, described, changed, deleted.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{DynamoDb, Index, Table, table_name};
use crate::services::{ACCOUNT, REGION, Refusal};

impl DynamoDb {
    pub(super) fn create_table(&mut self, body: &Value) -> Result<Value, Refusal> {
        let name = table_name(body)?.to_owned();
        let keys = key_schema(&body["KeySchema"])?;
        if keys.1.is_some() {
            return Err(Refusal::validation("the simulator's tables have a HASH key only"));
        }
        if self.tables.contains_key(&name) {
            let message = format!("Table already exists: {name}");
            return Err(Refusal::new(400, "ResourceInUseException", message));
        }
        let mut table = Table { hash: keys.0, items: BTreeMap::new(), indexes: Vec::new() };
        for index in body["GlobalSecondaryIndexes"].as_array().into_iter().flatten() {
            table.indexes.push(new_index(index)?);
        }
        let described = describe(&name, &table, "CREATING");
        self.tables.insert(name, table);
        Ok(json!({ "TableDescription": described }))
    }

    pub(super) fn describe_table(&mut self, body: &Value) -> Result<Value, Refusal> {
        let name = table_name(body)?.to_owned();
        let table = self.table(body)?;
        Ok(json!({ "Table": describe(&name, table, "ACTIVE") }))
    }

    pub(super) fn update_table(&mut self, body: &Value) -> Result<Value, Refusal> {
        let name = table_name(body)?.to_owned();
        let table = self.table(body)?;
        for update in body["GlobalSecondaryIndexUpdates"].as_array().into_iter().flatten() {
            if update["Create"].is_object() {
                table.indexes.push(new_index(&update["Create"])?);
            } else if let Some(index) = update["Delete"]["IndexName"].as_str() {
                table.indexes.retain(|i| i.name != index);
            } else {
                return Err(Refusal::validation("the simulator creates and deletes indexes only"));
            }
        }
        Ok(json!({ "TableDescription": describe(&name, table, "UPDATING") }))
    }

    pub(super) fn delete_table(&mut self, body: &Value) -> Result<Value, Refusal> {
        let name = table_name(body)?.to_owned();
        let described = describe(&name, self.table(body)?, "DELETING");
        self.tables.remove(&name);
        Ok(json!({ "TableDescription": described }))
    }
}

fn key_schema(schema: &Value) -> Result<(String, Option<String>), Refusal> {
    let mut found = BTreeMap::new();
    for key in schema.as_array().into_iter().flatten() {
        let name = key["AttributeName"].as_str().unwrap_or_default().to_owned();
        found.insert(key["KeyType"].as_str().unwrap_or_default().to_owned(), name);
    }
    let hash = found.remove("HASH").ok_or_else(|| Refusal::validation("no HASH key"))?;
    Ok((hash, found.remove("RANGE")))
}

fn new_index(index: &Value) -> Result<Index, Refusal> {
    let (hash, range) = key_schema(&index["KeySchema"])?;
    let name = index["IndexName"].as_str().unwrap_or_default().to_owned();
    Ok(Index { name, hash, range, keys_only: index["Projection"]["ProjectionType"] == "KEYS_ONLY" })
}

fn describe(name: &str, table: &Table, status: &str) -> Value {
    let schema = |hash: &str, range: Option<&String>| {
        let mut schema = vec![json!({ "AttributeName": hash, "KeyType": "HASH" })];
        schema.extend(range.map(|r| json!({ "AttributeName": r, "KeyType": "RANGE" })));
        schema
    };
    let indexes: Vec<Value> = table
        .indexes
        .iter()
        .map(|i| {
            json!({
                "IndexName": i.name,
                "IndexStatus": "ACTIVE",
                "KeySchema": schema(&i.hash, i.range.as_ref()),
                "Projection": { "ProjectionType": if i.keys_only { "KEYS_ONLY" } else { "ALL" } },
            })
        })
        .collect();
    let mut described = json!({
        "TableName": name,
        "TableStatus": status,
        "TableArn": format!("arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{name}"),
        "KeySchema": schema(&table.hash, None),
        "AttributeDefinitions": [{ "AttributeName": table.hash, "AttributeType": "S" }],
        "BillingModeSummary": { "BillingMode": "PAY_PER_REQUEST" },
        "ItemCount": table.items.len(),
    });
    if !indexes.is_empty() {
        described["GlobalSecondaryIndexes"] = json!(indexes);
    }
    described
}
