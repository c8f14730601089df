//! The S3 operations over [`Files`].

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::body::{read, receive};
use super::fields::{
    checksums, condition, etag, expected, length, new_meta, set_checksums, stored,
};
use super::files::{Files, internal};
use super::listing::{ListedItem, page};
use crate::clock::{Clock, Jitter};
use crate::task::Tasks;

const DEFAULT_TYPE: &str = "binary/octet-stream";

pub(super) struct Api {
    pub(super) files: Arc<Files>,
    pub(super) region: String,
    pub(super) clock: Clock,
    pub(super) jitter: Jitter,
    pub(super) tasks: Tasks,
}

impl Api {
    /// Runs file work off the async threads.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> S3Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let files = self.files.clone();
        self.tasks.compute(move || work(&files)).await.map_err(internal)?
    }
}

#[async_trait::async_trait]
impl S3 for Api {
    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let location = format!("/{}", req.input.bucket);
        self.run(move |files| files.create_bucket(&req.input.bucket)).await?;
        Ok(S3Response::new(CreateBucketOutput { location: Some(location) }))
    }

    async fn delete_bucket(
        &self,
        req: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.run(move |files| files.delete_bucket(&req.input.bucket)).await?;
        Ok(S3Response::new(DeleteBucketOutput::default()))
    }

    async fn head_bucket(
        &self,
        req: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.run(move |files| files.bucket(&req.input.bucket)).await?;
        Ok(S3Response::new(HeadBucketOutput {
            bucket_region: Some(self.region.clone()),
            ..Default::default()
        }))
    }

    async fn list_buckets(
        &self,
        _req: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let found = self.run(Files::buckets).await?;
        let buckets = found.into_iter().map(|(name, created)| Bucket {
            name: Some(name),
            creation_date: Some(created.into()),
            ..Default::default()
        });
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets.collect()),
            owner: Some(Owner::default()),
            ..Default::default()
        }))
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.run(move |files| files.bucket(&req.input.bucket)).await?;
        // As on S3, us-east-1 is told by leaving it out.
        let region = Some(self.region.clone()).filter(|region| region != "us-east-1");
        Ok(S3Response::new(GetBucketLocationOutput {
            location_constraint: region.map(BucketLocationConstraint::from),
        }))
    }

    async fn put_object(
        &self,
        mut req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let condition = condition(req.input.if_none_match.take(), req.input.if_match.take())?;
        super::keys::relative_path(&req.input.key)?;
        let body = req.input.body.take();
        let sums = checksums!(req.input);
        let md5 = req.input.content_md5.take();
        let expected = expected(&req, sums, md5, req.input.content_length);
        let received = receive(&self.files, body, expected).await?;
        let mut meta = new_meta!(req.input);
        stored(&mut meta, &received);
        let mut output = PutObjectOutput { e_tag: etag(&meta.etag), ..Default::default() };
        set_checksums!(output, &meta.checksums);
        let bucket = req.input.bucket;
        self.run(move |files| files.publish(&received.temp, &bucket, &meta, &condition)).await?;
        Ok(S3Response::new(output))
    }

    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput { bucket, key, range, .. } = req.input;
        let (file, meta, modified) =
            self.run(move |files| files.open_object(&bucket, &key)).await?;
        let wanted = match &range {
            Some(range) => range.check(meta.size)?,
            None => 0..meta.size,
        };
        let content_range = range.is_some().then(|| {
            let last = wanted.end.saturating_sub(1);
            format!("bytes {}-{last}/{}", wanted.start, meta.size)
        });
        let mut output = GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(length(wanted.end - wanted.start)),
            body: Some(StreamingBlob::wrap(read(file, wanted.start, wanted.end))),
            e_tag: etag(&meta.etag),
            last_modified: Some(modified.into()),
            content_type: Some(meta.content_type.unwrap_or_else(|| DEFAULT_TYPE.to_owned())),
            content_encoding: meta.content_encoding,
            content_language: meta.content_language,
            content_disposition: meta.content_disposition,
            cache_control: meta.cache_control,
            metadata: Some(meta.user.into_iter().collect()),
            ..Default::default()
        };
        // A checksum is of the whole object.
        if content_range.is_none() && req.input.checksum_mode.is_some() {
            set_checksums!(output, &meta.checksums);
        }
        output.content_range = content_range;
        Ok(S3Response::new(output))
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let HeadObjectInput { bucket, key, .. } = req.input;
        let (_, meta, modified) = self.run(move |files| files.open_object(&bucket, &key)).await?;
        let mut output = HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(length(meta.size)),
            e_tag: etag(&meta.etag),
            last_modified: Some(modified.into()),
            content_type: Some(meta.content_type.unwrap_or_else(|| DEFAULT_TYPE.to_owned())),
            content_encoding: meta.content_encoding,
            content_language: meta.content_language,
            content_disposition: meta.content_disposition,
            cache_control: meta.cache_control,
            metadata: Some(meta.user.into_iter().collect()),
            ..Default::default()
        };
        if req.input.checksum_mode.is_some() {
            set_checksums!(output, &meta.checksums);
        }
        Ok(S3Response::new(output))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let after = match &input.continuation_token {
            None => input.start_after.clone().unwrap_or_default(),
            Some(token) => URL_SAFE_NO_PAD
                .decode(token)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| {
                    s3_error!(InvalidArgument, "The continuation token provided is incorrect")
                })?,
        };
        // Keys, and the tags of the objects among them, are read off the async threads.
        let max = input.max_keys.unwrap_or(1000).clamp(0, 1000);
        let prefix = input.prefix.clone().unwrap_or_default();
        let (bucket, delimiter) = (input.bucket.clone(), input.delimiter.clone());
        let (items, more, etags) = self
            .run(move |files| {
                let all = files.list(&bucket, &prefix)?;
                let max = usize::try_from(max).unwrap_or(0);
                let (items, more) = page(all, &prefix, delimiter.as_deref(), &after, max);
                let etags: Vec<_> = items
                    .iter()
                    .map(|item| match item {
                        ListedItem::Object(listed) => files.etag(&bucket, &listed.key),
                        ListedItem::Prefix(_) => None,
                    })
                    .collect();
                Ok((items, more && max > 0, etags))
            })
            .await?;
        let next =
            more.then(|| items.last().map(|last| URL_SAFE_NO_PAD.encode(last.name()))).flatten();
        let count = i32::try_from(items.len()).unwrap_or(i32::MAX);
        // Objects and common prefixes are one sequence to the paging, and two lists in the reply.
        let (mut contents, mut prefixes) = (Vec::new(), Vec::new());
        for (item, tag) in items.into_iter().zip(etags) {
            match item {
                ListedItem::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(prefix) }),
                ListedItem::Object(listed) => contents.push(Object {
                    e_tag: tag.map(ETag::Strong),
                    size: Some(length(listed.size)),
                    last_modified: Some(listed.modified.into()),
                    key: Some(listed.key),
                    ..Default::default()
                }),
            }
        }
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(input.prefix.unwrap_or_default()),
            delimiter: input.delimiter,
            max_keys: Some(max),
            key_count: Some(count),
            continuation_token: input.continuation_token,
            start_after: input.start_after,
            is_truncated: Some(more),
            next_continuation_token: next,
            contents: Some(contents),
            common_prefixes: Some(prefixes),
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.run(move |files| files.delete(&req.input.bucket, &req.input.key)).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let DeleteObjectsInput { bucket, delete, .. } = req.input;
        let quiet = delete.quiet.unwrap_or(false);
        let deleted = self
            .run(move |files| {
                let mut deleted = Vec::new();
                for object in delete.objects {
                    files.delete(&bucket, &object.key)?;
                    deleted.push(DeletedObject { key: Some(object.key), ..Default::default() });
                }
                Ok(deleted)
            })
            .await?;
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: (!quiet).then_some(deleted),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.start(req).await
    }

    async fn upload_part(
        &self,
        req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.part(req).await
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.complete(req).await
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.abort(req).await
    }

    async fn list_parts(
        &self,
        req: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        self.parts(req).await
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        self.uploads(req).await
    }
}
