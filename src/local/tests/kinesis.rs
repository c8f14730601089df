use std::time::Duration;

use aws_sdk_kinesis::error::ProvideErrorMetadata;
use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::primitives::{Blob, DateTime};
use aws_sdk_kinesis::types::{
    PutRecordsRequestEntry, ShardFilter, ShardFilterType, ShardIteratorType, StartingPosition,
    StreamStatus, SubscribeToShardEventStream,
};

use super::*;

pub(super) const FIRST: &str = "shardId-000000000000";

async fn stream(shards: i32) -> (Running, String) {
    let run = fresh().await;
    let kinesis = &run.clients.kinesis;
    kinesis.create_stream().stream_name("events").shard_count(shards).send().await.unwrap();
    let summary = kinesis.describe_stream_summary().stream_name("events").send().await.unwrap();
    let summary = summary.stream_description_summary().unwrap();
    // At once, not after polling.
    assert_eq!(summary.stream_status(), &StreamStatus::Active);
    let arn = summary.stream_arn().to_owned();
    (run, arn)
}

pub(super) async fn put(kinesis: &kds::Client, data: &str) -> String {
    let put = kinesis.put_record().stream_name("events").partition_key(data).data(Blob::new(data));
    put.send().await.unwrap().sequence_number().to_owned()
}

async fn iterator(kinesis: &kds::Client, shard: &str, kind: ShardIteratorType) -> String {
    let get = kinesis
        .get_shard_iterator()
        .stream_name("events")
        .shard_id(shard)
        .shard_iterator_type(kind);
    get.send().await.unwrap().shard_iterator().unwrap().to_owned()
}

async fn read(kinesis: &kds::Client, iterator: &str) -> GetRecordsOutput {
    kinesis.get_records().shard_iterator(iterator).send().await.unwrap()
}

pub(super) async fn texts(kinesis: &kds::Client, shard: &str) -> Vec<String> {
    let iterator = iterator(kinesis, shard, ShardIteratorType::TrimHorizon).await;
    text_of(&read(kinesis, &iterator).await)
}

fn text_of(page: &GetRecordsOutput) -> Vec<String> {
    let records = page.records().iter();
    records.map(|r| String::from_utf8(r.data().as_ref().to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_stream_created_again_within_a_second_has_another_creation_time() {
    let (run, _) = stream(1).await;
    let kinesis = &run.clients.kinesis;
    let mut times = Vec::new();
    for _ in 0..3 {
        let told = kinesis.describe_stream_summary().stream_name("events").send().await.unwrap();
        let summary = told.stream_description_summary.unwrap();
        times.push(summary.stream_creation_timestamp.as_nanos());
        kinesis.delete_stream().stream_name("events").send().await.unwrap();
        kinesis.create_stream().stream_name("events").shard_count(1).send().await.unwrap();
    }
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
}

#[tokio::test]
async fn split_ends_the_parent_with_its_children() {
    let (run, arn) = stream(1).await;
    let kinesis = &run.clients.kinesis;
    for i in 0..5 {
        put(kinesis, &format!("old {i}")).await;
    }
    let split = || {
        kinesis
            .split_shard()
            .stream_arn(&arn)
            .shard_to_split(FIRST)
            .new_starting_hash_key((1u128 << 127).to_string())
            .send()
    };
    split().await.unwrap();
    let again = split().await.unwrap_err().into_service_error();
    assert!(again.is_resource_in_use_exception(), "{again:?}");
    put(kinesis, "new").await;

    let start = iterator(kinesis, FIRST, ShardIteratorType::TrimHorizon).await;
    let page = kinesis.get_records().shard_iterator(&start).limit(3).send().await.unwrap();
    assert_eq!(page.records().len(), 3);
    assert!(page.child_shards().is_empty());
    assert!(page.millis_behind_latest().unwrap() > 0);
    let last = read(kinesis, page.next_shard_iterator().unwrap()).await;
    assert_eq!(text_of(&last), ["old 3", "old 4"]);
    assert_eq!(last.next_shard_iterator(), None);
    assert_eq!(last.millis_behind_latest(), Some(0));
    let children = last.child_shards();
    assert_eq!(children.len(), 2);
    assert_eq!(children[0].parent_shards(), [FIRST]);
    assert_eq!(children[0].hash_key_range().unwrap().starting_hash_key(), "0");
    assert_eq!(
        children[1].hash_key_range().unwrap().starting_hash_key(),
        (1u128 << 127).to_string()
    );
    let mut found = Vec::new();
    for child in children {
        found.extend(texts(kinesis, child.shard_id()).await);
    }
    assert_eq!(found, ["new"]);

    // An iterator already at the end gets the children, too.
    let tip = iterator(kinesis, FIRST, ShardIteratorType::Latest).await;
    let page = read(kinesis, &tip).await;
    assert_eq!((page.child_shards().len(), page.next_shard_iterator()), (2, None));

    let merge = kinesis
        .merge_shards()
        .stream_name("events")
        .shard_to_merge(children[0].shard_id())
        .adjacent_shard_to_merge(children[1].shard_id());
    merge.send().await.unwrap();
    let page = read(
        kinesis,
        &iterator(kinesis, children[1].shard_id(), ShardIteratorType::TrimHorizon).await,
    )
    .await;
    assert_eq!(page.child_shards().len(), 1);
    assert_eq!(page.child_shards()[0].parent_shards().len(), 2);
    put(kinesis, "newest").await;
    assert_eq!(texts(kinesis, page.child_shards()[0].shard_id()).await, ["newest"]);
}

#[tokio::test]
async fn resizing_keeps_the_lineage() {
    let (run, arn) = stream(2).await;
    let kinesis = &run.clients.kinesis;
    for target in [4, 3, 1, 5] {
        kinesis
            .update_shard_count()
            .stream_arn(&arn)
            .target_shard_count(target)
            .scaling_type(kds::types::ScalingType::UniformScaling)
            .send()
            .await
            .unwrap();
        let all = kinesis.list_shards().stream_arn(&arn).send().await.unwrap();
        let (mut open, mut next) = (0, 0u128);
        let mut shards: Vec<_> = all.shards().iter().collect();
        shards.sort_by_key(|s| {
            s.hash_key_range().unwrap().starting_hash_key().parse::<u128>().unwrap()
        });
        for shard in shards {
            if shard.sequence_number_range().unwrap().ending_sequence_number().is_none() {
                let range = shard.hash_key_range().unwrap();
                assert_eq!(range.starting_hash_key().parse::<u128>().unwrap(), next);
                next = range.ending_hash_key().parse::<u128>().unwrap().wrapping_add(1);
                open += 1;
                assert!(shard.parent_shard_id().is_some());
            }
        }
        assert_eq!((open, next), (target, 0));
    }
}

#[tokio::test]
async fn shards_are_listed_in_pages_and_by_arn() {
    let (run, arn) = stream(7).await;
    let kinesis = &run.clients.kinesis;
    let first = kinesis.list_shards().stream_arn(&arn).max_results(3).send().await.unwrap();
    let (mut seen, mut token) = (first.shards().len(), first.next_token().map(str::to_owned));
    assert_eq!(seen, 3);
    while let Some(next) = token {
        let page = kinesis.list_shards().next_token(next).max_results(3).send().await.unwrap();
        seen += page.shards().len();
        token = page.next_token().map(str::to_owned);
    }
    assert_eq!(seen, 7);
    let both = kinesis.list_shards().stream_name("events").next_token("x").send().await;
    assert!(both.unwrap_err().into_service_error().is_invalid_argument_exception());
    let after = kinesis
        .list_shards()
        .stream_name("events")
        .exclusive_start_shard_id("shardId-000000000004");
    assert_eq!(after.send().await.unwrap().shards().len(), 2);

    let split = kinesis
        .split_shard()
        .stream_name("events")
        .shard_to_split(FIRST)
        .new_starting_hash_key("1000");
    split.send().await.unwrap();
    for (kind, count) in [
        (ShardFilterType::AtLatest, 8),
        (ShardFilterType::FromTrimHorizon, 9),
        (ShardFilterType::AtTrimHorizon, 7),
    ] {
        let filter = ShardFilter::builder().r#type(kind.clone()).build().unwrap();
        let listed =
            kinesis.list_shards().stream_name("events").shard_filter(filter).send().await.unwrap();
        assert_eq!(listed.shards().len(), count, "{kind:?}");
    }
}

#[tokio::test]
async fn everything_takes_the_arn() {
    let (run, arn) = stream(1).await;
    let kinesis = &run.clients.kinesis;
    let sent = kinesis.put_record().stream_arn(&arn).partition_key("k").data(Blob::new("one"));
    sent.send().await.unwrap();
    let entry = PutRecordsRequestEntry::builder()
        .partition_key("k")
        .data(Blob::new("two"))
        .build()
        .unwrap();
    kinesis.put_records().stream_arn(&arn).records(entry).send().await.unwrap();
    let start = kinesis.get_shard_iterator().stream_arn(&arn).shard_id(FIRST);
    let start = start.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
    let page =
        kinesis.get_records().stream_arn(&arn).shard_iterator(start.shard_iterator().unwrap());
    assert_eq!(text_of(&page.send().await.unwrap()), ["one", "two"]);
    let summary = kinesis.describe_stream_summary().stream_arn(&arn).send().await.unwrap();
    let summary = summary.stream_description_summary().unwrap();
    assert_eq!(summary.stream_arn(), arn);
    assert!(arn.contains(REGION), "{arn}");
    assert_eq!(summary.retention_period_hours(), 24);
    assert!(summary.stream_creation_timestamp().secs() > 1_700_000_000);
    let whole = kinesis.describe_stream().stream_arn(&arn).send().await.unwrap();
    assert_eq!(whole.stream_description().unwrap().shards().len(), 1);
    kinesis
        .increase_stream_retention_period()
        .stream_arn(&arn)
        .retention_period_hours(48)
        .send()
        .await
        .unwrap();
    kinesis.delete_stream().stream_arn(&arn).send().await.unwrap();
    let gone = kinesis.describe_stream_summary().stream_arn(&arn).send().await;
    assert!(gone.unwrap_err().into_service_error().is_resource_not_found_exception());
    // A new stream of that name starts empty.
    kinesis.create_stream().stream_name("events").shard_count(1).send().await.unwrap();
    assert!(texts(kinesis, FIRST).await.is_empty());
}

#[tokio::test]
async fn positions() {
    let (run, _) = stream(1).await;
    let kinesis = &run.clients.kinesis;
    let latest = iterator(kinesis, FIRST, ShardIteratorType::Latest).await;
    let empty = read(kinesis, &latest).await;
    assert_eq!((empty.records().len(), empty.millis_behind_latest()), (0, Some(0)));
    let one = put(kinesis, "one").await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    put(kinesis, "two").await;
    // Idle iterators lose nothing, and an iterator may be used again.
    for token in [&latest, empty.next_shard_iterator().unwrap(), &latest] {
        assert_eq!(text_of(&read(kinesis, token).await), ["one", "two"]);
    }
    let at = |kind, number: &str| {
        let get = kinesis.get_shard_iterator().stream_name("events").shard_id(FIRST);
        get.shard_iterator_type(kind).starting_sequence_number(number).send()
    };
    let token = at(ShardIteratorType::AtSequenceNumber, &one).await.unwrap();
    assert_eq!(read(kinesis, token.shard_iterator().unwrap()).await.records().len(), 2);
    let token = at(ShardIteratorType::AfterSequenceNumber, &one).await.unwrap();
    let page = read(kinesis, token.shard_iterator().unwrap()).await;
    assert_eq!(text_of(&page), ["two"]);
    let arrival = *page.records()[0].approximate_arrival_timestamp().unwrap();

    let from = |when: DateTime| {
        let get = kinesis.get_shard_iterator().stream_name("events").shard_id(FIRST);
        get.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(when).send()
    };
    // Milliseconds count: the two records lie in one second or two, but never in one instant.
    let token = from(arrival).await.unwrap();
    assert_eq!(text_of(&read(kinesis, token.shard_iterator().unwrap()).await), ["two"]);
    // Past the last record means the tip, not the beginning.
    tokio::time::sleep(Duration::from_millis(30)).await;
    let past = DateTime::from_millis(arrival.to_millis().unwrap() + 10);
    let token = from(past).await.unwrap();
    let tip = read(kinesis, token.shard_iterator().unwrap()).await;
    assert_eq!(tip.records().len(), 0);
    put(kinesis, "three").await;
    assert_eq!(text_of(&read(kinesis, tip.next_shard_iterator().unwrap()).await), ["three"]);

    let garbage = kinesis.get_records().shard_iterator("garbage").send().await;
    assert!(garbage.unwrap_err().into_service_error().is_invalid_argument_exception());
    let limit = kinesis.get_records().shard_iterator(&latest).limit(10_001).send().await;
    assert_eq!(limit.unwrap_err().code(), Some("ValidationException"));
}

#[tokio::test]
async fn pages_are_capped_and_lag_is_told() {
    let (run, arn) = stream(1).await;
    let kinesis = &run.clients.kinesis;
    for i in 0..12u8 {
        let data = Blob::new(vec![i; 1_000_000]);
        kinesis
            .put_record()
            .stream_name("events")
            .partition_key("k")
            .data(data)
            .send()
            .await
            .unwrap();
    }
    let start = iterator(kinesis, FIRST, ShardIteratorType::TrimHorizon).await;
    let page = read(kinesis, &start).await;
    assert_eq!(page.records().len(), 10);
    assert!(page.millis_behind_latest().unwrap() > 0);
    let rest = read(kinesis, page.next_shard_iterator().unwrap()).await;
    assert_eq!(rest.records().len(), 2);
    assert_eq!(rest.millis_behind_latest(), Some(0));

    // Record sizes: 1 MiB with the key, up to 10 MiB when the stream allows it, and none at all.
    let send = |size: usize| {
        let data = Blob::new(vec![7; size]);
        kinesis.put_record().stream_name("events").partition_key("k").data(data).send()
    };
    send((1 << 20) - 1).await.unwrap();
    assert_eq!(send(1 << 20).await.unwrap_err().code(), Some("ValidationException"));
    kinesis
        .update_max_record_size()
        .stream_arn(&arn)
        .max_record_size_in_kib(10_240)
        .send()
        .await
        .unwrap();
    send(10 * 1024 * 1024 - 1).await.unwrap();
    send(0).await.unwrap();
    let page = read(kinesis, rest.next_shard_iterator().unwrap()).await;
    assert_eq!(page.records().len(), 1);
    let page = read(kinesis, page.next_shard_iterator().unwrap()).await;
    let page_of = |p: &GetRecordsOutput| {
        p.records().iter().map(|r| r.data().as_ref().len()).collect::<Vec<_>>()
    };
    assert_eq!(page_of(&page), [10 * 1024 * 1024 - 1, 0]);
}

#[tokio::test]
async fn a_batch_keeps_its_order_and_its_limits() {
    let (run, _) = stream(4).await;
    let kinesis = &run.clients.kinesis;
    let entry = |i: usize| {
        let entry = PutRecordsRequestEntry::builder().partition_key(i.to_string());
        entry.data(Blob::new(i.to_string())).build().unwrap()
    };
    let records: Vec<_> = (0..500).map(entry).collect();
    let sent = kinesis
        .put_records()
        .stream_name("events")
        .set_records(Some(records))
        .send()
        .await
        .unwrap();
    assert_eq!((sent.failed_record_count(), sent.records().len()), (Some(0), 500));
    let mut all = Vec::new();
    for shard in 0..4 {
        let found = texts(kinesis, &format!("shardId-{shard:012}")).await;
        let found: Vec<usize> = found.iter().map(|t| t.parse().unwrap()).collect();
        assert!(found.is_sorted());
        all.extend(found);
    }
    all.sort_unstable();
    assert_eq!(all, (0..500).collect::<Vec<_>>());
    let many: Vec<_> = (0..501).map(entry).collect();
    let many = kinesis.put_records().stream_name("events").set_records(Some(many)).send().await;
    assert_eq!(many.unwrap_err().code(), Some("ValidationException"));

    let explicit =
        kinesis.put_record().stream_name("events").partition_key("x").explicit_hash_key("0");
    let placed = explicit.data(Blob::new("x")).send().await.unwrap();
    assert_eq!(placed.shard_id(), FIRST);
}

/// Service-managed distribution: no partition key in, none out. The SDK cannot leave it out.
#[tokio::test]
async fn a_record_without_key() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (run, _) = stream(1).await;
    let body = r#"{"StreamName":"events","Data":"aGk="}"#;
    let mut socket = tokio::net::TcpStream::connect(run.services.address).await.unwrap();
    let request = format!(
        "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-amz-json-1.1\r\nx-amz-target: Kinesis_20131202.PutRecord\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert_eq!(texts(&run.clients.kinesis, FIRST).await, ["hi"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_of_racing_writers_misses_nothing() {
    let (run, _) = stream(1).await;
    let kinesis = &run.clients.kinesis;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let kinesis = kinesis.clone();
        writers.spawn(async move {
            for i in 0..50 {
                put(&kinesis, &format!("{writer}-{i}")).await;
            }
        });
    }
    let mut token = iterator(kinesis, FIRST, ShardIteratorType::TrimHorizon).await;
    let mut found = Vec::new();
    while found.len() < 400 {
        let page = read(kinesis, &token).await;
        found.extend(text_of(&page));
        token = page.next_shard_iterator().unwrap().to_owned();
        if writers.is_empty() {
            break;
        }
        while writers.try_join_next().is_some() {}
    }
    found.extend(text_of(&read(kinesis, &token).await));
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 400);
}

#[tokio::test]
async fn many_shards_and_on_demand() {
    let run = fresh().await;
    let kinesis = &run.clients.kinesis;
    kinesis.create_stream().stream_name("wide").shard_count(300).send().await.unwrap();
    let mode = kds::types::StreamModeDetails::builder()
        .stream_mode(kds::types::StreamMode::OnDemand)
        .build()
        .unwrap();
    kinesis.create_stream().stream_name("free").stream_mode_details(mode).send().await.unwrap();
    let summary = kinesis.describe_stream_summary().stream_name("free").send().await.unwrap();
    let summary = summary.stream_description_summary().unwrap();
    assert_eq!(summary.open_shard_count(), 4);
    let mode = summary.stream_mode_details().unwrap().stream_mode();
    assert_eq!(mode, &kds::types::StreamMode::OnDemand);
    let again = kinesis.create_stream().stream_name("wide").shard_count(1).send().await;
    assert!(again.unwrap_err().into_service_error().is_resource_in_use_exception());
}

#[tokio::test]
async fn fanout_delivers_and_ends_with_the_children() {
    let (run, arn) = stream(1).await;
    let kinesis = &run.clients.kinesis;
    let consumer = kinesis
        .register_stream_consumer()
        .stream_arn(&arn)
        .consumer_name("c")
        .send()
        .await
        .unwrap();
    let consumer = consumer.consumer().unwrap().consumer_arn().to_owned();
    put(kinesis, "before").await;
    let subscribe = || {
        let start =
            StartingPosition::builder().r#type(ShardIteratorType::TrimHorizon).build().unwrap();
        kinesis
            .subscribe_to_shard()
            .consumer_arn(&consumer)
            .shard_id(FIRST)
            .starting_position(start)
            .send()
    };
    let mut events = subscribe().await.unwrap().event_stream;
    let second = subscribe().await.err().unwrap().into_service_error();
    assert!(second.is_resource_in_use_exception(), "{second:?}");
    let (mut seen, mut children) = (Vec::new(), 0);
    put(kinesis, "during").await;
    while let Some(event) = events.recv().await.unwrap() {
        let SubscribeToShardEventStream::SubscribeToShardEvent(event) = event else {
            continue;
        };
        seen.extend(event.records().iter().map(|r| r.data().as_ref().to_vec()));
        children = event.child_shards().len();
        assert_eq!(children == 2, event.continuation_sequence_number().is_empty());
        if seen.len() == 2 && children == 0 {
            let split = kinesis
                .split_shard()
                .stream_arn(&arn)
                .shard_to_split(FIRST)
                .new_starting_hash_key("9");
            split.send().await.unwrap();
        }
    }
    assert_eq!(seen, [b"before".to_vec(), b"during".to_vec()]);
    assert_eq!(children, 2);
}

#[tokio::test]
async fn cbor_is_refused_with_the_way_out() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let run = fresh().await;
    let mut socket = tokio::net::TcpStream::connect(run.services.address).await.unwrap();
    let request = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-amz-cbor-1.1\r\nx-amz-target: Kinesis_20131202.ListStreams\r\ncontent-length: 1\r\n\r\n\xa0";
    socket.write_all(request).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("AWS_CBOR_DISABLE"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput() {
    for durable in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (services, clients) = start(options(dir.path(), durable)).await;
        let kinesis = &clients.kinesis;
        kinesis.create_stream().stream_name("events").shard_count(4).send().await.unwrap();
        let records: Vec<_> = (0..500)
            .map(|i| {
                let entry = PutRecordsRequestEntry::builder().partition_key(i.to_string());
                entry.data(Blob::new(vec![b'x'; 1000])).build().unwrap()
            })
            .collect();
        let clock = Clock::system();
        for _ in 0..10 {
            let send =
                kinesis.put_records().stream_name("events").set_records(Some(records.clone()));
            send.send().await.unwrap();
        }
        let wrote = clock.now();
        let mut count = 0;
        for shard in 0..4 {
            count += texts(kinesis, &format!("shardId-{shard:012}")).await.len();
        }
        let read = clock.now() - wrote;
        println!(
            "durable {durable}: 5000 records of 1 kB written in {wrote:?}, {count} read in {read:?}"
        );
        services.stop().await.unwrap();
    }
}
