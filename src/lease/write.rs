//! Every write to a lease row, as an update expression with its condition.
//!
//! Heartbeats and takes are conditions on the counter, as in the KCL. Progress (intents and
//! commits) is a compare-and-set of checkpoint and pending columns; it *bumps* the counter, so it
//! counts as a heartbeat, but does not test it, or a worker's own renewals would fail its commits.

use crate::checkpoint::progress::{Pending, Progress};
use crate::ids::WorkerId;
use crate::lease::row::{Attr, Lease, attr, mark};
use crate::mutant::{self, Mutant};
use crate::stream::position::Checkpoint;

/// An UpdateItem on one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// UpdateExpression.
    pub update: String,
    /// ConditionExpression.
    pub condition: String,
    /// ExpressionAttributeValues; names are written out, none of them is reserved.
    pub values: Vec<(&'static str, Attr)>,
}

/// What a compare-and-set did, judged by the row image that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The row holds what we wanted: our write landed, now or in an earlier attempt.
    Done,
    /// The row still holds what we started from, and is ours: try again.
    Again,
    /// The row is another worker's, or went where we did not send it.
    Lost,
}

pub(super) fn n(value: impl ToString) -> Attr {
    Attr::N(value.to_string())
}

/// What a heartbeat carries along.
#[derive(Clone, Copy, Debug, Default)]
pub struct Notes {
    /// When the shard was last read to its tip, ms since the epoch.
    pub read_through_ms: Option<i64>,
    /// KiB/s.
    pub throughput_kbps: Option<f64>,
}

/// `throughputKBps` as the KCL writes it: a decimal number of at most six places.
fn kbps(value: f64) -> Attr {
    n(format!("{value:.3}"))
}

/// Heartbeat (KCL operations 2 and 3), with what there is to note.
pub fn renew(lease: &Lease, me: &WorkerId, notes: &Notes) -> Update {
    let mut update = format!("SET {} = :next", attr::COUNTER);
    let mut values = vec![
        (":next", n(lease.counter + 1)),
        (":seen", n(lease.counter)),
        (":me", Attr::S(me.as_str().into())),
    ];
    if let Some(ms) = notes.read_through_ms {
        update.push_str(&format!(", {} = :read", attr::READ_THROUGH));
        values.push((":read", n(ms)));
    }
    if let Some(value) = notes.throughput_kbps {
        update.push_str(&format!(", {} = :kbps", attr::THROUGHPUT));
        values.push((":kbps", kbps(value)));
    }
    // During a handoff the old owner's heart goes on beating until it has transferred.
    let ours = if lease.checkpoint_owner.as_ref() == Some(me) {
        format!("{} = :me", attr::CHECKPOINT_OWNER)
    } else {
        format!("{} = :me AND attribute_not_exists({})", attr::OWNER, attr::CHECKPOINT_OWNER)
    };
    let condition = format!("{} = :seen AND {ours}", attr::COUNTER);
    Update { update, condition, values }
}

/// Takes a free or expired lease (KCL operation 5). A row of the KCL is bound to our stream
/// (`StreamInfo::identity`) at this occasion, and to the time that its sentinel means (`pin_ms`,
/// see [`crate::stream::position::pin`]): a second owner must begin where the first one did.
pub fn take(lease: &Lease, me: &WorkerId, stream: &str, pin_ms: Option<i64>) -> Update {
    let mut update = format!("SET {} = :next, {} = :me", attr::COUNTER, attr::OWNER);
    let mut values = vec![
        (":next", n(lease.counter + 1)),
        (":seen", n(lease.counter)),
        (":me", Attr::S(me.as_str().into())),
    ];
    if lease.stream.is_none() {
        update.push_str(&format!(", {} = :stream", attr::STREAM));
        values.push((":stream", Attr::S(stream.into())));
    }
    if let Some(pin) = pin_ms.filter(|_| lease.started_ms.is_none()) {
        update.push_str(&format!(", {} = :pin", attr::STARTED));
        values.push((":pin", n(pin)));
    }
    // A gap that somebody else stopped for is no longer waited at.
    let over = [attr::CHECKPOINT_OWNER, attr::LEFT, attr::PARKED];
    update.push_str(&format!(" REMOVE {}", over.join(", ")));
    if lease.effective_owner().is_some_and(|owner| owner != me) {
        update.push_str(&format!(" ADD {} :one", attr::SWITCHES));
        values.push((":one", n(1)));
    }
    let condition = as_seen(lease, &mut values);
    Update { update, condition, values }
}

/// The row is as we saw it. The counter alone would do against other takers; the owner is tested
/// too because a release by an older writer may leave the counter where it was, and a handoff does.
fn as_seen(lease: &Lease, values: &mut Vec<(&'static str, Attr)>) -> String {
    match &lease.owner {
        Some(owner) => {
            values.push((":owner", Attr::S(owner.as_str().into())));
            format!("{} = :seen AND {} = :owner", attr::COUNTER, attr::OWNER)
        }
        None => format!("{} = :seen AND attribute_not_exists({})", attr::COUNTER, attr::OWNER),
    }
}

/// Frees the lease of a dead worker, so that others need not watch it expire: on the counter that
/// was seen to stand still, or not at all.
pub fn free(lease: &Lease) -> Update {
    let mut values = vec![(":next", n(lease.counter + 1)), (":seen", n(lease.counter))];
    let condition = as_seen(lease, &mut values);
    let update =
        format!("SET {} = :next REMOVE {}, {}", attr::COUNTER, attr::OWNER, attr::CHECKPOINT_OWNER);
    Update { update, condition, values }
}

/// Gives a lease back (the form of KCL operation 11): a peer need not wait for it to expire. Says
/// who gave it, because a worker that stops, or failed here, should not be counted on to take it.
pub fn release(me: &WorkerId) -> Update {
    Update {
        update: format!(
            "SET {} = :me REMOVE {} ADD {} :one",
            attr::LEFT,
            attr::OWNER,
            attr::COUNTER
        ),
        condition: format!(
            "{} = :me AND attribute_not_exists({})",
            attr::OWNER,
            attr::CHECKPOINT_OWNER
        ),
        values: vec![(":me", Attr::S(me.as_str().into())), (":one", n(1))],
    }
}

/// Asks the owner to hand a lease over (KCL operation 7): it drains, commits, and transfers. The
/// counter stays, so that its owner is not disturbed before it notices.
pub fn request_handoff(lease: &Lease, me: &WorkerId) -> Option<Update> {
    let owner = lease.owner.as_ref()?;
    Some(Update {
        update: format!("SET {} = :me, {} = :owner", attr::OWNER, attr::CHECKPOINT_OWNER),
        condition: format!(
            "{} = :owner AND attribute_not_exists({})",
            attr::OWNER,
            attr::CHECKPOINT_OWNER
        ),
        values: vec![
            (":me", Attr::S(me.as_str().into())),
            (":owner", Attr::S(owner.as_str().into())),
        ],
    })
}

/// Takes a request for a handoff back: the lease stays where it is. The counter stays as well.
pub fn withdraw(me: &WorkerId, owner: &WorkerId) -> Update {
    Update {
        update: format!("SET {} = :owner REMOVE {}", attr::OWNER, attr::CHECKPOINT_OWNER),
        condition: format!("{} = :me AND {} = :owner", attr::OWNER, attr::CHECKPOINT_OWNER),
        values: vec![
            (":me", Attr::S(me.as_str().into())),
            (":owner", Attr::S(owner.as_str().into())),
        ],
    }
}

/// Ends a handoff (KCL operation 6): the lease is the new owner's from here on.
pub fn transfer(me: &WorkerId) -> Update {
    Update {
        update: format!(
            "REMOVE {} ADD {} :one, {} :one",
            attr::CHECKPOINT_OWNER,
            attr::COUNTER,
            attr::SWITCHES
        ),
        condition: format!("{} = :me", attr::CHECKPOINT_OWNER),
        values: vec![(":me", Attr::S(me.as_str().into())), (":one", n(1))],
    }
}

/// Moves progress from one exact state to the next (delivery protocol rules 1 and 7).
pub fn progress(
    from: &Progress,
    to: &Progress,
    me: &WorkerId,
    now_ms: i64,
    throughput_kbps: Option<f64>,
) -> Update {
    // The commit: the checkpoint moves to the end of what is durable.
    let mut set = vec![format!("{} = :to", attr::CHECKPOINT)];
    set.push(format!("{} = :to_sub", attr::CHECKPOINT_SUB));
    let mut remove = Vec::new();
    let mut values = vec![
        (":to", Attr::S(to.checkpoint.text().into())),
        (":to_sub", n(to.checkpoint.sub())),
        (":me", Attr::S(me.as_str().into())),
        (":one", n(1)),
    ];
    if to.checkpoint == Checkpoint::ShardEnd
        && let Some(last) = from.last()
    {
        set.push(format!("{} = :delivered", attr::DELIVERED));
        values.push((":delivered", Attr::S(last.to_string())));
    }
    if to.checkpoint != from.checkpoint {
        set.push(format!("{} = :zero", attr::SWITCHES));
        values.push((":zero", n(0)));
    }
    set.push(format!("{} = :now", attr::READ_THROUGH));
    values.push((":now", n(now_ms)));
    set.push(format!("{} = :committed", attr::COMMITTED));
    values.push((":committed", Attr::S(mark(&to.checkpoint))));
    if let Some(value) = throughput_kbps {
        set.push(format!("{} = :kbps", attr::THROUGHPUT));
        values.push((":kbps", kbps(value)));
    }
    // The announcements, in the same write: a KCL worker sees the last as its pending checkpoint.
    match to.pending.intents().last() {
        Some(last) => {
            set.push(format!("{} = :pending", attr::PENDING));
            set.push(format!("{} = :pending_sub", attr::PENDING_SUB));
            set.push(format!("{} = :state", attr::PENDING_STATE));
            values.push((":pending", Attr::S(last.last.sequence.as_str().into())));
            values.push((":pending_sub", n(last.last.sub)));
            if let Pending::Ours { raw, .. } = &to.pending {
                values.push((":state", Attr::B(raw.clone())));
            }
        }
        None => {
            remove.extend([attr::PENDING, attr::PENDING_SUB, attr::PENDING_STATE]);
        }
    }
    // The condition is the whole of the old progress, so that no other write can have come between.
    let condition = format!("{} AND {}", owned_by_me(), holds(from, &mut values));
    let mut update = format!("SET {}", set.join(", "));
    if !remove.is_empty() {
        update.push_str(&format!(" REMOVE {}", remove.join(", ")));
    }
    update.push_str(&format!(" ADD {} :one", attr::COUNTER));
    let mut condition = condition;
    if mutant::is(Mutant::Unconditional) || mutant::is(Mutant::OwnerOnly) {
        let mine = mutant::is(Mutant::OwnerOnly);
        condition = if mine { "leaseOwner = :me" } else { "attribute_exists(leaseKey)" }.into();
        let used = |name: &str| update.contains(name) || condition.contains(name);
        values.retain(|(name, _)| match *name {
            ":from" | ":from_sub" | ":held" | ":their" | ":their_state" => false,
            name => used(name),
        });
    }
    Update { update, condition, values }
}

/// We may write progress: during a handoff the lease is still the old owner's. Tested for economy
/// only. Uses `:me`.
pub(super) fn owned_by_me() -> String {
    let (co, o) = (attr::CHECKPOINT_OWNER, attr::OWNER);
    format!("({co} = :me OR ({o} = :me AND attribute_not_exists({co})))")
}

/// The row holds exactly this progress.
pub(super) fn holds(from: &Progress, values: &mut Vec<(&'static str, Attr)>) -> String {
    values.push((":from", Attr::S(from.checkpoint.text().into())));
    values.push((":from_sub", n(from.checkpoint.sub())));
    let mut condition =
        format!("{} = :from AND {} = :from_sub", attr::CHECKPOINT, attr::CHECKPOINT_SUB);
    let absent = |name: &str| format!(" AND attribute_not_exists({name})");
    match &from.pending {
        Pending::None => {
            condition.push_str(&absent(attr::PENDING));
            condition.push_str(&absent(attr::PENDING_STATE));
        }
        Pending::Ours { raw, .. } => {
            condition.push_str(&format!(" AND {} = :held", attr::PENDING_STATE));
            values.push((":held", Attr::B(raw.clone())));
        }
        Pending::Foreign { checkpoint, raw } => {
            match checkpoint {
                Some(text) => {
                    condition.push_str(&format!(" AND {} = :their", attr::PENDING));
                    values.push((":their", Attr::S(text.clone())));
                }
                None => condition.push_str(&absent(attr::PENDING)),
            }
            match raw {
                Some(raw) => {
                    condition.push_str(&format!(" AND {} = :their_state", attr::PENDING_STATE));
                    values.push((":their_state", Attr::B(raw.clone())));
                }
                None => condition.push_str(&absent(attr::PENDING_STATE)),
            }
        }
    }
    condition
}

/// Lets a progress write add what it commits to the row's totals. The write is a compare-and-set, so
/// it counts once.
pub fn count(update: &mut Update, from: &Progress, to: &Progress) {
    let left = to.pending.intents();
    let done = from.pending.intents().iter().filter(|i| !left.contains(i));
    let (records, bytes) = done.fold((0, 0), |(r, b), i| (r + i.records, b + i.bytes));
    if records > 0 {
        let add = format!(", {} :records, {} :bytes", attr::RECORDS, attr::BYTES);
        update.update.push_str(&add);
        update.values.push((":records", n(records)));
        update.values.push((":bytes", n(bytes)));
    }
}

/// Moves the checkpoint of a lease nobody owns: an operator's doing, never a worker's. `pin_ms` is
/// the time that LATEST or AT_TIMESTAMP means, ms since the epoch.
pub fn reset(lease: &Lease, to: &Checkpoint, pin_ms: Option<i64>) -> Update {
    let mut values = vec![
        (":to", Attr::S(to.text().into())),
        (":to_sub", n(to.sub())),
        (":seen", n(lease.counter)),
        (":one", n(1)),
    ];
    let pin = match pin_ms {
        Some(ms) => {
            values.push((":pin", n(ms)));
            format!(", {} = :pin REMOVE ", attr::STARTED)
        }
        None => format!(" REMOVE {}, ", attr::STARTED),
    };
    let pin = pin + &format!("{}, {}", attr::START_SEQUENCE, attr::REWIND);
    Update {
        update: format!(
            "SET {} = :to, {} = :to_sub{pin} ADD {} :one",
            attr::CHECKPOINT,
            attr::CHECKPOINT_SUB,
            attr::COUNTER
        ),
        condition: format!(
            "{} = :seen AND attribute_not_exists({}) AND attribute_not_exists({})",
            attr::COUNTER,
            attr::OWNER,
            attr::PENDING_STATE
        ),
        values,
    }
}

/// Names the children of a finished shard (KCL operation 10).
pub fn children(children: &[crate::ids::ShardId]) -> Update {
    let ids = children.iter().map(|c| c.as_str().to_owned()).collect();
    Update {
        update: format!("SET {} = :children", attr::CHILDREN),
        condition: format!("attribute_exists({})", attr::KEY),
        values: vec![(":children", Attr::Ss(ids))],
    }
}

/// Fills in the range of hash keys (KCL operation 10), inclusive and decimal.
pub fn hash_range(range: &(String, String)) -> Update {
    Update {
        update: format!("SET {} = :first, {} = :last", attr::HASH_START, attr::HASH_END),
        condition: format!(
            "attribute_exists({}) AND attribute_not_exists({})",
            attr::KEY,
            attr::HASH_START
        ),
        values: vec![(":first", Attr::S(range.0.clone())), (":last", Attr::S(range.1.clone()))],
    }
}

/// Condition of deleting a tombstone.
pub fn delete_finished() -> (String, Vec<(&'static str, Attr)>) {
    (
        format!("{} = :end AND attribute_not_exists({})", attr::CHECKPOINT, attr::REWIND),
        vec![(":end", Attr::S(Checkpoint::ShardEnd.text().into()))],
    )
}

/// Judges a refused heartbeat by the row that refused it: a lost reply must not lose a lease.
///
/// The owner column names a process that lives once, so a row that names us is ours, whatever
/// moved its counter: an earlier attempt of this renewal, or a commit that landed late.
pub fn classify_renewal(row: Option<&Lease>, me: &WorkerId) -> Verdict {
    match row {
        Some(row) if row.effective_owner() == Some(me) => Verdict::Again,
        _ => Verdict::Lost,
    }
}

/// Judges a progress write of unknown or failed outcome by the row found.
pub fn classify_progress(
    row: Option<&Lease>,
    from: &Progress,
    to: &Progress,
    me: &WorkerId,
) -> Verdict {
    match row {
        None => Verdict::Lost,
        // The state we wanted stands in the row: whoever wrote it, it is the truth.
        Some(row) if row.progress == *to && row.effective_owner() == Some(me) => Verdict::Done,
        Some(row) if row.progress == *from && row.effective_owner() == Some(me) => Verdict::Again,
        Some(_) => Verdict::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::expiry::tests::lease;

    fn me() -> WorkerId {
        WorkerId::new("me")
    }

    #[test]
    fn progress_tests_the_whole_state_and_not_the_counter() {
        let from = Progress { checkpoint: Checkpoint::TrimHorizon, pending: Pending::None };
        let to =
            Progress { checkpoint: Checkpoint::parse("7", 0).unwrap(), pending: Pending::None };
        let write = progress(&from, &to, &me(), 1, None);
        assert!(write.condition.contains("attribute_not_exists(pendingCheckpointState)"));
        assert!(write.condition.contains("checkpoint = :from"));
        assert!(!write.condition.contains(attr::COUNTER));
        assert!(write.update.contains("ADD leaseCounter :one"));
    }

    #[test]
    fn every_placeholder_is_used_and_every_use_has_a_value() {
        let foreign = Pending::Foreign { checkpoint: Some("3".into()), raw: None };
        let from = Progress { checkpoint: Checkpoint::Latest, pending: foreign };
        let to = Progress { checkpoint: Checkpoint::Latest, pending: Pending::None };
        let held = lease("s", Some("other"), 4);
        for write in [
            progress(&from, &to, &me(), 1, Some(2.5)),
            progress(&to, &to, &me(), 1, None),
            renew(&held, &me(), &Notes { read_through_ms: Some(1), throughput_kbps: Some(2.5) }),
            free(&held),
            crate::lease::change_marker::bump(),
            take(&held, &me(), "arn@1", None),
            take(&lease("s", None, 4), &me(), "arn@1", Some(7)),
            release(&me()),
            request_handoff(&held, &me()).unwrap(),
            transfer(&me()),
            withdraw(&me(), &WorkerId::new("you")),
            reset(&held, &Checkpoint::Latest, Some(7)),
            reset(&held, &Checkpoint::TrimHorizon, None),
            children(&[crate::ids::ShardId::new("c")]),
            hash_range(&("0".into(), "7".into())),
        ] {
            let text = format!("{} {}", write.update, write.condition);
            let mut used: Vec<&str> = text
                .split(|c: char| !(c.is_alphanumeric() || c == ':' || c == '_'))
                .filter(|w| w.starts_with(':'))
                .collect();
            used.sort_unstable();
            used.dedup();
            let mut given: Vec<&str> = write.values.iter().map(|(name, _)| *name).collect();
            given.sort_unstable();
            assert_eq!(used, given, "{text}");
        }
    }

    #[test]
    fn a_lost_reply_does_not_lose_a_lease() {
        assert_eq!(classify_renewal(Some(&lease("s", Some("me"), 9)), &me()), Verdict::Again);
        assert_eq!(classify_renewal(Some(&lease("s", Some("you"), 9)), &me()), Verdict::Lost);
        assert_eq!(classify_renewal(None, &me()), Verdict::Lost);
        let mut handing_over = lease("s", Some("you"), 9);
        handing_over.checkpoint_owner = Some(me());
        assert_eq!(classify_renewal(Some(&handing_over), &me()), Verdict::Again);
        assert!(
            renew(&handing_over, &me(), &Notes::default())
                .condition
                .contains("checkpointOwner = :me")
        );
        let from = Progress { checkpoint: Checkpoint::TrimHorizon, pending: Pending::None };
        let to =
            Progress { checkpoint: Checkpoint::parse("7", 0).unwrap(), pending: Pending::None };
        let mut row = lease("s", Some("me"), 9);
        assert_eq!(classify_progress(Some(&row), &from, &to, &me()), Verdict::Again);
        row.progress = to.clone();
        assert_eq!(classify_progress(Some(&row), &from, &to, &me()), Verdict::Done);
        row.owner = None;
        assert_eq!(classify_progress(Some(&row), &from, &to, &me()), Verdict::Lost);
    }
}
