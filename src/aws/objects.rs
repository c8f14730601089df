//! The reading side of a bucket, for checks.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use bytes::Bytes;

use crate::aws::fault::describe;
use crate::aws::reply::incomplete;
use crate::fault::{CallError, Detail, Fault};

/// Reads objects.
#[derive(Clone, Debug)]
pub struct Objects {
    client: aws_sdk_s3::Client,
}

impl Objects {
    /// Wraps a client.
    pub fn new(client: aws_sdk_s3::Client) -> Self {
        Self { client }
    }

    /// Creates a bucket unless it exists.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn create_bucket(&self, bucket: &str) -> Result<(), CallError> {
        match self.client.create_bucket().bucket(bucket).send().await {
            Ok(_) => Ok(()),
            Err(error)
                if error.as_service_error().is_some_and(|e| {
                    e.is_bucket_already_owned_by_you() || e.is_bucket_already_exists()
                }) =>
            {
                Ok(())
            }
            Err(error) => Err(describe("CreateBucket", &error)),
        }
    }

    /// Every key below a prefix, in order, with its size.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<(String, u64)>, CallError> {
        let mut keys = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let reply = self
                .client
                .list_objects_v2()
                .bucket(bucket)
                .prefix(prefix)
                .set_continuation_token(token.take())
                .send()
                .await
                .map_err(|e| describe("ListObjectsV2", &e))
                .and_then(told)?;
            for object in reply.contents.unwrap_or_default() {
                let size = object.size.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
                keys.extend(object.key.map(|key| (key, size)));
            }
            token = reply.next_continuation_token.filter(|token| !token.is_empty());
            match (&token, reply.is_truncated) {
                (Some(_), _) => {}
                (None, Some(true)) => {
                    return Err(incomplete("ListObjectsV2", "NextContinuationToken"));
                }
                (None, _) => return Ok(keys),
            }
        }
    }

    /// The first key below a prefix, if there is one.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn any(&self, bucket: &str, prefix: &str) -> Result<Option<String>, CallError> {
        let call = self.client.list_objects_v2().bucket(bucket).prefix(prefix).max_keys(1);
        let reply = call.send().await.map_err(|e| describe("ListObjectsV2", &e)).and_then(told)?;
        Ok(reply.contents.unwrap_or_default().into_iter().find_map(|object| object.key))
    }

    /// A whole object.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn get(&self, bucket: &str, key: &str) -> Result<Bytes, CallError> {
        let reply = self.client.get_object().bucket(bucket).key(key).send().await;
        let reply = reply.map_err(|e| describe("GetObject", &e))?;
        let body = reply.body.collect().await.map_err(|e| CallError {
            operation: "GetObject",
            fault: Fault::Unavailable,
            detail: Detail::Plain,
            code: "Body".into(),
            message: e.to_string(),
            request_id: None,
        })?;
        Ok(body.into_bytes())
    }
}

/// A list without objects still says so.
fn told(reply: ListObjectsV2Output) -> Result<ListObjectsV2Output, CallError> {
    let told =
        reply.contents.is_some() || reply.key_count.is_some() || reply.is_truncated.is_some();
    if told { Ok(reply) } else { Err(incomplete("ListObjectsV2", "Contents or KeyCount")) }
}
