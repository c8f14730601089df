//! GetRecords replies: the fast path and the SDK's own parser make the same of any body.
#![no_main]

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region, SharedHttpClient};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use catchment::aws::kinesis::Kinesis;
use catchment::stream::Page;
use libfuzzer_sys::fuzz_target;

/// Answers every request with the body under test.
#[derive(Clone, Debug, Default)]
struct Canned(Arc<Mutex<Bytes>>);

impl HttpConnector for Canned {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let body = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let response = http::Response::builder().status(200).body(SdkBody::from(body));
        let response = response.ok().and_then(|response| HttpResponse::try_from(response).ok());
        HttpConnectorFuture::ready(Ok(response.expect("a canned response")))
    }
}

impl HttpClient for Canned {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

struct World {
    canned: Canned,
    fast: Kinesis,
    strict: Kinesis,
    runtime: Mutex<tokio::runtime::Runtime>,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let canned = Canned::default();
        let fast = Kinesis::new(aws_sdk_kinesis::Client::from_conf(
            aws_sdk_kinesis::Config::builder()
                .behavior_version(BehaviorVersion::v2026_01_12())
                .region(Region::new("eu-west-1"))
                .credentials_provider(Credentials::new("id", "secret", None, None, "fuzz"))
                .http_client(SharedHttpClient::new(canned.clone()))
                .retry_config(RetryConfig::disabled())
                .build(),
        ));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        World {
            canned,
            strict: fast.clone().strict(),
            fast,
            runtime: Mutex::new(runtime.expect("a runtime")),
        }
    })
}

fn shown(page: &Page) -> String {
    let Page { records, strict: _, next, behind_ms, children } = page;
    let sequences: Vec<_> = records.iter().map(|r| r.sequence()).collect();
    format!("{records:?} {sequences:?} {next:?} {behind_ms:?} {children:?}")
}

fuzz_target!(|body: &[u8]| {
    const ARN: &str = "arn:aws:kinesis:eu-west-1:123456789012:stream/s";
    let world = world();
    *world.canned.0.lock().unwrap_or_else(PoisonError::into_inner) = Bytes::copy_from_slice(body);
    let runtime = world.runtime.lock().unwrap_or_else(PoisonError::into_inner);
    let (fast, strict) = runtime.block_on(async {
        let fast = world.fast.get_records(ARN, "iterator", 100).await;
        (fast, world.strict.get_records(ARN, "iterator", 100).await)
    });
    match (&fast, &strict) {
        (Ok(fast), Ok(strict)) => assert_eq!(shown(fast), shown(strict)),
        (Err(_), Err(_)) => {}
        // The SDK's parser cannot tell absent records from none.
        (Err(error), Ok(strict)) if error.code == "IncompleteReply" => {
            assert!(strict.records.is_empty());
        }
        _ => panic!("{fast:?} but {strict:?}"),
    }
});
