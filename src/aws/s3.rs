//! The bucket: create-only objects.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::aws::fault::describe;
use crate::aws::reply::required;
use crate::delivery::body::Body;
use crate::delivery::object::Object;
use crate::delivery::parts::StoredPart;
use crate::fault::{CallError, Detail, Fault};
use crate::mutant::{self, Mutant};

/// Access to buckets.
#[derive(Clone, Debug)]
pub struct ObjectStore {
    client: aws_sdk_s3::Client,
}

/// What a create-only put found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is new.
    Created,
    /// The key was taken; the object there was left alone.
    Existed,
}

impl ObjectStore {
    /// Wraps a client.
    pub fn new(client: aws_sdk_s3::Client) -> Self {
        Self { client }
    }

    /// HeadBucket.
    ///
    /// # Errors
    /// [`CallError`]: `NotFound`; `Denied`; `Invalid` for a bucket in another region.
    pub async fn check_bucket(&self, bucket: &str) -> Result<(), CallError> {
        match self.client.head_bucket().bucket(bucket).send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let region = error
                    .raw_response()
                    .and_then(|r| r.headers().get("x-amz-bucket-region"))
                    .map(str::to_owned);
                let mut told = describe("HeadBucket", &error);
                let status = error.raw_response().map(|r| r.status().as_u16());
                if status == Some(403) {
                    // A reply to HEAD has no body that could say more.
                    told.message = format!(
                        "access to bucket `{bucket}` is refused: s3:ListBucket is missing, or the \
                         bucket is another account's"
                    );
                }
                if let (Some(region), Some(301 | 400)) = (region, status) {
                    told.fault = Fault::Invalid;
                    (told.detail, told.code) = (Detail::OtherRegion, "PermanentRedirect".into());
                    told.message =
                        format!("the bucket is in region {region}; set AWS_REGION to it");
                }
                Err(told)
            }
        }
    }

    /// The user metadata of an object; `None` if there is no such object.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn metadata(
        &self,
        bucket: &str,
        key: &str,
    ) -> Result<Option<HashMap<String, String>>, CallError> {
        match self.client.head_object().bucket(bucket).key(key).send().await {
            Ok(reply) => Ok(Some(reply.metadata.unwrap_or_default())),
            Err(error) => {
                let told = describe("HeadObject", &error);
                if told.fault == Fault::NotFound { Ok(None) } else { Err(told) }
            }
        }
    }

    /// Does the object exist?
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn exists(&self, bucket: &str, key: &str) -> Result<bool, CallError> {
        Ok(self.metadata(bucket, key).await?.is_some())
    }

    /// Puts an object in one piece, unless its key exists (`If-None-Match: *`).
    ///
    /// Integrity is a CRC-32 computed here and verified by the store; the payload is not hashed a
    /// second time for the signature, TLS protects it on the way.
    ///
    /// # Errors
    /// [`CallError`]; the object is then absent, or whole if the reply was lost.
    pub async fn put(&self, object: &Object) -> Result<Put, CallError> {
        let mut call = self
            .client
            .put_object()
            .bucket(&object.bucket)
            .key(&object.key)
            .set_if_none_match((!mutant::is(Mutant::Overwrite)).then(|| "*".to_owned()))
            .content_type(&object.content_type)
            .checksum_crc32(crc32(&object.body))
            .content_length(i64::try_from(object.body.len()).unwrap_or(i64::MAX))
            .body(stream(&object.body));
        for (name, value) in &object.metadata {
            call = call.metadata(name, value);
        }
        match call.customize().disable_payload_signing().send().await {
            Ok(_) => Ok(Put::Created),
            Err(error) => taken(&error).map_or_else(
                || Err(describe::<PutObjectError>("PutObject", &error)),
                |()| Ok(Put::Existed),
            ),
        }
    }

    /// Begins an upload in parts of an object; returns its id. The object's body is not looked at.
    ///
    /// # Errors
    /// [`CallError`]; an upload may be left behind if the reply was lost.
    pub async fn create_multipart(&self, object: &Object) -> Result<String, CallError> {
        let mut call = self
            .client
            .create_multipart_upload()
            .bucket(&object.bucket)
            .key(&object.key)
            .content_type(&object.content_type)
            .checksum_algorithm(ChecksumAlgorithm::Crc32);
        for (name, value) in &object.metadata {
            call = call.metadata(name, value);
        }
        let reply = call.send().await.map_err(|e| describe("CreateMultipartUpload", &e))?;
        required("CreateMultipartUpload", "UploadId", reply.upload_id)
    }

    /// Stores one part of an upload, in place of what was sent under its number before.
    ///
    /// # Errors
    /// [`CallError`]; see [`is_gone`].
    pub async fn upload_part_of(
        &self,
        object: &Object,
        id: &str,
        number: i32,
        part: &Body,
    ) -> Result<StoredPart, CallError> {
        let crc32 = crc32(part);
        let reply = self
            .client
            .upload_part()
            .bucket(&object.bucket)
            .key(&object.key)
            .upload_id(id)
            .part_number(number)
            .checksum_crc32(&crc32)
            .content_length(i64::try_from(part.len()).unwrap_or(i64::MAX))
            .body(stream(part))
            .customize()
            .disable_payload_signing()
            .send()
            .await
            .map_err(|e| describe("UploadPart", &e))?;
        let etag = required("UploadPart", "ETag", reply.e_tag)?;
        Ok(StoredPart { number, etag: Some(etag), crc32 })
    }

    /// Makes the object of its parts, unless its key exists.
    ///
    /// # Errors
    /// [`CallError`]; see [`is_gone`] and [`is_conflict`].
    pub async fn complete_multipart(
        &self,
        object: &Object,
        id: &str,
        parts: &[StoredPart],
    ) -> Result<Put, CallError> {
        let parts = parts.iter().map(|part| {
            CompletedPart::builder()
                .part_number(part.number)
                .set_e_tag(part.etag.clone())
                .checksum_crc32(&part.crc32)
                .build()
        });
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let reply = self
            .client
            .complete_multipart_upload()
            .bucket(&object.bucket)
            .key(&object.key)
            .upload_id(id)
            .if_none_match("*")
            .multipart_upload(parts)
            .send()
            .await;
        match reply {
            Ok(_) => Ok(Put::Created),
            Err(error) if taken(&error).is_some() => Ok(Put::Existed),
            Err(error) => Err(describe("CompleteMultipartUpload", &error)),
        }
    }

    /// Ends an upload and frees its parts. Best effort: the bucket's lifecycle rule removes what
    /// this misses.
    pub async fn abort_multipart(&self, object: &Object, id: &str) {
        let call = self.client.abort_multipart_upload().bucket(&object.bucket).key(&object.key);
        if let Err(error) = call.upload_id(id).send().await {
            tracing::debug!(key = object.key, %error, "an unfinished upload was left behind");
        }
    }
}

/// The upload, or a part of it as we know it, is not there any more: it was aborted, by a lifecycle
/// rule or by somebody, or it has become the object and the reply was lost.
pub fn is_gone(error: &CallError) -> bool {
    error.detail == Detail::UploadGone
}

/// Does the store refuse the key itself, as too long or otherwise not to its liking? As far as codes
/// tell: other stores than Amazon's have limits and words of their own.
pub fn refuses_key(error: &CallError) -> bool {
    const CODES: [&str; 9] = [
        "KeyTooLongError",
        "KeyTooLong",
        "InvalidArgument",
        "InvalidKey",
        "InvalidObjectName",
        "InvalidURI",
        "XMinioInvalidObjectName",
        "XMinioParentIsObject",
        "XMinioObjectExistsAsDirectory",
    ];
    error.fault == Fault::Invalid && CODES.contains(&error.code.as_str())
}

/// 409: a conditional write of the same key was under way. The key may be free all the same.
pub fn is_conflict(error: &CallError) -> bool {
    error.code == "ConditionalRequestConflict"
}

/// 412: the key exists.
fn taken<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<()> {
    let by_code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    let by_status = error.raw_response().map(|r| r.status().as_u16());
    (by_code == Some("PreconditionFailed") || by_status == Some(412)).then_some(())
}

fn crc32(body: &Body) -> String {
    let mut crc = crc32fast::Hasher::new();
    for chunk in &body.chunks {
        crc.update(chunk);
    }
    STANDARD.encode(crc.finalize().to_be_bytes())
}

fn stream(body: &Body) -> ByteStream {
    let body = body.clone();
    ByteStream::new(SdkBody::retryable(move || {
        SdkBody::from_body_1_x(Chunks {
            left: body.len() as u64,
            chunks: body.chunks.iter().cloned().collect(),
        })
    }))
}

/// Sends the chunks of a body as they lie in memory.
struct Chunks {
    chunks: VecDeque<Bytes>,
    left: u64,
}

impl HttpBody for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.chunks.pop_front();
        self.left -= next.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Poll::Ready(next.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
