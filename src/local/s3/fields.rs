//! The fields that many S3 inputs and outputs share.

use std::collections::BTreeMap;

use s3s::dto::{ETag, ETagCondition};
use s3s::{S3Request, S3Result, s3_error};

use super::body::{ALGORITHMS, Expected, ReceivedBody, hex};
use super::chunked::Trailers;
use super::files::{Condition, Meta};

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
        .collect::<::std::collections::BTreeMap<&'static str, String>>()
    };
}

/// Sets the five `checksum_*` fields that many outputs carry.
macro_rules! set_checksums {
    ($output:expr, $sums:expr) => {
        let sums: &::std::collections::BTreeMap<String, String> = $sums;
        $output.checksum_crc32 = sums.get("crc32").cloned();
        $output.checksum_crc32c = sums.get("crc32c").cloned();
        $output.checksum_crc64nvme = sums.get("crc64nvme").cloned();
        $output.checksum_sha1 = sums.get("sha1").cloned();
        $output.checksum_sha256 = sums.get("sha256").cloned();
    };
}

/// What the request announces about its body.
pub(super) fn expected<T>(
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

pub(super) fn condition(
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

pub(super) fn stored(meta: &mut Meta, received: &ReceivedBody) {
    meta.size = received.size;
    meta.etag = hex(&received.md5);
    meta.checksums = received.checksums.clone();
}

macro_rules! new_meta {
    ($input:expr) => {
        $crate::local::s3::files::Meta {
            key: $input.key.clone(),
            content_type: $input.content_type.take(),
            content_encoding: $input.content_encoding.take(),
            content_language: $input.content_language.take(),
            content_disposition: $input.content_disposition.take(),
            cache_control: $input.cache_control.take(),
            user: $input.metadata.take().into_iter().flatten().collect(),
            ..$crate::local::s3::files::Meta::default()
        }
    };
}

pub(super) fn length(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

pub(super) fn etag(value: &str) -> Option<ETag> {
    Some(ETag::Strong(value.to_owned()))
}

pub(super) use {checksums, new_meta, set_checksums};
