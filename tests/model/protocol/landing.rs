//! What a request does when it lands, and whether its sender hears of it.

use super::{Batch, Msg, Next, Row, Stage, State, Step, Waiting, Write};
use crate::rules::{Cas, Fan, Put, Recovery, Rules};

impl State {
    /// A request takes effect, with and without its sender hearing of it.
    pub(super) fn land(&self, rules: &Rules, msg: Msg, out: &mut Next) {
        let mut next = self.clone();
        let mut lost = None;
        let (by, lo, hi, what, accepted) = match msg {
            Msg::Row { by, epoch, version, write } => {
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

impl Row {
    /// Whether a write can never take effect again: epochs, versions and checkpoints only rise.
    pub(super) fn deaf(
        &self,
        rules: &Rules,
        rising: bool,
        epoch: u8,
        version: u8,
        write: Write,
    ) -> bool {
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
                    // The version says it all.
                    _ if rules.cas == Cas::Version => true,
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
                    let compared = !rules.out_of_order && rules.cas != Cas::Version;
                    if compared && (at > 0 || self.checkpoint != intent.lo) {
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
