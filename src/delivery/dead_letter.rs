//! Dead letters: what cannot become part of an archive object, with its position and the reason.
//!
//! Records that a format or a route rejects are collected by a batch as envelope lines
//! ([`crate::delivery::encode::Encoder::dead_letters`]); a file whose key belongs to another one
//! becomes [`upload_conflict`]; records that left retention are named by a [`gap_report`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::delivery::body::Body;
use crate::delivery::gap::{Gap, GapEnd};
use crate::delivery::object::{Object, ObjectKind, is_range};
use crate::delivery::object_key::Template;
use crate::delivery::recipe::Recipe;
use crate::delivery::settings::Settings;
use crate::ids::ShardId;
use crate::upload::event;

/// A record that this format cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// ObjectKind of dead letter.
    pub kind: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// The dead letter of an upload whose key belongs to another file. The same for everyone who
/// meets the conflict.
pub fn upload_conflict(upload: &Object) -> Option<Object> {
    let key = upload.conflict_key.clone()?;
    let line = serde_json::json!({
        "kind": "upload-conflict",
        "reason": "the file key belongs to another upload with other content",
        "file_key": upload.key,
        "position": upload.meta(event::META_POSITION),
        "request_id": upload.meta(event::META_REQUEST_ID),
        "sha256": upload.meta(event::META_SHA256),
        "data": STANDARD.encode(upload.body.concat()),
    });
    Some(Object {
        bucket: upload.bucket.clone(),
        key,
        kind: ObjectKind::DeadLetter,
        body: Body::of(format!("{line}\n")),
        content_type: "application/x-ndjson".into(),
        metadata: upload.metadata.iter().filter(|(name, _)| is_range(name)).cloned().collect(),
        records: 1,
        conflict_key: None,
        accepted_ms: None,
        last: false,
    })
}

/// A dead letter that names records nobody can deliver any more.
pub fn gap_report(
    settings: &Settings,
    errors: &Template,
    shard: &ShardId,
    range: &str,
    stamp_ms: i64,
    gap: &Gap,
) -> Object {
    let mut line = serde_json::json!({
        "stream": settings.stream, "shard": shard, "kind": "gap",
        "reason": "records between these positions left the stream's retention undelivered",
        "after": gap.after,
    });
    match &gap.end {
        GapEnd::Before(end) => line["before"] = end.as_str().into(),
        GapEnd::Through(end) => line["through"] = end.as_str().into(),
    }
    let prefix = errors.render(stamp_ms, &settings.stream, shard, "gap");
    Object {
        bucket: settings.bucket.clone(),
        key: format!("{prefix}{}-{shard}-{range}.gap.json", settings.stream),
        kind: ObjectKind::DeadLetter,
        body: Body::of(format!("{line}\n")),
        content_type: "application/json".into(),
        metadata: Vec::new(),
        records: 0,
        conflict_key: None,
        accepted_ms: None,
        last: false,
    }
}

/// Key of the object of the dead letters of one kind, for a batch whose objects bear this name.
pub(super) fn key(
    recipe: &Recipe,
    shard: &ShardId,
    stamp_ms: i64,
    kind: &str,
    name: &str,
) -> String {
    let Recipe { settings, errors, .. } = recipe;
    let prefix = errors.render(stamp_ms, &settings.stream, shard, kind);
    format!("{prefix}{name}.ndjson{}", settings.codec.extension())
}
