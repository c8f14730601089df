//! One state of the world, and every step that leads out of it.
//!
//! Three reductions keep the number of states small without losing a behaviour. A worker that gives
//! up waiting reads the row in the same step: nothing it could do in between is not also possible
//! while it waits; a refusal is then the same as silence. A crashed worker is one that holds no
//! lease. And [`State::settle`] forgets requests that can never change anything again.

mod landing;
mod worker;

use std::fmt;

use crate::rules::{Cas, Fan, Put, Recovery, Rules};

/// Where steps are collected; an `Err` is a violation that lies in the step itself.
pub type Next = Vec<(Step, Result<State, &'static str>)>;

/// A batch as announced in the row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Intent {
    pub lo: u8,
    pub hi: u8,
    settings: u8,
    stamp: u8,
}

/// The lease row.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Row {
    pub checkpoint: u8,
    pub epoch: u8,
    owner: u8,
    /// Raised by every write; used by [`Cas::Version`] only.
    version: u8,
    pub pending: Vec<Intent>,
}

/// The name of an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    lo: u8,
    hi: u8,
    settings: u8,
    /// Part, or hour.
    path: u8,
}

/// A write to the row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Write {
    Intent(Intent),
    Commit(Intent, Option<Intent>),
}

/// A request in the network. Once sent it stays.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Msg {
    Row { by: u8, epoch: u8, version: u8, write: Write },
    Put { by: u8, key: Key, content: u8 },
    Delete { by: u8, key: Key },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// The intent is known to be in the row.
    Known,
    /// The old object is being deleted.
    Deleting,
    /// A HEAD found no object.
    Absent,
    Sent,
    Stored,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Batch {
    intent: Intent,
    /// The settings its objects are written with.
    settings: u8,
    /// Which records were read for it; 0 if not yet read.
    content: u8,
    stage: Stage,
    acks: u8,
}

/// The row write a worker has sent and not heard of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Waiting {
    Nothing,
    For(Msg),
    /// For one that can no longer succeed.
    InVain,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Active {
    epoch: u8,
    version: u8,
    /// The checkpoint as last seen.
    checkpoint: u8,
    batches: Vec<Batch>,
    waiting: Waiting,
    /// The records of the intent being written.
    reading: u8,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Worker {
    /// Holds no lease; perhaps it has just started again.
    Idle,
    Active(Active),
}

/// Everything there is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub row: Row,
    /// The row before the last write, for stale reads.
    earlier: Option<Row>,
    workers: [Worker; 2],
    network: Vec<Msg>,
    /// Visible objects and the records in them, as bits.
    objects: Vec<(Key, u8)>,
    trimmed: u8,
    /// Records reported as lost.
    gaps: u8,
    /// Records a consumer has taken and deleted.
    consumed: u8,
    hour: u8,
    crashes: u8,
    recreated: bool,
}

/// A step, for telling counterexamples.
#[derive(Clone, Copy)]
pub struct Step {
    what: &'static str,
    by: u8,
    lo: u8,
    hi: u8,
    answered: bool,
}

impl Step {
    fn new(what: &'static str, by: u8, lo: u8, hi: u8) -> Self {
        Self { what, by, lo, hi, answered: false }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // "A's PUT lands", but "A: sends the PUT of".
        let landing = self.what.starts_with('\'');
        let who = match (self.by, landing) {
            (0, true) => "someone",
            (by, _) => ["world", "A", "B"][usize::from(by)],
        };
        let colon = if landing { "" } else { ": " };
        let heard = if self.answered { ", and the sender hears" } else { "" };
        match self.hi {
            0 => write!(f, "{who}{colon}{}{heard}", self.what),
            _ => write!(f, "{who}{colon}{} ({}, {}]{heard}", self.what, self.lo, self.hi),
        }
    }
}

/// Records lo+1 ..= hi as bits, without those at or below `trimmed`.
fn bits(lo: u8, hi: u8, trimmed: u8) -> u8 {
    (lo.max(trimmed)..hi).fold(0, |bits, record| bits | 1 << record)
}

fn insert<T: Ord>(set: &mut Vec<T>, item: T) {
    if let Err(at) = set.binary_search(&item) {
        set.insert(at, item);
    }
}

impl State {
    pub fn start() -> Self {
        Self {
            row: Row { checkpoint: 0, epoch: 0, owner: 0, version: 0, pending: Vec::new() },
            earlier: None,
            workers: [Worker::Idle, Worker::Idle],
            network: Vec::new(),
            objects: Vec::new(),
            trimmed: 0,
            gaps: 0,
            consumed: 0,
            hour: 0,
            crashes: 0,
            recreated: false,
        }
    }

    pub fn done(&self, rules: &Rules) -> bool {
        self.row.checkpoint == rules.records && self.row.pending.is_empty()
    }

    /// Forgets what can never matter again: requests that cannot take effect any more, and the
    /// senders of those that nobody waits for.
    pub fn settle(&mut self, rules: &Rules) {
        let network = std::mem::take(&mut self.network);
        let mut vain = Vec::new();
        for mut msg in network {
            let dead = match &mut msg {
                Msg::Row { epoch, version, write, .. } => {
                    let rising = !rules.row_recreated || self.recreated;
                    self.row.deaf(rules, rising, *epoch, *version, *write)
                }
                Msg::Put { by, key, content } => {
                    let waited = *by > 0 && self.awaits(*by, key);
                    if !waited {
                        *by = 0;
                    }
                    let there = self.objects.iter().find(|(k, _)| k == key);
                    let same = there.is_some_and(|(_, c)| {
                        rules.put == Put::CreateOnly || (c == content && !rules.retention)
                    });
                    let stays = !rules.consumer_deletes && rules.recovery != Recovery::DeleteFirst;
                    !waited && same && stays
                }
                Msg::Delete { .. } => false,
            };
            if dead {
                vain.push(Waiting::For(msg));
            } else {
                insert(&mut self.network, msg);
            }
        }
        for worker in &mut self.workers {
            if let Worker::Active(active) = worker
                && vain.contains(&active.waiting)
            {
                active.waiting = Waiting::InVain;
                active.reading = 0;
            }
        }
    }

    /// Whether a worker waits for its PUT of a key.
    fn awaits(&self, by: u8, key: &Key) -> bool {
        let sent = |b: &Batch| {
            let same = (b.intent.lo, b.intent.hi, b.settings) == (key.lo, key.hi, key.settings);
            b.stage == Stage::Sent && same
        };
        let worker = &self.workers[usize::from(by - 1)];
        matches!(worker, Worker::Active(active) if active.batches.iter().any(sent))
    }

    /// What is wrong with this state.
    pub fn violation(&self) -> Option<String> {
        let mut seen = self.consumed;
        for (_, content) in &self.objects {
            if seen & content != 0 {
                return Some(format!(
                    "record {} is delivered twice",
                    (seen & content).trailing_zeros() + 1
                ));
            }
            seen |= content;
        }
        let missing = bits(0, self.row.checkpoint, 0) & !seen & !self.gaps;
        let first = missing.trailing_zeros() + 1;
        (missing != 0)
            .then(|| format!("record {first} is at or below the checkpoint and in no object"))
    }

    /// All steps from here. An `Err` is a violation that lies in the step itself.
    pub fn steps(&self, rules: &Rules, out: &mut Next) {
        self.world_steps(rules, out);
        for by in 1..=2 {
            match &self.workers[usize::from(by - 1)] {
                Worker::Idle => self.idle_steps(rules, by, out),
                Worker::Active(active) => {
                    if self.crashes < rules.crashes {
                        let mut next = self.clone();
                        next.set(by, Worker::Idle);
                        next.crashes += 1;
                        out.push((Step::new("crashes and starts again", by, 0, 0), Ok(next)));
                    }
                    self.active_steps(rules, by, active, out);
                }
            }
        }
        for msg in &self.network {
            self.land(rules, *msg, out);
        }
    }

    fn set(&mut self, by: u8, worker: Worker) {
        self.workers[usize::from(by - 1)] = worker;
    }

    fn active(&mut self, by: u8) -> Option<&mut Active> {
        match self.workers.get_mut(usize::from(by).wrapping_sub(1))? {
            Worker::Active(active) => Some(active),
            _ => None,
        }
    }

    fn change_row(&mut self, rules: &Rules, row: Row) {
        if rules.stale_reads {
            self.earlier = Some(self.row.clone());
        }
        self.row = row;
        if rules.cas == Cas::Version {
            self.row.version += 1;
        }
    }

    fn world_steps(&self, rules: &Rules, out: &mut Next) {
        if matches!(rules.fan, Fan::WallClock | Fan::Stamped) && self.hour == 0 {
            let mut next = self.clone();
            next.hour = 1;
            out.push((Step::new("the hour changes", 0, 0, 0), Ok(next)));
        }
        if rules.retention && self.trimmed == 0 {
            let mut next = self.clone();
            next.trimmed = 1;
            out.push((Step::new("record 1 leaves retention", 0, 0, 0), Ok(next)));
        }
        if rules.row_recreated && !self.recreated && self.done(rules) {
            let mut next = self.clone();
            next.recreated = true;
            next.row.checkpoint = 0;
            next.row.owner = 0;
            out.push((
                Step::new("the finished row is deleted and created again", 0, 0, 0),
                Ok(next),
            ));
        }
        if rules.consumer_deletes {
            for (i, (key, content)) in self.objects.iter().enumerate() {
                if key.hi <= self.row.checkpoint {
                    let mut next = self.clone();
                    next.objects.remove(i);
                    next.consumed |= content;
                    out.push((
                        Step::new("a consumer takes and deletes", 0, key.lo, key.hi),
                        Ok(next),
                    ));
                }
            }
        }
    }
}
