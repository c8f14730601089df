//! The other back end: `dynoxide` for DynamoDB, `s3s` for the wire of S3.
//!
//! Written by other people from the same documentation, so a request that only the strict services
//! understand, or that only they refuse, shows up as a difference. Both are called as libraries:
//! no socket, no thread, no file. `s3s` compares signatures with the machine's clock, so the
//! signature is taken off first; the network layer checks the date against virtual time.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dynoxide::{Database, DynoxideError};
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use s3s::dto;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use serde_json::{Value, json};

use super::attr::{Row, row_from_json};
use super::dynamodb::Dynamo;
use super::objects::{Head, Objects, SharedObjects, etag};
use super::s3::{S3Wire, decode_body, verify_checksums};
use super::{Refusal, Request, Response, json_response, response};

/// DynamoDB by `dynoxide`.
pub struct Dynoxide(Database);

impl Dynoxide {
    pub fn new() -> Self {
        let clock = dynoxide::storage_backend::ManualClock::new(1_767_225_600);
        Self(Database::memory_with_clock(Arc::new(clock)).unwrap())
    }

    fn answer(&self, operation: &str, body: &Value) -> Result<Value, DynoxideError> {
        /// Parse, call, serialise; the request types differ.
        macro_rules! call {
            ($method:ident) => {{
                let request = serde_json::from_value(body.clone()).map_err(|e| parse_error(&e))?;
                let answer = self.0.$method(request)?;
                Ok(serde_json::to_value(&answer).unwrap())
            }};
        }
        match operation {
            "CreateTable" => call!(create_table),
            "DescribeTable" => call!(describe_table),
            "UpdateTable" => call!(update_table),
            "DeleteTable" => call!(delete_table),
            "PutItem" => call!(put_item),
            "GetItem" => call!(get_item),
            "UpdateItem" => call!(update_item),
            "DeleteItem" => call!(delete_item),
            "Scan" => call!(scan),
            "Query" => call!(query),
            other => Err(DynoxideError::ValidationException(format!("not wired: {other}"))),
        }
    }
}

/// Validation inside `Deserialize` arrives as a serde error with a marked message.
fn parse_error(error: &serde_json::Error) -> DynoxideError {
    let text = error.to_string();
    for marker in ["VALIDATION:", "VALIDATION_REQUEST:", "VALIDATION_AS_READ:"] {
        if let Some(message) = text.strip_prefix(marker) {
            return DynoxideError::ValidationException(message.to_owned());
        }
    }
    DynoxideError::SerializationException(text)
}

impl Dynamo for Dynoxide {
    fn call(&mut self, operation: &str, body: &Value) -> Response {
        match self.answer(operation, body) {
            Ok(answer) => json_response(200, &answer),
            Err(e) => response(e.status_code(), "application/x-amz-json-1.0", e.to_json()),
        }
    }

    fn peek(&self, table: &str, key: &str) -> Option<Row> {
        let body = json!({ "TableName": table, "Key": { "leaseKey": { "S": key } }, "ConsistentRead": true });
        let answer = self.answer("GetItem", &body).ok()?;
        row_from_json(answer.get("Item")?).ok()
    }

    fn rows(&self, table: &str) -> BTreeMap<String, Row> {
        let answer = self.answer("Scan", &json!({ "TableName": table }));
        let items = answer.map(|a| a["Items"].as_array().cloned().unwrap_or_default());
        let rows = items.unwrap_or_default().into_iter().filter_map(|item| {
            let row = row_from_json(&item).ok()?;
            Some((row.get("leaseKey")?.as_s()?.to_owned(), row))
        });
        rows.collect()
    }
}

/// S3 by `s3s`, over the shared store.
pub struct S3s(s3s::service::S3Service);

impl S3s {
    pub fn new(objects: SharedObjects) -> Self {
        Self(s3s::service::S3ServiceBuilder::new(Store(objects)).build())
    }
}

impl S3Wire for S3s {
    fn call(&mut self, request: &Request, now_ms: i64) -> Response {
        // Without a signature s3s leaves aws-chunked framing alone, so it is removed here.
        let (body, trailers) = match decode_body(request) {
            Ok(decoded) => decoded,
            Err(refusal) => return refusal.response(super::Service::S3),
        };
        let (mut parts, _) = request.clone().into_parts();
        parts.headers.remove("authorization");
        parts.headers.remove("x-amz-content-sha256");
        parts.headers.remove("x-amz-trailer");
        parts.headers.insert("content-length", body.len().into());
        parts.extensions.insert(Context { now_ms, trailers });
        let call = self.0.call(http::Request::from_parts(parts, s3s::Body::from(body)));
        let answer = call.now_or_never().expect("the store never waits");
        let (parts, body) = answer.expect("s3s answers").into_parts();
        let body = body.collect().now_or_never().expect("the store never waits");
        let body = body.expect("bodies are in memory").to_bytes();
        // An HTTP server would not send the body of an answer to HEAD; here is none to leave it out.
        let silent = request.method() == http::Method::HEAD;
        Response::from_parts(parts, if silent { Bytes::new() } else { body })
    }
}

/// What the network layer knows and s3s does not pass on.
#[derive(Clone, Debug)]
struct Context {
    now_ms: i64,
    trailers: Vec<(String, String)>,
}

fn now_ms<T>(request: &S3Request<T>) -> i64 {
    request.extensions.get::<Context>().map_or(0, |c| c.now_ms)
}

impl From<Refusal> for S3Error {
    fn from(refusal: Refusal) -> Self {
        let code = S3ErrorCode::from_bytes(refusal.code.as_bytes());
        let mut error = S3Error::new(code.unwrap_or(S3ErrorCode::InternalError));
        error.set_message(refusal.message);
        error
    }
}

struct Store(SharedObjects);

impl Store {
    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.0.lock().unwrap()
    }
}

async fn read<T>(request: &mut S3Request<T>, body: Option<dto::StreamingBlob>) -> S3Result<Bytes> {
    let bytes = match body {
        Some(body) => {
            let body = s3s::Body::from(body).collect().await;
            body.map_err(|_| S3Error::new(S3ErrorCode::IncompleteBody))?.to_bytes()
        }
        None => Bytes::new(),
    };
    let trailers = request.extensions.get::<Context>().map(|c| c.trailers.clone());
    verify_checksums(&request.headers, &bytes, &trailers.unwrap_or_default())?;
    Ok(bytes)
}

fn strong(quoted: &str) -> dto::ETag {
    dto::ETag::Strong(quoted.trim_matches('"').to_owned())
}

fn timestamp(ms: i64) -> dto::Timestamp {
    let ms = u64::try_from(ms).unwrap_or(0);
    dto::Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
}

fn head(kind: Option<String>, encoding: Option<String>, metadata: Option<dto::Metadata>) -> Head {
    let encoding = encoding.map(|e| e.replace("aws-chunked,", "").replace("aws-chunked", ""));
    Head {
        content_type: kind,
        content_encoding: encoding.filter(|e| !e.is_empty()),
        metadata: metadata.into_iter().flatten().collect(),
    }
}

type Answer<T> = S3Result<S3Response<T>>;

#[async_trait::async_trait]
impl s3s::S3 for Store {
    async fn create_bucket(
        &self,
        request: S3Request<dto::CreateBucketInput>,
    ) -> Answer<dto::CreateBucketOutput> {
        self.objects().buckets.entry(request.input.bucket).or_default();
        Ok(S3Response::new(dto::CreateBucketOutput::default()))
    }

    async fn head_bucket(
        &self,
        request: S3Request<dto::HeadBucketInput>,
    ) -> Answer<dto::HeadBucketOutput> {
        self.objects().bucket(&request.input.bucket)?;
        Ok(S3Response::new(dto::HeadBucketOutput::default()))
    }

    async fn put_object(
        &self,
        mut request: S3Request<dto::PutObjectInput>,
    ) -> Answer<dto::PutObjectOutput> {
        let body = request.input.body.take();
        let body = read(&mut request, body).await?;
        let now_ms = now_ms(&request);
        let input = request.input;
        let head = head(input.content_type, input.content_encoding, input.metadata);
        let create_only = input.if_none_match.is_some();
        let place = (input.bucket.as_str(), input.key.as_str());
        let etag = self.objects().put(place, body, head, create_only, now_ms)?;
        let e_tag = Some(strong(&etag));
        Ok(S3Response::new(dto::PutObjectOutput { e_tag, ..Default::default() }))
    }

    async fn get_object(
        &self,
        request: S3Request<dto::GetObjectInput>,
    ) -> Answer<dto::GetObjectOutput> {
        if request.input.range.is_some() {
            return Err(S3Error::new(S3ErrorCode::NotImplemented));
        }
        let object = self.objects().find(&request.input.bucket, &request.input.key)?;
        let length = object.body.len() as i64;
        let body = s3s::Body::from(object.body);
        Ok(S3Response::new(dto::GetObjectOutput {
            body: Some(dto::StreamingBlob::from(body)),
            content_length: Some(length),
            content_type: object.head.content_type,
            content_encoding: object.head.content_encoding,
            e_tag: Some(strong(&object.etag)),
            last_modified: Some(timestamp(object.modified_ms)),
            metadata: Some(object.head.metadata.into_iter().collect()),
            ..Default::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<dto::HeadObjectInput>,
    ) -> Answer<dto::HeadObjectOutput> {
        let object = self.objects().find(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(dto::HeadObjectOutput {
            content_length: Some(object.body.len() as i64),
            content_type: object.head.content_type,
            content_encoding: object.head.content_encoding,
            e_tag: Some(strong(&object.etag)),
            last_modified: Some(timestamp(object.modified_ms)),
            metadata: Some(object.head.metadata.into_iter().collect()),
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<dto::DeleteObjectInput>,
    ) -> Answer<dto::DeleteObjectOutput> {
        self.objects().bucket(&request.input.bucket)?.remove(&request.input.key);
        Ok(S3Response::new(dto::DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<dto::ListObjectsV2Input>,
    ) -> Answer<dto::ListObjectsV2Output> {
        let input = request.input;
        let after = input.continuation_token.or(input.start_after).unwrap_or_default();
        let limit = usize::try_from(input.max_keys.unwrap_or(1000)).unwrap_or(1).min(1000);
        let (prefix, delimiter) =
            (input.prefix.unwrap_or_default(), input.delimiter.unwrap_or_default());
        let listing = self.objects().list(&input.bucket, (&prefix, &delimiter), &after, limit)?;
        let contents = listing.objects.into_iter().map(|(key, object)| dto::Object {
            key: Some(key),
            size: Some(object.body.len() as i64),
            e_tag: Some(strong(&object.etag)),
            last_modified: Some(timestamp(object.modified_ms)),
            ..Default::default()
        });
        let groups = listing.groups.into_iter().map(|g| dto::CommonPrefix { prefix: Some(g) });
        Ok(S3Response::new(dto::ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(prefix),
            contents: Some(contents.collect()),
            common_prefixes: Some(groups.collect()),
            is_truncated: Some(listing.next.is_some()),
            next_continuation_token: listing.next,
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<dto::CreateMultipartUploadInput>,
    ) -> Answer<dto::CreateMultipartUploadOutput> {
        let input = request.input;
        let head = head(input.content_type, input.content_encoding, input.metadata);
        let id = self.objects().create_upload(&input.bucket, &input.key, head)?;
        Ok(S3Response::new(dto::CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(
        &self,
        mut request: S3Request<dto::UploadPartInput>,
    ) -> Answer<dto::UploadPartOutput> {
        let body = request.input.body.take();
        let body = read(&mut request, body).await?;
        let tag = strong(&etag(&body));
        let number = u32::try_from(request.input.part_number).unwrap_or(0);
        self.objects().upload(&request.input.upload_id)?.parts.insert(number, body);
        Ok(S3Response::new(dto::UploadPartOutput { e_tag: Some(tag), ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<dto::CompleteMultipartUploadInput>,
    ) -> Answer<dto::CompleteMultipartUploadOutput> {
        let now_ms = now_ms(&request);
        let input = request.input;
        let listed = input.multipart_upload.and_then(|m| m.parts).unwrap_or_default();
        let parts = listed.into_iter().map(|part| {
            let number = u32::try_from(part.part_number.unwrap_or(0)).unwrap_or(0);
            let tag = part.e_tag.map(|t| format!("\"{}\"", t.value())).unwrap_or_default();
            (number, tag)
        });
        let parts: Vec<_> = parts.collect();
        let create_only = input.if_none_match.is_some();
        let etag = self.objects().complete(&input.upload_id, &parts, create_only, now_ms)?;
        Ok(S3Response::new(dto::CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(strong(&etag)),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<dto::AbortMultipartUploadInput>,
    ) -> Answer<dto::AbortMultipartUploadOutput> {
        let mut objects = self.objects();
        objects.upload(&request.input.upload_id)?;
        objects.uploads.remove(&request.input.upload_id);
        Ok(S3Response::new(dto::AbortMultipartUploadOutput::default()))
    }
}
