//! The multipart operations.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::api::Api;
use super::body::{hex, receive};
use super::fields::{checksums, condition, etag, expected, length, new_meta, set_checksums};
use super::multipart::{Named, OpenUpload};

impl Api {
    pub(super) async fn start(
        &self,
        mut req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let upload = OpenUpload {
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

    pub(super) async fn part(
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
        let mut output =
            UploadPartOutput { e_tag: etag(&hex(&received.md5)), ..Default::default() };
        set_checksums!(output, &received.checksums);
        self.run(move |files| files.upload_part_of(&id, number, &received)).await?;
        Ok(S3Response::new(output))
    }

    pub(super) async fn complete(
        &self,
        mut req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let condition = condition(req.input.if_none_match.take(), req.input.if_match.take())?;
        let whole = checksums!(req.input);
        let CompleteMultipartUploadInput { bucket, key, upload_id, multipart_upload, .. } =
            req.input;
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

    pub(super) async fn abort(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let AbortMultipartUploadInput { bucket, key, upload_id, .. } = req.input;
        self.run(move |files| {
            files.upload(&upload_id, &bucket, &key)?;
            files.abort_upload(&upload_id)
        })
        .await?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    pub(super) async fn parts(
        &self,
        req: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let input = req.input;
        let (id, bucket, key) = (input.upload_id.clone(), input.bucket.clone(), input.key.clone());
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

    pub(super) async fn uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let (bucket, prefix) =
            (req.input.bucket.clone(), req.input.prefix.clone().unwrap_or_default());
        // One page holds them all.
        let found = self.run(move |files| files.uploads_of(&bucket, &prefix)).await?;
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
