//! A strict DynamoDB: the operations a lease table needs, over JSON 1.0.
//!
//! Tables have a string HASH key and no range key. Whatever is not implemented is refused by name.
//! Reads here are always current; stale answers are made in [`super::world`], for both back ends.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::attr::{Attr, Row, row_from_json, row_to_json};
use super::expression::{Condition, Names, Update};
use super::{ACCOUNT, REGION, Refusal, Response, Service, json_response, only_fields};

/// What a DynamoDB back end must offer besides the wire.
pub trait Dynamo: Send {
    fn call(&mut self, operation: &str, body: &Value) -> Response;
    /// The item as it stands, seen by the harness and not by a client.
    fn peek(&self, table: &str, key: &str) -> Option<Row>;
    /// All items of a table, in order of key.
    fn rows(&self, table: &str) -> BTreeMap<String, Row>;
}

struct Index {
    name: String,
    hash: String,
    range: Option<String>,
    keys_only: bool,
}

struct Table {
    hash: String,
    items: BTreeMap<String, Row>,
    indexes: Vec<Index>,
}

/// The service.
#[derive(Default)]
pub struct DynamoDb {
    tables: BTreeMap<String, Table>,
}

impl Dynamo for DynamoDb {
    fn call(&mut self, operation: &str, body: &Value) -> Response {
        let answer = match operation {
            "CreateTable" => self.create_table(body),
            "DescribeTable" => self.describe_table(body),
            "UpdateTable" => self.update_table(body),
            "DeleteTable" => self.delete_table(body),
            "PutItem" => self.put_item(body),
            "GetItem" => self.get_item(body),
            "UpdateItem" => self.update_item(body),
            "DeleteItem" => self.delete_item(body),
            "Scan" => self.scan(body),
            "Query" => self.query(body),
            other => Err(Refusal::new(
                400,
                "UnknownOperationException",
                format!("the simulator knows no {other}"),
            )),
        };
        answer.map_or_else(
            |e| e.response(Service::DynamoDb),
            |body| json_response(200, &body),
        )
    }

    fn peek(&self, table: &str, key: &str) -> Option<Row> {
        self.tables.get(table)?.items.get(key).cloned()
    }

    fn rows(&self, table: &str) -> BTreeMap<String, Row> {
        self.tables
            .get(table)
            .map(|t| t.items.clone())
            .unwrap_or_default()
    }
}

fn conditional_check_failed(body: &Value, old: Option<&Row>) -> Refusal {
    let mut refusal = Refusal::new(
        400,
        "ConditionalCheckFailedException",
        "The conditional request failed",
    );
    if body["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"
        && let Some(old) = old
    {
        refusal.extra = json!({ "Item": row_to_json(old) });
    }
    refusal
}

fn check(condition: Option<&Condition>, body: &Value, old: Option<&Row>) -> Result<(), Refusal> {
    let empty = Row::new();
    match condition {
        Some(condition) if !condition.holds(old.unwrap_or(&empty)) => {
            Err(conditional_check_failed(body, old))
        }
        _ => Ok(()),
    }
}

fn parse_condition(
    body: &Value,
    field: &str,
    names: &mut Names,
) -> Result<Option<Condition>, Refusal> {
    let Some(text) = body[field].as_str() else {
        return Ok(None);
    };
    let parsed = Condition::parse(text, names);
    parsed
        .map(Some)
        .map_err(|e| Refusal::validation(format!("Invalid {field}: {e}")))
}

fn allowed(body: &Value, field: &str, known: &[&str]) -> Result<(), Refusal> {
    match body[field].as_str() {
        Some(value) if !known.contains(&value) => Err(Refusal::validation(format!(
            "{field} can only be one of {known:?}"
        ))),
        _ => Ok(()),
    }
}

const WRITE: [&str; 9] = [
    "TableName",
    "Key",
    "Item",
    "ConditionExpression",
    "ExpressionAttributeNames",
    "ExpressionAttributeValues",
    "ReturnValues",
    "ReturnValuesOnConditionCheckFailure",
    "UpdateExpression",
];

impl DynamoDb {
    fn table(&mut self, body: &Value) -> Result<&mut Table, Refusal> {
        let name = table_name(body)?;
        self.tables.get_mut(name).ok_or_else(|| {
            Refusal::new(
                400,
                "ResourceNotFoundException",
                "Requested resource not found",
            )
        })
    }

    fn create_table(&mut self, body: &Value) -> Result<Value, Refusal> {
        let name = table_name(body)?.to_owned();
        let keys = key_schema(&body["KeySchema"])?;
        if keys.1.is_some() {
            return Err(Refusal::validation(
                "the simulator's tables have a HASH key only",
            ));
        }
        if self.tables.contains_key(&name) {
            let message = format!("Table already exists: {name}");
            return Err(Refusal::new(400, "ResourceInUseException", message));
        }
        let mut table = Table {
            hash: keys.0,
            items: BTreeMap::new(),
            indexes: Vec::new(),
        };
        for index in body["GlobalSecondaryIndexes"]
            .as_array()
            .into_iter()
            .flatten()
        {
            table.indexes.push(new_index(index)?);
        }
        let described = describe(&name, &table, "CREATING");
        self.tables.insert(name, table);
        Ok(json!({ "TableDescription": described }))
    }

    fn describe_table(&mut self, body: &Value) -> Result<Value, Refusal> {
        let name = table_name(body)?.to_owned();
        let table = self.table(body)?;
        Ok(json!({ "Table": describe(&name, table, "ACTIVE") }))
    }

    fn update_table(&mut self, body: &Value) -> Result<Value, Refusal> {
        let name = table_name(body)?.to_owned();
        let table = self.table(body)?;
        for update in body["GlobalSecondaryIndexUpdates"]
            .as_array()
            .into_iter()
            .flatten()
        {
            if update["Create"].is_object() {
                table.indexes.push(new_index(&update["Create"])?);
            } else if let Some(index) = update["Delete"]["IndexName"].as_str() {
                table.indexes.retain(|i| i.name != index);
            } else {
                return Err(Refusal::validation(
                    "the simulator creates and deletes indexes only",
                ));
            }
        }
        Ok(json!({ "TableDescription": describe(&name, table, "UPDATING") }))
    }

    fn delete_table(&mut self, body: &Value) -> Result<Value, Refusal> {
        let name = table_name(body)?.to_owned();
        let described = describe(&name, self.table(body)?, "DELETING");
        self.tables.remove(&name);
        Ok(json!({ "TableDescription": described }))
    }

    fn put_item(&mut self, body: &Value) -> Result<Value, Refusal> {
        only_fields(body, &WRITE)?;
        allowed(body, "ReturnValues", &["NONE", "ALL_OLD"])?;
        let mut names = Names::from_request(body).map_err(Refusal::validation)?;
        let condition = parse_condition(body, "ConditionExpression", &mut names)?;
        names.all_used().map_err(Refusal::validation)?;
        let row = row_from_json(&body["Item"]).map_err(Refusal::validation)?;
        let table = self.table(body)?;
        let key = key_of(&table.hash, &row)?;
        table.valid(&row)?;
        let old = table.items.get(&key).cloned();
        check(condition.as_ref(), body, old.as_ref())?;
        table.items.insert(key, row);
        Ok(match old {
            Some(old) if body["ReturnValues"] == "ALL_OLD" => {
                json!({ "Attributes": row_to_json(&old) })
            }
            _ => json!({}),
        })
    }

    fn get_item(&mut self, body: &Value) -> Result<Value, Refusal> {
        only_fields(body, &["TableName", "Key", "ConsistentRead"])?;
        let table = self.table(body)?;
        let key = table.only_key(body)?;
        Ok(table
            .items
            .get(&key)
            .map_or(json!({}), |row| json!({ "Item": row_to_json(row) })))
    }

    fn update_item(&mut self, body: &Value) -> Result<Value, Refusal> {
        only_fields(body, &WRITE)?;
        allowed(
            body,
            "ReturnValues",
            &["NONE", "ALL_OLD", "ALL_NEW", "UPDATED_OLD", "UPDATED_NEW"],
        )?;
        let mut names = Names::from_request(body).map_err(Refusal::validation)?;
        let update = match body["UpdateExpression"].as_str() {
            Some(text) => Update::parse(text, &mut names)
                .map_err(|e| Refusal::validation(format!("Invalid UpdateExpression: {e}")))?,
            None => Update::default(),
        };
        let condition = parse_condition(body, "ConditionExpression", &mut names)?;
        names.all_used().map_err(Refusal::validation)?;
        let table = self.table(body)?;
        let key = table.only_key(body)?;
        if update.paths().any(|path| path == table.hash) {
            return Err(Refusal::validation(format!(
                "One or more parameter values were invalid: Cannot update attribute {}. This attribute is part of the key",
                table.hash
            )));
        }
        let old = table.items.get(&key).cloned();
        check(condition.as_ref(), body, old.as_ref())?;
        let before = old
            .clone()
            .unwrap_or_else(|| Row::from([(table.hash.clone(), Attr::S(key.clone()))]));
        let after = update.apply(&before).map_err(Refusal::validation)?;
        table.valid(&after)?;
        table.items.insert(key, after.clone());
        let touched = |row: &Row| -> Row {
            let named = update.paths().filter_map(|p| row.get_key_value(p));
            named.map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        let shown = match body["ReturnValues"].as_str().unwrap_or("NONE") {
            "ALL_NEW" => Some(after),
            "ALL_OLD" => old,
            "UPDATED_NEW" => Some(touched(&after)),
            "UPDATED_OLD" => old.map(|old| touched(&old)),
            _ => None,
        };
        Ok(shown.map_or(json!({}), |row| json!({ "Attributes": row_to_json(&row) })))
    }

    fn delete_item(&mut self, body: &Value) -> Result<Value, Refusal> {
        only_fields(body, &WRITE)?;
        allowed(body, "ReturnValues", &["NONE", "ALL_OLD"])?;
        let mut names = Names::from_request(body).map_err(Refusal::validation)?;
        let condition = parse_condition(body, "ConditionExpression", &mut names)?;
        names.all_used().map_err(Refusal::validation)?;
        let table = self.table(body)?;
        let key = table.only_key(body)?;
        let old = table.items.get(&key).cloned();
        check(condition.as_ref(), body, old.as_ref())?;
        table.items.remove(&key);
        Ok(match old {
            Some(old) if body["ReturnValues"] == "ALL_OLD" => {
                json!({ "Attributes": row_to_json(&old) })
            }
            _ => json!({}),
        })
    }

    fn scan(&mut self, body: &Value) -> Result<Value, Refusal> {
        only_fields(
            body,
            &[
                "TableName",
                "Limit",
                "ExclusiveStartKey",
                "ConsistentRead",
                "FilterExpression",
                "ExpressionAttributeNames",
                "ExpressionAttributeValues",
            ],
        )?;
        let mut names = Names::from_request(body).map_err(Refusal::validation)?;
        let filter = parse_condition(body, "FilterExpression", &mut names)?;
        names.all_used().map_err(Refusal::validation)?;
        let table = self.table(body)?;
        let rows: Vec<Row> = table.items.values().cloned().collect();
        let hash = table.hash.clone();
        Ok(page(body, rows, &hash, &[], filter.as_ref()))
    }

    fn query(&mut self, body: &Value) -> Result<Value, Refusal> {
        only_fields(
            body,
            &[
                "TableName",
                "IndexName",
                "Limit",
                "ExclusiveStartKey",
                "ConsistentRead",
                "KeyConditionExpression",
                "FilterExpression",
                "ExpressionAttributeNames",
                "ExpressionAttributeValues",
            ],
        )?;
        let mut names = Names::from_request(body).map_err(Refusal::validation)?;
        let keyed = parse_condition(body, "KeyConditionExpression", &mut names)?
            .ok_or_else(|| Refusal::validation("KeyConditionExpression must be specified"))?;
        let filter = parse_condition(body, "FilterExpression", &mut names)?;
        names.all_used().map_err(Refusal::validation)?;
        let table = self.table(body)?;
        let index =
            match body["IndexName"].as_str() {
                None => None,
                Some(name) => Some(table.indexes.iter().find(|i| i.name == name).ok_or_else(
                    || {
                        Refusal::validation(format!(
                            "The table does not have the specified index: {name}"
                        ))
                    },
                )?),
            };
        if index.is_some() && body["ConsistentRead"] == true {
            return Err(Refusal::validation(
                "Consistent reads are not supported on global secondary indexes",
            ));
        }
        let hash = index.map_or(table.hash.as_str(), |i| i.hash.as_str());
        if keyed.equality(hash).is_none() {
            return Err(Refusal::validation(format!(
                "Query condition missed key schema element: {hash}"
            )));
        }
        let mut rows: Vec<Row> = table
            .items
            .values()
            .filter(|row| keyed.holds(row))
            .cloned()
            .collect();
        let mut extra = Vec::new();
        if let Some(index) = index {
            let keys: Vec<&String> = [Some(&index.hash), index.range.as_ref()]
                .into_iter()
                .flatten()
                .collect();
            rows.retain(|row| keys.iter().all(|key| row.contains_key(*key)));
            if index.keys_only {
                for row in &mut rows {
                    row.retain(|name, _| *name == table.hash || keys.contains(&name));
                }
            }
            extra = keys.into_iter().cloned().collect();
            if let Some(range) = &index.range {
                rows.sort_by_key(|row| row.get(range).and_then(Attr::as_s).map(str::to_owned));
            }
        }
        let key = table.hash.clone();
        Ok(page(body, rows, &key, &extra, filter.as_ref()))
    }
}

impl Table {
    fn only_key(&self, body: &Value) -> Result<String, Refusal> {
        let key = row_from_json(&body["Key"]).map_err(Refusal::validation)?;
        if key.len() != 1 {
            return Err(Refusal::validation(
                "The provided key element does not match the schema",
            ));
        }
        key_of(&self.hash, &key)
    }

    fn valid(&self, row: &Row) -> Result<(), Refusal> {
        let size: usize = row
            .iter()
            .map(|(name, value)| name.len() + value.size())
            .sum();
        if size > 400 * 1024 {
            return Err(Refusal::validation(
                "Item size has exceeded the maximum allowed size",
            ));
        }
        for index in &self.indexes {
            for name in [Some(&index.hash), index.range.as_ref()]
                .into_iter()
                .flatten()
            {
                match row.get(name) {
                    None => {}
                    Some(Attr::S(text)) if !text.is_empty() => {}
                    _ => {
                        return Err(Refusal::validation(format!(
                            "One or more parameter values were invalid: Type mismatch for Index Key {name}"
                        )));
                    }
                }
            }
        }
        Ok(())
    }
}

/// One page of a scan or query: the limit counts items before the filter, as in the service.
fn page(
    body: &Value,
    rows: Vec<Row>,
    hash: &str,
    extra: &[String],
    filter: Option<&Condition>,
) -> Value {
    let limit = body["Limit"]
        .as_u64()
        .map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(1));
    let start = body["ExclusiveStartKey"][hash]["S"]
        .as_str()
        .map(str::to_owned);
    let skipped = match &start {
        // Rows are ordered by the table's key in every case that has a start key.
        Some(start) => rows
            .iter()
            .take_while(|r| r.get(hash).and_then(Attr::as_s) <= Some(start))
            .count(),
        None => 0,
    };
    let page: Vec<Row> = rows.into_iter().skip(skipped).take(limit).collect();
    let mut answer = json!({ "ScannedCount": page.len() });
    // A page cut by the limit names its last key even if nothing follows, as in the service.
    if let (true, Some(last)) = (page.len() == limit, page.last()) {
        let names = extra.iter().map(String::as_str).chain([hash]);
        let key: Row = names
            .filter_map(|n| Some((n.to_owned(), last.get(n)?.clone())))
            .collect();
        answer["LastEvaluatedKey"] = row_to_json(&key);
    }
    let items: Vec<Value> = page
        .iter()
        .filter(|row| filter.is_none_or(|f| f.holds(row)))
        .map(row_to_json)
        .collect();
    answer["Count"] = json!(items.len());
    answer["Items"] = json!(items);
    answer
}

fn key_of(hash: &str, row: &Row) -> Result<String, Refusal> {
    match row.get(hash) {
        Some(Attr::S(text)) if !text.is_empty() => Ok(text.clone()),
        Some(Attr::S(_)) => Err(Refusal::validation(format!(
            "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an empty string value. Key: {hash}"
        ))),
        _ => Err(Refusal::validation(
            "The provided key element does not match the schema",
        )),
    }
}

/// Names of tables are accepted as names or ARNs.
pub fn table_name(body: &Value) -> Result<&str, Refusal> {
    let name = body["TableName"].as_str().unwrap_or_default();
    let name = name.rsplit(":table/").next().unwrap_or(name);
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if (3..=255).contains(&name.len()) && name.bytes().all(fine) {
        Ok(name)
    } else {
        Err(Refusal::validation(
            "TableName must be 3 to 255 of a-z, A-Z, 0-9, '_', '-', '.'",
        ))
    }
}

fn key_schema(schema: &Value) -> Result<(String, Option<String>), Refusal> {
    let mut found = BTreeMap::new();
    for key in schema.as_array().into_iter().flatten() {
        let name = key["AttributeName"].as_str().unwrap_or_default().to_owned();
        found.insert(key["KeyType"].as_str().unwrap_or_default().to_owned(), name);
    }
    let hash = found
        .remove("HASH")
        .ok_or_else(|| Refusal::validation("no HASH key"))?;
    Ok((hash, found.remove("RANGE")))
}

fn new_index(index: &Value) -> Result<Index, Refusal> {
    let (hash, range) = key_schema(&index["KeySchema"])?;
    let name = index["IndexName"].as_str().unwrap_or_default().to_owned();
    Ok(Index {
        name,
        hash,
        range,
        keys_only: index["Projection"]["ProjectionType"] == "KEYS_ONLY",
    })
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
        "BillingModeSummary": { "BillingMode": "PAY_PER_REQUEST" },
        "ItemCount": table.items.len(),
    });
    if !indexes.is_empty() {
        described["GlobalSecondaryIndexes"] = json!(indexes);
    }
    described
}
