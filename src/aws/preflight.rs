//! Calls of `catchment doctor` that nobody else makes, or makes in another way. None of them
//! changes anything: writes carry a condition that cannot hold, and an upload is given up empty.

use std::sync::{Arc, Mutex, PoisonError};

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::Format;

use crate::aws::clients::{Clients, behavior};
use crate::aws::fault::{chain, describe};
use crate::aws::transport::Transport;
use crate::fault::{CallError, Detail, Fault};
use crate::lease::row::attr;
use crate::stream::StreamSummary;

/// Who the credential chain says we are. Keys are not told.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Region of the calls.
    pub region: Option<String>,
    /// Account of the credentials, where their source says it.
    pub account: Option<String>,
    /// They end at some time, and their source renews them or not.
    pub temporary: bool,
}

/// Nothing in the credential chain has any.
#[derive(Debug, thiserror::Error)]
#[error("no credentials: {0}")]
pub struct NoCredentials(String);

/// Asks the credential chain.
///
/// # Errors
/// [`NoCredentials`]
pub async fn identity(transport: &Transport) -> Result<Identity, NoCredentials> {
    let mut asking = aws_config::defaults(behavior());
    if let Some(client) = transport.client() {
        asking = asking.http_client(client);
    }
    let shared: SdkConfig = asking.load().await;
    let none = NoCredentials;
    let provider = shared.credentials_provider();
    let provider = provider.ok_or_else(|| none("no provider is configured".into()))?;
    let found = provider.provide_credentials().await.map_err(|error| none(chain(&error)))?;
    Ok(Identity {
        region: shared.region().map(ToString::to_string),
        account: found.account_id().map(|id| id.as_str().to_owned()),
        temporary: found.session_token().is_some(),
    })
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Preflight {
    kinesis: aws_sdk_kinesis::Client,
    dynamodb: aws_sdk_dynamodb::Client,
    s3: aws_sdk_s3::Client,
}

/// The `Date` of the last reply, milliseconds since the epoch.
#[derive(Clone, Debug, Default)]
struct Date(Arc<Mutex<Option<i64>>>);

impl Intercept for Date {
    fn name(&self) -> &'static str {
        "Date"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        if let Some(date) = date.and_then(|d| DateTime::from_str(d, Format::HttpDate).ok()) {
            let ms = date.secs().saturating_mul(1000);
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ms);
        }
        Ok(())
    }
}

impl Preflight {
    /// Wraps clients.
    pub fn new(clients: &Clients) -> Self {
        Self {
            kinesis: clients.kinesis.clone(),
            dynamodb: clients.dynamodb.clone(),
            s3: clients.s3.clone(),
        }
    }

    /// DescribeStreamSummary of a name or an ARN, and the service's clock (ms since the epoch, cut
    /// to the second) if it answered at all.
    pub async fn stream(
        &self,
        name_or_arn: &str,
    ) -> (Result<StreamSummary, CallError>, Option<i64>) {
        let date = Date::default();
        let call = self.kinesis.describe_stream_summary();
        let call = if name_or_arn.starts_with("arn:") {
            call.stream_arn(name_or_arn)
        } else {
            call.stream_name(name_or_arn)
        };
        let reply = call.customize().interceptor(date.clone()).send().await;
        let reply = reply.map_err(|e| describe("DescribeStreamSummary", &e)).map(|reply| {
            let summary = reply.stream_description_summary();
            let mode = summary.and_then(|s| s.stream_mode_details());
            StreamSummary {
                status: summary.map_or("", |s| s.stream_status().as_str()).to_owned(),
                // Streams older than the choice are provisioned and do not say so.
                mode: mode.map_or("PROVISIONED", |m| m.stream_mode().as_str()).to_owned(),
                retention_hours: summary.map_or(0, |s| s.retention_period_hours()),
                encryption: summary
                    .and_then(|s| s.encryption_type())
                    .map_or("NONE", |e| e.as_str())
                    .to_owned(),
                open_shards: summary.map_or(0, |s| s.open_shard_count()),
                consumers: summary.and_then(|s| s.consumer_count()).unwrap_or(0),
            }
        });
        let date = *date.0.lock().unwrap_or_else(PoisonError::into_inner);
        (reply, date)
    }

    /// PutItem that must be refused: `key` names no item, and `never` is no value of any.
    ///
    /// # Errors
    /// [`CallError`] of any other answer.
    pub async fn put_item(&self, table: &str, key: &str, never: &str) -> Result<(), CallError> {
        let reply = self
            .dynamodb
            .put_item()
            .table_name(table)
            .item(attr::KEY, AttributeValue::S(key.to_owned()))
            .condition_expression(CANNOT_HOLD)
            .expression_attribute_values(":never", AttributeValue::S(never.to_owned()))
            .send()
            .await;
        match reply {
            Ok(_) => Err(not_refused("PutItem")),
            Err(e)
                if e.as_service_error()
                    .is_some_and(PutItemError::is_conditional_check_failed_exception) =>
            {
                Ok(())
            }
            Err(e) => Err(describe("PutItem", &e)),
        }
    }

    /// The same for UpdateItem.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn update_item(&self, table: &str, key: &str, never: &str) -> Result<(), CallError> {
        let reply = self
            .dynamodb
            .update_item()
            .table_name(table)
            .key(attr::KEY, AttributeValue::S(key.to_owned()))
            .update_expression("SET catchment_probe = :never")
            .condition_expression(CANNOT_HOLD)
            .expression_attribute_values(":never", AttributeValue::S(never.to_owned()))
            .send()
            .await;
        match reply {
            Ok(_) => Err(not_refused("UpdateItem")),
            Err(e)
                if e.as_service_error()
                    .is_some_and(UpdateItemError::is_conditional_check_failed_exception) =>
            {
                Ok(())
            }
            Err(e) => Err(describe("UpdateItem", &e)),
        }
    }

    /// The same for DeleteItem.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn delete_item(&self, table: &str, key: &str, never: &str) -> Result<(), CallError> {
        let reply = self
            .dynamodb
            .delete_item()
            .table_name(table)
            .key(attr::KEY, AttributeValue::S(key.to_owned()))
            .condition_expression(CANNOT_HOLD)
            .expression_attribute_values(":never", AttributeValue::S(never.to_owned()))
            .send()
            .await;
        match reply {
            Ok(_) => Err(not_refused("DeleteItem")),
            Err(e)
                if e.as_service_error()
                    .is_some_and(DeleteItemError::is_conditional_check_failed_exception) =>
            {
                Ok(())
            }
            Err(e) => Err(describe("DeleteItem", &e)),
        }
    }

    /// Begins an upload in parts and gives it up: that takes the permissions of a put
    /// (`s3:PutObject`, `s3:AbortMultipartUpload`), and there is never an object.
    ///
    /// # Errors
    /// [`CallError`] of the call that failed.
    pub async fn upload(&self, bucket: &str, key: &str) -> Result<(), CallError> {
        let begun = self.s3.create_multipart_upload().bucket(bucket).key(key).send().await;
        let begun = begun.map_err(|e| describe("CreateMultipartUpload", &e))?;
        let id = begun.upload_id().unwrap_or_default();
        let abort = self.s3.abort_multipart_upload().bucket(bucket).key(key).upload_id(id);
        abort.send().await.map_err(|e| describe("AbortMultipartUpload", &e))?;
        Ok(())
    }
}

const CANNOT_HOLD: &str = "attribute_exists(leaseKey) AND catchment_probe = :never";

fn not_refused(operation: &'static str) -> CallError {
    CallError {
        operation,
        fault: Fault::Invalid,
        detail: Detail::Plain,
        code: "ConditionIgnored".into(),
        message: "a write whose condition cannot hold was not refused".into(),
        request_id: None,
    }
}
