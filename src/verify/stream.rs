//! Compares objects with the stream itself, as far back as it still has the records.
//!
//! The records of each range are read again and encoded with the settings at hand; what comes out
//! must be what is in the bucket, byte for byte before compression.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::aws::lookup::{Cursor, RecordLookup};
use crate::aws::objects::Objects;
use crate::aws::s3::ObjectStore;
use crate::delivery::batch::OpenBatch;
use crate::delivery::dead_letter;
use crate::delivery::decode::{decompress, form, is_same};
use crate::delivery::encode::EncodeError;
use crate::delivery::object::{self, Object};
use crate::delivery::object_key::parse_position;
use crate::delivery::recipe::Recipe;
use crate::delivery::route;
use crate::fault::{CallError, Fault};
use crate::ids::ShardId;
use crate::lease::row::Lease;
use crate::stream::Record;
use crate::stream::bound::Bound;
use crate::stream::deaggregate::user_records;
use crate::stream::position::{Checkpoint, InitialPosition, Position};
use crate::verify::tiling::{CoverageProblem, Piece, PieceKind};

/// Records asked for at once.
const PAGE: i32 = 2_000;

/// What comparing found.
#[derive(Debug, Default)]
pub struct Compared {
    /// Records read from the stream and delivered by the lease.
    pub records: u64,
    /// Batches compared as a whole.
    pub batches: u64,
    /// Batches not compared: partly outside retention, or written with other settings.
    pub skipped: u64,
    /// What is wrong.
    pub problems: Vec<CoverageProblem>,
    /// From here to there every record was looked for, in a range or under its own key.
    pub decided: Option<(Position, Position)>,
}

impl Compared {
    /// The stream has decided about this gap of the chain: what is missing there is told as lost,
    /// and if nothing is, there was none (an upload whose file was there already makes no object).
    pub fn decides(&self, gap: &CoverageProblem) -> bool {
        let CoverageProblem::Gap { after, until, .. } = gap else { return false };
        match (&self.decided, parse_position(after), parse_position(until)) {
            (Some((from, to)), Some(after), Some(until)) => *from <= after && until <= *to,
            _ => false,
        }
    }
}

/// Comparing failed.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A call.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Encoding.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// What comparing needs.
pub struct CompareDeps<'a> {
    /// The stream.
    pub probe: &'a RecordLookup,
    /// The bucket.
    pub objects: &'a Objects,
    /// The bucket.
    pub store: &'a ObjectStore,
    /// How objects were encoded.
    pub recipe: &'a Arc<Recipe>,
    /// The same where foreign records are kept.
    pub keeping: &'a Arc<Recipe>,
}

/// The union of all ranges, in order: batches that overlap others are not compared, and cover.
fn covered(pieces: &[Piece]) -> Vec<(Position, Position)> {
    let mut sorted: Vec<_> = pieces.iter().map(|p| (&p.first, &p.last)).collect();
    sorted.sort();
    let mut union: Vec<(Position, Position)> = Vec::new();
    for (first, last) in sorted {
        match union.last_mut() {
            Some((_, end)) if *first <= *end => {
                if *last > *end {
                    end.clone_from(last);
                }
            }
            _ => union.push((first.clone(), last.clone())),
        }
    }
    union
}

/// A batch with its objects.
struct ObjectRange<'a> {
    first: &'a Position,
    last: &'a Position,
    after: Option<&'a str>,
    pieces: Vec<&'a Piece>,
}

/// Compares one shard up to the checkpoint of `lease`.
///
/// # Errors
/// [`CompareError`]
pub async fn compare(
    means: &CompareDeps<'_>,
    lease: &Lease,
    pieces: &[Piece],
    bound: Option<Bound>,
) -> Result<Compared, CompareError> {
    let ranges = ranges(pieces);
    // Before the first range, only a range that says it follows a beginning tells what should be
    // covered; what stands before any other is the chain's business.
    let whole =
        ranges.first().and_then(|r| r.after).is_some_and(|after| parse_position(after).is_none());
    let start = lease.start(&Checkpoint::TrimHorizon, InitialPosition::TrimHorizon);
    let start = match (lease.started_ms, start) {
        (Some(ms), _) => crate::stream::position::StartAt::Timestamp(ms),
        (None, Some(start)) => start,
        (None, None) => crate::stream::position::StartAt::TrimHorizon,
    };
    let mut this = Comparison {
        means,
        shard: &lease.shard,
        ranges: ranges.into(),
        covered: covered(pieces),
        whole,
        seen_any: false,
        open: None,
        foreign: 0,
        lost: None,
        compared: Compared::default(),
    };
    let mut cursor = Cursor::new(start);
    let aggregates = means.recipe.settings.aggregates();
    'reading: loop {
        let page = match means.probe.page(&lease.shard, &mut cursor, PAGE).await {
            Ok(page) => page,
            // Gone from the stream as a whole.
            Err(error) if error.fault == Fault::NotFound => break,
            Err(error) => return Err(error.into()),
        };
        let tip = page.records.is_empty() && page.behind_ms.is_none_or(|ms| ms == 0);
        let (end, mut records) = (page.next.is_none() || tip, page.records);
        let over = bound.as_ref().and_then(|b| b.cut(&records));
        records.truncate(over.unwrap_or(records.len()));
        records = user_records(records, aggregates, None, lease.hash_keys_to_judge()).records;
        for record in records.iter() {
            if !is_delivered(lease, record) {
                break 'reading;
            }
            this.take(record).await?;
        }
        if end || over.is_some() {
            break;
        }
    }
    this.finish().await?;
    this.tell_lost();
    Ok(this.compared)
}

fn is_delivered(lease: &Lease, record: Record<'_>) -> bool {
    match &lease.progress.checkpoint {
        Checkpoint::ShardEnd => true,
        Checkpoint::At(end) => record.cmp_position(end).is_le(),
        Checkpoint::AtTimestamp | Checkpoint::TrimHorizon | Checkpoint::Latest => false,
    }
}

/// Batches in order; of those that overlap, the first.
fn ranges(pieces: &[Piece]) -> Vec<ObjectRange<'_>> {
    let mut sorted: Vec<&Piece> = pieces.iter().collect();
    sorted.sort_by(|a, b| (&a.first, &a.last).cmp(&(&b.first, &b.last)));
    let mut ranges: Vec<ObjectRange<'_>> = Vec::new();
    for piece in sorted {
        match ranges.last_mut() {
            Some(range) if *range.first == piece.first && *range.last == piece.last => {
                range.pieces.push(piece);
            }
            Some(range) if piece.first <= *range.last => {}
            _ => ranges.push(ObjectRange {
                first: &piece.first,
                last: &piece.last,
                after: piece.after.as_deref(),
                pieces: vec![piece],
            }),
        }
    }
    ranges
}

struct Comparison<'a> {
    means: &'a CompareDeps<'a>,
    shard: &'a ShardId,
    ranges: VecDeque<ObjectRange<'a>>,
    covered: Vec<(Position, Position)>,
    whole: bool,
    seen_any: bool,
    /// The batch being rebuilt, if its first record was seen.
    open: Option<OpenBatch>,
    /// Foreign records in it.
    foreign: u64,
    lost: Option<(Position, Position, u64)>,
    compared: Compared,
}

impl Comparison<'_> {
    async fn take(&mut self, record: Record<'_>) -> Result<(), CompareError> {
        self.compared.records += 1;
        let at = record.position();
        while self.ranges.front().is_some_and(|range| *range.last < at) {
            self.finish().await?;
        }
        let inside = self.ranges.front().is_some_and(|range| *range.first <= at);
        if !inside {
            let expected = self.whole || self.seen_any;
            if expected {
                self.decide(&at);
            }
            if expected && !self.is_covered(&at) && !self.is_elsewhere(record).await? {
                self.lose(at);
            }
            return Ok(());
        }
        self.seen_any = true;
        self.decide(&at);
        self.tell_lost();
        if self.ranges.front().is_some_and(|range| *range.first == at) {
            // Whether they were judged is told by what was put aside.
            let judged = self.ranges.front().is_some_and(|range| {
                range.pieces.iter().any(|piece| route::is_foreign(&piece.key))
            });
            let recipe = if judged { self.means.recipe } else { self.means.keeping };
            self.open = Some(OpenBatch::new(Arc::clone(recipe), self.shard.clone(), 0, None));
            self.foreign = 0;
        }
        if let Some(open) = &mut self.open {
            self.foreign += u64::from(record.foreign);
            open.push(record)?;
        }
        Ok(())
    }

    fn is_covered(&self, at: &Position) -> bool {
        let index = self.covered.partition_point(|(_, last)| last < at);
        self.covered.get(index).is_some_and(|(first, _)| first <= at)
    }

    fn decide(&mut self, at: &Position) {
        match &mut self.compared.decided {
            Some((_, to)) => to.clone_from(at),
            none => *none = Some((at.clone(), at.clone())),
        }
    }

    fn empty(&self) -> OpenBatch {
        OpenBatch::new(Arc::clone(self.means.recipe), self.shard.clone(), 0, None)
    }

    /// An upload that was stored under its own key, by itself or as another event's duplicate.
    async fn is_elsewhere(&self, record: Record<'_>) -> Result<bool, CompareError> {
        let mut open = self.empty();
        open.push(record)?;
        let at = record.position();
        let sealed = open.seal_as(at.clone(), at)?;
        match sealed.objects.as_slice() {
            [object] if object.kind == object::ObjectKind::Upload => self.is_stored(object).await,
            _ => Ok(false),
        }
    }

    async fn is_stored(&self, object: &Object) -> Result<bool, CompareError> {
        let there = self.means.store.metadata(&object.bucket, &object.key).await?;
        let sha = crate::upload::event::META_SHA256;
        if there.is_some_and(|m| m.get(sha).map(String::as_str) == object.meta(sha)) {
            return Ok(true);
        }
        // Put aside with others of its batch, under a key that begins with the date of the batch; by
        // builds before 0.2, alone.
        let Some(position) = object.meta(crate::upload::event::META_POSITION) else {
            return Ok(false);
        };
        let stream = &self.means.recipe.settings.stream;
        let alone = format!("{stream}-{}.ndjson", position.replace('/', "-"));
        let of_shard = format!("/{stream}-{}-", self.shard);
        let errors = self.means.recipe.errors.fixed(stream);
        let told = format!("\"position\":\"{position}\"");
        for (key, _) in self.means.objects.list(&object.bucket, &errors).await? {
            if !dead_letter::is_aside(&key) || !key.contains(&of_shard) {
                continue;
            }
            if key.ends_with(&alone) {
                return Ok(true);
            }
            let body = self.means.objects.get(&object.bucket, &key).await?;
            if memchr::memmem::find(&body, told.as_bytes()).is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The front range is behind us: compare what was rebuilt, if all of it was.
    async fn finish(&mut self) -> Result<(), CompareError> {
        let Some(range) = self.ranges.pop_front() else { return Ok(()) };
        let Some(open) = self.open.take() else {
            self.compared.skipped += 1;
            return Ok(());
        };
        if open.last() != Some(range.last) {
            // The stream was read to an end that lies inside the range.
            self.compared.skipped += 1;
            return Ok(());
        }
        let sealed = open.seal_as(range.first.clone(), range.last.clone())?;
        let counted = |object: &&Object| object.kind != object::ObjectKind::Upload;
        let records: u64 = sealed.objects.iter().filter(counted).map(|o| o.records).sum();
        let told = range.pieces.iter().find_map(|piece| piece.batch);
        if self.foreign > 0 && told == Some(records.saturating_sub(self.foreign)) {
            // Written by a build before 0.2, which left them out.
            self.compared.skipped += 1;
            return Ok(());
        }
        self.compared.batches += 1;
        for object in &sealed.objects {
            match object.kind {
                object::ObjectKind::Upload => {
                    if !self.is_stored(object).await? {
                        self.missing(object, "the stream has this upload");
                    }
                }
                object::ObjectKind::Archive => self.archive(&range, object).await?,
                object::ObjectKind::DeadLetter => self.dead_letter(&range, object).await?,
            }
        }
        Ok(())
    }

    async fn archive(
        &mut self,
        range: &ObjectRange<'_>,
        object: &Object,
    ) -> Result<(), CompareError> {
        let archived = || range.pieces.iter().filter(|p| p.kind == PieceKind::Archive);
        let Some(piece) = archived().find(|p| p.key == object.key) else {
            if archived().next().is_some() && archived().all(|p| form(&p.key) != form(&object.key))
            {
                // Another format or codec: written with other settings than the ones at hand.
                self.compared.skipped += 1;
                self.compared.batches -= 1;
            } else {
                self.missing(object, "the stream has records for it");
            }
            return Ok(());
        };
        if !self.equal(&piece.key, object).await? {
            self.compared.problems.push(CoverageProblem::Differs {
                key: piece.key.clone(),
                reason: "the records of its range in the stream give another content".into(),
            });
        }
        Ok(())
    }

    /// The key of a dead letter depends on when its batch was opened: any of the batch will do.
    async fn dead_letter(
        &mut self,
        range: &ObjectRange<'_>,
        object: &Object,
    ) -> Result<(), CompareError> {
        for piece in range.pieces.iter().filter(|p| p.kind == PieceKind::DeadLetter) {
            if self.equal(&piece.key, object).await? {
                return Ok(());
            }
        }
        self.missing(object, "the stream has records that become this dead letter");
        Ok(())
    }

    async fn equal(&self, key: &str, object: &Object) -> Result<bool, CompareError> {
        let body = self.means.objects.get(&object.bucket, key).await?;
        let codec = |key: &str| form(key).map(|(_, codec)| codec);
        let (Some(there), Some(here)) = (codec(key), codec(&object.key)) else {
            return Ok(false);
        };
        // Ours is bounded, what stands in the bucket need not be.
        let here = decompress(here, &object.body.concat());
        Ok(here.is_ok_and(|here| matches!(is_same(there, &body, &here), Ok(true))))
    }

    fn missing(&mut self, object: &Object, reason: &str) {
        self.compared.problems.push(CoverageProblem::Differs {
            key: object.key.clone(),
            reason: format!("it is missing: {reason}"),
        });
    }

    fn lose(&mut self, position: Position) {
        match &mut self.lost {
            Some((_, last, records)) => (*last, *records) = (position, *records + 1),
            None => self.lost = Some((position.clone(), position, 1)),
        }
    }

    fn tell_lost(&mut self) {
        if let Some((first, last, records)) = self.lost.take() {
            self.compared.problems.push(CoverageProblem::Lost {
                shard: self.shard.clone(),
                first: first.to_string(),
                last: last.to_string(),
                records,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gaps_that_were_read_over_are_decided() {
        let at = |n: u64| parse_position(&n.to_string()).unwrap();
        let compared = Compared { decided: Some((at(5), at(20))), ..Compared::default() };
        let gap = |after: &str, until: &str| CoverageProblem::Gap {
            shard: ShardId::new("s"),
            after: after.into(),
            until: until.into(),
        };
        assert!(compared.decides(&gap("5", "20")));
        assert!(!compared.decides(&gap("4", "20")));
        assert!(!compared.decides(&gap("5", "21")));
        assert!(!compared.decides(&gap("the beginning", "20")));
        assert!(!Compared::default().decides(&gap("5", "20")));
    }

    #[test]
    fn overlapping_ranges_cover_together() {
        let at = |n: u64| parse_position(&n.to_string()).unwrap();
        let piece = |first, last| Piece {
            key: String::new(),
            kind: PieceKind::Archive,
            shard: ShardId::new("s"),
            first: at(first),
            last: at(last),
            after: None,
            records: None,
            batch: None,
        };
        let pieces = [piece(1, 5), piece(1, 9), piece(3, 4), piece(12, 13)];
        assert_eq!(covered(&pieces), [(at(1), at(9)), (at(12), at(13))]);
        let compared: Vec<_> =
            ranges(&pieces).iter().map(|r| (r.first.clone(), r.last.clone())).collect();
        assert_eq!(compared, [(at(1), at(5)), (at(12), at(13))]);
    }
}
