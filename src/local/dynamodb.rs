//! DynamoDB: the library calls of an embedded engine behind the JSON protocol.

use std::path::Path;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use dynoxide::{Database, DynoxideError};

use super::LocalError;
use crate::task::Tasks;

const CONTENT_TYPE: &str = "application/x-amz-json-1.0";

/// The DynamoDB service. Cheap to clone.
#[derive(Clone)]
pub(super) struct LocalTables {
    database: Database,
    tasks: Tasks,
}

impl LocalTables {
    /// Opens the file, or memory. The file is SQLite in WAL mode with full synchronisation: an
    /// acknowledged write survives a kill.
    pub(super) fn open(file: Option<&Path>, tasks: &Tasks) -> Result<Self, LocalError> {
        let failed = |error: DynoxideError| LocalError::Tables {
            path: file.map(Path::to_owned).unwrap_or_default(),
            reason: error.to_string(),
        };
        let database = match file {
            None => Database::memory(),
            Some(path) => Database::new(&path.to_string_lossy()),
        };
        let database = database.map_err(failed)?;
        remove_halves(&database).map_err(failed)?;
        Ok(Self { database, tasks: tasks.clone() })
    }

    /// Deletes items past their time to live.
    pub(super) async fn sweep(&self) {
        let database = self.database.clone();
        match self.tasks.compute(move || database.sweep_ttl()).await {
            Ok(Err(error)) => tracing::warn!(%error, "DynamoDB time to live sweep failed"),
            Err(error) => tracing::warn!(%error, "DynamoDB time to live sweep failed"),
            Ok(Ok(_)) => {}
        }
    }

    /// Answers one request.
    pub(super) async fn handle(&self, operation: &str, body: Bytes) -> Response {
        let (database, name) = (self.database.clone(), operation.to_owned());
        let result = self.tasks.compute(move || run(&database, &name, &body)).await;
        let (status, body) = match result {
            Ok(Ok(body)) => (StatusCode::OK, body),
            Ok(Err(error)) => (
                StatusCode::from_u16(error.status_code()).unwrap_or(StatusCode::BAD_REQUEST),
                error.to_json(),
            ),
            Err(error) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                DynoxideError::InternalServerError(error.to_string()).to_json(),
            ),
        };
        (status, [("content-type", CONTENT_TYPE)], body).into_response()
    }
}

/// Removes tables that a kill in the middle of CreateTable or DeleteTable left behind: described, and
/// without a place for items. Nobody was told that they are there, or that they are not gone.
fn remove_halves(database: &Database) -> Result<(), DynoxideError> {
    let mut from: Option<String> = None;
    loop {
        let request = serde_json::json!({ "ExclusiveStartTableName": from });
        let page = database.list_tables(parse(request.to_string().as_bytes())?)?;
        for name in &page.table_names {
            let request = serde_json::json!({ "TableName": name });
            let described = database.describe_table(parse(request.to_string().as_bytes())?)?;
            let described = serde_json::to_value(&described)
                .map_err(|e| DynoxideError::InternalServerError(e.to_string()))?;
            let indexes = described["Table"]["GlobalSecondaryIndexes"].as_array();
            let indexes = indexes.into_iter().flatten().map(|index| Some(&index["IndexName"]));
            for index in std::iter::once(None).chain(indexes) {
                let mut look = serde_json::json!({ "TableName": name, "Limit": 1 });
                if let Some(index) = index {
                    look["IndexName"] = index.clone();
                }
                let found = database.scan(parse(look.to_string().as_bytes())?);
                if found.is_err_and(|error| error.to_string().contains("no such table")) {
                    tracing::warn!(table = name, "half of a table was left by a kill; removed");
                    database.delete_table(parse(request.to_string().as_bytes())?)?;
                    break;
                }
            }
        }
        from = page.last_evaluated_table_name;
        if from.is_none() {
            return Ok(());
        }
    }
}

macro_rules! operations {
    ($database:expr, $operation:expr, $body:expr, $($name:literal => $method:ident,)*) => {
        match $operation {
            $($name => {
                let reply = $database.$method(parse($body)?)?;
                serde_json::to_string(&reply)
                    .map_err(|e| DynoxideError::InternalServerError(e.to_string()))
            })*
            _ => Ok(None::<()>).and_then(|_: Option<()>| Err(unknown())),
        }
    };
}

fn run(database: &Database, operation: &str, body: &[u8]) -> Result<String, DynoxideError> {
    operations!(database, operation, body,
        "CreateTable" => create_table,
        "DeleteTable" => delete_table,
        "DescribeTable" => describe_table,
        "ListTables" => list_tables,
        "UpdateTable" => update_table,
        "PutItem" => put_item,
        "GetItem" => get_item,
        "UpdateItem" => update_item,
        "DeleteItem" => delete_item,
        "Query" => query,
        "Scan" => scan,
        "BatchGetItem" => batch_get_item,
        "BatchWriteItem" => batch_write_item,
        "TransactGetItems" => transact_get_items,
        "TransactWriteItems" => transact_write_items,
        "UpdateTimeToLive" => update_time_to_live,
        "DescribeTimeToLive" => describe_time_to_live,
        "TagResource" => tag_resource,
        "UntagResource" => untag_resource,
        "ListTagsOfResource" => list_tags_of_resource,
    )
}

fn unknown() -> DynoxideError {
    DynoxideError::SerializationException("UnknownOperationException".to_owned())
}

/// The engine reports refused requests as parse errors with a marker in front of the message.
fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, DynoxideError> {
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        let bare = text.rfind(" at line ").map_or(&*text, |end| &text[..end]);
        let marked = |markers: &[&str]| {
            markers.iter().find_map(|marker| bare.strip_prefix(marker)).map(str::to_owned)
        };
        let validation = ["VALIDATION:", "VALIDATION_REQUEST:", "VALIDATION_AS_READ:"];
        let serialization = ["SERIALIZATION:", "SERIALIZATION_AS_READ:"];
        if let Some(message) = marked(&validation) {
            DynoxideError::ValidationException(message)
        } else if let Some(message) = marked(&serialization) {
            DynoxideError::SerializationException(message)
        } else if ["missing field", "unknown variant", "invalid type: null", "AttributeValue"]
            .iter()
            .any(|part| bare.contains(part))
        {
            DynoxideError::ValidationException(bare.to_owned())
        } else {
            DynoxideError::SerializationException(bare.to_owned())
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ask(tables: &LocalTables, operation: &str, body: Value) -> Result<Value, String> {
        let reply = run(&tables.database, operation, body.to_string().as_bytes());
        reply.map(|text| serde_json::from_str(&text).unwrap()).map_err(|error| error.to_string())
    }

    fn create(tables: &LocalTables, name: &str) {
        let table = json!({
            "TableName": name, "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [
                { "AttributeName": "k", "AttributeType": "S" },
                { "AttributeName": "o", "AttributeType": "S" },
            ],
            "KeySchema": [{ "AttributeName": "k", "KeyType": "HASH" }],
            "GlobalSecondaryIndexes": [{
                "IndexName": "by-o", "Projection": { "ProjectionType": "ALL" },
                "KeySchema": [{ "AttributeName": "o", "KeyType": "HASH" }],
            }],
        });
        ask(tables, "CreateTable", table).unwrap();
    }

    #[test]
    fn what_a_kill_left_of_a_table_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tables.db");
        let open = || LocalTables::open(Some(&file), &Tasks::pooled(1)).unwrap();
        let tables = open();
        ["whole", "items", "index"].iter().for_each(|name| create(&tables, name));
        let item = json!({ "TableName": "whole", "Item": { "k": { "S": "1" } } });
        ask(&tables, "PutItem", item).unwrap();
        drop(tables);
        // As the engine creates a table: its description, its items, its indexes, one by one.
        let engine = rusqlite::Connection::open(&file).unwrap();
        engine.execute_batch("DROP TABLE items; DROP TABLE \"index::gsi::by-o\"").unwrap();
        drop(engine);
        let tables = open();
        let listed = ask(&tables, "ListTables", json!({})).unwrap();
        assert_eq!(listed["TableNames"], json!(["whole"]));
        for name in ["items", "index"] {
            create(&tables, name);
            let all = ask(&tables, "Scan", json!({ "TableName": name })).unwrap();
            assert_eq!(all["Count"], 0);
        }
        let all = ask(&tables, "Scan", json!({ "TableName": "whole" })).unwrap();
        assert_eq!(all["Count"], 1);
    }
}
