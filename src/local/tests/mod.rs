//! The services as the AWS SDK sees them.

mod dynamodb;
mod gateway;
mod kinesis;
mod restart;
mod s3;
mod tls;

use std::path::Path;

use aws_sdk_dynamodb as ddb;
use aws_sdk_kinesis as kds;
use aws_sdk_s3 as s3sdk;

use super::*;

pub(super) const REGION: &str = "eu-central-1";

pub(super) struct Clients {
    pub(super) kinesis: kds::Client,
    pub(super) dynamodb: ddb::Client,
    pub(super) s3: s3sdk::Client,
}

impl Clients {
    pub(super) fn of(endpoint: &str) -> Self {
        macro_rules! config {
            ($sdk:ident) => {
                $sdk::Config::builder()
                    .behavior_version($sdk::config::BehaviorVersion::v2026_01_12())
                    .region($sdk::config::Region::new(REGION))
                    .endpoint_url(endpoint)
                    .retry_config($sdk::config::retry::RetryConfig::disabled())
                    .credentials_provider($sdk::config::Credentials::new(
                        "local",
                        "local-secret",
                        None,
                        None,
                        "local",
                    ))
            };
        }
        Self {
            kinesis: kds::Client::from_conf(config!(kds).build()),
            dynamodb: ddb::Client::from_conf(config!(ddb).build()),
            s3: s3sdk::Client::from_conf(config!(s3sdk).force_path_style(true).build()),
        }
    }
}

pub(super) fn options(dir: &Path, durable: bool) -> ServiceOptions {
    ServiceOptions {
        data_dir: durable.then(|| dir.join("data")),
        objects: dir.join("objects"),
        listen: IpAddr::from([127, 0, 0, 1]),
        port: None,
        region: REGION.to_owned(),
        tls: None,
    }
}

pub(super) async fn start(options: ServiceOptions) -> (Services, Clients) {
    let services = Services::start(options, &Tasks::pooled(8), &Clock::system()).await.unwrap();
    let clients = Clients::of(&services.endpoint());
    (services, clients)
}

pub(super) struct Running {
    pub(super) services: Services,
    pub(super) clients: Clients,
    pub(super) dir: tempfile::TempDir,
}

/// Fresh services, in memory.
pub(super) async fn fresh() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let (services, clients) = start(options(dir.path(), false)).await;
    Running { services, clients, dir }
}
