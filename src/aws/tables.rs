//! Tables as such: to find the ones of replays and to remove them.

use crate::aws::fault::describe;
use crate::aws::reply::required;
use crate::fault::{CallError, Fault};

/// Access to tables.
#[derive(Clone, Debug)]
pub struct Tables {
    client: aws_sdk_dynamodb::Client,
}

impl Tables {
    /// Wraps a client.
    pub fn new(client: aws_sdk_dynamodb::Client) -> Self {
        Self { client }
    }

    /// Names that begin with a prefix, in order.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, CallError> {
        let mut names = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let call = self.client.list_tables().set_exclusive_start_table_name(from.take());
            let reply = call.send().await.map_err(|e| describe("ListTables", &e))?;
            let page = required("ListTables", "TableNames", reply.table_names)?;
            names.extend(page.into_iter().filter(|name| name.starts_with(prefix)));
            from = reply.last_evaluated_table_name;
            if from.is_none() {
                return Ok(names);
            }
        }
    }

    /// Deletes a table with everything in it; says whether it was there.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn delete(&self, name: &str) -> Result<bool, CallError> {
        match self.client.delete_table().table_name(name).send().await {
            Ok(_) => Ok(true),
            Err(error) => {
                let told = describe("DeleteTable", &error);
                if told.fault == Fault::NotFound { Ok(false) } else { Err(told) }
            }
        }
    }
}
