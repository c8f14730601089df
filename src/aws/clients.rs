//! SDK clients with our own time-outs.
//!
//! Defaults of the SDK change between behaviour versions; the ones that matter here are set, and
//! set on operations, so that they hold whatever connector carries the request.

use std::time::{Duration, UNIX_EPOCH};

use aws_config::BehaviorVersion;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_smithy_runtime::client::retries::RetryPartition;

use crate::aws::transport::{BadBundle, Transport};
use crate::clock::Clock;
use crate::config;

/// One client per service.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Kinesis Data Streams.
    pub kinesis: aws_sdk_kinesis::Client,
    /// The lease table.
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// The bucket.
    pub s3: aws_sdk_s3::Client,
    /// How they reach them; further clients are made the same way.
    pub transport: Transport,
}

/// Where services are that are not AWS's.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Of Kinesis.
    pub kinesis: String,
    /// Of DynamoDB and S3.
    pub others: String,
    /// How they are reached.
    pub transport: Transport,
}

/// The SDK's behaviour we are tested with.
pub fn behavior() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

/// The environment does not say enough, or something wrong.
#[derive(Debug, thiserror::Error)]
pub enum NoClients {
    /// Nothing says which region to talk to.
    #[error("no AWS region is set: set AWS_REGION, or the region of the profile")]
    Region,
    /// Whom to trust cannot be read.
    #[error(transparent)]
    Bundle(#[from] BadBundle),
}

impl Clients {
    /// Clients from the standard credential chain, region and endpoint variables.
    ///
    /// # Errors
    /// [`NoClients`]; credentials are looked for with the first call.
    pub async fn from_environment(settings: &config::AwsConfig) -> Result<Self, NoClients> {
        let transport = Transport::from_environment()?;
        let shared = aws_config::defaults(behavior())
            .retry_config(RetryConfig::standard().with_max_attempts(3))
            .load()
            .await;
        let Some(region) = shared.region().cloned() else { return Err(NoClients::Region) };
        let again = ReadAgain { region, transport: transport.clone() };
        let provider = aws_sdk_s3::config::SharedCredentialsProvider::new(again);
        let shared = shared.into_builder().credentials_provider(provider).build();
        Ok(Self::new(&shared, settings, transport))
    }

    /// Clients of services at one address, with fixed credentials: the embedded ones.
    pub fn at(endpoint: &str, region: &str, settings: &config::AwsConfig) -> Self {
        let (kinesis, others) = (endpoint.to_owned(), endpoint.to_owned());
        let endpoints = Endpoints { kinesis, others, transport: Transport::default() };
        Self::of(&endpoints, region, settings)
    }

    /// The same, where Kinesis has an address of its own.
    pub fn of(endpoints: &Endpoints, region: &str, settings: &config::AwsConfig) -> Self {
        let credentials =
            aws_sdk_s3::config::Credentials::new("local", "local-secret", None, None, "local");
        let shared = aws_config::SdkConfig::builder()
            .behavior_version(behavior())
            .retry_config(RetryConfig::standard().with_max_attempts(3))
            .region(aws_sdk_s3::config::Region::new(region.to_owned()))
            .endpoint_url(&endpoints.others)
            .credentials_provider(aws_sdk_s3::config::SharedCredentialsProvider::new(credentials))
            .build();
        let settings = config::AwsConfig { path_style: true, ..settings.clone() };
        let clients = Self::new(&shared, &settings, endpoints.transport.clone());
        let kinesis = clients.kinesis.config().to_builder().endpoint_url(&endpoints.kinesis);
        Self { kinesis: aws_sdk_kinesis::Client::from_conf(kinesis.build()), ..clients }
    }

    fn new(
        shared: &aws_config::SdkConfig,
        settings: &config::AwsConfig,
        transport: Transport,
    ) -> Self {
        // Each client has its own retry quota: a drained one must not silence the others.
        let partition = |name: &'static str| RetryPartition::custom(name).build();
        let mut kinesis = aws_sdk_kinesis::config::Builder::from(shared)
            .timeout_config(timeouts(settings.attempt_timeout, settings.operation_timeout))
            .retry_partition(partition("catchment-kinesis"));
        let mut dynamodb = aws_sdk_dynamodb::config::Builder::from(shared)
            // A heartbeat waits behind the progress write of its lease: at the usual second of
            // backoff, three throttled attempts could outlast a short failover time.
            .retry_config(
                RetryConfig::standard().with_max_attempts(3).with_initial_backoff(LEASE_BACKOFF),
            )
            .timeout_config(timeouts(
                settings.table_attempt_timeout,
                settings.table_operation_timeout,
            ))
            .retry_partition(partition("catchment-dynamodb"));
        let mut s3 = aws_sdk_s3::config::Builder::from(shared)
            .timeout_config(timeouts(settings.upload_timeout, settings.upload_timeout * 3))
            .retry_partition(partition("catchment-s3"))
            .force_path_style(settings.path_style);
        kinesis.set_http_client(transport.client());
        dynamodb.set_http_client(transport.client());
        s3.set_http_client(transport.client());
        Self {
            kinesis: aws_sdk_kinesis::Client::from_conf(kinesis.build()),
            dynamodb: aws_sdk_dynamodb::Client::from_conf(dynamodb.build()),
            s3: aws_sdk_s3::Client::from_conf(s3.build()),
            transport,
        }
    }
}

/// The standard chain, made anew each time it is asked: its profile provider keeps the files it
/// has read for good, and would sign with a key that was rotated away until the process ends. What
/// says nothing of its end (keys of a file, of the environment, of a `credential_process`) is asked
/// for again within a minute; what does (roles, SSO, web identity), before it ends.
#[derive(Debug)]
struct ReadAgain {
    region: aws_sdk_s3::config::Region,
    /// STS and SSO stand behind the same proxy.
    transport: Transport,
}

/// How long credentials without an end are used.
const UNTIL_READ_AGAIN: Duration = Duration::from_secs(60);

impl ProvideCredentials for ReadAgain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let mut chain = DefaultCredentialsChain::builder().region(self.region.clone());
            if let Some(client) = self.transport.client() {
                chain = chain.configure(ProviderConfig::default().with_http_client(client));
            }
            let chain = chain.build().await;
            let mut found = chain.provide_credentials().await?;
            if found.expiry().is_none() {
                let now = u64::try_from(Clock::system().wall()).unwrap_or(0);
                let end = UNIX_EPOCH + Duration::from_millis(now) + UNTIL_READ_AGAIN;
                *found.expiry_mut() = Some(end);
            }
            Ok(found)
        })
    }
}

/// First pause between attempts of a call to the lease table.
const LEASE_BACKOFF: Duration = Duration::from_millis(200);

fn timeouts(attempt: Duration, operation: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3).min(attempt))
        .operation_attempt_timeout(attempt)
        .operation_timeout(operation)
        .build()
}
