//! Dead letters: what cannot become part of an archive object, with its position and the reason.
//!
//! Records that a format or a route rejects are collected by a batch as envelope lines
//! ([`crate::delivery::encode::Encoder::dead_letters`]); a file whose key belongs to another one
//! is put aside by [`letter`]; records that left retention are named by a [`gap_report`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::delivery::body::Body;
use crate::delivery::gap::{Certainty, Gap, GapEnd};
use crate::delivery::object::{BESIDES, Object, ObjectKind, is_range};
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

/// ObjectKind: the key of an upload belongs to another file.
pub const CONFLICT: &str = "upload-conflict";
/// ObjectKind: the store takes no object under the key of an upload.
pub const REFUSED: &str = "upload-refused";

/// Is this the key of files put aside?
pub fn is_aside(key: &str) -> bool {
    [CONFLICT, REFUSED].iter().any(|kind| key.contains(&format!("{kind}/")))
}

/// Why a file is put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aside<'a> {
    /// Another file has its key.
    Conflict,
    /// Somebody has its key, and who cannot be seen: the code of the error.
    Unseen(&'a str),
    /// The store refuses its key: the code of the error.
    Refused(&'a str),
}

/// A file that is put aside: a line of one of the objects that [`put_aside`] makes.
#[derive(Debug)]
pub struct Letter {
    /// ObjectKind of dead letter.
    pub kind: &'static str,
    key: String,
    line: Vec<u8>,
    bucket: String,
    metadata: Vec<(String, String)>,
}

impl Letter {
    /// Memory held, bytes.
    pub fn memory(&self) -> usize {
        self.line.len() + BESIDES
    }
}

/// The dead letter of an upload; `None` for any other object.
pub fn letter(upload: &Object, why: Aside<'_>) -> Option<Letter> {
    let keys = upload.aside.as_ref()?;
    let (kind, key, reason) = match why {
        Aside::Conflict => (
            CONFLICT,
            &keys.conflict,
            "the file key belongs to another upload with other content".to_owned(),
        ),
        Aside::Unseen(code) => (
            CONFLICT,
            &keys.conflict,
            format!("the file key is taken, and what is there cannot be looked at: {code}"),
        ),
        Aside::Refused(code) => {
            (REFUSED, &keys.refused, format!("the store refuses the file key: {code}"))
        }
    };
    let line = serde_json::json!({
        "kind": kind,
        "reason": reason,
        "file_key": upload.key,
        "position": upload.meta(event::META_POSITION),
        "request_id": upload.meta(event::META_REQUEST_ID),
        "sha256": upload.meta(event::META_SHA256),
        "data": STANDARD.encode(upload.body.concat()),
    });
    Some(Letter {
        kind,
        key: key.clone(),
        line: format!("{line}\n").into_bytes(),
        bucket: upload.bucket.clone(),
        metadata: upload.metadata.iter().filter(|(name, _)| is_range(name)).cloned().collect(),
    })
}

/// The objects of the files of a batch that are put aside, one of each kind. Whoever makes them for
/// the same batch may find other files to put aside; then those that are not are stored.
pub fn put_aside(letters: Vec<Letter>) -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    for Letter { key, line, bucket, metadata, .. } in letters {
        match objects.iter_mut().find(|object| object.key == key) {
            Some(object) => {
                object.body.chunks.push(line.into());
                object.records += 1;
            }
            None => objects.push(Object {
                bucket,
                key,
                kind: ObjectKind::DeadLetter,
                body: Body::of(line),
                content_type: "application/x-ndjson".into(),
                metadata,
                records: 1,
                aside: None,
                accepted_ms: None,
                last: false,
            }),
        }
    }
    objects
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
        "reason": match gap.certainty {
            Certainty::Known => {
                "records between these positions left the stream's retention undelivered"
            }
            Certainty::Possible => {
                "records between these positions may have left the stream's retention undelivered, \
                 or there were none: nothing says when the shard was last read to its tip"
            }
        },
        "after": gap.after,
    });
    if gap.certainty == Certainty::Possible {
        line["possible"] = true.into();
    }
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
        aside: None,
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
