//! The S3 operations over [`Files`].

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::body::{ALGORITHMS, Expected, Received, hex, read, receive};
use super::chunked::Trailers;
use super::files::{Condition, Files, Listed, Meta, internal};
use super::multipart::{Named, Upload};
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
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> S3Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let files = self.files.clone();
        self.tasks
            .compute(move || work(&files))
            .await
            .map_err(internal)?
    }
}

/// Collects the five `checksum_*` fields that many inputs carry.
macro_rules! checksums {
    ($input:expr) => {
        [
            ("crc32", $input.checksum_crc32.take()),
            ("crc32c", $input.checksum_crc32c.take()),
            ("crc64nvme", $input.checksum_crc64nvme.take()),
            ("sha1", $input.checksum_sha1.take()),
            ("sha256", $input.checksum_sha256.take()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect::<BTreeMap<&'static str, String>>()
    };
}

/// Sets the five `checksum_*` fields that many outputs carry.
macro_rules! set_checksums {
    ($output:expr, $sums:expr) => {
        let sums: &BTreeMap<String, String> = $sums;
        $output.checksum_crc32 = sums.get("crc32").cloned();
        $output.checksum_crc32c = sums.get("crc32c").cloned();
        $output.checksum_crc64nvme = sums.get("crc64nvme").cloned();
        $output.checksum_sha1 = sums.get("sha1").cloned();
        $output.checksum_sha256 = sums.get("sha256").cloned();
    };
}

/// What the request announces about its body.
fn expected<T>(
    request: &S3Request<T>,
    checksums: BTreeMap<&'static str, String>,
    md5: Option<String>,
    length: Option<i64>,
) -> Expected {
    let announced = request
        .headers
        .get_all("x-amz-trailer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim);
    let trailing = announced
        .filter_map(|name| {
            let name = name.to_ascii_lowercase();
            let name = name.strip_prefix("x-amz-checksum-")?;
            ALGORITHMS.into_iter().find(|known| *known == name)
        })
        .collect();
    Expected {
        checksums,
        md5,
        length,
        trailing,
        trailers: request.extensions.get::<Trailers>().cloned(),
    }
}

fn condition(
    if_none_match: Option<ETagCondition>,
    if_match: Option<ETagCondition>,
) -> S3Result<Condition> {
    match (if_none_match, if_match) {
        (None, None) => Ok(Condition::Always),
        (Some(ETagCondition::Any), None) => Ok(Condition::Create),
        (None, Some(ETagCondition::ETag(etag))) => Ok(Condition::Match(etag.value().to_owned())),
        _ => Err(s3_error!(
            NotImplemented,
            "A header you provided implies functionality that is not implemented: use If-None-Match: * or If-Match with one entity tag"
        )),
    }
}

fn stored(meta: &mut Meta, received: &Received) {
    meta.size = received.size;
    meta.etag = hex(&received.md5);
    meta.checksums = received.checksums.clone();
}

macro_rules! new_meta {
    ($input:expr) => {
        Meta {
            key: $input.key.clone(),
            content_type: $input.content_type.take(),
            content_encoding: $input.content_encoding.take(),
            content_language: $input.content_language.take(),
            content_disposition: $input.content_disposition.take(),
            cache_control: $input.cache_control.take(),
            user: $input.metadata.take().into_iter().flatten().collect(),
            ..Meta::default()
        }
    };
}

fn length(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn etag(value: &str) -> Option<ETag> {
    Some(ETag::Strong(value.to_owned()))
}

/// An item of a listing.
enum Item {
    Object(Listed),
    Prefix(String),
}

impl Item {
    fn name(&self) -> &str {
        match self {
            Self::Object(listed) => &listed.key,
            Self::Prefix(prefix) => prefix,
        }
    }
}

/// One page of `all`, after the item `after`; true when more follows.
fn page(
    all: Vec<Listed>,
    prefix: &str,
    delimiter: Option<&str>,
    after: &str,
    max: usize,
) -> (Vec<Item>, bool) {
    let mut items: Vec<Item> = Vec::new();
    for listed in all {
        let rest = listed.key.get(prefix.len()..).unwrap_or_default();
        let common = delimiter.filter(|d| !d.is_empty()).and_then(|delimiter| {
            let end = rest.find(delimiter)? + delimiter.len();
            Some(listed.key[..prefix.len() + end].to_owned())
        });
        if listed.key.as_str() <= after || common.as_deref() == Some(after) {
            continue;
        }
        if common.is_some() && items.last().map(Item::name) == common.as_deref() {
            continue;
        }
        if items.len() == max {
            return (items, true);
        }
        items.push(common.map_or(Item::Object(listed), Item::Prefix));
    }
    (items, false)
}

#[async_trait::async_trait]
impl S3 for Api {
    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let location = format!("/{}", req.input.bucket);
        self.run(move |files| files.create_bucket(&req.input.bucket))
            .await?;
        Ok(S3Response::new(CreateBucketOutput {
            location: Some(location),
            ..Default::default()
        }))
    }

    async fn delete_bucket(
        &self,
        req: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.run(move |files| files.delete_bucket(&req.input.bucket))
            .await?;
        Ok(S3Response::new(DeleteBucketOutput::default()))
    }

    async fn head_bucket(
        &self,
        req: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.run(move |files| files.bucket(&req.input.bucket))
            .await?;
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
        self.run(move |files| files.bucket(&req.input.bucket))
            .await?;
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
        super::files::relative_path(&req.input.key)?;
        let body = req.input.body.take();
        let sums = checksums!(req.input);
        let md5 = req.input.content_md5.take();
        let expected = expected(&req, sums, md5, req.input.content_length);
        let received = receive(&self.files, body, expected).await?;
        let mut meta = new_meta!(req.input);
        stored(&mut meta, &received);
        let mut output = PutObjectOutput {
            e_tag: etag(&meta.etag),
            ..Default::default()
        };
        set_checksums!(output, &meta.checksums);
        let bucket = req.input.bucket;
        self.run(move |files| files.publish(&received.temp, &bucket, &meta, &condition))
            .await?;
        Ok(S3Response::new(output))
    }

    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput {
            bucket, key, range, ..
        } = req.input;
        let (file, meta, modified) = self
            .run(move |files| files.open_object(&bucket, &key))
            .await?;
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
        let (_, meta, modified) = self
            .run(move |files| files.open_object(&bucket, &key))
            .await?;
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
                    s3_error!(
                        InvalidArgument,
                        "The continuation token provided is incorrect"
                    )
                })?,
        };
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
                        Item::Object(listed) => files.etag(&bucket, &listed.key),
                        Item::Prefix(_) => None,
                    })
                    .collect();
                Ok((items, more && max > 0, etags))
            })
            .await?;
        let next = more
            .then(|| items.last().map(|last| URL_SAFE_NO_PAD.encode(last.name())))
            .flatten();
        let count = i32::try_from(items.len()).unwrap_or(i32::MAX);
        let (mut contents, mut prefixes) = (Vec::new(), Vec::new());
        for (item, tag) in items.into_iter().zip(etags) {
            match item {
                Item::Prefix(prefix) => prefixes.push(CommonPrefix {
                    prefix: Some(prefix),
                }),
                Item::Object(listed) => contents.push(Object {
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
        self.run(move |files| files.delete(&req.input.bucket, &req.input.key))
            .await?;
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
                    deleted.push(DeletedObject {
                        key: Some(object.key),
                        ..Default::default()
                    });
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
        mut req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let upload = Upload {
            id: self.jitter.uuid().to_string(),
            bucket: req.input.bucket.clone(),
            meta: new_meta!(req.input),
            initiated_ms: self.clock.wall(),
        };
        let output = CreateMultipartUploadOutput {
            bucket: Some(req.input.bucket),
            key: Some(req.input.key),
            upload_id: Some(upload.id.clone()),
            checksum_algorithm: req.input.checksum_algorithm,
            checksum_type: req.input.checksum_type,
            ..Default::default()
        };
        self.run(move |files| files.start_upload(&upload)).await?;
        Ok(S3Response::new(output))
    }

    async fn upload_part(
        &self,
        mut req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let (id, number) = (req.input.upload_id.clone(), req.input.part_number);
        self.files.upload(&id, &req.input.bucket, &req.input.key)?;
        let body = req.input.body.take();
        let sums = checksums!(req.input);
        let md5 = req.input.content_md5.take();
        let expected = expected(&req, sums, md5, req.input.content_length);
        let received = receive(&self.files, body, expected).await?;
        let mut output = UploadPartOutput {
            e_tag: etag(&hex(&received.md5)),
            ..Default::default()
        };
        set_checksums!(output, &received.checksums);
        self.run(move |files| files.put_part(&id, number, &received))
            .await?;
        Ok(S3Response::new(output))
    }

    async fn complete_multipart_upload(
        &self,
        mut req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let condition = condition(req.input.if_none_match.take(), req.input.if_match.take())?;
        let whole = checksums!(req.input);
        let CompleteMultipartUploadInput {
            bucket,
            key,
            upload_id,
            multipart_upload,
            ..
        } = req.input;
        let parts = multipart_upload.and_then(|upload| upload.parts);
        let named: Vec<Named> = parts
            .into_iter()
            .flatten()
            .map(|mut part| Named {
                number: part.part_number.unwrap_or(0),
                etag: part.e_tag.take().map(|etag| etag.value().to_owned()),
                checksums: checksums!(part),
            })
            .collect();
        let (in_bucket, at) = (bucket.clone(), key.clone());
        let meta = self
            .run(move |files| {
                let meta = files.upload(&upload_id, &in_bucket, &at)?.meta;
                files.complete_upload(&upload_id, meta, &in_bucket, &named, &whole, &condition)
            })
            .await?;
        let mut output = CompleteMultipartUploadOutput {
            location: Some(format!("/{bucket}/{key}")),
            bucket: Some(bucket),
            key: Some(key),
            e_tag: etag(&meta.etag),
            ..Default::default()
        };
        set_checksums!(output, &meta.checksums);
        Ok(S3Response::new(output))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let AbortMultipartUploadInput {
            bucket,
            key,
            upload_id,
            ..
        } = req.input;
        self.run(move |files| {
            files.upload(&upload_id, &bucket, &key)?;
            files.abort_upload(&upload_id)
        })
        .await?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_parts(
        &self,
        req: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let input = req.input;
        let (id, bucket, key) = (
            input.upload_id.clone(),
            input.bucket.clone(),
            input.key.clone(),
        );
        let after = input.part_number_marker.unwrap_or(0);
        let max = usize::try_from(input.max_parts.unwrap_or(1000).clamp(1, 1000)).unwrap_or(1);
        let mut found = self
            .run(move |files| {
                files.upload(&id, &bucket, &key)?;
                files.parts(&id)
            })
            .await?;
        found.retain(|part| part.number > after);
        let more = found.len() > max;
        found.truncate(max);
        let next = found.last().map(|part| part.number).filter(|_| more);
        let parts = found.into_iter().map(|part| {
            let mut row = Part {
                e_tag: etag(&hex(&part.md5)),
                part_number: Some(part.number),
                size: Some(length(part.size)),
                ..Default::default()
            };
            set_checksums!(row, &part.checksums);
            row
        });
        Ok(S3Response::new(ListPartsOutput {
            parts: Some(parts.collect()),
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            part_number_marker: Some(after),
            next_part_number_marker: next,
            is_truncated: Some(more),
            ..Default::default()
        }))
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let (bucket, prefix) = (
            req.input.bucket.clone(),
            req.input.prefix.clone().unwrap_or_default(),
        );
        // One page holds them all.
        let found = self
            .run(move |files| files.uploads_of(&bucket, &prefix))
            .await?;
        let uploads = found.into_iter().map(|upload| MultipartUpload {
            initiated: Some(upload.initiated().into()),
            key: Some(upload.meta.key),
            upload_id: Some(upload.id),
            ..Default::default()
        });
        Ok(S3Response::new(ListMultipartUploadsOutput {
            uploads: Some(uploads.collect()),
            bucket: Some(req.input.bucket),
            prefix: req.input.prefix,
            is_truncated: Some(false),
            ..Default::default()
        }))
    }
}
