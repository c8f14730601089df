//! Lists objects, reads their metadata, and sorts them by shard.

use std::collections::{BTreeMap, HashMap};

use futures::StreamExt;

use crate::aws::objects::Objects;
use crate::aws::s3::ObjectStore;
use crate::delivery::dead_letter::is_aside;
use crate::delivery::object::{
    META_AFTER, META_BATCH, META_FIRST, META_LAST, META_RECORDS, META_SHARD, META_STREAM,
};
use crate::delivery::object_key::{Template, object_name, parse_object_name, parse_position};
use crate::delivery::recipe::Recipe;
use crate::fault::CallError;
use crate::ids::ShardId;
use crate::verify::tiling::{CoverageProblem, Piece, PieceKind};

/// Metadata read at once.
const PARALLEL: usize = 32;
/// Where replays put their objects by default.
const REPLAYS: &str = "replays/";

/// What was found.
#[derive(Default)]
pub struct Survey {
    /// Objects with a range, by shard.
    pub pieces: BTreeMap<ShardId, Vec<Piece>>,
    /// Everything that is not ours.
    pub problems: Vec<CoverageProblem>,
    /// Keys of gap reports: records lost to retention, told at the time.
    pub gaps: Vec<String>,
    /// Objects listed.
    pub listed: usize,
    /// Objects of other streams among the dead letters and uploads.
    pub others: usize,
}

/// The places of an application's objects.
pub struct Places {
    archive: String,
    errors: String,
    uploads: String,
    stream: String,
    bucket: String,
}

impl Places {
    /// As the templates have them.
    pub fn of(recipe: &Recipe) -> Self {
        let settings = &recipe.settings;
        // Whole folders: a stranger need not begin like `dt=`.
        let folder = |template: &Template| {
            let fixed = template.fixed(&settings.stream);
            fixed[..fixed.rfind('/').map_or(0, |at| at + 1)].to_owned()
        };
        Self {
            archive: folder(&recipe.prefix),
            errors: folder(&recipe.errors),
            uploads: format!("{}uploads/", settings.uploads_prefix),
            stream: settings.stream.clone(),
            bucket: settings.bucket.clone(),
        }
    }

    fn kind(&self, key: &str) -> PieceKind {
        if key.starts_with(&self.uploads) {
            PieceKind::Upload
        } else if !self.errors.is_empty() && key.starts_with(&self.errors) {
            PieceKind::DeadLetter
        } else {
            PieceKind::Archive
        }
    }

    /// What to list: none of it twice.
    fn prefixes(&self, only: Option<&str>) -> Vec<String> {
        if let Some(only) = only {
            return vec![only.to_owned()];
        }
        let mut all = vec![self.archive.clone(), self.errors.clone(), self.uploads.clone()];
        all.sort();
        let mut kept: Vec<String> = Vec::new();
        for prefix in all {
            if !kept.iter().any(|k| prefix.starts_with(k.as_str())) {
                kept.push(prefix);
            }
        }
        kept
    }
}

/// Surveys the bucket, or the part of it below `only`.
///
/// # Errors
/// [`CallError`]
pub async fn survey(
    objects: &Objects,
    store: &ObjectStore,
    places: &Places,
    only: Option<&str>,
) -> Result<Survey, CallError> {
    let mut keys = Vec::new();
    for prefix in places.prefixes(only) {
        keys.extend(objects.list(&places.bucket, &prefix).await?.into_iter().map(|(key, _)| key));
    }
    // Replays are verified by themselves; below an empty archive prefix they would look like overlaps.
    keys.retain(|key| only.is_some() || !key.starts_with(REPLAYS));
    let mut found = Survey { listed: keys.len(), ..Survey::default() };
    let heads = keys.into_iter().map(|key| async move {
        let metadata = store.metadata(&places.bucket, &key).await;
        metadata.map(|metadata| (key, metadata))
    });
    let mut heads = futures::stream::iter(heads).buffer_unordered(PARALLEL);
    while let Some(head) = heads.next().await {
        // Removed since it was listed: its absence will show.
        if let (key, Some(metadata)) = head? {
            sort(&mut found, places, key, &metadata);
        }
    }
    Ok(found)
}

fn sort(found: &mut Survey, places: &Places, key: String, metadata: &HashMap<String, String>) {
    let kind = places.kind(&key);
    if kind == PieceKind::Upload && metadata.get(META_STREAM).is_some_and(|s| *s != places.stream) {
        found.others += 1;
        return;
    }
    let mut foreign = |key: &str, reason: String| {
        found.problems.push(CoverageProblem::Foreign { key: key.to_owned(), reason });
    };
    let position = |name: &str| metadata.get(name).and_then(|text| parse_position(text));
    let told = metadata
        .get(META_SHARD)
        .map(|s| ShardId::new(s.as_str()))
        .zip(position(META_FIRST))
        .zip(position(META_LAST))
        .map(|((shard, first), last)| (shard, first, last));
    let file = key.rsplit('/').next().unwrap_or_default();
    if kind == PieceKind::DeadLetter && file.ends_with(".gap.json") {
        found.gaps.push(key);
        return;
    }
    // Whose range it is: an upload's and an aside file's is in the metadata, all others' in the name,
    // and the metadata must agree.
    let conflict = kind == PieceKind::DeadLetter && is_aside(&key);
    let named = parse_object_name(&key);
    let range = match (kind, named, told) {
        (PieceKind::Upload, _, told) => told,
        (_, _, told) if conflict => told,
        (_, None, _) => {
            foreign(&key, "its name is not that of an object with a range".into());
            return;
        }
        (_, Some((shard, first, last)), told) => {
            let name = object_name(&places.stream, &shard, &first, &last);
            if !file.starts_with(&name) {
                if kind == PieceKind::DeadLetter {
                    found.others += 1;
                } else {
                    foreign(&key, format!("it is not of stream {}", places.stream));
                }
                return;
            }
            match told {
                None => foreign(&key, "it has no metadata of ours".into()),
                Some(told) if told != (shard.clone(), first.clone(), last.clone()) => {
                    let reason = format!("its metadata are those of {}-{}", told.1, told.2);
                    foreign(&key, reason);
                }
                Some(_) => {}
            }
            // Also a stranger with a range counts: what it covers twice is an overlap.
            Some((shard, first, last))
        }
    };
    // An upload of an earlier version: in no order.
    let Some((shard, first, last)) = range else { return };
    let number = |name: &str| metadata.get(name).and_then(|text| text.parse().ok());
    found.pieces.entry(shard.clone()).or_default().push(Piece {
        key,
        kind: if conflict { PieceKind::Upload } else { kind },
        shard,
        first,
        last,
        after: metadata.get(META_AFTER).cloned(),
        records: if conflict || kind == PieceKind::Upload { Some(0) } else { number(META_RECORDS) },
        batch: number(META_BATCH),
    });
}
