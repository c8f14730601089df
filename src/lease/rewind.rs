//! Going back in place: a request in the lease row, and what each shard does about it.
//!
//! The request is a private attribute. Whoever holds the lease delivers and commits what is in hand,
//! then moves the checkpoint in one compare-and-set that also removes the request, and gives the
//! lease back. A lease with a request counts as unfinished, so that finished shards are taken and
//! moved as well, and children wait for parents that go back.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::progress::Progress;
use crate::ids::{SequenceNumber, ShardId, WorkerId};
use crate::lease::rewind_request::{Request, Target};
use crate::lease::row::{Attr, Lease, attr};
use crate::lease::write::{Update, holds, n, owned_by_me};
use crate::stream::position::Checkpoint;

/// Puts a request into the row that was read as `lease`, unless another one stands there, or the
/// shard has gone back since: what was decided for where it stood then might move it forward now,
/// and a request that was met is not met twice, if an answer gets lost.
pub fn ask(request: &Request, lease: &Lease) -> Update {
    let mut values = vec![(":request", Attr::S(request.raw.clone()))];
    let since = match lease.rewinds {
        0 => format!("attribute_not_exists({})", attr::REWINDS),
        seen => {
            values.push((":seen", n(seen)));
            format!("{} = :seen", attr::REWINDS)
        }
    };
    Update {
        update: format!("SET {} = :request", attr::REWIND),
        condition: format!(
            "attribute_exists({}) AND (attribute_not_exists({r}) OR {r} = :request) AND {since}",
            attr::KEY,
            r = attr::REWIND
        ),
        values,
    }
}

/// Moves the checkpoint back: a compare-and-set of the whole progress, by the owner, or, for a lease
/// nobody works on, by an operator: one without an owner, or a finished one, whose owner column names
/// who finished it. The caller has made sure that no intent of ours is pending.
pub fn go_back(from: &Progress, request: &Request, me: Option<&WorkerId>) -> Update {
    // What belonged to the place the shard leaves goes with it: nothing is announced there any more.
    let mut set = vec![
        format!("{} = :to", attr::CHECKPOINT),
        format!("{} = :zero", attr::CHECKPOINT_SUB),
        format!("{} = :zero", attr::SWITCHES),
    ];
    let mut values =
        vec![(":zero", n(0)), (":one", n(1)), (":request", Attr::S(request.raw.clone()))];
    let mut remove = vec![
        attr::REWIND,
        attr::PARKED,
        attr::READ_THROUGH,
        attr::DELIVERED,
        attr::PENDING,
        attr::PENDING_SUB,
        attr::PENDING_STATE,
    ];
    let mut keep = |name: &'static str, value: Option<Attr>| match value {
        Some(value) => {
            set.push(format!("{name} = :start"));
            values.push((":start", value));
        }
        None => remove.push(name),
    };
    // Where it goes, written so that the KCL and builds before this one understand it as well.
    let to = match &request.to {
        Target::Timestamp(ms) => {
            keep(attr::STARTED, Some(n(ms)));
            keep(attr::START_SEQUENCE, None);
            Checkpoint::AtTimestamp
        }
        // Whoever does not know the attribute starts too early, never too late.
        Target::Sequence(number) => {
            keep(attr::STARTED, None);
            keep(attr::START_SEQUENCE, Some(Attr::S(number.as_str().into())));
            Checkpoint::TrimHorizon
        }
        Target::TrimHorizon => {
            keep(attr::STARTED, None);
            keep(attr::START_SEQUENCE, None);
            Checkpoint::TrimHorizon
        }
    };
    values.push((":to", Attr::S(to.text().into())));
    // Who may move it: the owner; without one, anybody. At SHARD_END an owner has nothing in hand.
    let owner = match me {
        Some(me) => {
            values.push((":me", Attr::S(me.as_str().into())));
            owned_by_me()
        }
        None if from.checkpoint == Checkpoint::ShardEnd => {
            remove.extend([attr::OWNER, attr::CHECKPOINT_OWNER]);
            format!("attribute_exists({})", attr::KEY)
        }
        None => format!("attribute_not_exists({})", attr::OWNER),
    };
    let held = holds(from, &mut values);
    Update {
        update: format!(
            "SET {} REMOVE {} ADD {} :one, {} :one",
            set.join(", "),
            remove.join(", "),
            attr::COUNTER,
            attr::REWINDS
        ),
        condition: format!("{owner} AND {held} AND {} = :request", attr::REWIND),
        values,
    }
}

/// What a shard has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go back.
    Back(Target),
    /// Nothing, and why.
    Stay(&'static str),
}

/// Decides for every lease, parents before children. `first` holds, for shards that have begun, the
/// first record found at the target; a shard that is absent has none. `within` limits it to a shard
/// and its descendants.
///
/// A shard goes back if that brings records again and skips none: the first record at the target is
/// not behind the checkpoint. Descendants of a shard that goes back, as far as they have begun, go
/// back to their first record: all of theirs come after it.
pub fn decide(
    leases: &[Lease],
    to: &Target,
    within: Option<&ShardId>,
    first: &BTreeMap<ShardId, SequenceNumber>,
) -> Vec<(ShardId, Decision)> {
    let by_id: BTreeMap<&ShardId, &Lease> = leases.iter().map(|l| (&l.shard, l)).collect();
    let mut order = Vec::new();
    let mut placed = BTreeSet::new();
    for lease in leases {
        place(lease, &by_id, &mut placed, &mut order);
    }
    let (mut inside, mut back) = (BTreeSet::new(), BTreeSet::new());
    let mut decided = Vec::new();
    for lease in order {
        let descends = |of: &BTreeSet<&ShardId>| lease.parents.iter().any(|p| of.contains(p));
        if within.is_some_and(|root| *root != lease.shard) && !descends(&inside) {
            continue;
        }
        inside.insert(&lease.shard);
        let reached = match &lease.progress.checkpoint {
            Checkpoint::At(position) => Some(Some(&position.sequence)),
            Checkpoint::ShardEnd => Some(None),
            Checkpoint::AtTimestamp | Checkpoint::TrimHorizon | Checkpoint::Latest => None,
        };
        let begun = reached.is_some() || lease.progress.last().is_some();
        // Announced batches are delivered before it goes back.
        let reached = match lease.progress.last() {
            Some(last) => Some(Some(&last.sequence)),
            None => reached,
        };
        let root = matches!(to, Target::Sequence(_)) && within == Some(&lease.shard);
        let decision = if !begun {
            Decision::Stay("nothing of it is delivered yet")
        } else if descends(&back) {
            Decision::Back(Target::TrimHorizon)
        } else if matches!(to, Target::Sequence(_)) && !root {
            Decision::Stay("its parent does not go back")
        } else {
            match (first.get(&lease.shard), reached.flatten()) {
                (None, _) => Decision::Stay("it has no record there"),
                (Some(first), Some(last)) if first > last => {
                    Decision::Stay("it has not come that far")
                }
                (Some(_), _) => Decision::Back(to.clone()),
            }
        };
        if matches!(decision, Decision::Back(_)) {
            back.insert(&lease.shard);
        }
        decided.push((lease.shard.clone(), decision));
    }
    decided
}

fn place<'a>(
    lease: &'a Lease,
    by_id: &BTreeMap<&'a ShardId, &'a Lease>,
    placed: &mut BTreeSet<&'a ShardId>,
    order: &mut Vec<&'a Lease>,
) {
    if !placed.insert(&lease.shard) {
        return;
    }
    for parent in lease.parents.iter().filter_map(|p| by_id.get(p)) {
        place(parent, by_id, placed, order);
    }
    order.push(lease);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::progress::Pending;
    use crate::lease::expiry::tests::lease;
    use crate::lease::graph;

    fn number(text: &str) -> SequenceNumber {
        SequenceNumber::parse(text).unwrap()
    }

    fn at(shard: &str, checkpoint: &str, parents: &[&str]) -> Lease {
        let mut lease = lease(shard, None, 1);
        lease.progress.checkpoint = Checkpoint::parse(checkpoint, 0).unwrap();
        lease.parents = parents.iter().map(|p| ShardId::new(*p)).collect();
        lease
    }

    fn decisions(
        leases: &[Lease],
        to: &Target,
        within: Option<&str>,
        first: &[(&str, &str)],
    ) -> String {
        let first = first.iter().map(|(s, n)| (ShardId::new(*s), number(n))).collect();
        decide(leases, to, within.map(ShardId::new).as_ref(), &first)
            .into_iter()
            .map(|(shard, decision)| match decision {
                Decision::Back(Target::Timestamp(_)) => format!("{shard}:time "),
                Decision::Back(Target::TrimHorizon) => format!("{shard}:first "),
                Decision::Back(Target::Sequence(n)) => format!("{shard}:{n} "),
                Decision::Stay(_) => format!("{shard}:- "),
            })
            .collect()
    }

    #[test]
    fn requests_round_trip_and_unknown_ones_are_not_guessed() {
        for to in [Target::TrimHorizon, Target::Timestamp(7), Target::Sequence(number("12"))] {
            let request = Request::new("x", to);
            assert_eq!(Request::parse(&request.raw), Some(request));
        }
        assert_eq!(Request::parse("{\"id\":\"x\",\"to\":\"yesterday\"}"), None);
    }

    #[test]
    fn the_write_removes_the_request_it_names_and_uses_every_value() {
        let from = Progress { checkpoint: Checkpoint::ShardEnd, pending: Pending::None };
        let me = WorkerId::new("me");
        for to in [Target::TrimHorizon, Target::Timestamp(7), Target::Sequence(number("12"))] {
            for me in [None, Some(&me)] {
                let write = go_back(&from, &Request::new("x", to.clone()), me);
                let text = format!("{} {}", write.update, write.condition);
                for (name, _) in &write.values {
                    assert!(text.contains(name), "{name} in {text}");
                }
                assert!(write.condition.contains("catchment_rewind = :request"));
                assert!(write.condition.contains("attribute_not_exists(pendingCheckpointState)"));
            }
        }
    }

    #[test]
    fn a_shard_goes_back_only_if_nothing_is_skipped() {
        let leases = [
            at("a", "50", &[]),
            at("behind", "5", &[]),
            at("fresh", "TRIM_HORIZON", &[]),
            at("empty", "9", &[]),
        ];
        let first = [("a", "20"), ("behind", "20"), ("fresh", "20")];
        assert_eq!(
            decisions(&leases, &Target::Timestamp(7), None, &first),
            "a:time behind:- fresh:- empty:- "
        );
    }

    #[test]
    fn descendants_of_a_finished_shard_go_back_with_it() {
        let leases = [
            at("child", "90", &["p"]),
            at("grandchild", "TRIM_HORIZON", &["child"]),
            at("p", "SHARD_END", &[]),
            at("other", "40", &[]),
        ];
        assert_eq!(
            decisions(&leases, &Target::Sequence(number("7")), Some("p"), &[("p", "7")]),
            "p:7 child:first grandchild:- "
        );
        // The parent holds nothing from then on: the child alone goes back, to the time.
        assert_eq!(
            decisions(&leases, &Target::Timestamp(7), None, &[("child", "60"), ("other", "41")]),
            "p:- child:time grandchild:- other:- "
        );
    }

    #[test]
    fn children_wait_for_a_parent_that_is_asked_to_go_back() {
        let mut parent = at("p", "SHARD_END", &[]);
        let child = at("c", "TRIM_HORIZON", &["p"]);
        let ready = |parent: &Lease| {
            graph::may_start(&child, &graph::unfinished(&[parent.clone(), child.clone()]))
        };
        assert!(ready(&parent));
        parent.rewind = Some(Request::new("x", Target::TrimHorizon));
        assert!(!parent.is_finished() && !ready(&parent));
    }
}
