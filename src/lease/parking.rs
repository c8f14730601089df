//! A shard whose next records have left retention, where the policy is to stop for that: its lease
//! waits in the table for an operator, and the other shards go on.
//!
//! The gap stands in a private attribute of the row. It counts as long as the checkpoint is the one
//! that the gap was found at: whoever moves the checkpoint, a KCL or an operator, has passed it. To
//! accept a gap is to name where it begins; where it ends may have moved on by then.

use std::collections::{BTreeMap, BTreeSet};

use crate::delivery::gap::Gap;
use crate::ids::{ShardId, WorkerId};
use crate::lease::graph;
use crate::lease::parked::Parked;
use crate::lease::row::{Attr, Lease, attr};
use crate::lease::write::{Update, n};
use crate::mutant::{self, Mutant};

/// Gives a lease back and parks it: nobody's until somebody accepts the gap. A request to hand it
/// over ends with it.
pub fn park(lease: &Lease, me: &WorkerId, gap: &Gap, now_ms: i64) -> Update {
    let parked = Parked::new(gap, &lease.progress.checkpoint, me, now_ms);
    Update {
        update: format!(
            "SET {} = :parked REMOVE {}, {}, {} ADD {} :one",
            attr::PARKED,
            attr::OWNER,
            attr::CHECKPOINT_OWNER,
            attr::LEFT,
            attr::COUNTER
        ),
        condition: format!(
            "({o} = :me AND attribute_not_exists({c})) OR {c} = :me",
            o = attr::OWNER,
            c = attr::CHECKPOINT_OWNER
        ),
        values: vec![
            (":parked", Attr::S(parked.raw)),
            (":me", Attr::S(me.as_str().into())),
            (":one", n(1)),
        ],
    }
}

/// Accepts the gap that a lease is parked for: whoever takes it next reports the gap and goes on.
pub fn accept(parked: &Parked) -> Update {
    Update {
        update: format!(
            "SET {} = :after REMOVE {} ADD {} :one",
            attr::GAP_ACCEPTED,
            attr::PARKED,
            attr::COUNTER
        ),
        condition: format!("{} = :parked", attr::PARKED),
        values: vec![
            (":after", Attr::S(parked.after.clone())),
            (":parked", Attr::S(parked.raw.clone())),
            (":one", n(1)),
        ],
    }
}

/// Was this gap accepted, by what the row of its shard says?
pub fn is_accepted(accepted: Option<&str>, gap: &Gap) -> bool {
    accepted == Some(gap.after.as_str()) || mutant::is(Mutant::GapsPassed)
}

/// The leases that are parked.
pub fn parked(leases: &[Lease]) -> BTreeMap<ShardId, Parked> {
    let of = |lease: &Lease| Some((lease.shard.clone(), lease.parked()?.clone()));
    leases.iter().filter_map(of).collect()
}

/// Is nothing left but what is parked, and what waits for it?
pub fn is_stuck(leases: &[Lease]) -> bool {
    let unfinished: BTreeSet<&ShardId> = graph::unfinished(leases);
    let mut some = false;
    let work = leases.iter().any(|lease| {
        some |= lease.parked().is_some();
        !lease.is_finished() && lease.parked().is_none() && graph::may_start(lease, &unfinished)
    });
    some && !work
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::checkpoint::progress::Pending;
    use crate::delivery::intent::{Intent, IntentList};
    use crate::delivery::settings::Settings;
    use crate::ids::SequenceNumber;
    use crate::lease::row::Item;
    use crate::stream::position::{Checkpoint, Position};

    fn row(shard: &str, checkpoint: &str, more: &[(&str, &str)]) -> Lease {
        let mut item = Item::from([
            (attr::KEY.to_owned(), Attr::S(shard.into())),
            (attr::COUNTER.to_owned(), Attr::N("3".into())),
            (attr::CHECKPOINT.to_owned(), Attr::S(checkpoint.into())),
        ]);
        item.extend(more.iter().map(|(k, v)| ((*k).to_owned(), Attr::S((*v).into()))));
        Lease::parse(&item).unwrap().unwrap()
    }

    fn gap() -> Gap {
        let Checkpoint::At(first) = Checkpoint::parse("20", 0).unwrap() else { unreachable!() };
        Gap::new(&Checkpoint::parse("7", 0).unwrap(), &first)
    }

    fn attribute() -> String {
        let update = park(&row("a", "7", &[]), &WorkerId::new("w"), &gap(), 5);
        let (_, Attr::S(raw)) = update.values[0].clone() else { unreachable!() };
        raw
    }

    #[test]
    fn what_is_parked_reads_back_and_its_gap_can_be_accepted() {
        let raw = attribute();
        let lease = row("a", "7", &[(attr::PARKED, &raw)]);
        let found = lease.parked().unwrap();
        assert_eq!((found.since_ms, found.by.as_str()), (5, "w"));
        assert_eq!(found.gap, "after 7 and before 20");
        let accepted = accept(found).values[0].1.clone();
        assert_eq!(accepted, Attr::S("7".into()));
        assert!(is_accepted(Some("7"), &gap()));
        assert!(!is_accepted(Some("6"), &gap()) && !is_accepted(None, &gap()));
    }

    #[test]
    fn a_checkpoint_that_moved_or_a_request_to_go_back_ends_it() {
        let raw = attribute();
        assert_eq!(row("a", "8", &[(attr::PARKED, &raw)]).parked(), None);
        assert_eq!(row("a", "7", &[(attr::PARKED, "{}")]).parked(), None);
        let mut asked = row("a", "7", &[(attr::PARKED, &raw)]);
        asked.rewind = Some(crate::lease::rewind_request::Request::new(
            "x",
            crate::lease::rewind_request::Target::TrimHorizon,
        ));
        assert_eq!(asked.parked(), None);
        let position = |digits| Position::plain(SequenceNumber::parse(digits).unwrap());
        let intent = Intent {
            first: position("8"),
            last: position("9"),
            records: 2,
            bytes: 2,
            stamp_ms: 0,
            arrived_ms: None,
            gap: None,
            settings: Arc::new(Settings::sample()),
        };
        asked.progress.pending = Pending::Ours {
            raw: IntentList::encode(std::slice::from_ref(&intent)),
            intents: vec![intent],
        };
        assert!(asked.parked().is_some(), "what is announced comes first");
    }

    #[test]
    fn a_table_is_stuck_when_all_that_is_left_is_parked_or_waits_for_it() {
        let raw = attribute();
        let stopped = || row("a", "7", &[(attr::PARKED, &raw)]);
        let mut child = row("c", "TRIM_HORIZON", &[]);
        child.parents = vec![ShardId::new("a")];
        let done = row("d", "SHARD_END", &[]);
        assert!(is_stuck(&[stopped(), child.clone(), done.clone()]));
        assert!(!is_stuck(&[stopped(), child, row("b", "9", &[])]));
        assert!(!is_stuck(&[done]) && !is_stuck(&[]));
        assert_eq!(parked(&[stopped(), row("b", "9", &[])]).len(), 1);
    }
}
