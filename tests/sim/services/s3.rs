//! A strict S3 over REST and XML, path style.
//!
//! Conditional create (`If-None-Match: *`) on PUT and on completing a multipart upload, checksums
//! verified when given, `aws-chunked` bodies decoded. Versioning, ACLs, encryption: not here.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::objects::{Head, Object, Objects, SharedObjects};
use super::{Refusal, Request, Response, Service, percent_decode, query, response, tag};

/// What an S3 back end must offer: the wire. The store below it is shared.
pub trait S3Wire: Send {
    fn call(&mut self, request: &Request, now_ms: i64) -> Response;
}

/// The service.
pub struct S3(pub SharedObjects);

/// Bucket and key of a path-style request.
pub fn bucket_and_key(request: &Request) -> (String, String) {
    let path = request.uri().path().trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    (percent_decode(bucket), percent_decode(key))
}

/// The operation, named as in the API.
pub fn operation(request: &Request) -> &'static str {
    let query = query(request);
    let has = |name: &str| query.contains_key(name);
    let (_, key) = bucket_and_key(request);
    match (request.method().as_str(), key.is_empty()) {
        ("PUT", true) => "CreateBucket",
        ("HEAD", true) => "HeadBucket",
        ("GET", true) => "ListObjectsV2",
        ("PUT", false) if has("uploadId") => "UploadPart",
        ("PUT", false) => "PutObject",
        ("GET", false) => "GetObject",
        ("HEAD", false) => "HeadObject",
        ("DELETE", false) if has("uploadId") => "AbortMultipartUpload",
        ("DELETE", false) => "DeleteObject",
        ("POST", false) if has("uploads") => "CreateMultipartUpload",
        ("POST", false) if has("uploadId") => "CompleteMultipartUpload",
        _ => "Unknown",
    }
}

fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

/// Whether the request creates only.
pub fn create_only(request: &Request) -> bool {
    header(request, "if-none-match") == Some("*")
}

/// The body as the client meant it, and the trailers, with `aws-chunked` framing removed.
pub fn decode_body(request: &Request) -> Result<(Bytes, Vec<(String, String)>), Refusal> {
    let streaming =
        header(request, "x-amz-content-sha256").is_some_and(|v| v.starts_with("STREAMING"));
    let chunked = header(request, "content-encoding").is_some_and(|v| v.contains("aws-chunked"));
    if !streaming && !chunked {
        return Ok((request.body().clone(), Vec::new()));
    }
    let broken = || Refusal::new(400, "IncompleteBody", "The aws-chunked body is malformed");
    let mut rest = request.body().as_ref();
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|w| w == b"\r\n").ok_or_else(broken)?;
        let size = String::from_utf8_lossy(&rest[..line]);
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16)
            .map_err(|_| broken())?;
        rest = &rest[line + 2..];
        if size == 0 {
            break;
        }
        body.extend_from_slice(rest.get(..size).ok_or_else(broken)?);
        rest = rest.get(size + 2..).ok_or_else(broken)?;
    }
    let trailers = String::from_utf8_lossy(rest)
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .map(|(k, v)| (k.trim().to_ascii_lowercase(), v.trim().to_owned()))
        .collect();
    if let Some(length) = header(request, "x-amz-decoded-content-length")
        && length.parse() != Ok(body.len())
    {
        return Err(broken());
    }
    Ok((body.into(), trailers))
}

pub fn verify_checksums(
    headers: &http::HeaderMap,
    body: &[u8],
    trailers: &[(String, String)],
) -> Result<(), Refusal> {
    let headers = headers.iter();
    let headers =
        headers.filter_map(|(k, v)| Some((k.as_str().to_owned(), v.to_str().ok()?.to_owned())));
    for (name, given) in headers.chain(trailers.iter().cloned()) {
        let crc = |algorithm, width: usize| {
            let sum = crc_fast::checksum(algorithm, body).to_be_bytes();
            STANDARD.encode(&sum[8 - width..])
        };
        let computed = match name.as_str() {
            "x-amz-checksum-crc32" => crc(crc_fast::CrcAlgorithm::Crc32IsoHdlc, 4),
            "x-amz-checksum-crc32c" => crc(crc_fast::CrcAlgorithm::Crc32Iscsi, 4),
            "x-amz-checksum-crc64nvme" => crc(crc_fast::CrcAlgorithm::Crc64Nvme, 8),
            "x-amz-checksum-sha256" => STANDARD.encode(Sha256::digest(body)),
            "content-md5" => STANDARD.encode(<md5::Md5 as md5::Digest>::digest(body)),
            _ => continue,
        };
        if computed != given {
            return Err(Refusal::new(400, "BadDigest", format!("{name} does not match the body")));
        }
    }
    Ok(())
}

fn head_of(request: &Request) -> Head {
    let encoding = header(request, "content-encoding").map(|v| {
        let kept = v.split(',').map(str::trim).filter(|v| *v != "aws-chunked");
        kept.collect::<Vec<_>>().join(",")
    });
    let metadata = request.headers().iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix("x-amz-meta-")?;
        Some((name.to_owned(), value.to_str().ok()?.to_owned()))
    });
    Head {
        content_type: header(request, "content-type").map(str::to_owned),
        content_encoding: encoding.filter(|v| !v.is_empty()),
        metadata: metadata.collect(),
    }
}

impl S3Wire for S3 {
    fn call(&mut self, request: &Request, now_ms: i64) -> Response {
        let answer = self.answer(request, now_ms);
        let mut answer = answer.unwrap_or_else(|refusal| refusal.response(Service::S3));
        if request.method() == http::Method::HEAD {
            *answer.body_mut() = Bytes::new();
        }
        answer
    }
}

impl S3 {
    fn answer(&self, request: &Request, now_ms: i64) -> Result<Response, Refusal> {
        let mut objects = self.0.lock().unwrap();
        let query = query(request);
        let get = |name: &str| query.get(name).cloned().unwrap_or_default();
        let (bucket, key) = bucket_and_key(request);
        let place = (bucket.as_str(), key.as_str());
        if key.len() > 1024 {
            return Err(Refusal::new(400, "KeyTooLongError", "Your key is too long"));
        }
        match operation(request) {
            "CreateBucket" => {
                let fine =
                    |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
                if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(fine) {
                    return Err(Refusal::new(
                        400,
                        "InvalidBucketName",
                        "The bucket name is not valid.",
                    ));
                }
                objects.buckets.entry(bucket).or_default();
                Ok(response(200, "application/xml", ""))
            }
            "HeadBucket" => objects.bucket(&bucket).map(|_| response(200, "application/xml", "")),
            "ListObjectsV2" => list(&mut objects, &bucket, &query),
            "PutObject" => {
                let (body, trailers) = decode_body(request)?;
                verify_checksums(request.headers(), &body, &trailers)?;
                let condition = header(request, "if-none-match");
                if condition.is_some_and(|v| v != "*") || header(request, "if-match").is_some() {
                    return Err(Refusal::new(
                        501,
                        "NotImplemented",
                        "only If-None-Match: * is known",
                    ));
                }
                let etag =
                    objects.put(place, body, head_of(request), condition.is_some(), now_ms)?;
                Ok(with(response(200, "application/xml", ""), "etag", &etag))
            }
            "GetObject" => {
                let object = objects.find(&bucket, &key)?;
                Ok(show(&object, header(request, "range")))
            }
            "HeadObject" => {
                let object = objects.find(&bucket, &key)?;
                let length = object.body.len().to_string();
                Ok(with(show(&object, None), "content-length", &length))
            }
            "DeleteObject" => {
                objects.bucket(&bucket)?.remove(&key);
                Ok(response(204, "application/xml", ""))
            }
            "CreateMultipartUpload" => {
                let id = objects.create_upload(&bucket, &key, head_of(request))?;
                Ok(xml(
                    "InitiateMultipartUploadResult",
                    &format!(
                        "<Bucket>{bucket}</Bucket><Key>{}</Key><UploadId>{id}</UploadId>",
                        escape(&key)
                    ),
                ))
            }
            "UploadPart" => {
                let (body, trailers) = decode_body(request)?;
                verify_checksums(request.headers(), &body, &trailers)?;
                let number = get("partNumber").parse().ok().filter(|n| (1..=10_000).contains(n));
                let number =
                    number.ok_or_else(|| Refusal::new(400, "InvalidArgument", "partNumber"))?;
                let etag = super::objects::etag(&body);
                objects.upload(&get("uploadId"))?.parts.insert(number, body);
                Ok(with(response(200, "application/xml", ""), "etag", &etag))
            }
            "CompleteMultipartUpload" => {
                let text = String::from_utf8_lossy(request.body()).into_owned();
                let parts = text.split("<Part>").skip(1).map(|part| {
                    let number = tag(part, "PartNumber")?.parse().ok()?;
                    Some((number, tag(part, "ETag")?.replace("&quot;", "\"")))
                });
                let parts: Option<Vec<_>> = parts.collect();
                let parts = parts.ok_or_else(|| Refusal::new(400, "MalformedXML", "parts"))?;
                let etag =
                    objects.complete(&get("uploadId"), &parts, create_only(request), now_ms)?;
                Ok(xml(
                    "CompleteMultipartUploadResult",
                    &format!(
                        "<Bucket>{bucket}</Bucket><Key>{}</Key><ETag>{etag}</ETag>",
                        escape(&key)
                    ),
                ))
            }
            "AbortMultipartUpload" => {
                objects.upload(&get("uploadId"))?;
                objects.uploads.remove(&get("uploadId"));
                Ok(response(204, "application/xml", ""))
            }
            _ => Err(Refusal::new(
                501,
                "NotImplemented",
                format!("{} {}", request.method(), request.uri()),
            )),
        }
    }
}

fn with(mut response: Response, name: &'static str, value: &str) -> Response {
    response.headers_mut().insert(name, value.parse().unwrap());
    response
}

/// Milliseconds since the epoch as an HTTP date.
pub fn http_date(ms: i64) -> String {
    let date = aws_smithy_types::DateTime::from_secs(ms.div_euclid(1000));
    date.fmt(aws_smithy_types::date_time::Format::HttpDate).unwrap()
}

fn show(object: &Object, range: Option<&str>) -> Response {
    let kind = object.head.content_type.as_deref().unwrap_or("binary/octet-stream");
    let whole = object.body.len();
    let span = range.and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
    let mut answer = match span {
        Some((from, to)) if whole > 0 => {
            let from = from.parse().unwrap_or(0).min(whole - 1);
            let to = to.parse().unwrap_or(usize::MAX).min(whole - 1);
            let part = object.body.slice(from..=to);
            with(response(206, kind, part), "content-range", &format!("bytes {from}-{to}/{whole}"))
        }
        _ => response(200, kind, object.body.clone()),
    };
    answer = with(answer, "etag", &object.etag);
    answer = with(answer, "last-modified", &http_date(object.modified_ms));
    if let Some(encoding) = &object.head.content_encoding {
        answer = with(answer, "content-encoding", encoding);
    }
    for (name, value) in &object.head.metadata {
        let name = http::HeaderName::try_from(format!("x-amz-meta-{name}")).unwrap();
        answer.headers_mut().insert(name, value.parse().unwrap());
    }
    answer
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn xml(root: &str, inner: &str) -> Response {
    let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";
    let space = "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";
    response(200, "application/xml", format!("{head}<{root} {space}>{inner}</{root}>"))
}

fn list(
    objects: &mut Objects,
    bucket: &str,
    query: &BTreeMap<String, String>,
) -> Result<Response, Refusal> {
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    if get("list-type") != "2" {
        return Err(Refusal::new(501, "NotImplemented", "only ListObjectsV2"));
    }
    let after = get("continuation-token").max(get("start-after"));
    let limit: usize = get("max-keys").parse().unwrap_or(1000).min(1000);
    let listing = objects.list(bucket, (get("prefix"), get("delimiter")), after, limit)?;
    let mut inner = String::new();
    for (key, object) in &listing.objects {
        let date = aws_smithy_types::DateTime::from_millis(object.modified_ms);
        let date = date.fmt(aws_smithy_types::date_time::Format::DateTime).unwrap();
        let (key, size, etag) = (escape(key), object.body.len(), &object.etag);
        inner += &format!(
            "<Contents><Key>{key}</Key><Size>{size}</Size><ETag>{etag}</ETag>\
             <LastModified>{date}</LastModified></Contents>"
        );
    }
    for group in &listing.groups {
        inner += &format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escape(group));
    }
    if let Some(next) = &listing.next {
        inner += &format!("<NextContinuationToken>{}</NextContinuationToken>", escape(next));
    }
    let shown = listing.objects.len() + listing.groups.len();
    Ok(xml(
        "ListBucketResult",
        &format!(
            "<Name>{bucket}</Name><Prefix>{}</Prefix><KeyCount>{shown}</KeyCount>\
             <MaxKeys>{limit}</MaxKeys><IsTruncated>{}</IsTruncated>{inner}",
            escape(get("prefix")),
            listing.next.is_some()
        ),
    ))
}
