//! The rows of the lease table: read, and written on conditions.

pub mod admin;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeValue, ConsumedCapacity, ReturnConsumedCapacity, ReturnValue,
    ReturnValuesOnConditionCheckFailure,
};

use crate::aws::fault::describe;
use crate::aws::reply::{incomplete, required};
use crate::fault::CallError;
use crate::ids::ShardId;
use crate::lease::keys::Keys;
use crate::lease::row::{Attr, Item, attr};
use crate::lease::write::{self, Update};
use crate::metrics::registry::Metrics;
use crate::metrics::table as metric;

/// The table of one application.
#[derive(Clone)]
pub struct LeaseTable {
    client: aws_sdk_dynamodb::Client,
    name: String,
    keys: Keys,
    metrics: Option<Arc<Metrics>>,
    /// The store says what its answers cost.
    prices: Arc<AtomicBool>,
}

/// The outcome of a conditional write.
#[derive(Debug)]
pub enum Written {
    /// Took effect; the row as it is now.
    Done(Item),
    /// Refused; the row that refused it, if there is one.
    Refused(Option<Item>),
}

impl LeaseTable {
    /// Wraps a client. Rows are named as they stand in the table, see [`Self::with_keys`].
    pub fn new(client: aws_sdk_dynamodb::Client, name: impl Into<String>) -> Self {
        Self {
            client,
            name: name.into(),
            keys: Keys::default(),
            metrics: None,
            prices: Arc::default(),
        }
    }

    /// The same table, seen by a worker of one stream.
    pub fn with_keys(self, keys: Keys) -> Self {
        Self { keys, ..self }
    }

    /// Another table, through the same client.
    pub fn beside(&self, name: impl Into<String>) -> Self {
        Self::new(self.client.clone(), name)
    }

    fn ours(&self, item: HashMap<String, AttributeValue>) -> Option<Item> {
        self.keys.incoming(from_sdk(item))
    }

    fn key(&self, shard: &ShardId) -> AttributeValue {
        AttributeValue::S(self.keys.key(shard))
    }

    /// Counts the request units it uses.
    #[must_use]
    pub fn counting(self, metrics: &Arc<Metrics>) -> Self {
        Self { metrics: Some(Arc::clone(metrics)), ..self }
    }

    fn used(&self, kind: &str, capacity: Option<&ConsumedCapacity>) {
        if capacity.is_some() {
            self.prices.store(true, Ordering::Relaxed);
        }
        if let (Some(metrics), Some(capacity)) = (&self.metrics, capacity) {
            let units = capacity.capacity_units().unwrap_or(0.0);
            metrics.add_float(metric::DYNAMODB_CONSUMED_UNITS_TOTAL, &[kind], units);
        }
    }

    /// A refused write costs as much as one that takes effect, but its reply names no units.
    fn refused(&self) {
        if let Some(metrics) = &self.metrics {
            metrics.add_float(metric::DYNAMODB_CONSUMED_UNITS_TOTAL, &["write"], 1.0);
        }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Every item of the table that concerns us. Read inconsistently, at half the price, items may be
    /// seconds old and of different ages.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn scan(&self, consistent: bool) -> Result<Vec<Item>, CallError> {
        let mut items = Vec::new();
        let mut from = None;
        loop {
            let reply = self
                .client
                .scan()
                .table_name(&self.name)
                .consistent_read(consistent)
                .set_exclusive_start_key(from.take())
                .return_consumed_capacity(ReturnConsumedCapacity::Total)
                .send()
                .await
                .map_err(|e| describe("Scan", &e))?;
            self.used("read", reply.consumed_capacity());
            let page = required("Scan", "Items", reply.items)?;
            items.extend(page.into_iter().filter_map(|i| self.ours(i)));
            from = reply.last_evaluated_key.filter(|key| !key.is_empty());
            if from.is_none() {
                return Ok(items);
            }
        }
    }

    /// One item, consistently read.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn get(&self, shard: &ShardId) -> Result<Option<Item>, CallError> {
        self.item(shard, true).await
    }

    /// One item, which may be seconds old, at half the price.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn peek(&self, shard: &ShardId) -> Result<Option<Item>, CallError> {
        self.item(shard, false).await
    }

    async fn item(&self, shard: &ShardId, consistent: bool) -> Result<Option<Item>, CallError> {
        let reply = self
            .client
            .get_item()
            .table_name(&self.name)
            .key(attr::KEY, self.key(shard))
            .consistent_read(consistent)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await
            .map_err(|e| describe("GetItem", &e))?;
        self.used("read", reply.consumed_capacity());
        // No item is a good answer; then its price is all that tells it from an empty body. A store
        // that names no price is not asked for one.
        let priced = reply.consumed_capacity.is_some();
        match reply.item {
            Some(item) => Ok(self.ours(required("GetItem", "Item", Some(item))?)),
            None if !priced && self.prices.load(Ordering::Relaxed) => {
                Err(incomplete("GetItem", "Item or ConsumedCapacity"))
            }
            None => Ok(None),
        }
    }

    /// Puts an item unless its key exists; says whether it did.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn create(&self, item: Item) -> Result<bool, CallError> {
        let item = self.keys.outgoing(item);
        let reply = self
            .client
            .put_item()
            .table_name(&self.name)
            .set_item(Some(item.into_iter().filter_map(|(k, v)| Some((k, to_sdk(v)?))).collect()))
            .condition_expression(format!("attribute_not_exists({})", attr::KEY))
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await;
        match reply {
            Ok(reply) => {
                self.used("write", reply.consumed_capacity());
                Ok(true)
            }
            Err(e)
                if e.as_service_error()
                    .is_some_and(PutItemError::is_conditional_check_failed_exception) =>
            {
                self.refused();
                Ok(false)
            }
            Err(e) => Err(describe("PutItem", &e)),
        }
    }

    /// A conditional update.
    ///
    /// # Errors
    /// [`CallError`]; after `Unavailable` the write may or may not have happened.
    pub async fn update(&self, shard: &ShardId, update: Update) -> Result<Written, CallError> {
        let reply = self
            .client
            .update_item()
            .table_name(&self.name)
            .key(attr::KEY, self.key(shard))
            .update_expression(update.update)
            .condition_expression(update.condition)
            .set_expression_attribute_values(Some(values(update.values)))
            .return_values(ReturnValue::AllNew)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match reply {
            Ok(reply) => {
                self.used("write", reply.consumed_capacity());
                // It may have taken effect: for the caller, this is a lost reply.
                let item = required("UpdateItem", "Attributes", reply.attributes)?;
                Ok(Written::Done(self.ours(item).unwrap_or_default()))
            }
            Err(e) => match e.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                    self.refused();
                    Ok(Written::Refused(refused.item().cloned().and_then(|i| self.ours(i))))
                }
                _ => Err(describe("UpdateItem", &e)),
            },
        }
    }

    /// Deletes the lease of a finished shard; says whether it was there and finished.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn delete_finished(&self, shard: &ShardId) -> Result<bool, CallError> {
        let (condition, condition_values) = write::delete_finished();
        let reply = self
            .client
            .delete_item()
            .table_name(&self.name)
            .key(attr::KEY, self.key(shard))
            .condition_expression(condition)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .set_expression_attribute_values(Some(values(condition_values)))
            .send()
            .await;
        match reply {
            Ok(reply) => {
                self.used("write", reply.consumed_capacity());
                Ok(true)
            }
            Err(e)
                if e.as_service_error()
                    .is_some_and(DeleteItemError::is_conditional_check_failed_exception) =>
            {
                self.refused();
                Ok(false)
            }
            Err(e) => Err(describe("DeleteItem", &e)),
        }
    }
}

fn values(values: Vec<(&'static str, Attr)>) -> HashMap<String, AttributeValue> {
    values.into_iter().filter_map(|(k, v)| Some((k.to_owned(), to_sdk(v)?))).collect()
}

fn to_sdk(value: Attr) -> Option<AttributeValue> {
    Some(match value {
        Attr::S(text) => AttributeValue::S(text),
        Attr::N(number) => AttributeValue::N(number),
        Attr::B(bytes) => AttributeValue::B(Blob::new(bytes)),
        Attr::Ss(set) => AttributeValue::Ss(set.into_iter().collect()),
        Attr::Other => return None,
    })
}

fn from_sdk(item: HashMap<String, AttributeValue>) -> Item {
    item.into_iter()
        .map(|(name, value)| {
            let value = match value {
                AttributeValue::S(text) => Attr::S(text),
                AttributeValue::N(number) => Attr::N(number),
                AttributeValue::B(bytes) => Attr::B(bytes.into_inner()),
                AttributeValue::Ss(set) => Attr::Ss(set.into_iter().collect()),
                _ => Attr::Other,
            };
            (name, value)
        })
        .collect()
}
