//! The Lambda bootstrap of the upload function: configuration, clients, loop.

use std::env;
use std::time::Duration;

use catchment::aws::front_door::{UploadApi, UploadApiConfig, UploadStream};
use catchment::aws::transport::Transport;
use catchment::clock::{Clock, Jitter};
use catchment::front_door::claims::AuthPolicy;
use catchment::front_door::handler::{Handler, HandlerConfig};
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use lambda_http::{Error, LambdaEvent, lambda_runtime, service_fn};

/// Time kept back from Lambda's own deadline to get an answer out.
const MARGIN: Duration = Duration::from_millis(500);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_target(false)
        .with_current_span(false)
        .with_span_list(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    let clock = Clock::system();
    let (door, config) = configuration()?;
    let handler = &Handler::new(UploadApi::new(door), config, clock.clone(), Jitter::system());
    let clock = &clock;
    let answer = service_fn(async |event: LambdaEvent<ApiGatewayV2httpRequest>| {
        let now = u64::try_from(clock.wall()).unwrap_or_default();
        let left = Duration::from_millis(event.context.deadline.saturating_sub(now));
        Ok::<_, Error>(handler.handle(event.payload, left.saturating_sub(MARGIN)).await)
    });
    Box::pin(lambda_runtime::run(answer)).await
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
}

fn configuration() -> Result<(UploadApiConfig, HandlerConfig), Error> {
    let stream = match (variable("STREAM_ARN"), variable("STREAM_NAME")) {
        (Some(arn), _) => UploadStream::Arn(arn),
        (None, Some(name)) => UploadStream::Name(name),
        (None, None) => return Err("set STREAM_NAME or STREAM_ARN".into()),
    };
    let endpoint = |name: &str| variable(name).or_else(|| variable("AWS_ENDPOINT_URL"));
    let door = UploadApiConfig {
        stream,
        bucket: variable("BUCKET"),
        region: variable("AWS_REGION").ok_or("set AWS_REGION")?,
        kinesis_endpoint: endpoint("AWS_ENDPOINT_URL_KINESIS"),
        s3_endpoint: endpoint("AWS_ENDPOINT_URL_S3"),
        transport: Transport::from_environment()?,
        attempt_timeout: Duration::from_secs(3),
        credentials: None,
    };
    let mut config = HandlerConfig::default();
    if let Some(text) = variable("MAX_RECORD_BYTES") {
        config.max_record_bytes = text
            .parse()
            .ok()
            .filter(|n| (4096..=10 << 20).contains(n))
            .ok_or("MAX_RECORD_BYTES must be a number from 4096 to 10485760")?;
    }
    config.demands = AuthPolicy {
        client_ids: variable("ALLOWED_CLIENT_IDS")
            .map(|ids| ids.split([',', ' ']).filter(|i| !i.is_empty()).map(str::to_owned).collect())
            .unwrap_or_default(),
        scope: variable("REQUIRED_SCOPE"),
        any_token_use: variable("ANY_TOKEN_USE").is_some_and(|v| v == "true"),
    };
    Ok((door, config))
}
