//! Whether the ranges of a shard's objects tile what its lease says is delivered.
//!
//! Sequence numbers are not dense: two ranges that do not touch may or may not have records between
//! them. What proves that they are neighbours is the metadata `catchment-after`, the position a batch
//! follows: every batch must follow a position where another batch ends, or a beginning.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::delivery::object_key::parse_position;
use crate::ids::ShardId;
use crate::lease::row::Lease;
use crate::stream::position::{Checkpoint, Position};

/// PieceKind of an object, by where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    /// Under the archive prefix.
    Archive,
    /// Under the error prefix.
    DeadLetter,
    /// An uploaded file.
    Upload,
}

/// One object with a range.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Key.
    pub key: String,
    /// PieceKind.
    pub kind: PieceKind,
    /// Shard.
    pub shard: ShardId,
    /// First position of its batch.
    pub first: Position,
    /// Last position of its batch.
    pub last: Position,
    /// What its batch follows, if it says so.
    pub after: Option<String>,
    /// Records in it; 0 for uploads, which are not counted.
    pub records: Option<u64>,
    /// Records in all archive and dead-letter objects of its batch.
    pub batch: Option<u64>,
}

/// Something that should not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "kebab-case")]
pub enum CoverageProblem {
    /// Objects are missing between two positions.
    Gap {
        /// Shard.
        shard: ShardId,
        /// Covered up to here.
        after: String,
        /// Not covered up to here.
        until: String,
    },
    /// Two batches cover the same records.
    Overlap {
        /// Shard.
        shard: ShardId,
        /// An object of the one.
        key: String,
        /// An object of the other.
        other: String,
    },
    /// Not all objects of a batch are there, or too many.
    Incomplete {
        /// Shard.
        shard: ShardId,
        /// The batch.
        range: String,
        /// Records its objects say they hold.
        found: u64,
        /// Records they should hold together.
        expected: u64,
    },
    /// Not something this application wrote.
    Foreign {
        /// Key.
        key: String,
        /// How that is known.
        reason: String,
    },
    /// Cannot be read back.
    Undecodable {
        /// Key.
        key: String,
        /// Why.
        reason: String,
    },
    /// Holds something else than the stream.
    Differs {
        /// Key.
        key: String,
        /// How.
        reason: String,
    },
    /// Finished in the lease table and open in the stream: nobody reads it.
    OpenEnd {
        /// Shard.
        shard: ShardId,
    },
    /// Records of the stream, delivered by the lease, in no object.
    Lost {
        /// Shard.
        shard: ShardId,
        /// The first of them.
        first: String,
        /// The last of them.
        last: String,
        /// How many.
        records: u64,
    },
}

/// What is known of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardReport {
    /// Shard.
    pub shard: ShardId,
    /// Batches found.
    pub batches: usize,
    /// Objects found.
    pub objects: usize,
    /// Records their metadata count, uploads not included.
    pub records: u64,
    /// Covered from here (a beginning, or a position).
    pub from: Option<String>,
    /// Covered up to here.
    pub until: Option<String>,
    /// The lease says delivered up to here.
    pub checkpoint: Option<String>,
    /// Batches whose place in the order is not proven by their metadata.
    pub unproven: usize,
    /// The end is known and reached.
    pub end_proven: bool,
}

/// Lease states around the listing: what was delivered before it must be there, what was announced or
/// delivered by its end may be.
#[derive(Clone, Copy, Debug)]
pub struct LeaseWindow<'a> {
    /// Read before the objects were listed.
    pub before: Option<&'a Lease>,
    /// Read after.
    pub after: Option<&'a Lease>,
}

struct VerifiedBatch<'a> {
    last: &'a Position,
    pieces: Vec<&'a Piece>,
}

/// Checks one shard. `expired_ok`: what the first batch follows may have been removed on purpose.
pub fn tile(
    shard: &ShardId,
    pieces: &[Piece],
    around: LeaseWindow<'_>,
    expired_ok: bool,
) -> (ShardReport, Vec<CoverageProblem>) {
    // The objects of a batch carry the same range.
    let mut batches: BTreeMap<(&Position, &Position), VerifiedBatch<'_>> = BTreeMap::new();
    for piece in pieces {
        let batch = batches.entry((&piece.first, &piece.last));
        let batch =
            batch.or_insert_with(|| VerifiedBatch { last: &piece.last, pieces: Vec::new() });
        batch.pieces.push(piece);
    }
    let end = around.before.and_then(delivered);
    let settled = |last: &Position| match around.before {
        // Without a lease there is nothing under way.
        None => true,
        Some(_) => end.as_ref().is_some_and(|end| last <= end),
    };
    let lasts: BTreeSet<&Position> = batches.values().map(|b| b.last).collect();
    // From batch to batch: none may begin before the end of another, and each names the one it follows.
    let mut problems = Vec::new();
    let (mut unproven, mut from) = (0, None);
    let mut reached: Option<(&Position, &str)> = None;
    for (number, ((first, last), batch)) in batches.iter().enumerate() {
        let key = batch.pieces[0].key.as_str();
        if let Some((up_to, other)) = reached
            && *first <= up_to
        {
            problems.push(CoverageProblem::Overlap {
                shard: shard.clone(),
                key: key.to_owned(),
                other: other.to_owned(),
            });
        }
        if reached.is_none_or(|(up_to, _)| *last > up_to) {
            reached = Some((last, key));
        }
        let after = batch.pieces.iter().find_map(|p| p.after.as_deref());
        if number == 0 {
            from = Some(after.map_or_else(|| first.to_string(), str::to_owned));
        }
        if !settled(last) {
            continue;
        }
        match after.map(|text| (text, parse_position(text))) {
            None => unproven += 1,
            Some((_, None)) => {}
            Some((_, Some(at))) if lasts.contains(&at) || (expired_ok && number == 0) => {}
            Some((text, Some(_))) => problems.push(CoverageProblem::Gap {
                shard: shard.clone(),
                after: text.to_owned(),
                until: first.to_string(),
            }),
        }
        problems.extend(incomplete(shard, batch));
    }
    // The end: the lease says what is delivered, and the last batch must reach it.
    let until = reached.map(|(last, _)| last);
    if let Some(end) = &end
        && !lasts.contains(end)
        && until.is_none_or(|until| until < end)
    {
        problems.push(CoverageProblem::Gap {
            shard: shard.clone(),
            after: until.map_or_else(|| "the beginning".to_owned(), ToString::to_string),
            until: end.to_string(),
        });
    }
    problems.extend(ahead(&batches, around));
    let report = ShardReport {
        shard: shard.clone(),
        batches: batches.len(),
        objects: pieces.len(),
        records: pieces.iter().filter_map(|p| p.records).sum(),
        from,
        until: until.map(ToString::to_string),
        checkpoint: around.before.map(|l| l.progress.checkpoint.to_string()),
        unproven,
        end_proven: end.is_some_and(|end| lasts.contains(&end)),
    };
    (report, problems)
}

/// The last position a lease says is delivered.
fn delivered(lease: &Lease) -> Option<Position> {
    match &lease.progress.checkpoint {
        Checkpoint::At(position) => Some(position.clone()),
        Checkpoint::ShardEnd => parse_position(lease.delivered.as_deref()?),
        Checkpoint::AtTimestamp | Checkpoint::TrimHorizon | Checkpoint::Latest => None,
    }
}

fn incomplete(shard: &ShardId, batch: &VerifiedBatch<'_>) -> Option<CoverageProblem> {
    let expected = batch.pieces.iter().find_map(|p| p.batch)?;
    let counted = batch.pieces.iter().filter(|p| p.kind != PieceKind::Upload);
    let found = counted.filter_map(|p| p.records).sum::<u64>();
    (found != expected).then(|| CoverageProblem::Incomplete {
        shard: shard.clone(),
        range: format!("{}-{}", batch.pieces[0].first, batch.last),
        found,
        expected,
    })
}

/// Batches that nobody announced.
fn ahead(
    batches: &BTreeMap<(&Position, &Position), VerifiedBatch<'_>>,
    around: LeaseWindow<'_>,
) -> Vec<CoverageProblem> {
    let Some(after) = around.after else { return Vec::new() };
    let finished = after.progress.checkpoint == Checkpoint::ShardEnd;
    let end = delivered(after);
    let announced = |first: &Position, last: &Position| {
        let leases = [around.before, around.after];
        leases.into_iter().flatten().any(|lease| {
            let intents = lease.progress.pending.intents();
            intents.iter().any(|i| i.first == *first && i.last == *last)
        })
    };
    batches
        .iter()
        .filter(|((first, last), _)| {
            let behind = match &end {
                Some(end) => *last <= end,
                None => finished,
            };
            !behind && !announced(first, last)
        })
        .flat_map(|(_, batch)| &batch.pieces)
        .map(|piece| CoverageProblem::Foreign {
            key: piece.key.clone(),
            reason: "its range is beyond the checkpoint and was not announced".into(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lease::expiry::tests::lease;

    fn at(n: u64) -> Position {
        parse_position(&n.to_string()).unwrap()
    }

    fn piece(first: u64, last: u64, after: &str) -> Piece {
        Piece {
            key: format!("{first}-{last}"),
            kind: PieceKind::Archive,
            shard: ShardId::new("s"),
            first: at(first),
            last: at(last),
            after: Some(after.to_owned()),
            records: Some(1),
            batch: Some(1),
        }
    }

    fn row(checkpoint: &str) -> Lease {
        let mut row = lease("s", None, 1);
        row.progress.checkpoint = Checkpoint::parse(checkpoint, 0).unwrap();
        row
    }

    fn problems(pieces: &[Piece], row: &Lease) -> Vec<CoverageProblem> {
        let around = LeaseWindow { before: Some(row), after: Some(row) };
        tile(&ShardId::new("s"), pieces, around, false).1
    }

    fn chain() -> Vec<Piece> {
        vec![piece(1, 5, "TRIM_HORIZON"), piece(7, 9, "5"), piece(20, 30, "9")]
    }

    #[test]
    fn a_whole_chain_has_no_problem_and_its_end_is_proven() {
        let row = row("30");
        assert_eq!(problems(&chain(), &row), []);
        let around = LeaseWindow { before: Some(&row), after: Some(&row) };
        let (report, _) = tile(&ShardId::new("s"), &chain(), around, false);
        assert!(report.end_proven && report.unproven == 0);
        assert_eq!(
            (report.from.as_deref(), report.until.as_deref()),
            (Some("TRIM_HORIZON"), Some("30"))
        );
    }

    #[test]
    fn every_missing_batch_is_a_gap_the_first_and_the_last_too() {
        for missing in 0..3 {
            let mut pieces = chain();
            pieces.remove(missing);
            let found = problems(&pieces, &row("30"));
            assert!(
                matches!(found.as_slice(), [CoverageProblem::Gap { .. }]),
                "{missing}: {found:?}"
            );
        }
        assert!(matches!(problems(&[], &row("30")).as_slice(), [CoverageProblem::Gap { .. }]));
        assert_eq!(problems(&[], &row("TRIM_HORIZON")), []);
    }

    #[test]
    fn the_end_of_a_finished_shard_is_checked_where_it_is_known() {
        let mut row = row("SHARD_END");
        let cut = &chain()[..2];
        assert_eq!(problems(cut, &row), []);
        row.delivered = Some("30".into());
        assert!(matches!(problems(cut, &row).as_slice(), [CoverageProblem::Gap { .. }]));
        assert_eq!(problems(&chain(), &row), []);
    }

    #[test]
    fn overlaps_missing_parts_and_strangers_are_found() {
        let mut pieces = chain();
        pieces.push(piece(4, 6, "TRIM_HORIZON"));
        let found = problems(&pieces, &row("30"));
        assert!(found.iter().any(|p| matches!(p, CoverageProblem::Overlap { .. })), "{found:?}");
        let mut pieces = chain();
        pieces[1].batch = Some(3);
        let found = problems(&pieces, &row("30"));
        assert!(matches!(
            found.as_slice(),
            [CoverageProblem::Incomplete { found: 1, expected: 3, .. }]
        ));
        let mut pieces = chain();
        pieces.push(piece(31, 40, "30"));
        let found = problems(&pieces, &row("30"));
        assert!(matches!(found.as_slice(), [CoverageProblem::Foreign { .. }]), "{found:?}");
    }

    #[test]
    fn what_is_under_way_while_objects_are_listed_is_no_problem() {
        let (before, after) = (row("9"), row("30"));
        let around = LeaseWindow { before: Some(&before), after: Some(&after) };
        let shard = ShardId::new("s");
        assert_eq!(tile(&shard, &chain(), around, false).1, []);
        // The batch in between was put after the listing had passed it.
        let mut pieces = chain();
        pieces.push(piece(31, 40, "35"));
        let after = row("40");
        let around = LeaseWindow { before: Some(&before), after: Some(&after) };
        assert_eq!(tile(&shard, &pieces, around, false).1, []);
    }

    #[test]
    fn objects_without_the_metadata_prove_nothing() {
        let mut pieces = chain();
        pieces.remove(1);
        pieces.iter_mut().for_each(|p| (p.after, p.batch) = (None, None));
        let row = row("30");
        let around = LeaseWindow { before: Some(&row), after: Some(&row) };
        let (report, found) = tile(&ShardId::new("s"), &pieces, around, false);
        assert_eq!((report.unproven, found.len()), (2, 0));
    }

    proptest! {
        /// Any one batch taken out of any chain is noticed, and nothing else is.
        #[test]
        fn exactly_what_was_taken_out_is_missing(
            steps in prop::collection::vec((1_u64..9, 0_u64..9), 1..30),
            pick in any::<prop::sample::Index>(),
        ) {
            let (mut pieces, mut after, mut n) = (Vec::new(), "LATEST".to_owned(), 0);
            for (skip, length) in steps {
                pieces.push(piece(n + skip, n + skip + length, &after));
                n += skip + length;
                after = n.to_string();
            }
            let row = row(&after);
            prop_assert_eq!(problems(&pieces, &row), []);
            let taken = pieces.remove(pick.index(pieces.len()));
            let found = problems(&pieces, &row);
            prop_assert_eq!(found.len(), 1);
            let CoverageProblem::Gap { until, .. } = &found[0] else { panic!("{found:?}") };
            prop_assert!(parse_position(until).unwrap() >= taken.last);
        }
    }
}
