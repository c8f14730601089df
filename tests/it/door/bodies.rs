//! Uploads: good ones, bad bodies, many at once, and a stream that fails.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use catchment::upload::event::{max_body_bytes, sha256_hex};
use serde_json::{Value, json};

use super::http::send;
use super::stub::Mode;
use super::{assert_error, world, world_with};

const LIMIT: usize = 785_637;

#[tokio::test]
async fn an_upload_is_put_stored_and_seen_by_its_owner_alone() {
    let world = world().await;
    let (alice, bob) = (world.token_of("alice"), world.token_of("bob"));
    let answer = world.upload(&alice, &[("content-type", "text/plain")], "Hello").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    let key = json["file_key"].as_str().unwrap().to_owned();
    assert_eq!(json, json!({"message": "File uploaded and event sent", "file_key": key}));
    let uuid = key.strip_prefix("uploads/").unwrap().strip_suffix(".txt").unwrap();
    assert_eq!(uuid::Uuid::parse_str(uuid).unwrap().get_version_num(), 4);

    let event = world.stub.events().remove(0);
    assert_eq!(event.file_key.as_str(), key);
    assert_eq!(event.body, b"Hello");
    assert_eq!(event.content_type, "text/plain");
    assert_eq!(Some(event.request_id.as_str()), answer.header("x-request-id"));
    let (partition_key, record) = world.stub.seen(|s| s.records[0].clone());
    assert_eq!(partition_key, uuid);
    let record = String::from_utf8(record).unwrap();
    assert!(!record.contains("alice"), "the identity stays out of the stream");

    assert_error(&world.look_up(&alice, &key).await, 404, "not_found");
    world.stub.store_all();
    let stored = world.look_up(&alice, &key).await;
    assert_eq!(stored.status, 200);
    let expected =
        json!({"status": "stored", "file_key": key, "size": 5, "sha256": sha256_hex(b"Hello")});
    assert_eq!(stored.json(), expected);
    let denied = world.look_up(&bob, &key).await;
    assert_error(&denied, 404, "not_found");
    let message = &denied.json()["error"]["message"];
    assert_eq!(message, "not stored yet or unknown");

    // S3 answers 403 for a missing object to a role that may not list.
    world.stub.set(Mode::Denied);
    assert_error(&world.look_up(&alice, &key).await, 404, "not_found");
    world.stub.set(Mode::Ill);
    let ill = world.look_up(&alice, &key).await;
    assert_error(&ill, 503, "unavailable");
    assert!(ill.header("retry-after").is_some());
}

#[tokio::test]
async fn bad_bodies_and_headers() {
    let world = world().await;
    let token = world.token();
    assert_eq!(max_body_bytes(1 << 20), LIMIT);
    let text = [("content-type", "text/plain")];
    let binary = [("content-type", "application/octet-stream")];

    assert_error(&world.upload(&token, &text, "").await, 400, "empty_body");
    assert_eq!(world.upload(&token, &binary, vec![0xff; LIMIT]).await.status, 200);
    assert_eq!(world.upload(&token, &text, vec![b'a'; LIMIT]).await.status, 200);
    let largest = world.stub.seen(|s| s.records.iter().map(|r| r.1.len() + 36).max()).unwrap();
    assert!(largest <= 1 << 20, "{largest}");
    for size in [LIMIT + 1, 6 << 20] {
        let answer = world.upload(&token, &binary, vec![0; size]).await;
        assert_error(&answer, 413, "too_large");
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains("785637"), "{message}");
    }
    let huge = world.upload(&token, &binary, vec![0; (10 << 20) + 1]).await;
    assert_eq!((huge.status, huge.json()), (413, json!({"message": "Request Entity Too Large"})));

    for (content_type, status, extension) in [
        ("image/png", 200, "png"),
        ("IMAGE/PNG; x=y", 200, "png"),
        ("application/x-www-form-urlencoded", 200, "txt"),
        ("made/up", 200, "txt"),
        ("", 200, "txt"),
        ("text", 400, ""),
        ("text/", 400, ""),
        ("text/plain; charset=\u{fc}", 400, ""),
        ("../etc/passwd", 400, ""),
        ("multipart/form-data; boundary=x", 415, ""),
    ] {
        let answer = world.upload(&token, &[("content-type", content_type)], "x").await;
        assert_eq!(answer.status, status, "{content_type}: {answer:?}");
        if status == 200 {
            let key = answer.json()["file_key"].as_str().unwrap().to_owned();
            assert!(key.ends_with(&format!(".{extension}")), "{content_type}: {key}");
        }
    }
    let long = "x".repeat(10 * 1024);
    let answer = world.upload(&token, &[("x-long", &long)], "x").await;
    assert_eq!(answer.status, 431, "the gateway's limit");
    let nearly = "x".repeat(9000);
    assert_eq!(world.upload(&token, &[("x-long", &nearly)], "x").await.status, 200);
    let typed = format!("text/{nearly}");
    let answer = world.upload(&token, &[("content-type", &typed)], "x").await;
    assert_error(&answer, 400, "bad_content_type");
    for key in [nearly.as_str(), "\u{e4}", " "] {
        let answer = world.upload(&token, &[("idempotency-key", key)], "x").await;
        assert_error(&answer, 400, "bad_idempotency_key");
    }
    let unicode = world.upload(&token, &[("x-name", "Grüße, 世界")], "Grüße, 世界").await;
    assert_eq!(unicode.status, 200);
    assert_eq!(world.stub.events().last().unwrap().body, "Grüße, 世界".as_bytes());
    // A text type with bytes that are not text arrives unharmed.
    assert_eq!(world.upload(&token, &text, vec![0xff, 0xfe, 0x00]).await.status, 200);
    assert_eq!(world.stub.events().last().unwrap().body, [0xff, 0xfe, 0x00]);
    for name in ["..%2F..%2Fetc", "%00", "a".repeat(300).as_str(), "a b"] {
        let name = name.replace(' ', "%20");
        let answer = world.look_up(&token, &format!("uploads/{name}")).await;
        assert_error(&answer, 404, "not_found");
    }
}

#[tokio::test]
async fn the_same_key_of_the_same_caller_is_the_same_file() {
    let world = world().await;
    let (alice, bob) = (world.token_of("alice"), world.token_of("bob"));
    let put = async |token: &str, key: &str, body: &str| {
        let answer = world.upload(token, &[("idempotency-key", key)], body).await;
        assert_eq!(answer.status, 200);
        answer.json()["file_key"].as_str().unwrap().to_owned()
    };
    let first = put(&alice, "order-1", "a").await;
    assert_eq!(put(&alice, "order-1", "a").await, first);
    assert_eq!(put(&alice, "order-1", "other content").await, first);
    assert_ne!(put(&bob, "order-1", "a").await, first);
    assert_ne!(put(&alice, "order-2", "a").await, first);
    assert_ne!(put(&alice, "order-1 ", "a").await, "", "surrounding blanks do not count");
    world.stub.store_all();
    assert_eq!(world.stub.seen(|s| s.objects.len()), 3, "no second object");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_at_once() {
    let world = Arc::new(world().await);
    let token = world.token();
    // Each is three open files; a shell allows 1,024 where nobody asked for more.
    let room = Arc::new(tokio::sync::Semaphore::new(250));
    let mut all = tokio::task::JoinSet::new();
    for n in 0..1000 {
        let (world, token, room) = (world.clone(), token.clone(), room.clone());
        all.spawn(async move {
            let _room = room.acquire().await.unwrap();
            let body = format!("file {n}");
            let answer = world.upload(&token, &[], body.clone()).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            (answer.json()["file_key"].as_str().unwrap().to_owned(), body)
        });
    }
    let acknowledged: HashSet<_> = all.join_all().await.into_iter().collect();
    let put: HashSet<_> = world
        .stub
        .events()
        .into_iter()
        .map(|e| (e.file_key.as_str().to_owned(), String::from_utf8(e.body).unwrap()))
        .collect();
    assert_eq!(acknowledged.len(), 1000);
    assert_eq!(put, acknowledged);
}

#[tokio::test]
async fn a_stream_that_fails() {
    let world = world_with(|o| o.put_deadline = Duration::from_secs(3)).await;
    let token = world.token();
    let upload = async || world.upload(&token, &[], "x").await;

    // The second attempt is cut by the deadline: what is known is that the stream throttles.
    for mode in [Mode::ThrottledOnce, Mode::Throttled] {
        world.stub.set(mode);
        let answer = upload().await;
        assert_error(&answer, 503, "throttled");
        assert_eq!(answer.header("retry-after"), Some("2"));
    }
    assert!(world.stub.seen(|s| s.calls) > 4, "it was tried again");
    for mode in [Mode::Ill, Mode::Silent] {
        world.stub.set(mode);
        let answer = upload().await;
        assert_error(&answer, 503, "unavailable");
        assert_eq!(answer.header("retry-after"), Some("5"));
    }
    // From here on nothing should run into a deadline, however busy the machine is.
    let world = super::world().await;
    let token = world.token();
    let upload = async || world.upload(&token, &[], "x").await;
    for mode in [Mode::Denied, Mode::NoStream] {
        world.stub.set(mode);
        let calls = world.stub.seen(|s| s.calls);
        let answer = upload().await;
        assert_error(&answer, 500, "internal");
        assert!(!answer.text().contains("role X"), "no inner detail reaches a caller");
        assert_eq!(world.stub.seen(|s| s.calls), calls + 1, "trying again would not help");
    }
    world.stub.set(Mode::SmallRecords);
    assert_error(&upload().await, 413, "too_large");
    assert!(world.stub.events().is_empty());

    // A lost reply: the event is put twice, byte for byte the same, and is one object.
    world.stub.set(Mode::LoseOneReply);
    assert_eq!(upload().await.status, 200);
    let records = world.stub.seen(|s| s.records.clone());
    assert_eq!(records.len(), 2);
    assert_eq!(records[0], records[1]);
}

#[tokio::test]
async fn no_stream_at_all() {
    let world = world_with(|o| {
        o.kinesis_endpoint = "http://127.0.0.1:9".into();
        o.put_deadline = Duration::from_millis(300);
    })
    .await;
    let answer = world.upload(&world.token(), &[], "x").await;
    assert_error(&answer, 503, "unavailable");
    assert!(answer.header("retry-after").is_some());
}

/// Set `DOOR_OUTAGE_SECONDS=30` for the long version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_loses_nothing_acknowledged() {
    let seconds = std::env::var("DOOR_OUTAGE_SECONDS").map_or(2, |s| s.parse().unwrap());
    let world = world_with(|o| o.put_deadline = Duration::from_millis(500)).await;
    let world = Arc::new(world);
    let token = world.token();
    let mut callers = tokio::task::JoinSet::new();
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for caller in 0..8 {
        let (world, token, over) = (world.clone(), token.clone(), over.clone());
        callers.spawn(async move {
            let mut outcomes = Vec::new();
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let body = format!("{caller}/{}", outcomes.len());
                let answer = world.upload(&token, &[], body.clone()).await;
                match answer.status {
                    200 => outcomes.push((true, body)),
                    503 => {
                        assert!(answer.header("retry-after").is_some());
                        outcomes.push((false, body));
                    }
                    other => panic!("{other}: {answer:?}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            outcomes
        });
    }
    let pause = Duration::from_millis(500);
    tokio::time::sleep(pause).await;
    world.stub.set(Mode::Ill);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    world.stub.set(Mode::Up);
    tokio::time::sleep(pause).await;
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    let outcomes: Vec<(bool, String)> = callers.join_all().await.concat();
    let put: HashSet<Vec<u8>> = world.stub.events().into_iter().map(|e| e.body).collect();
    let (mut yes, mut no) = (0, 0);
    for (acknowledged, body) in &outcomes {
        if *acknowledged {
            yes += 1;
            assert!(put.contains(body.as_bytes()), "{body} was acknowledged and is lost");
        } else {
            no += 1;
        }
    }
    println!("outage of {seconds} s: {yes} acknowledged and present, {no} refused with 503");
    assert!(yes > 0 && no > 0);
}

#[tokio::test]
async fn the_gateway_hands_over_a_v2_event() {
    let world = world().await;
    let token = world.token();
    let bearer = format!("Bearer {token}");
    let url = format!("{}/?a=b", world.door.api_url);
    let answer = send("POST", &url, &[("authorization", &bearer)], "at the root").await;
    assert_eq!(answer.status, 200);
    let id = answer.header("x-request-id").unwrap();
    assert_eq!(answer.header("apigw-requestid"), Some(id));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let event: Value =
        serde_json::from_slice(&world.stub.seen(|s| s.records[0].1.clone())).unwrap();
    assert_eq!(event["request_id"], id);
    world.door.stop().await;
}
