//! Programs to compare with, each in a process of its own.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use catchment::aws::clients::Clients;
use catchment::aws::kinesis::Kinesis;
use catchment::clock::Clock;
use catchment::config::AwsConfig;
use catchment::ids::ShardId;
use catchment::metrics::registry::Metrics;
use catchment::worker::reader::poll;
use tokio::sync::mpsc;

use crate::{Outcome, reader};

const ARN: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/events";

pub(crate) async fn run(role: &str, endpoint: SocketAddr, shards: u64) -> Outcome<()> {
    let aws = AwsConfig {
        path_style: true,
        attempt_timeout: Duration::from_secs(30),
        operation_timeout: Duration::from_secs(60),
        table_attempt_timeout: Duration::from_secs(30),
        table_operation_timeout: Duration::from_secs(60),
        upload_timeout: Duration::from_secs(60),
    };
    let clients = Clients::at(&format!("http://{endpoint}"), "us-east-1", &aws);
    match role {
        // As fast as it goes, one after the other.
        "sdk" => {
            let client = clients.kinesis;
            on_a_worker(async move { sdk(&client, 0, None).await }).await
        }
        // A task for each shard that polls once a second, and nothing else.
        "sdk-idle" => {
            let each = (0..shards).map(|shard| {
                let client = clients.kinesis.clone();
                spawn(async move { sdk(&client, shard, Some(shards)).await.is_ok() })
            });
            futures::future::join_all(each).await;
            Ok(())
        }
        "reader" => {
            let client = clients.kinesis;
            on_a_worker(async move { reader(&client).await }).await
        }
        other => Err(format!("{other}: no such role").into()),
    }
}

/// Where the connections are driven too, as in the worker: what the main thread runs is woken across
/// threads for each piece of a reply.
async fn on_a_worker(work: impl Future<Output = Outcome<()>> + Send + 'static) -> Outcome<()> {
    spawn(work).await?
}

async fn sdk(client: &aws_sdk_kinesis::Client, shard: u64, idle: Option<u64>) -> Outcome<()> {
    let clock = Clock::system();
    let mut iterator = format!("{shard}.0.");
    if let Some(shards) = idle {
        clock.sleep(Duration::from_secs_f64(shard as f64 / shards as f64)).await;
    }
    loop {
        let call = client.get_records().stream_arn(ARN).shard_iterator(&iterator).limit(10_000);
        let reply = call.send().await?;
        for record in reply.records() {
            black_box((record.data().as_ref().len(), record.sequence_number()));
        }
        iterator = reply.next_shard_iterator.ok_or("the end of a shard without end")?;
        if idle.is_some() {
            clock.sleep(Duration::from_secs(1)).await;
        }
    }
}

/// The reader of a shard as the worker runs it.
async fn reader(client: &aws_sdk_kinesis::Client) -> Outcome<()> {
    let metrics = Arc::new(Metrics::new("bench", true));
    let means = reader::means(Kinesis::new(client.clone()), ARN, metrics);
    let (send, mut pages) = mpsc::channel(1);
    let consume = async {
        while let Some(page) = pages.recv().await {
            drop(black_box(page))
        }
    };
    let shard = ShardId::new("shardId-000000000000");
    futures::join!(consume, poll::read(means, shard, reader::whole(), send));
    Err("the reader gave up".into())
}

#[expect(clippy::disallowed_methods, reason = "no part of the program under test")]
fn spawn<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(work)
}
