//! The lease table as a table: made if it is absent, waited for, and checked for its key.

use std::time::Duration;

use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::operation::describe_table::DescribeTableOutput;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableStatus,
};

use super::LeaseTable;
use crate::aws::fault::describe;
use crate::clock::Clock;
use crate::fault::{CallError, Detail, Fault};
use crate::lease::row::attr;

/// The table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Another kind of table has this name.
    #[error(
        "table `{table}` is no lease table: its key is {found}, expected a partition key `leaseKey` \
         of type S and no sort key; set lease.application or lease.table to another name"
    )]
    Shape {
        /// Table name.
        table: String,
        /// Key schema found.
        found: String,
    },
    /// It did not become usable.
    #[error("table `{table}` is {status} and did not become ACTIVE within {waited:?}")]
    NotActive {
        /// Table name.
        table: String,
        /// Last status.
        status: String,
        /// How long we waited.
        waited: Duration,
    },
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

const PATIENCE: Duration = Duration::from_secs(120);

impl LeaseTable {
    /// Creates the table if it is absent, waits until it is active, checks its key.
    ///
    /// # Errors
    /// [`TableError`]
    pub async fn ensure(&self, clock: &Clock) -> Result<(), TableError> {
        let begun = clock.now();
        loop {
            let status = match self.describe().await {
                Ok(reply) => {
                    let table = reply.table();
                    let status = table.and_then(|t| t.table_status()).cloned();
                    if matches!(status, Some(TableStatus::Active | TableStatus::Updating)) {
                        return self.check_shape(&reply);
                    }
                    status.map_or("unknown".to_owned(), |s| s.as_str().to_owned())
                }
                Err(error) if error.fault == Fault::NotFound => {
                    self.create_table().await?;
                    "CREATING".to_owned()
                }
                Err(error) => return Err(error.into()),
            };
            let waited = clock.now() - begun;
            if waited > PATIENCE {
                return Err(TableError::NotActive { table: self.name.clone(), status, waited });
            }
            clock.sleep(Duration::from_millis(if waited.is_zero() { 50 } else { 500 })).await;
        }
    }

    /// Status of the table, if it exists and, once it can be used, has the key of a lease table.
    ///
    /// # Errors
    /// [`TableError`]; the call's `NotFound` when there is none.
    pub async fn shape(&self) -> Result<String, TableError> {
        let reply = self.describe().await?;
        let status = reply.table().and_then(|t| t.table_status());
        if matches!(status, Some(TableStatus::Active | TableStatus::Updating)) {
            self.check_shape(&reply)?;
        }
        Ok(status.map_or("unknown", TableStatus::as_str).to_owned())
    }

    async fn describe(&self) -> Result<DescribeTableOutput, CallError> {
        let call = self.client.describe_table().table_name(&self.name);
        call.send().await.map_err(|e| describe("DescribeTable", &e))
    }

    fn check_shape(&self, reply: &DescribeTableOutput) -> Result<(), TableError> {
        let table = reply.table();
        let keys = table.map(|t| t.key_schema()).unwrap_or_default();
        let definitions = table.map(|t| t.attribute_definitions()).unwrap_or_default();
        let is_string = definitions.iter().any(|d| {
            d.attribute_name() == attr::KEY && *d.attribute_type() == ScalarAttributeType::S
        });
        if let [only] = keys
            && only.attribute_name() == attr::KEY
            && is_string
        {
            return Ok(());
        }
        let found: Vec<_> = keys
            .iter()
            .map(|k| format!("{} {}", k.key_type().as_str(), k.attribute_name()))
            .collect();
        Err(TableError::Shape { table: self.name.clone(), found: found.join(" + ") })
    }

    async fn create_table(&self) -> Result<(), CallError> {
        let bad = |e: aws_sdk_dynamodb::error::BuildError| CallError {
            operation: "CreateTable",
            fault: Fault::Invalid,
            detail: Detail::Plain,
            code: "BuildError".into(),
            message: e.to_string(),
            request_id: None,
        };
        let key = KeySchemaElement::builder().attribute_name(attr::KEY).key_type(KeyType::Hash);
        let definition = AttributeDefinition::builder()
            .attribute_name(attr::KEY)
            .attribute_type(ScalarAttributeType::S);
        let reply = self
            .client
            .create_table()
            .table_name(&self.name)
            .billing_mode(BillingMode::PayPerRequest)
            .key_schema(key.build().map_err(bad)?)
            .attribute_definitions(definition.build().map_err(bad)?)
            .send()
            .await;
        match reply {
            Ok(_) => Ok(()),
            // A peer was faster.
            Err(e)
                if e.as_service_error()
                    .is_some_and(CreateTableError::is_resource_in_use_exception) =>
            {
                Ok(())
            }
            Err(e) => Err(describe("CreateTable", &e)),
        }
    }
}
