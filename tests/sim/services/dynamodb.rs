//! A strict DynamoDB: the operations a lease table needs, over JSON 1.0.
//!
//! Tables have a string HASH key and no range key. Whatever is not implemented is refused by name.
//! Reads here are always current; stale answers are made in [`super::world`], for both back ends.

mod reads;
mod tables;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::attr::{Attr, Row, row_from_json, row_to_json};
use super::expression::{Condition, Names, Update};
use super::{Refusal, Response, Service, json_response, only_fields};

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
        answer.map_or_else(|e| e.response(Service::DynamoDb), |body| json_response(200, &body))
    }

    fn peek(&self, table: &str, key: &str) -> Option<Row> {
        self.tables.get(table)?.items.get(key).cloned()
    }

    fn rows(&self, table: &str) -> BTreeMap<String, Row> {
        self.tables.get(table).map(|t| t.items.clone()).unwrap_or_default()
    }
}

fn conditional_check_failed(body: &Value, old: Option<&Row>) -> Refusal {
    let mut refusal =
        Refusal::new(400, "ConditionalCheckFailedException", "The conditional request failed");
    if body["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"
        && let Some(old) = old
    {
        refusal.extra = json!({ "Item": row_to_json(old) });
    }
    refusal
}

/// Adds the request units of an operation to its answer, if they were asked for: per 1 KB written,
/// per 4 KB read, half if read inconsistently.
fn consumed(body: &Value, mut answer: Value, bytes: usize, unit: usize) -> Value {
    if body["ReturnConsumedCapacity"] == "TOTAL" {
        let whole = bytes.max(1).div_ceil(unit) as f64;
        let half = unit == READ_UNIT && body["ConsistentRead"] != true;
        answer["ConsumedCapacity"] = json!({
            "TableName": body["TableName"],
            "CapacityUnits": if half { whole / 2.0 } else { whole },
        });
    }
    answer
}

const WRITE_UNIT: usize = 1024;
const READ_UNIT: usize = 4096;

/// The size of an item as it is paid for.
pub fn bytes(row: Option<&Row>) -> usize {
    let size = |value: &Attr| match value {
        // Two digits a byte, and one more; bytes are base64 here.
        Attr::N(number) => number.to_string().len().div_ceil(2) + 1,
        Attr::B(text) => text.len() / 4 * 3,
        other => other.size(),
    };
    row.into_iter().flatten().map(|(name, value)| name.len() + size(value)).sum()
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
    parsed.map(Some).map_err(|e| Refusal::validation(format!("Invalid {field}: {e}")))
}

fn allowed(body: &Value, field: &str, known: &[&str]) -> Result<(), Refusal> {
    match body[field].as_str() {
        Some(value) if !known.contains(&value) => {
            Err(Refusal::validation(format!("{field} can only be one of {known:?}")))
        }
        _ => Ok(()),
    }
}

const WRITE: [&str; 10] = [
    "TableName",
    "ReturnConsumedCapacity",
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
            Refusal::new(400, "ResourceNotFoundException", "Requested resource not found")
        })
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
        let size = bytes(Some(&row)).max(bytes(old.as_ref()));
        table.items.insert(key, row);
        let answer = match old {
            Some(old) if body["ReturnValues"] == "ALL_OLD" => {
                json!({ "Attributes": row_to_json(&old) })
            }
            _ => json!({}),
        };
        Ok(consumed(body, answer, size, WRITE_UNIT))
    }

    fn get_item(&mut self, body: &Value) -> Result<Value, Refusal> {
        only_fields(body, &["TableName", "Key", "ConsistentRead", "ReturnConsumedCapacity"])?;
        let table = self.table(body)?;
        let key = table.only_key(body)?;
        let row = table.items.get(&key);
        let answer = row.map_or(json!({}), |row| json!({ "Item": row_to_json(row) }));
        Ok(consumed(body, answer, bytes(row), READ_UNIT))
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
        let before =
            old.clone().unwrap_or_else(|| Row::from([(table.hash.clone(), Attr::S(key.clone()))]));
        let after = update.apply(&before).map_err(Refusal::validation)?;
        table.valid(&after)?;
        let size = bytes(Some(&after)).max(bytes(old.as_ref()));
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
        let answer = shown.map_or(json!({}), |row| json!({ "Attributes": row_to_json(&row) }));
        Ok(consumed(body, answer, size, WRITE_UNIT))
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
        let size = bytes(old.as_ref());
        let answer = match old {
            Some(old) if body["ReturnValues"] == "ALL_OLD" => {
                json!({ "Attributes": row_to_json(&old) })
            }
            _ => json!({}),
        };
        Ok(consumed(body, answer, size, WRITE_UNIT))
    }
}

impl Table {
    fn only_key(&self, body: &Value) -> Result<String, Refusal> {
        let key = row_from_json(&body["Key"]).map_err(Refusal::validation)?;
        if key.len() != 1 {
            return Err(Refusal::validation("The provided key element does not match the schema"));
        }
        key_of(&self.hash, &key)
    }

    fn valid(&self, row: &Row) -> Result<(), Refusal> {
        let size: usize = row.iter().map(|(name, value)| name.len() + value.size()).sum();
        if size > 400 * 1024 {
            return Err(Refusal::validation("Item size has exceeded the maximum allowed size"));
        }
        for index in &self.indexes {
            for name in [Some(&index.hash), index.range.as_ref()].into_iter().flatten() {
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

fn key_of(hash: &str, row: &Row) -> Result<String, Refusal> {
    match row.get(hash) {
        Some(Attr::S(text)) if !text.is_empty() => Ok(text.clone()),
        Some(Attr::S(_)) => Err(Refusal::validation(format!(
            "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an empty string value. Key: {hash}"
        ))),
        _ => Err(Refusal::validation("The provided key element does not match the schema")),
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
        Err(Refusal::validation("TableName must be 3 to 255 of a-z, A-Z, 0-9, '_', '-', '.'"))
    }
}
