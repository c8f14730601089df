use super::*;

#[tokio::test]
async fn only_loopback_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = ServiceOptions { listen: IpAddr::from([0, 0, 0, 0]), ..options(dir.path(), false) };
    let error = Services::start(wrong, &Tasks::pooled(1), &Clock::system()).await;
    let error = error.err().unwrap();
    assert!(matches!(error, LocalError::NotLoopback(_)));
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
}

#[tokio::test]
async fn a_taken_port_and_a_taken_directory_are_named() {
    let run = fresh().await;
    let port = run.services.address.port();
    let other = tempfile::tempdir().unwrap();
    let taken = ServiceOptions { port: Some(port), ..options(other.path(), false) };
    let error = Services::start(taken, &Tasks::pooled(1), &Clock::system()).await;
    let text = error.err().unwrap().to_string();
    assert!(text.contains(&port.to_string()), "{text}");
    assert!(text.contains("another port"), "{text}");

    let same = options(run.dir.path(), false);
    let error = Services::start(same, &Tasks::pooled(1), &Clock::system()).await;
    assert!(matches!(error, Err(LocalError::InUse(_))));
}

#[tokio::test]
async fn the_environment_is_complete_and_stop_ends_everything() {
    let run = fresh().await;
    let environment = run.services.environment();
    for key in [
        "AWS_ENDPOINT_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
        "AWS_EC2_METADATA_DISABLED",
    ] {
        assert!(environment.iter().any(|(name, value)| *name == key && !value.is_empty()));
    }
    // An idle keep-alive connection must not hold the stop up.
    run.clients.s3.list_buckets().send().await.unwrap();
    let address = run.services.address;
    let before = std::time::Duration::from_secs(1);
    tokio::time::timeout(before, run.services.stop()).await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn another_service_is_refused_by_name() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let run = fresh().await;
    let mut stream = tokio::net::TcpStream::connect(run.services.address).await.unwrap();
    let request = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-amz-target: AmazonSQS.SendMessage\r\ncontent-length: 2\r\n\r\n{}";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    assert!(text.contains("AmazonSQS.SendMessage"), "{text}");
}

#[tokio::test]
async fn an_open_subscription_does_not_hold_the_stop_up() {
    let run = fresh().await;
    let kinesis = &run.clients.kinesis;
    let create = kinesis.create_stream().stream_name("events").shard_count(1);
    create.send().await.unwrap();
    let about = kinesis.describe_stream_summary().stream_name("events").send();
    let about = about.await.unwrap();
    let arn = about.stream_description_summary().unwrap().stream_arn();
    let register = kinesis.register_stream_consumer().stream_arn(arn);
    let consumer = register.consumer_name("c").send().await.unwrap();
    let start = kds::types::StartingPosition::builder()
        .r#type(kds::types::ShardIteratorType::Latest)
        .build()
        .unwrap();
    let subscription = kinesis
        .subscribe_to_shard()
        .consumer_arn(consumer.consumer().unwrap().consumer_arn())
        .shard_id("shardId-000000000000")
        .starting_position(start)
        .send()
        .await
        .unwrap();
    let limit = std::time::Duration::from_secs(5);
    tokio::time::timeout(limit, run.services.stop()).await.unwrap().unwrap();
    drop(subscription);
}
