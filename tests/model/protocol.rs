//! One state of the world, and every step that leads out of it.
//!
//! Three reductions keep the number of states small without losing a behaviour. A worker that gives
//! up waiting reads the row in the same step: nothing it could do in between is not also possible
//! while it waits; a refusal is then the same as silence. A crashed worker is one that holds no
//! lease. And [`State::settle`] forgets requests that can never change anything again.

use std::fmt;

use crate::rules::{Batching, Cas, Fan, Put, Recovery, Rules};

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
    Row {
        by: u8,
        epoch: u8,
        version: u8,
        write: Write,
    },
    Put {
        by: u8,
        key: Key,
        content: u8,
    },
    Delete {
        by: u8,
        key: Key,
    },
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
        Self {
            what,
            by,
            lo,
            hi,
            answered: false,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = ["world", "A", "B"][usize::from(self.by)];
        let heard = if self.answered {
            ", and the sender hears"
        } else {
            ""
        };
        match self.hi {
            0 => write!(f, "{who}: {}{heard}", self.what),
            _ => write!(f, "{who}: {} ({}, {}]{heard}", self.what, self.lo, self.hi),
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
            row: Row {
                checkpoint: 0,
                epoch: 0,
                owner: 0,
                version: 0,
                pending: Vec::new(),
            },
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
                Msg::Row {
                    epoch,
                    version,
                    write,
                    ..
                } => {
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
    pub fn steps(&self, rules: &Rules, out: &mut Vec<(Step, Result<State, &'static str>)>) {
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

    fn world_steps(&self, rules: &Rules, out: &mut Vec<(Step, Result<State, &'static str>)>) {
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

    /// What a worker makes of the row when it takes the lease or reads it again.
    fn adopt(&self, rules: &Rules, by: u8, row: &Row) -> Active {
        let mine = if rules.settings_differ { by } else { 0 };
        let batches = row.pending.iter().map(|intent| Batch {
            intent: *intent,
            settings: if rules.recovery == Recovery::Own {
                mine
            } else {
                intent.settings
            },
            content: 0,
            stage: Stage::Known,
            acks: 0,
        });
        Active {
            epoch: row.epoch,
            version: row.version,
            checkpoint: row.checkpoint,
            batches: if rules.recovery == Recovery::Drop {
                Vec::new()
            } else {
                batches.collect()
            },
            waiting: Waiting::Nothing,
            reading: 0,
        }
    }

    fn idle_steps(
        &self,
        rules: &Rules,
        by: u8,
        out: &mut Vec<(Step, Result<State, &'static str>)>,
    ) {
        if !rules.bump_epoch && self.row.owner == by {
            let mut next = self.clone();
            next.set(by, Worker::Active(self.adopt(rules, by, &self.row)));
            out.push((Step::new("resumes its lease", by, 0, 0), Ok(next)));
        }
        if self.row.epoch < rules.epochs {
            let mut next = self.clone();
            let mut row = self.row.clone();
            row.owner = by;
            row.epoch += 1;
            next.change_row(rules, row);
            let active = next.adopt(rules, by, &next.row);
            next.set(by, Worker::Active(active));
            out.push((Step::new("takes the lease", by, 0, 0), Ok(next)));
        }
    }

    fn active_steps(
        &self,
        rules: &Rules,
        by: u8,
        active: &Active,
        out: &mut Vec<(Step, Result<State, &'static str>)>,
    ) {
        for (i, batch) in active.batches.iter().enumerate() {
            self.batch_steps(rules, by, i, batch, out);
        }
        if active.waiting != Waiting::Nothing {
            self.give_up(rules, by, active, out);
            return;
        }
        let tail = active
            .batches
            .last()
            .map_or(active.checkpoint, |b| b.intent.hi);
        let committable = active.batches.iter().enumerate();
        let committable = committable
            .filter(|(i, b)| b.stage == Stage::Stored && (*i == 0 || rules.out_of_order));
        for (_, batch) in committable {
            self.send_row(
                rules,
                by,
                Write::Commit(batch.intent, None),
                "sends the commit of",
                batch.intent,
                out,
            );
            if rules.merged && tail < rules.records {
                for hi in tail + 1..=rules.records {
                    let next = self.intent(rules, by, tail, hi);
                    self.send_row(
                        rules,
                        by,
                        Write::Commit(batch.intent, Some(next)),
                        "sends a commit with the intent",
                        next,
                        out,
                    );
                }
            }
        }
        let room = active.batches.len() < usize::from(rules.pipeline);
        if room && tail < rules.records {
            for hi in tail + 1..=rules.records {
                let size = hi - tail;
                let whole = if rules.batching == Batching::CountDiffers && by == 2 {
                    3
                } else {
                    2
                };
                let fits = match rules.batching {
                    Batching::Free => true,
                    Batching::Count | Batching::CountDiffers => {
                        size == whole || (hi == rules.records && size < whole)
                    }
                    Batching::CountAndTimer => size <= whole,
                };
                if !fits {
                    continue;
                }
                let intent = self.intent(rules, by, tail, hi);
                if rules.intents() {
                    self.send_row(
                        rules,
                        by,
                        Write::Intent(intent),
                        "sends the intent",
                        intent,
                        out,
                    );
                } else {
                    let mut next = self.clone();
                    let content = bits(tail, hi, self.trimmed);
                    if let Some(active) = next.active(by) {
                        active.batches.push(Batch {
                            intent,
                            settings: intent.settings,
                            content,
                            stage: Stage::Known,
                            acks: 0,
                        });
                    }
                    out.push((Step::new("cuts the batch", by, tail, hi), Ok(next)));
                }
            }
        }
    }

    fn give_up(
        &self,
        rules: &Rules,
        by: u8,
        active: &Active,
        out: &mut Vec<(Step, Result<State, &'static str>)>,
    ) {
        for row in [Some(&self.row), self.earlier.as_ref()]
            .into_iter()
            .flatten()
        {
            let mut next = self.clone();
            let mine = row.owner == by && row.epoch == active.epoch;
            let worker = if mine {
                Worker::Active(self.adopt(rules, by, row))
            } else {
                Worker::Idle
            };
            next.set(by, worker);
            out.push((
                Step::new("gives up waiting and reads the row", by, 0, 0),
                Ok(next),
            ));
        }
        let intent = |msg| {
            matches!(
                msg,
                Msg::Row {
                    write: Write::Intent(_),
                    ..
                }
            )
        };
        if rules.timeout_is_failure && matches!(active.waiting, Waiting::For(msg) if intent(msg)) {
            let mut next = self.clone();
            if let Some(active) = next.active(by) {
                active.waiting = Waiting::Nothing;
                active.reading = 0;
            }
            out.push((Step::new("takes silence for failure", by, 0, 0), Ok(next)));
        }
    }

    fn intent(&self, rules: &Rules, by: u8, lo: u8, hi: u8) -> Intent {
        let settings = if rules.settings_differ { by } else { 0 };
        let stamp = if rules.fan == Fan::Stamped {
            self.hour
        } else {
            0
        };
        Intent {
            lo,
            hi,
            settings,
            stamp,
        }
    }

    fn send_row(
        &self,
        rules: &Rules,
        by: u8,
        write: Write,
        what: &'static str,
        shown: Intent,
        out: &mut Vec<(Step, Result<State, &'static str>)>,
    ) {
        let mut next = self.clone();
        let Some(active) = next.active(by) else {
            return;
        };
        let (epoch, version) = (active.epoch, active.version);
        let msg = Msg::Row {
            by,
            epoch,
            version,
            write,
        };
        active.waiting = Waiting::For(msg);
        let announced = match write {
            Write::Intent(intent) => Some(intent),
            Write::Commit(_, next) => next,
        };
        if let Some(intent) = announced {
            active.reading = bits(intent.lo, intent.hi, self.trimmed);
            if !rules.confirm_intent {
                active.know(intent);
            }
        }
        insert(&mut next.network, msg);
        out.push((Step::new(what, by, shown.lo, shown.hi), Ok(next)));
    }

    /// The objects of a batch.
    fn objects_of(&self, rules: &Rules, batch: &Batch, content: u8) -> Vec<(Key, u8)> {
        let Intent { lo, hi, stamp, .. } = batch.intent;
        let key = |path| Key {
            lo,
            hi,
            settings: batch.settings,
            path,
        };
        match rules.fan {
            Fan::None => vec![(key(0), content)],
            Fan::Stamped => vec![(key(stamp), content)],
            Fan::WallClock => vec![(key(self.hour), content)],
            Fan::AllAcks | Fan::FirstAck => {
                let parts = [
                    (key(0), content & 0b0101_0101),
                    (key(1), content & 0b1010_1010),
                ];
                parts
                    .into_iter()
                    .filter(|(_, content)| *content != 0)
                    .collect()
            }
        }
    }

    fn batch_steps(
        &self,
        rules: &Rules,
        by: u8,
        i: usize,
        batch: &Batch,
        out: &mut Vec<(Step, Result<State, &'static str>)>,
    ) {
        let Intent { lo, hi, .. } = batch.intent;
        let mut next = self.clone();
        let Some(active) = next.active(by) else {
            return;
        };
        let mine = if rules.settings_differ { by } else { 0 };
        match batch.stage {
            Stage::Known if rules.recovery == Recovery::DeleteFirst && batch.settings != mine => {
                active.batches[i].stage = Stage::Deleting;
                for (key, _) in self.objects_of(rules, batch, bits(lo, hi, 0)) {
                    insert(&mut next.network, Msg::Delete { by, key });
                }
                out.push((Step::new("sends a DELETE of", by, lo, hi), Ok(next)));
            }
            Stage::Known if rules.put == Put::HeadFirst => {
                let keys = self.objects_of(rules, batch, bits(lo, hi, 0));
                let there = keys
                    .iter()
                    .all(|(key, _)| self.objects.iter().any(|(k, _)| k == key));
                active.batches[i].stage = if there { Stage::Stored } else { Stage::Absent };
                out.push((Step::new("looks whether there is", by, lo, hi), Ok(next)));
            }
            Stage::Known | Stage::Absent => {
                let full = bits(lo, hi, 0);
                let content = if batch.content == 0 {
                    bits(lo, hi, self.trimmed)
                } else {
                    batch.content
                };
                if rules.put == Put::CreateOnly && content != full && batch.content == 0 {
                    // Never a partial object under the full key: commit what exists, report the rest.
                    let keys = self.objects_of(rules, batch, full);
                    let there = keys
                        .iter()
                        .all(|(key, _)| self.objects.iter().any(|(k, _)| k == key));
                    active.batches[i].stage = Stage::Stored;
                    if !there {
                        next.gaps |= full;
                    }
                    out.push((Step::new("cannot read all of", by, lo, hi), Ok(next)));
                    return;
                }
                active.batches[i].stage = Stage::Sent;
                active.batches[i].content = content;
                next.gaps |= full & !content;
                for (key, content) in self.objects_of(rules, batch, content) {
                    insert(&mut next.network, Msg::Put { by, key, content });
                }
                out.push((Step::new("sends the PUT of", by, lo, hi), Ok(next)));
            }
            Stage::Deleting | Stage::Sent | Stage::Stored => {}
        }
    }

    /// A request takes effect, with and without its sender hearing of it.
    fn land(&self, rules: &Rules, msg: Msg, out: &mut Vec<(Step, Result<State, &'static str>)>) {
        let mut next = self.clone();
        let mut lost = None;
        let (by, lo, hi, what, accepted) = match msg {
            Msg::Row {
                by,
                epoch,
                version,
                write,
            } => {
                let row = self.row.after(rules, by, epoch, version, write);
                let accepted = row.is_some();
                if let Some(row) = row {
                    next.change_row(rules, row);
                }
                let (intent, what) = match (write, accepted) {
                    (Write::Intent(i), true) => (i, "'s intent lands:"),
                    (Write::Intent(i), false) => (i, "'s intent is refused:"),
                    (Write::Commit(i, _), true) => (i, "'s commit lands:"),
                    (Write::Commit(i, _), false) => (i, "'s commit is refused:"),
                };
                (by, intent.lo, intent.hi, what, accepted)
            }
            Msg::Put { by, key, content } => {
                match next.objects.binary_search_by_key(&key, |(k, _)| *k) {
                    Ok(_) if rules.put == Put::CreateOnly => {}
                    Ok(at) => {
                        if next.objects[at].1 & !content != 0 {
                            lost = Some("a delivered record disappears");
                        }
                        next.objects[at].1 = content;
                    }
                    Err(at) => next.objects.insert(at, (key, content)),
                }
                (by, key.lo, key.hi, "'s PUT lands:", true)
            }
            Msg::Delete { by, key } => {
                next.objects.retain(|(k, _)| *k != key);
                (by, key.lo, key.hi, "'s DELETE lands:", true)
            }
        };
        let mut step = Step::new(what, by, lo, hi);
        let mut heard = next.clone();
        if next != *self || lost.is_some() {
            out.push((step, lost.map_or(Ok(next), Err)));
        }
        if heard.hear(rules, by, msg, accepted) && lost.is_none() {
            step.answered = true;
            out.push((step, Ok(heard)));
        }
    }

    /// The sender learns the outcome, if it still waits for it.
    fn hear(&mut self, rules: &Rules, by: u8, msg: Msg, accepted: bool) -> bool {
        let version = self.row.version;
        let mine = if rules.settings_differ { by } else { 0 };
        let Some(active) = self.active(by) else {
            return false;
        };
        match msg {
            Msg::Row { write, .. } => {
                if active.waiting != Waiting::For(msg) || !accepted {
                    return false;
                }
                active.waiting = Waiting::Nothing;
                active.version = version;
                let announced = match write {
                    Write::Intent(intent) => Some(intent),
                    Write::Commit(done, next) => {
                        active.batches.retain(|b| b.intent.lo >= done.hi);
                        active.checkpoint = done.hi;
                        next
                    }
                };
                if let (Some(intent), true) = (announced, rules.confirm_intent) {
                    active.know(intent);
                }
                true
            }
            Msg::Put { key, .. } => {
                let sent = |b: &&mut Batch| {
                    b.stage == Stage::Sent
                        && (b.intent.lo, b.intent.hi, b.settings) == (key.lo, key.hi, key.settings)
                };
                let Some(batch) = active.batches.iter_mut().find(sent) else {
                    return false;
                };
                let parts = matches!(rules.fan, Fan::AllAcks | Fan::FirstAck);
                let wanted = match rules.fan {
                    Fan::AllAcks => {
                        u8::from(batch.content & 0b0101_0101 != 0)
                            | u8::from(batch.content & 0b1010_1010 != 0) << 1
                    }
                    _ => 0,
                };
                batch.acks |= if parts { 1 << key.path } else { 0 };
                if batch.acks & wanted == wanted {
                    batch.stage = Stage::Stored;
                    batch.acks = 0;
                }
                true
            }
            Msg::Delete { key, .. } => {
                let waits = |b: &&mut Batch| {
                    b.stage == Stage::Deleting && (b.intent.lo, b.intent.hi) == (key.lo, key.hi)
                };
                let Some(batch) = active.batches.iter_mut().find(waits) else {
                    return false;
                };
                batch.settings = mine;
                batch.stage = Stage::Known;
                true
            }
        }
    }
}

impl Active {
    fn know(&mut self, intent: Intent) {
        let content = std::mem::take(&mut self.reading);
        self.batches.push(Batch {
            intent,
            settings: intent.settings,
            content,
            stage: Stage::Known,
            acks: 0,
        });
    }
}

impl Row {
    /// Whether a write can never take effect again: epochs, versions and checkpoints only rise.
    fn deaf(&self, rules: &Rules, rising: bool, epoch: u8, version: u8, write: Write) -> bool {
        let outdated = match rules.cas {
            Cas::StateOnly | Cas::Owner => false,
            Cas::Version => version < self.version,
            _ => epoch < self.epoch,
        };
        let compared = match write {
            Write::Intent(i) if rules.cas != Cas::PendingOnly => Some(i.lo),
            Write::Commit(i, _) if !rules.out_of_order => Some(i.lo),
            _ => None,
        };
        let blind = matches!(rules.cas, Cas::OwnerAndEpoch | Cas::Owner);
        outdated || (rising && !blind && compared.is_some_and(|lo| lo < self.checkpoint))
    }

    /// The row after a write, if its condition holds.
    fn after(&self, rules: &Rules, by: u8, epoch: u8, version: u8, write: Write) -> Option<Row> {
        let mut row = self.clone();
        let owned = match rules.cas {
            Cas::StateOnly => true,
            Cas::Owner => self.owner == by,
            Cas::Version => self.version == version,
            _ => self.owner == by && self.epoch == epoch,
        };
        if !owned {
            return None;
        }
        let blind = matches!(rules.cas, Cas::OwnerAndEpoch | Cas::Owner);
        match write {
            Write::Intent(intent) => {
                let free = match self.pending.last() {
                    None => self.checkpoint == intent.lo || rules.cas == Cas::PendingOnly,
                    Some(last) => rules.pipeline > 1 && last.hi == intent.lo,
                };
                if blind || (rules.recovery == Recovery::Drop && self.checkpoint == intent.lo) {
                    row.pending = vec![intent];
                } else if !free {
                    return None;
                } else if rules.collapse && !row.pending.is_empty() {
                    row.pending[0].hi = intent.hi;
                } else {
                    row.pending.push(intent);
                }
            }
            Write::Commit(intent, next) => {
                if !rules.intents() {
                    if self.checkpoint != intent.lo {
                        return None;
                    }
                } else if blind {
                    row.pending.clear();
                } else if rules.collapse {
                    let head = *self.pending.first()?;
                    if self.checkpoint != intent.lo || head.hi < intent.hi {
                        return None;
                    }
                    row.pending[0].lo = intent.hi;
                    row.pending.retain(|p| p.hi > intent.hi);
                } else {
                    let at = self.pending.iter().position(|p| *p == intent)?;
                    if !rules.out_of_order && (at > 0 || self.checkpoint != intent.lo) {
                        return None;
                    }
                    row.pending.drain(..=at);
                }
                row.checkpoint = intent.hi;
                row.pending.extend(next);
            }
        }
        Some(row)
    }
}
