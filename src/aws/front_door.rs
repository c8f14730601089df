//! The two AWS calls of the front door: put an event, look at a stored upload.

use std::time::Duration;

use aws_sdk_kinesis::operation::put_record::PutRecordError;
use aws_sdk_s3::operation::head_object::HeadObjectError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;

use crate::aws::transport::Transport;
use crate::upload::event::{META_SHA256, META_SUBJECT};

/// Which stream takes the events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadStream {
    /// By name, in the caller's account and region.
    Name(String),
    /// By ARN.
    Arn(String),
}

/// Where to connect. Endpoints are for emulators; `None` is AWS.
#[derive(Debug, Clone)]
pub struct UploadApiConfig {
    /// The stream.
    pub stream: UploadStream,
    /// Where the worker stores uploads; without it nothing can be looked up.
    pub bucket: Option<String>,
    /// AWS region.
    pub region: String,
    /// Another Kinesis.
    pub kinesis_endpoint: Option<String>,
    /// Another S3, addressed path-style.
    pub s3_endpoint: Option<String>,
    /// Whom to trust.
    pub transport: Transport,
    /// How long one call may take.
    pub attempt_timeout: Duration,
    /// Fixed key id and secret; `None` reads the environment, as a Lambda function must.
    pub credentials: Option<(String, String)>,
}

/// Why a call failed, in the handler's terms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UploadApiError {
    /// Come back later.
    #[error("throttled: {0}")]
    Throttled(String),
    /// The record is larger than the stream takes.
    #[error("the record is too large: {0}")]
    TooLarge(String),
    /// The role may not.
    #[error("denied: {0}")]
    Denied(String),
    /// No answer, or the service is ill; whether the call took effect is unknown.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Nothing a retry could mend.
    #[error("misconfigured: {0}")]
    Misconfigured(String),
}

impl UploadApiError {
    /// Whether the same call may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Throttled(_) | Self::Unavailable(_))
    }
}

/// What is known of a stored upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredUpload {
    /// Size in bytes.
    pub size: i64,
    /// Hash of the uploader, when recorded.
    pub subject: Option<String>,
    /// SHA-256 of the content, when recorded.
    pub sha256: Option<String>,
}

/// The front door's clients, made once per process.
#[derive(Clone)]
pub struct UploadApi {
    kinesis: aws_sdk_kinesis::Client,
    s3: aws_sdk_s3::Client,
    stream: UploadStream,
    bucket: Option<String>,
}

impl UploadApi {
    /// Makes the clients. Nothing is sent before the first call.
    pub fn new(config: UploadApiConfig) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(2).min(config.attempt_timeout))
            .operation_timeout(config.attempt_timeout)
            .build();
        let mut kinesis = aws_sdk_kinesis::Config::builder()
            .behavior_version(aws_sdk_kinesis::config::BehaviorVersion::v2026_01_12())
            .region(aws_sdk_kinesis::config::Region::new(config.region.clone()))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts.clone());
        let mut s3 = aws_sdk_s3::Config::builder()
            .behavior_version(aws_sdk_s3::config::BehaviorVersion::v2026_01_12())
            .region(aws_sdk_s3::config::Region::new(config.region))
            .retry_config(RetryConfig::standard().with_max_attempts(2))
            .timeout_config(timeouts)
            .force_path_style(config.s3_endpoint.is_some());
        if let Some((key, secret)) = config.credentials {
            let fixed = aws_sdk_kinesis::config::Credentials::new(key, secret, None, None, "fixed");
            kinesis = kinesis.credentials_provider(fixed.clone());
            s3 = s3.credentials_provider(fixed);
        } else {
            let environment = aws_config::environment::EnvironmentVariableCredentialsProvider::new;
            kinesis = kinesis.credentials_provider(environment());
            s3 = s3.credentials_provider(environment());
        }
        if let Some(endpoint) = config.kinesis_endpoint {
            kinesis = kinesis.endpoint_url(endpoint);
        }
        if let Some(endpoint) = config.s3_endpoint {
            s3 = s3.endpoint_url(endpoint);
        }
        kinesis.set_http_client(config.transport.client());
        s3.set_http_client(config.transport.client());
        Self {
            kinesis: aws_sdk_kinesis::Client::from_conf(kinesis.build()),
            s3: aws_sdk_s3::Client::from_conf(s3.build()),
            stream: config.stream,
            bucket: config.bucket,
        }
    }

    /// Whether uploads can be looked up.
    pub fn can_look_up(&self) -> bool {
        self.bucket.is_some()
    }

    /// One PutRecord, not retried here.
    ///
    /// # Errors
    /// [`UploadApiError`]; after `Unavailable` the record may be in the stream all the same.
    pub async fn put_event(
        &self,
        partition_key: &str,
        record: Vec<u8>,
    ) -> Result<(), UploadApiError> {
        let call = self
            .kinesis
            .put_record()
            .partition_key(partition_key)
            .data(aws_smithy_types::Blob::new(record));
        let call = match &self.stream {
            UploadStream::Name(name) => call.stream_name(name),
            UploadStream::Arn(arn) => call.stream_arn(arn),
        };
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(put_error(&error)),
        }
    }

    /// One HeadObject; `None` when there is no such object.
    ///
    /// # Errors
    /// [`UploadApiError`]. S3 answers `Denied` for a missing object to a role that may not list.
    pub async fn head_upload(&self, key: &str) -> Result<Option<StoredUpload>, UploadApiError> {
        let bucket = self
            .bucket
            .as_deref()
            .ok_or_else(|| UploadApiError::Misconfigured("no bucket is set".into()))?;
        match self.s3.head_object().bucket(bucket).key(key).send().await {
            Ok(head) => {
                let meta = |name: &str| head.metadata().and_then(|m| m.get(name)).cloned();
                Ok(Some(StoredUpload {
                    size: head.content_length().unwrap_or_default(),
                    subject: meta(META_SUBJECT),
                    sha256: meta(META_SHA256),
                }))
            }
            Err(error) => head_error(&error).map_or(Ok(None), Err),
        }
    }
}

fn put_error(error: &SdkError<PutRecordError, HttpResponse>) -> UploadApiError {
    let Some(service) = error.as_service_error() else {
        return no_answer(error);
    };
    let message = describe(service);
    let lower = message.to_ascii_lowercase();
    match service.code().unwrap_or_default() {
        "InvalidArgumentException" | "ValidationException"
            if ["size", "length", "exceed", "1048576", "too large"]
                .iter()
                .any(|word| lower.contains(word)) =>
        {
            UploadApiError::TooLarge(message)
        }
        _ => classify(error, service, message),
    }
}

/// `None`: there is no such object.
fn head_error(error: &SdkError<HeadObjectError, HttpResponse>) -> Option<UploadApiError> {
    let Some(service) = error.as_service_error() else {
        return Some(no_answer(error));
    };
    match error.raw_response().map(|r| r.status().as_u16()) {
        _ if service.is_not_found() => None,
        Some(404) => None,
        Some(403) => Some(UploadApiError::Denied(describe(service))),
        _ => Some(classify(error, service, describe(service))),
    }
}

fn describe(service: &impl ProvideErrorMetadata) -> String {
    let code = service.code().unwrap_or("no code");
    let text = service.message().unwrap_or_default();
    format!("{code} {text}").trim_end().chars().take(300).collect()
}

/// The rest of the table, shared by both calls.
fn classify<E>(
    error: &SdkError<E, HttpResponse>,
    service: &impl ProvideErrorMetadata,
    message: String,
) -> UploadApiError {
    let status = error.raw_response().map_or(0, |r| r.status().as_u16());
    match service.code().unwrap_or_default() {
        "ProvisionedThroughputExceededException"
        | "LimitExceededException"
        | "KMSThrottlingException"
        | "ThrottlingException"
        | "Throttling"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "SlowDown" => UploadApiError::Throttled(message),
        "AccessDeniedException"
        | "AccessDenied"
        | "KMSAccessDeniedException"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "ExpiredTokenException"
        | "MissingAuthenticationTokenException"
        | "NotAuthorized" => UploadApiError::Denied(message),
        _ if status == 429 => UploadApiError::Throttled(message),
        _ if status >= 500 => UploadApiError::Unavailable(message),
        _ if status == 403 => UploadApiError::Denied(message),
        _ => UploadApiError::Misconfigured(message),
    }
}

fn no_answer<E>(error: &SdkError<E, HttpResponse>) -> UploadApiError {
    let text = match error {
        SdkError::TimeoutError(_) => "no answer in time",
        SdkError::DispatchFailure(_) => "no connection",
        SdkError::ResponseError(_) => "the answer broke off",
        _ => return UploadApiError::Misconfigured("the request could not be built".into()),
    };
    UploadApiError::Unavailable(text.into())
}
