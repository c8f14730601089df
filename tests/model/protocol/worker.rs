//! What a worker may do next: lease, announce, write, commit, give up.

use super::{
    Active, Batch, Intent, Key, Msg, Next, Row, Stage, State, Step, Waiting, Worker, Write, bits,
    insert,
};
use crate::rules::{Batching, Fan, Put, Recovery, Rules};

impl State {
    /// What a worker makes of the row when it takes the lease or reads it again.
    pub(super) fn adopt(&self, rules: &Rules, by: u8, row: &Row) -> Active {
        let mine = if rules.settings_differ { by } else { 0 };
        let batches = row.pending.iter().map(|intent| Batch {
            intent: *intent,
            settings: if rules.recovery == Recovery::Own { mine } else { intent.settings },
            content: 0,
            stage: Stage::Known,
            acks: 0,
        });
        Active {
            epoch: row.epoch,
            version: row.version,
            checkpoint: row.checkpoint,
            batches: if rules.recovery == Recovery::Drop { Vec::new() } else { batches.collect() },
            waiting: Waiting::Nothing,
            reading: 0,
        }
    }

    pub(super) fn idle_steps(&self, rules: &Rules, by: u8, out: &mut Next) {
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

    pub(super) fn active_steps(&self, rules: &Rules, by: u8, active: &Active, out: &mut Next) {
        for (i, batch) in active.batches.iter().enumerate() {
            self.batch_steps(rules, by, i, batch, out);
        }
        if active.waiting != Waiting::Nothing {
            self.give_up(rules, by, active, out);
            return;
        }
        let tail = active.batches.last().map_or(active.checkpoint, |b| b.intent.hi);
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
                let whole = if rules.batching == Batching::CountDiffers && by == 2 { 3 } else { 2 };
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

    fn give_up(&self, rules: &Rules, by: u8, active: &Active, out: &mut Next) {
        for row in [Some(&self.row), self.earlier.as_ref()].into_iter().flatten() {
            let mut next = self.clone();
            let mine = row.owner == by && row.epoch == active.epoch;
            let worker =
                if mine { Worker::Active(self.adopt(rules, by, row)) } else { Worker::Idle };
            next.set(by, worker);
            out.push((Step::new("gives up waiting and reads the row", by, 0, 0), Ok(next)));
        }
        let intent = |msg| matches!(msg, Msg::Row { write: Write::Intent(_), .. });
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
        let stamp = if rules.fan == Fan::Stamped { self.hour } else { 0 };
        Intent { lo, hi, settings, stamp }
    }

    fn send_row(
        &self,
        rules: &Rules,
        by: u8,
        write: Write,
        what: &'static str,
        shown: Intent,
        out: &mut Next,
    ) {
        let mut next = self.clone();
        let Some(active) = next.active(by) else {
            return;
        };
        let (epoch, version) = (active.epoch, active.version);
        let msg = Msg::Row { by, epoch, version, write };
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
        let key = |path| Key { lo, hi, settings: batch.settings, path };
        match rules.fan {
            Fan::None => vec![(key(0), content)],
            Fan::Stamped => vec![(key(stamp), content)],
            Fan::WallClock => vec![(key(self.hour), content)],
            Fan::AllAcks | Fan::FirstAck => {
                let parts = [(key(0), content & 0b0101_0101), (key(1), content & 0b1010_1010)];
                parts.into_iter().filter(|(_, content)| *content != 0).collect()
            }
        }
    }

    fn batch_steps(&self, rules: &Rules, by: u8, i: usize, batch: &Batch, out: &mut Next) {
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
                let there = keys.iter().all(|(key, _)| self.objects.iter().any(|(k, _)| k == key));
                active.batches[i].stage = if there { Stage::Stored } else { Stage::Absent };
                out.push((Step::new("looks whether there is", by, lo, hi), Ok(next)));
            }
            Stage::Known | Stage::Absent => {
                let full = bits(lo, hi, 0);
                let content =
                    if batch.content == 0 { bits(lo, hi, self.trimmed) } else { batch.content };
                if rules.put == Put::CreateOnly && content != full && batch.content == 0 {
                    // Never a partial object under the full key: commit what exists, report the rest.
                    let keys = self.objects_of(rules, batch, full);
                    let there =
                        keys.iter().all(|(key, _)| self.objects.iter().any(|(k, _)| k == key));
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
}

impl Active {
    pub(super) fn know(&mut self, intent: Intent) {
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
