//! Scan and Query, one page at a time.

use serde_json::{Value, json};

use super::{DynamoDb, READ_UNIT, bytes, consumed, parse_condition};
use crate::services::attr::{Attr, Row, row_to_json};
use crate::services::expression::{Condition, Names};
use crate::services::{Refusal, only_fields};

impl DynamoDb {
    pub(super) fn scan(&mut self, body: &Value) -> Result<Value, Refusal> {
        only_fields(
            body,
            &[
                "TableName",
                "Limit",
                "ExclusiveStartKey",
                "ConsistentRead",
                "ReturnConsumedCapacity",
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
        let size = rows.iter().map(|row| bytes(Some(row))).sum();
        Ok(consumed(body, page(body, rows, &hash, &[], filter.as_ref()), size, READ_UNIT))
    }

    pub(super) fn query(&mut self, body: &Value) -> Result<Value, Refusal> {
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
        let index = match body["IndexName"].as_str() {
            None => None,
            Some(name) => Some(table.indexes.iter().find(|i| i.name == name).ok_or_else(|| {
                Refusal::validation(format!("The table does not have the specified index: {name}"))
            })?),
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
        let mut rows: Vec<Row> =
            table.items.values().filter(|row| keyed.holds(row)).cloned().collect();
        let mut extra = Vec::new();
        if let Some(index) = index {
            let keys: Vec<&String> =
                [Some(&index.hash), index.range.as_ref()].into_iter().flatten().collect();
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

/// One page of a scan or query: the limit counts items before the filter, as in the service.
fn page(
    body: &Value,
    rows: Vec<Row>,
    hash: &str,
    extra: &[String],
    filter: Option<&Condition>,
) -> Value {
    let limit = body["Limit"].as_u64().map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(1));
    let start = body["ExclusiveStartKey"][hash]["S"].as_str().map(str::to_owned);
    let skipped = match &start {
        // Rows are ordered by the table's key in every case that has a start key.
        Some(start) => {
            rows.iter().take_while(|r| r.get(hash).and_then(Attr::as_s) <= Some(start)).count()
        }
        None => 0,
    };
    let page: Vec<Row> = rows.into_iter().skip(skipped).take(limit).collect();
    let mut answer = json!({ "ScannedCount": page.len() });
    // A page cut by the limit names its last key even if nothing follows, as in the service.
    if let (true, Some(last)) = (page.len() == limit, page.last()) {
        let names = extra.iter().map(String::as_str).chain([hash]);
        let key: Row = names.filter_map(|n| Some((n.to_owned(), last.get(n)?.clone()))).collect();
        answer["LastEvaluatedKey"] = row_to_json(&key);
    }
    let items: Vec<Value> =
        page.iter().filter(|row| filter.is_none_or(|f| f.holds(row))).map(row_to_json).collect();
    answer["Count"] = json!(items.len());
    answer["Items"] = json!(items);
    answer
}
