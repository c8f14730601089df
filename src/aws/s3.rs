//! The bucket: create-only objects.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_sdk_s3::operation::complete_multipart_upload::CompleteMultipartUploadError;
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
use crate::delivery::batch::Object;
use crate::delivery::encode::Body;
use crate::fault::{CallError, Fault};
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
                    told.code = "PermanentRedirect".into();
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

    /// Puts an object unless its key exists (`If-None-Match: *`), in one piece or, above
    /// `part_bytes`, in parts.
    ///
    /// Integrity is a CRC-32 computed here and verified by the store; the payload is not hashed a
    /// second time for the signature, TLS protects it on the way.
    ///
    /// # Errors
    /// [`CallError`]; the object is then absent, or whole if the reply was lost.
    pub async fn put(&self, object: &Object, part_bytes: usize) -> Result<Put, CallError> {
        if object.body.len() > part_bytes {
            return self.put_parts(object, part_bytes).await;
        }
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

    async fn put_parts(&self, object: &Object, part_bytes: usize) -> Result<Put, CallError> {
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
        let id = reply.upload_id().unwrap_or_default().to_owned();
        let result = self.send_parts(object, part_bytes, &id).await;
        if !matches!(result, Ok(Put::Created)) {
            // Best effort: the bucket's lifecycle rule removes what this misses.
            let abort = self.client.abort_multipart_upload();
            if let Err(error) =
                abort.bucket(&object.bucket).key(&object.key).upload_id(&id).send().await
            {
                tracing::debug!(key = object.key, %error, "an unfinished upload was left behind");
            }
        }
        result
    }

    async fn send_parts(
        &self,
        object: &Object,
        part_bytes: usize,
        id: &str,
    ) -> Result<Put, CallError> {
        let mut done = CompletedMultipartUpload::builder();
        for (number, part) in (1_i32..).zip(parts(&object.body, part_bytes)) {
            let crc = crc32(&part);
            let reply = self
                .client
                .upload_part()
                .bucket(&object.bucket)
                .key(&object.key)
                .upload_id(id)
                .part_number(number)
                .checksum_crc32(&crc)
                .content_length(i64::try_from(part.len()).unwrap_or(i64::MAX))
                .body(stream(&part))
                .customize()
                .disable_payload_signing()
                .send()
                .await
                .map_err(|e| describe("UploadPart", &e))?;
            done = done.parts(
                CompletedPart::builder()
                    .part_number(number)
                    .set_e_tag(reply.e_tag)
                    .checksum_crc32(crc)
                    .build(),
            );
        }
        let reply = self
            .client
            .complete_multipart_upload()
            .bucket(&object.bucket)
            .key(&object.key)
            .upload_id(id)
            .if_none_match("*")
            .multipart_upload(done.build())
            .send()
            .await;
        match reply {
            Ok(_) => Ok(Put::Created),
            Err(error) => {
                if taken(&error).is_some() {
                    return Ok(Put::Existed);
                }
                let told =
                    describe::<CompleteMultipartUploadError>("CompleteMultipartUpload", &error);
                // The SDK's own retry after a lost reply finds the upload gone: it succeeded.
                if told.code == "NoSuchUpload" && self.exists(&object.bucket, &object.key).await? {
                    return Ok(Put::Created);
                }
                Err(told)
            }
        }
    }
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

/// Splits a body into parts of about `size` bytes (each but the last at least that long), without
/// copying.
fn parts(body: &Body, size: usize) -> Vec<Body> {
    let mut parts = vec![Body::default()];
    for chunk in &body.chunks {
        let mut rest = chunk.clone();
        while !rest.is_empty() {
            let open = match parts.last_mut() {
                Some(part) if part.len() < size => part,
                _ => {
                    parts.push(Body::default());
                    continue;
                }
            };
            let room = size - open.len();
            open.chunks.push(rest.split_to(room.min(rest.len())));
        }
    }
    parts
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_every_byte_in_order() {
        let all: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let body = Body { chunks: all.chunks(70).map(Bytes::copy_from_slice).collect() };
        let parts = parts(&body, 300);
        assert_eq!(parts.iter().map(Body::len).collect::<Vec<_>>(), [300, 300, 300, 100]);
        let joined: Vec<u8> = parts.iter().flat_map(|p| p.concat().to_vec()).collect();
        assert_eq!(joined, all);
    }
}
