//! The order of one shard's batches: cut, announced, durable, committed.
//!
//! The row knows a checkpoint and an ordered list of intents. The only writes are those that
//! append intents at the tail and remove delivered ones at the head; both may happen in one write,
//! so a busy shard costs one write per batch. Each write is a compare-and-set of the whole
//! [`Progress`]: it takes effect only if the row still holds exactly what this ledger last saw.

use std::collections::VecDeque;

use crate::checkpoint::progress::{Pending, Progress};
use crate::delivery::intent::{Intent, IntentList};
use crate::mutant::{self, Mutant};
use crate::stream::position::{Checkpoint, Position};

/// One write to the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What the row must hold.
    pub from: Progress,
    /// What it will hold.
    pub to: Progress,
    /// Intents removed at the head, their records delivered.
    pub commits: usize,
    /// Intents appended at the tail.
    pub announces: usize,
}

/// The state of one shard between its reader and its row.
#[derive(Debug)]
pub struct Ledger {
    progress: Progress,
    /// Parallel to the pending intents: are all its objects durable?
    durable: VecDeque<bool>,
    cut: VecDeque<Intent>,
    depth: usize,
    ending: bool,
}

impl Ledger {
    /// Starts from a row; `depth` bounds how many intents stand in it at once.
    pub fn new(progress: Progress, depth: usize) -> Self {
        let durable = progress.pending.intents().iter().map(|_| false).collect();
        Self { progress, durable, cut: VecDeque::new(), depth: depth.max(1), ending: false }
    }

    /// What the row holds, as far as we know.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// A batch was cut; its intent waits to be announced.
    pub fn cut(&mut self, intent: Intent) {
        self.cut.push_back(intent);
    }

    /// All objects of the announced batch that ends at `last` are durable.
    pub fn durable(&mut self, last: &Position) {
        let intents = self.progress.pending.intents();
        if let Some(index) = intents.iter().position(|i| i.last == *last)
            && let Some(flag) = self.durable.get_mut(index)
        {
            *flag = true;
        }
    }

    /// No batch will follow the ones cut so far: the shard is read to its end, and the leases of
    /// its children exist.
    pub fn end(&mut self) {
        self.ending = true;
    }

    /// Batches cut and not yet durable: what still occupies memory.
    pub fn undelivered(&self) -> usize {
        self.cut.len() + self.durable.iter().filter(|d| !**d).count()
    }

    /// Where the next batch begins: behind the last one cut or announced, or the checkpoint.
    pub fn reached(&self) -> Checkpoint {
        let last = self.cut.back().map(|intent| &intent.last).or(self.progress.last());
        last.map_or_else(|| self.progress.checkpoint.clone(), |at| Checkpoint::At(at.clone()))
    }

    /// Nothing announced, nothing waiting.
    pub fn is_idle(&self) -> bool {
        self.cut.is_empty() && self.durable.is_empty() && self.next().is_none()
    }

    /// The next write, if one is useful now.
    pub fn next(&self) -> Option<Change> {
        let intents = self.progress.pending.intents();
        // Commits go in order: only the durable head counts.
        let commits = if mutant::is(Mutant::OutOfOrder) {
            self.durable.iter().rposition(|d| *d).map_or(0, |last| last + 1)
        } else {
            self.durable.iter().take_while(|d| **d).count()
        };
        let room = self.depth.saturating_sub(intents.len() - commits);
        let announces = self.cut.len().min(room);
        let left = &intents[commits..];
        let ends = self.ending
            && left.is_empty()
            && self.cut.is_empty()
            && self.progress.checkpoint != Checkpoint::ShardEnd;
        if commits == 0 && announces == 0 && !ends {
            return None;
        }
        let checkpoint = if ends {
            Checkpoint::ShardEnd
        } else {
            match commits.checked_sub(1).and_then(|i| intents.get(i)) {
                Some(delivered) => Checkpoint::At(delivered.last.clone()),
                None => self.progress.checkpoint.clone(),
            }
        };
        let after: Vec<Intent> =
            left.iter().chain(self.cut.iter().take(announces)).cloned().collect();
        let pending = if after.is_empty() {
            Pending::None
        } else {
            Pending::Ours { raw: IntentList::encode(&after), intents: after }
        };
        Some(Change {
            from: self.progress.clone(),
            to: Progress { checkpoint, pending },
            commits,
            announces,
        })
    }

    /// The write is in the row. Returns the ends of the batches that may now be uploaded.
    pub fn written(&mut self, change: Change) -> Vec<Position> {
        self.progress = change.to;
        self.durable.drain(..change.commits.min(self.durable.len()));
        let announced: Vec<Position> = self
            .cut
            .drain(..change.announces.min(self.cut.len()))
            .map(|intent| intent.last)
            .collect();
        self.durable.extend(announced.iter().map(|_| mutant::is(Mutant::CommitBeforePut)));
        announced
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::delivery::settings::Settings;
    use crate::ids::SequenceNumber;

    fn position(n: u64) -> Position {
        Position::plain(SequenceNumber::parse(&n.to_string()).unwrap())
    }

    fn intent(n: u64) -> Intent {
        Intent {
            first: position(n),
            last: position(n),
            records: 1,
            bytes: 1,
            stamp_ms: 0,
            arrived_ms: None,
            gap: None,
            settings: Arc::new(Settings::sample()),
        }
    }

    fn fresh(depth: usize) -> Ledger {
        let progress = Progress { checkpoint: Checkpoint::TrimHorizon, pending: Pending::None };
        Ledger::new(progress, depth)
    }

    fn write(ledger: &mut Ledger) -> (Change, Vec<Position>) {
        let change = ledger.next().expect("a change is due");
        (change.clone(), ledger.written(change))
    }

    #[test]
    fn commit_and_next_intent_share_a_write() {
        let mut ledger = fresh(1);
        ledger.cut(intent(1));
        ledger.cut(intent(2));
        assert_eq!(write(&mut ledger).1, [position(1)]);
        assert!(ledger.next().is_none(), "depth 1: the second waits");
        ledger.durable(&position(1));
        let (change, started) = write(&mut ledger);
        assert_eq!((change.commits, change.announces), (1, 1));
        assert_eq!(change.to.checkpoint, Checkpoint::At(position(1)));
        assert_eq!(started, [position(2)]);
    }

    #[test]
    fn out_of_order_uploads_commit_in_order() {
        let mut ledger = fresh(2);
        ledger.cut(intent(1));
        ledger.cut(intent(2));
        write(&mut ledger);
        ledger.durable(&position(2));
        assert!(ledger.next().is_none());
        ledger.durable(&position(1));
        assert_eq!(write(&mut ledger).0.to.checkpoint, Checkpoint::At(position(2)));
        assert!(ledger.is_idle());
    }

    #[test]
    fn the_end_waits_for_every_batch_and_joins_the_last_commit() {
        let mut ledger = fresh(2);
        ledger.cut(intent(1));
        ledger.end();
        let (change, _) = write(&mut ledger);
        assert_eq!(change.to.checkpoint, Checkpoint::TrimHorizon);
        ledger.durable(&position(1));
        let (change, _) = write(&mut ledger);
        assert_eq!(change.to.checkpoint, Checkpoint::ShardEnd);
        assert_eq!(change.to.pending, Pending::None);
        assert!(ledger.is_idle());
    }

    #[test]
    fn an_empty_shard_ends_with_one_write() {
        let mut ledger = fresh(2);
        ledger.end();
        assert_eq!(write(&mut ledger).0.to.checkpoint, Checkpoint::ShardEnd);
        assert!(ledger.is_idle());
    }

    proptest! {
        /// Whatever the order of events, the checkpoint moves over whole batches, in order, and
        /// only over durable ones; the list in the row never exceeds its depth.
        #[test]
        fn checkpoints_cover_exactly_the_durable_prefix(
            depth in 1_usize..4,
            events in prop::collection::vec(0_u8..3, 1..60),
            picks in prop::collection::vec(0_usize..4, 60),
        ) {
            let mut ledger = fresh(depth);
            let (mut cut, mut durable) = (0, std::collections::BTreeSet::new());
            for (event, pick) in events.into_iter().zip(picks) {
                match event {
                    0 => { cut += 1; ledger.cut(intent(cut)); }
                    1 => {
                        let open = ledger.progress().pending.intents().to_vec();
                        if let Some(i) = open.get(pick % open.len().max(1)) {
                            ledger.durable(&i.last);
                            durable.insert(i.last.clone());
                        }
                    }
                    _ => if let Some(change) = ledger.next() {
                        prop_assert!(change.to.pending.intents().len() <= depth);
                        prop_assert!(change.to.checkpoint >= change.from.checkpoint);
                        ledger.written(change);
                        if let Checkpoint::At(at) = &ledger.progress().checkpoint {
                            for n in 1..=cut {
                                if position(n) <= *at {
                                    prop_assert!(durable.contains(&position(n)));
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
