//! What is left of an announced batch whose beginning has left retention.
//!
//! No object of the batch can be completed any more, and the ones that exist are whole. Which of the
//! records that can still be read are in one of them follows from the record alone where partitions
//! do: the object of its partition exists or not. Where a batch may spill, a record whose own
//! partition does not exist is in the overflow if that exists, because overflow is put after all
//! other objects of its batch ([`Object::last`]). Everything else is in no object, and is kept in the
//! dead letters. Encoding the rest as if it were a batch would not tell: with its first records
//! gone, other partitions than before find room.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::delivery::batch::OpenBatch;
use crate::delivery::dead_letter;
use crate::delivery::encode::EncodeError;
use crate::delivery::intent::Intent;
use crate::delivery::object::{Object, ObjectKind};
use crate::delivery::object_key::{BadTemplate, archive_key, object_name};
use crate::delivery::partition::{Candidates, Partitions};
use crate::delivery::recipe::Recipe;
use crate::delivery::route::{Route, route};
use crate::delivery::settings::Settings;
use crate::ids::ShardId;
use crate::stream::position::Position;
use crate::stream::{Record, Records};

/// The records that can still be read, in order.
#[derive(Debug)]
pub struct Remains {
    recipe: Arc<Recipe>,
    shard: ShardId,
    intent: Intent,
    pages: Vec<Records>,
}

/// The objects a record may be in.
enum Home {
    /// It becomes an object by itself, put create-only whatever else there is.
    Own,
    /// One of these keys, in this order.
    Keys(Vec<String>),
}

impl Remains {
    /// Of this batch, encoded with the recorded settings.
    pub fn new(recipe: Arc<Recipe>, shard: ShardId, intent: Intent) -> Self {
        Self { recipe, shard, intent, pages: Vec::new() }
    }

    /// Takes the next page.
    pub fn push(&mut self, page: Records) {
        if !page.is_empty() {
            self.pages.push(page);
        }
    }

    /// Memory held, bytes.
    pub fn memory(&self) -> usize {
        self.pages.iter().map(Records::memory).sum()
    }

    /// The first record left.
    pub fn first(&self) -> Option<Position> {
        Some(self.pages.first()?.first()?.position())
    }

    /// The last record left.
    pub fn last(&self) -> Option<Position> {
        Some(self.pages.last()?.last()?.position())
    }

    /// The keys whose existence decides what is kept.
    pub fn keys(&self) -> BTreeSet<String> {
        let mut partitions = self.partitions();
        let mut keys = BTreeSet::new();
        for record in self.records() {
            if let Home::Keys(of) = self.home(&mut partitions, record) {
                keys.extend(of);
            }
        }
        keys
    }

    /// The objects to put, given those of [`Self::keys`] that exist: files under their own keys, and
    /// what is in no object as dead letters.
    ///
    /// # Errors
    /// [`RemainsError`]
    pub fn seal(self, exist: &BTreeSet<String>) -> Result<Vec<Object>, RemainsError> {
        let settings = &self.recipe.settings;
        let stamp_ms = self.intent.stamp_ms;
        // Each record under its own partition, however many there are.
        let apart = Settings { spill: 0, ..Settings::clone(settings) };
        let recipe = Arc::new(Recipe::new(Arc::new(apart))?);
        let mut open = OpenBatch::new(recipe, self.shard.clone(), stamp_ms, None);
        let mut partitions = self.partitions();
        for record in self.records() {
            let delivered = match self.home(&mut partitions, record) {
                Home::Own => false,
                Home::Keys(keys) => keys.iter().any(|key| exist.contains(key)),
            };
            if !delivered {
                open.push(record)?;
            }
        }
        if open.is_empty() {
            return Ok(Vec::new());
        }
        let sealed = open.seal_as(self.intent.first.clone(), self.intent.last.clone())?;
        let errors = self.recipe.errors.render(stamp_ms, &settings.stream, &self.shard, "gap");
        let kept = sealed.objects.into_iter().map(|object| match object.kind {
            ObjectKind::Upload => object,
            ObjectKind::Archive | ObjectKind::DeadLetter => Object {
                key: format!("{errors}{}", object.key),
                kind: ObjectKind::DeadLetter,
                ..object
            },
        });
        Ok(kept.collect())
    }

    fn partitions(&self) -> Partitions {
        Partitions::new(Arc::clone(&self.recipe), self.shard.clone(), self.intent.stamp_ms)
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.pages.iter().flat_map(Records::iter)
    }

    fn home(&self, partitions: &mut Partitions, record: Record<'_>) -> Home {
        let settings = &self.recipe.settings;
        let Intent { first, last, stamp_ms, .. } = &self.intent;
        let name = object_name(&settings.stream, &self.shard, first, last);
        match route(record, settings) {
            Route::Upload(_) => Home::Own,
            Route::Dead(reject) => Home::Keys(vec![dead_letter::key(
                &self.recipe,
                &self.shard,
                *stamp_ms,
                reject.kind,
                &name,
            )]),
            Route::Archive => {
                let Candidates { own, spilled } = partitions.candidates(record);
                let prefixes = std::iter::once(own).chain(spilled);
                Home::Keys(prefixes.map(|prefix| archive_key(&prefix, &name, settings)).collect())
            }
        }
    }
}

/// Why the rest of a batch cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum RemainsError {
    /// Encoding failed.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The recorded template cannot be parsed.
    #[error(transparent)]
    Settings(#[from] BadTemplate),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::batch::BatchLimits;

    const STAMP: i64 = 1_767_225_600_000;

    fn recipe() -> Arc<Recipe> {
        let settings =
            Settings { prefix: "k=!{field:k}/".into(), spill: 2, ..Settings::new("b", "s") };
        Arc::new(Recipe::new(Arc::new(settings.versioned())).unwrap())
    }

    fn page(records: &[(u32, &str)]) -> Records {
        let lines: Vec<(String, String)> =
            records.iter().map(|(n, k)| (format!("{n}"), format!("{{\"k\":\"{k}\"}}"))).collect();
        let records = lines.iter().map(|(number, data)| {
            Record::new(number, Some(STAMP), Some("p"), data.as_bytes()).unwrap()
        });
        Records::copy(&records.collect::<Vec<_>>()).unwrap()
    }

    /// The batch as its author saw it: what is announced, and its objects.
    fn announced(records: &[(u32, &str)]) -> (Intent, Vec<Object>) {
        let mut open = OpenBatch::new(recipe(), ShardId::new("shard"), STAMP, None);
        open.fill(&mut page(records), &BatchLimits::NONE).unwrap();
        let sealed = open.seal().unwrap().unwrap();
        (sealed.intent, sealed.objects)
    }

    fn kept(left: &[(u32, &str)], intent: &Intent, exist: &[&Object]) -> Vec<(String, u64)> {
        let mut remains = Remains::new(recipe(), ShardId::new("shard"), intent.clone());
        remains.push(page(left));
        let there: BTreeSet<String> = exist.iter().map(|o| o.key.clone()).collect();
        let asked = remains.keys();
        let objects = remains.seal(&asked.intersection(&there).cloned().collect()).unwrap();
        objects.into_iter().map(|o| (o.key, o.records)).collect()
    }

    const ALL: [(u32, &str); 5] = [(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "c")];

    #[test]
    fn overflow_comes_last() {
        let (_, objects) = announced(&ALL);
        let last: Vec<_> = objects.iter().map(|o| (o.key.split('/').next(), o.last)).collect();
        let expected = [(Some("k=__overflow__"), true), (Some("k=a"), false), (Some("k=b"), false)];
        assert_eq!(last, expected);
    }

    /// Without its first records the batch would give `c` a place and spill `a`.
    #[test]
    fn what_is_in_no_object_is_kept_and_what_is_in_one_is_not() {
        let (intent, objects) = announced(&ALL);
        let left = &ALL[1..];
        let [overflow, a, b] = objects.as_slice() else { panic!("{objects:?}") };
        assert_eq!(kept(left, &intent, &[overflow, a, b]), []);
        // `a` was not put: the overflow was not either, and its records are in no object.
        let only_b = kept(left, &intent, &[b]);
        let keys: Vec<_> = only_b.iter().map(|(key, n)| (key.contains("/k=a/"), *n)).collect();
        assert_eq!(keys, [(true, 1), (false, 2)], "{only_b:?}");
        // All but the overflow: what spilled is kept, under its own partition.
        let spilled = kept(left, &intent, &[a, b]);
        assert!(matches!(spilled.as_slice(), [(key, 2)] if key.contains("/k=c/")), "{spilled:?}");
        assert_eq!(kept(left, &intent, &[]).iter().map(|(_, n)| n).sum::<u64>(), 4);
    }

    #[test]
    fn range_of_what_is_left() {
        let (intent, _) = announced(&ALL);
        let mut remains = Remains::new(recipe(), ShardId::new("shard"), intent);
        assert_eq!((remains.first(), remains.last()), (None, None));
        remains.push(page(&[]));
        remains.push(page(&ALL[2..4]));
        remains.push(page(&ALL[4..]));
        let found = (remains.first().unwrap().to_string(), remains.last().unwrap().to_string());
        assert_eq!(found, ("3".to_owned(), "5".to_owned()));
    }
}
