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
pub(super) struct Tables {
    database: Database,
    tasks: Tasks,
}

impl Tables {
    /// Opens the file, or memory. The file is SQLite in WAL mode with full synchronisation: an
    /// acknowledged write survives a kill.
    pub(super) fn open(file: Option<&Path>, tasks: &Tasks) -> Result<Self, LocalError> {
        let database = match file {
            None => Database::memory(),
            Some(path) => Database::new(&path.to_string_lossy()),
        };
        Ok(Self {
            database: database.map_err(|e| LocalError::Tables {
                path: file.map(Path::to_owned).unwrap_or_default(),
                reason: e.to_string(),
            })?,
            tasks: tasks.clone(),
        })
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
