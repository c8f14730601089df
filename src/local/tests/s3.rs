use std::collections::BTreeSet;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, CompletedMultipartUpload, CompletedPart, Delete,
    ObjectIdentifier,
};

use super::*;

async fn bucket() -> Running {
    let run = fresh().await;
    run.clients.s3.create_bucket().bucket("bucket").send().await.unwrap();
    run
}

fn body(text: &str) -> ByteStream {
    ByteStream::from(text.as_bytes().to_vec())
}

/// A body of unknown checksum: the SDK sends it aws-chunked with a trailer.
async fn streamed(dir: &Path, bytes: &[u8]) -> ByteStream {
    let path = dir.join("upload");
    std::fs::write(&path, bytes).unwrap();
    ByteStream::from_path(path).await.unwrap()
}

#[tokio::test]
async fn objects_are_plain_files_with_their_metadata() {
    let run = bucket().await;
    let s3 = &run.clients.s3;
    let put = s3
        .put_object()
        .bucket("bucket")
        .key("a/b=1/c d+ü.json")
        .content_type("application/json")
        .content_encoding("gzip")
        .metadata("subject", "me")
        .body(body("{\"a\":1}"))
        .send()
        .await
        .unwrap();
    let file = run.dir.path().join("objects/bucket/a/b=1/c d+ü.json");
    assert_eq!(std::fs::read(file).unwrap(), b"{\"a\":1}");
    let head = s3.head_object().bucket("bucket").key("a/b=1/c d+ü.json").send().await.unwrap();
    assert_eq!(head.e_tag(), put.e_tag());
    assert_eq!(head.content_length(), Some(7));
    assert_eq!(head.content_type(), Some("application/json"));
    assert_eq!(head.content_encoding(), Some("gzip"));
    assert_eq!(head.metadata().unwrap()["subject"], "me");
    assert!(head.last_modified().is_some());

    let get = s3
        .get_object()
        .bucket("bucket")
        .key("a/b=1/c d+ü.json")
        .range("bytes=1-3")
        .send()
        .await
        .unwrap();
    assert_eq!(get.content_range(), Some("bytes 1-3/7"));
    assert_eq!(get.body.collect().await.unwrap().to_vec(), b"\"a\"");
    let get =
        s3.get_object().bucket("bucket").key("a/b=1/c d+ü.json").range("bytes=7-").send().await;
    assert_eq!(get.unwrap_err().code(), Some("InvalidRange"));
}

#[tokio::test]
async fn buckets() {
    let run = bucket().await;
    let s3 = &run.clients.s3;
    s3.head_bucket().bucket("bucket").send().await.unwrap();
    assert!(
        s3.head_bucket()
            .bucket("missing")
            .send()
            .await
            .unwrap_err()
            .into_service_error()
            .is_not_found()
    );
    let list = s3.list_buckets().send().await.unwrap();
    let names: Vec<_> = list.buckets().iter().filter_map(|b| b.name()).collect();
    assert_eq!(names, ["bucket"]);
    let location = s3.get_bucket_location().bucket("bucket").send().await.unwrap();
    assert_eq!(location.location_constraint().unwrap().as_str(), REGION);
    let put = s3.put_object().bucket("missing").key("k").body(body("x")).send().await;
    assert_eq!(put.unwrap_err().code(), Some("NoSuchBucket"));
    let again = s3.create_bucket().bucket("bucket").send().await;
    assert_eq!(again.unwrap_err().code(), Some("BucketAlreadyOwnedByYou"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_racing_creations_have_one_winner_each() {
    let run = bucket().await;
    for key in 0..10 {
        let mut racers = tokio::task::JoinSet::new();
        for racer in 0..16 {
            let put = run
                .clients
                .s3
                .put_object()
                .bucket("bucket")
                .key(format!("race/{key}"))
                .if_none_match("*")
                .metadata("racer", racer.to_string())
                .body(body(&format!("from {racer}")));
            racers.spawn(async move { (racer, put.send().await) });
        }
        let mut winners = Vec::new();
        while let Some(done) = racers.join_next().await {
            match done.unwrap() {
                (racer, Ok(_)) => winners.push(racer),
                (_, Err(error)) => {
                    assert_eq!(error.raw_response().unwrap().status().as_u16(), 412);
                    assert_eq!(error.code(), Some("PreconditionFailed"));
                }
            }
        }
        assert_eq!(winners.len(), 1, "key {key}: {winners:?}");
        let get = run
            .clients
            .s3
            .get_object()
            .bucket("bucket")
            .key(format!("race/{key}"))
            .send()
            .await
            .unwrap();
        assert_eq!(get.metadata().unwrap()["racer"], winners[0].to_string());
        let text = get.body.collect().await.unwrap().to_vec();
        assert_eq!(text, format!("from {}", winners[0]).into_bytes());
    }
    let temp = run.dir.path().join("objects/.catchment-tmp");
    assert_eq!(std::fs::read_dir(temp).unwrap().count(), 0);
}

#[tokio::test]
async fn overwriting_and_matching() {
    let run = bucket().await;
    let s3 = &run.clients.s3;
    let put = |text: &str| s3.put_object().bucket("bucket").key("k").body(body(text));
    let missing = put("x").if_match("\"abc\"").send().await.unwrap_err();
    assert_eq!(missing.code(), Some("NoSuchKey"));
    let first = put("one").send().await.unwrap();
    put("two").send().await.unwrap();
    let stale = put("three").if_match(first.e_tag().unwrap()).send().await;
    assert_eq!(stale.unwrap_err().code(), Some("PreconditionFailed"));
    let get = s3.get_object().bucket("bucket").key("k").send().await.unwrap();
    assert_eq!(get.body.collect().await.unwrap().to_vec(), b"two");
}

#[tokio::test]
async fn wrong_checksums_are_refused_and_leave_nothing() {
    let run = bucket().await;
    let s3 = &run.clients.s3;
    let put = || s3.put_object().bucket("bucket").key("k").body(body("hello"));
    for wrong in [
        put().checksum_crc32("AAAAAA=="),
        put().checksum_crc64_nvme("AAAAAAAAAAA="),
        put().checksum_sha256("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        put().content_md5("AAAAAAAAAAAAAAAAAAAAAA=="),
    ] {
        assert_eq!(wrong.send().await.unwrap_err().code(), Some("BadDigest"));
    }
    let head = s3.head_object().bucket("bucket").key("k").send().await;
    assert!(head.unwrap_err().into_service_error().is_not_found());
    // Right ones: given by hand, computed by the SDK, and as a trailer.
    put().checksum_crc32("NhCmhg==").send().await.unwrap();
    for algorithm in
        [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc64Nvme, ChecksumAlgorithm::Sha256]
    {
        let big: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let body = streamed(run.dir.path(), &big).await;
        let put = s3
            .put_object()
            .bucket("bucket")
            .key("streamed")
            .content_encoding("gzip")
            .checksum_algorithm(algorithm)
            .body(body)
            .send()
            .await
            .unwrap();
        let get = s3
            .get_object()
            .bucket("bucket")
            .key("streamed")
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await
            .unwrap();
        assert_eq!(get.content_encoding(), Some("gzip"));
        assert_eq!(get.checksum_crc32(), put.checksum_crc32());
        assert_eq!(get.checksum_crc64_nvme(), put.checksum_crc64_nvme());
        assert_eq!(get.body.collect().await.unwrap().to_vec(), big);
    }
}

/// A trailer the SDK would never get wrong.
#[tokio::test]
async fn a_wrong_trailer_is_refused() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let run = bucket().await;
    for (sum, status) in [("NhCmhg==", "200"), ("AAAAAA==", "400")] {
        let payload = format!("5\r\nhello\r\n0\r\nx-amz-checksum-crc32:{sum}\r\n\r\n");
        let request = format!(
            "PUT /bucket/k HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-encoding: aws-chunked\r\nx-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\nx-amz-decoded-content-length: 5\r\nx-amz-trailer: x-amz-checksum-crc32\r\ncontent-length: {}\r\n\r\n{payload}",
            payload.len()
        );
        let mut stream = tokio::net::TcpStream::connect(run.services.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
        assert_eq!(text.contains("BadDigest"), status == "400");
    }
    let head = run.clients.s3.head_object().bucket("bucket").key("k").send().await.unwrap();
    assert_eq!(head.content_encoding(), None);
}

#[tokio::test]
async fn a_broken_off_body_leaves_no_object() {
    use tokio::io::AsyncWriteExt;
    let run = bucket().await;
    let mut stream = tokio::net::TcpStream::connect(run.services.address).await.unwrap();
    stream
        .write_all(b"PUT /bucket/half HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nonly this")
        .await
        .unwrap();
    let temp = run.dir.path().join("objects/.catchment-tmp");
    let halves = async |count| {
        let waiting = async {
            while std::fs::read_dir(&temp).unwrap().count() != count {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        // The bound only ends a test that hangs.
        let bound = std::time::Duration::from_secs(30);
        tokio::time::timeout(bound, waiting).await.expect("there are others");
    };
    halves(1).await;
    drop(stream);
    halves(0).await;
    let head = run.clients.s3.head_object().bucket("bucket").key("half").send().await;
    assert!(head.unwrap_err().into_service_error().is_not_found());
}

#[tokio::test]
async fn hostile_keys_never_leave_the_directory() {
    let run = bucket().await;
    let s3 = &run.clients.s3;
    let long = "k".repeat(1025);
    for key in
        ["../escape", "a/../../escape", "/etc/escape", "a//b", "a/./b", "a/", "..", ".", &long]
    {
        let put = s3.put_object().bucket("bucket").key(key).body(body("x")).send().await;
        let code = put.unwrap_err().code().map(str::to_owned);
        let code = code.as_deref();
        assert!(matches!(code, Some("InvalidArgument" | "KeyTooLongError")), "{key}: {code:?}");
        let start = s3.create_multipart_upload().bucket("bucket").key(key).send().await;
        assert!(start.is_err(), "{key}");
        assert!(s3.get_object().bucket("bucket").key(key).send().await.is_err());
    }
    let outside: BTreeSet<_> = std::fs::read_dir(run.dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(outside, BTreeSet::from(["objects".to_owned()]));
    // Keys that would need to be a file and a folder at once.
    s3.put_object().bucket("bucket").key("a").body(body("x")).send().await.unwrap();
    let put = s3.put_object().bucket("bucket").key("a/b").body(body("x")).send().await;
    assert_eq!(put.unwrap_err().code(), Some("InvalidArgument"));
    // The service's own folders are no buckets.
    let get = s3.get_object().bucket(".catchment-meta").key("x").send().await;
    assert!(get.is_err());
}

#[tokio::test]
async fn listing_pages_and_folders() {
    let run = bucket().await;
    let s3 = &run.clients.s3;
    for key in ["a/1", "a/2", "a/b/3", "a-", "b/4", "c"] {
        s3.put_object().bucket("bucket").key(key).body(body(key)).send().await.unwrap();
    }
    let mut pages = s3.list_objects_v2().bucket("bucket").max_keys(2).into_paginator().send();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        assert!(page.contents().len() <= 2);
        keys.extend(page.contents().iter().map(|o| o.key().unwrap().to_owned()));
    }
    assert_eq!(keys, ["a-", "a/1", "a/2", "a/b/3", "b/4", "c"]);

    let mut seen = Vec::new();
    let mut token = None;
    loop {
        let page = s3
            .list_objects_v2()
            .bucket("bucket")
            .delimiter("/")
            .max_keys(1)
            .set_continuation_token(token)
            .send()
            .await
            .unwrap();
        seen.extend(page.common_prefixes().iter().map(|p| p.prefix().unwrap().to_owned()));
        seen.extend(page.contents().iter().map(|o| o.key().unwrap().to_owned()));
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["a-", "a/", "b/", "c"]);
    let below = s3.list_objects_v2().bucket("bucket").prefix("a/").send().await.unwrap();
    assert_eq!(below.key_count(), Some(3));
    assert!(below.contents()[0].e_tag().is_some());

    let ids = ["a/1", "a/b/3"].map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
    let delete = Delete::builder().set_objects(Some(ids.to_vec())).build().unwrap();
    s3.delete_objects().bucket("bucket").delete(delete).send().await.unwrap();
    s3.delete_object().bucket("bucket").key("a/2").send().await.unwrap();
    s3.delete_object().bucket("bucket").key("never/was").send().await.unwrap();
    let left = s3.list_objects_v2().bucket("bucket").prefix("a").send().await.unwrap();
    assert_eq!(left.key_count(), Some(1));
    assert!(!run.dir.path().join("objects/bucket/a").exists());
}

async fn upload(
    s3: &s3sdk::Client,
    key: &str,
    parts: &[Vec<u8>],
) -> (String, CompletedMultipartUpload) {
    let start = s3
        .create_multipart_upload()
        .bucket("bucket")
        .key(key)
        .content_type("text/x")
        .send()
        .await
        .unwrap();
    let id = start.upload_id().unwrap().to_owned();
    let mut done = Vec::new();
    for (number, part) in (1..).zip(parts) {
        let sent = s3
            .upload_part()
            .bucket("bucket")
            .key(key)
            .upload_id(&id)
            .part_number(number)
            .body(ByteStream::from(part.clone()))
            .send()
            .await
            .unwrap();
        done.push(
            CompletedPart::builder()
                .part_number(number)
                .set_e_tag(sent.e_tag().map(str::to_owned))
                .set_checksum_crc32(sent.checksum_crc32().map(str::to_owned))
                .build(),
        );
    }
    (id, CompletedMultipartUpload::builder().set_parts(Some(done)).build())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn multipart_create_only() {
    let run = bucket().await;
    let s3 = &run.clients.s3;
    let parts = vec![vec![b'a'; 5 * 1024 * 1024], vec![b'b'; 1000]];
    let (mut ids, mut racers) = (Vec::new(), tokio::task::JoinSet::new());
    for _ in 0..4 {
        let (id, done) = upload(s3, "big", &parts).await;
        ids.push(id.clone());
        let complete = s3
            .complete_multipart_upload()
            .bucket("bucket")
            .key("big")
            .upload_id(id)
            .if_none_match("*")
            .multipart_upload(done);
        racers.spawn(complete.send());
    }
    let results = racers.join_all().await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    for error in results.into_iter().filter_map(Result::err) {
        assert_eq!(error.code(), Some("PreconditionFailed"));
    }
    let get = s3.get_object().bucket("bucket").key("big").send().await.unwrap();
    assert_eq!(get.content_type(), Some("text/x"));
    assert!(get.e_tag().unwrap().ends_with("-2\""));
    assert_eq!(get.body.collect().await.unwrap().to_vec(), parts.concat());

    let open = s3.list_multipart_uploads().bucket("bucket").send().await.unwrap();
    assert_eq!(open.uploads().len(), 3);
    for upload in open.uploads() {
        let id = upload.upload_id().unwrap();
        let listed =
            s3.list_parts().bucket("bucket").key("big").upload_id(id).send().await.unwrap();
        assert_eq!(listed.parts().len(), 2);
        s3.abort_multipart_upload().bucket("bucket").key("big").upload_id(id).send().await.unwrap();
    }
    let open = s3.list_multipart_uploads().bucket("bucket").send().await.unwrap();
    assert!(open.uploads().is_empty());
    let gone = s3.list_parts().bucket("bucket").key("big").upload_id(&ids[0]).send().await;
    assert_eq!(gone.unwrap_err().code(), Some("NoSuchUpload"));
}

#[tokio::test]
async fn multipart_refusals() {
    let run = bucket().await;
    let s3 = &run.clients.s3;
    let (id, done) = upload(s3, "k", &[vec![1; 10], vec![2; 10]]).await;
    let complete = || s3.complete_multipart_upload().bucket("bucket").key("k").upload_id(&id);
    let small = complete().multipart_upload(done.clone()).send().await;
    assert_eq!(small.unwrap_err().code(), Some("EntityTooSmall"));
    let mut parts = done.parts().to_vec();
    parts.reverse();
    let order = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let order = complete().multipart_upload(order).send().await;
    assert_eq!(order.unwrap_err().code(), Some("InvalidPartOrder"));
    let absent = CompletedPart::builder().part_number(7).e_tag("\"x\"").build();
    let absent = CompletedMultipartUpload::builder().parts(absent).build();
    let absent = complete().multipart_upload(absent).send().await;
    assert_eq!(absent.unwrap_err().code(), Some("InvalidPart"));
    let only = CompletedMultipartUpload::builder().parts(done.parts()[0].clone()).build();
    complete().multipart_upload(only).send().await.unwrap();
    assert_eq!(std::fs::read(run.dir.path().join("objects/bucket/k")).unwrap(), [1; 10]);
}
