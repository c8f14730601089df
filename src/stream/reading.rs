//! How far the reader of a shard is, what it asks for next, and what each page means.

pub(crate) mod outcome;
mod retention;

use crate::fault::{CallError, Detail};
use crate::ids::SequenceNumber;
use crate::mutant::{self, Mutant};
use crate::stream::bound::Bound;
use crate::stream::deaggregate::{Aggregates, HashRange, Split, user_records};
use crate::stream::pacing::Aim;
use crate::stream::patience::Patience;
use crate::stream::position::{Position, StartAt, may_have_lost};
use crate::stream::{Page, Record, Records};
use outcome::{Arrival, PageOutcome, PageStats};

/// Memory a reply may need: 10 MiB of payload, base64 of it, and the records' allocations. (The
/// fast path decodes in place and stays below. The SDK's parser does not; its records are copied
/// once the reply is gone.)
const LARGEST_REPLY: usize = 26 << 20;
/// The same at the tip of a shard, which takes in 1 MB per second.
const TIP_REPLY: usize = 4 << 20;
/// A page this small says the shard is at its tip even where MillisBehindLatest is absent.
const TIP_BYTES: usize = 1 << 20;
/// A page of more records says there may be more of them, whatever MillisBehindLatest says.
const TIP_RECORDS: usize = 1000;

/// Records asked for while their size is not known, and how much more are asked for from one reply
/// to the next: the first records of a shard may be smaller than the rest.
const FIRST: i32 = 2;
const GROWTH: i32 = 8;

/// Answers in a row without records and NextShardIterator, each to a fresh iterator, after which the
/// shard may have ended although none names its children: one may have lost what it held.
const ENDS: u32 = 5;

/// What to read: where from, how far, and how a record is understood.
#[derive(Clone, Debug)]
pub struct ReadRange {
    /// First iterator.
    pub start: StartAt,
    /// Drop records at or before this.
    pub after: Option<Position>,
    /// Stop once a record at or beyond this was read.
    pub until: Option<Position>,
    /// Where the range of a replay ends.
    pub bound: Option<Bound>,
    /// What becomes of KPL aggregates.
    pub aggregates: Aggregates,
    /// Hash keys of the shard: user records outside it are another shard's.
    pub hash_range: Option<HashRange>,
    /// All that arrived up to this time is known to be delivered (wall clock, ms since the epoch):
    /// where to begin if the position leads nowhere.
    pub through_ms: Option<i64>,
    /// The first records may be about to leave retention: as many as can be at once.
    pub at_horizon: bool,
}

impl ReadRange {
    fn wants(&self, record: Record<'_>) -> bool {
        self.after.as_ref().is_none_or(|after| record.cmp_position(after).is_gt())
            && self.until.as_ref().is_none_or(|until| record.cmp_position(until).is_le())
    }
}

/// Retention may have overtaken the reader before it read anything. Whoever begins at the checkpoint
/// again finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no record was read for as long as the stream keeps one")]
pub struct PassedByRetention;

/// What a reader knows of the record it was asked to begin at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartCheck {
    /// A record was seen: it is known whether the one to begin at is still there.
    pub seen: bool,
    /// It is not: retention has passed it.
    pub gone: bool,
    /// When the first record seen arrived, ms since the epoch, if it says so.
    pub first_ms: Option<i64>,
    /// A fresh iterator at the oldest record kept found none.
    pub bare: bool,
}

/// The state of a reader.
pub(crate) struct ReaderState {
    range: ReadRange,
    /// How long the stream keeps a record.
    retention_ms: i64,
    /// Most records per call.
    most: i32,
    /// The last record read.
    last: Option<SequenceNumber>,
    /// When it was read, less the lag (wall clock).
    last_ms: i64,
    /// Where a new iterator starts while the position itself leads nowhere.
    detour: Option<StartAt>,
    patience: Patience,
    /// How far the subscription had come, though no record came.
    continuation: Option<SequenceNumber>,
    iterator: Option<String>,
    /// Records to ask for.
    limit: i32,
    aim: Aim,
    /// Memory the next reply may need, bytes.
    expected: usize,
    beginning: StartCheck,
    /// All that arrived up to this time (wall clock) was read.
    through_ms: Option<i64>,
    /// When the last page was asked for (wall clock).
    asked_ms: Option<i64>,
    /// The next page must begin with what was read last: see [`ReaderState::look_back`].
    overlap: bool,
    /// Records behind the last one were passed by retention; not told yet.
    lost: bool,
    /// The last page held what was read last and nothing more.
    alone: bool,
    /// The page asked for may stand behind a gap.
    unproved: bool,
    /// A page of which it is not known yet whether anything before it is gone.
    held: Option<(Page, Arrival)>,
    /// Answers in a row that say the shard has ended.
    ends: u32,
    /// The bound was seen.
    over: bool,
}

impl ReaderState {
    /// Nothing read yet. `most`: records per call.
    pub(crate) fn new(range: ReadRange, retention_ms: i64, most: i32) -> Self {
        let at_once = range.at_horizon || range.start == StartAt::TrimHorizon;
        Self {
            retention_ms,
            most,
            last: None,
            last_ms: 0,
            detour: None,
            patience: Patience::default(),
            continuation: None,
            iterator: None,
            limit: if at_once { most } else { FIRST.min(most) },
            aim: Aim::default(),
            expected: LARGEST_REPLY,
            beginning: StartCheck::default(),
            through_ms: None,
            asked_ms: None,
            overlap: false,
            lost: false,
            alone: false,
            unproved: false,
            held: None,
            ends: 0,
            over: false,
            range,
        }
    }

    /// The stream keeps records for another time than before, milliseconds.
    pub(crate) fn keeps(&mut self, retention_ms: i64) {
        self.retention_ms = retention_ms;
    }

    pub(crate) fn beginning(&self) -> StartCheck {
        self.beginning
    }

    /// ReaderState ends here: records behind the last one may have left retention, and no other record
    /// will show it.
    pub(crate) fn has_missed(&self) -> bool {
        self.lost || self.overlap
    }

    /// Nothing more is there: it was said more than once.
    pub(crate) fn is_at_tip(&self) -> bool {
        self.patience.is_tip()
    }

    /// A page waits to be handed over.
    pub(crate) fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// The end of the range was seen, nothing behind it is wanted.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// The range has an end that is known to be there: it is short, and was given its memory as a
    /// whole.
    pub(crate) fn is_bounded(&self) -> bool {
        self.range.until.is_some()
    }

    /// Everything of such a range was read.
    pub(crate) fn is_done(&self) -> bool {
        match (&self.range.until, &self.last) {
            (Some(until), Some(last)) => *last >= until.sequence,
            _ => false,
        }
    }

    /// Where a subscription begins; `None` while the shard has to be polled.
    pub(crate) fn subscribes(&self, now_ms: i64) -> Option<StartAt> {
        if self.overlap || self.is_near(now_ms) {
            return None;
        }
        let continued = self.continuation.as_ref().filter(|_| self.detour.is_none());
        let further = continued.filter(|c| self.last.as_ref().is_none_or(|last| *c > last));
        Some(further.map_or_else(|| self.start(), |c| StartAt::After(c.clone())))
    }

    /// Memory the next reply may need, bytes; with the one after it, while this one is held.
    pub(crate) fn expected(&self) -> usize {
        if self.alone { LARGEST_REPLY * 2 } else { self.expected }
    }

    /// Where a new iterator starts.
    pub(crate) fn start(&self) -> StartAt {
        match (&self.detour, &self.last) {
            (Some(detour), _) => detour.clone(),
            (None, Some(last)) if self.overlap => StartAt::At(last.clone()),
            (None, Some(last)) => StartAt::After(last.clone()),
            (None, None) => self.range.start.clone(),
        }
    }

    /// The iterator to read by; it stays, for a failed call does not use it up. `None`: ask for one
    /// from [`ReaderState::start`] on.
    pub(crate) fn iterator(&self) -> Option<&str> {
        self.iterator.as_deref()
    }

    /// A new iterator, to read by.
    pub(crate) fn begins(&mut self, iterator: String) -> &str {
        self.iterator.insert(iterator)
    }

    /// The iterator is of no use any more. Was there one?
    pub(crate) fn forget_iterator(&mut self) -> bool {
        self.iterator.take().is_some()
    }

    /// A page did not arrive in time: the next ones are smaller.
    pub(crate) fn timed_out(&mut self) {
        self.aim.timed_out();
        self.limit = (self.limit / 4).max(1);
    }

    /// The next page is asked for now: how many records.
    ///
    /// # Errors
    /// [`PassedByRetention`] when records may have left retention before any was read. Whether
    /// something was lost is decided anew by whoever begins at the checkpoint again.
    pub(crate) fn ask(&mut self, now_ms: i64) -> Result<i32, PassedByRetention> {
        let before = self.asked_ms.replace(now_ms);
        let still = |at| may_have_lost(Some(at), now_ms, self.retention_ms);
        if !self.beginning.seen && before.is_some_and(still) {
            return Err(PassedByRetention);
        }
        self.look_back(now_ms);
        if self.iterator.is_none() && self.is_idle(now_ms) {
            self.detour = Some(self.refuge(now_ms));
        }
        // What was read last, and one more.
        let least = if self.overlap { 2 } else { 1 };
        Ok(self.limit.max(least))
    }

    /// A page came.
    pub(crate) fn take(&mut self, page: Page, arrival: Arrival) -> PageStats {
        self.asked_ms = Some(arrival.asked_ms);
        self.judge(&page);
        if self.unproved && !page.records.is_empty() && !arrival.pushed {
            return self.hold(page, arrival);
        }
        let (shows, over) = (!page.records.is_empty(), self.is_shown_over(&page));
        let decided = shows || over || !self.overlap;
        let Some((held, then)) = self.held.take_if(|_| decided) else {
            return self.read(page, arrival);
        };
        // Nothing is there any more to tell by.
        self.lost |= !shows && over;
        (self.overlap, self.detour, self.alone) = (false, None, false);
        PageStats { payload: page.records.payload(), ..self.read(held, then) }
    }

    /// What the records of a page are, and what follows from it.
    fn read(&mut self, mut page: Page, arrival: Arrival) -> PageStats {
        let Arrival { asked_ms, pushed } = arrival;
        // What was pushed leaves no iterator behind, and says nothing of the end.
        let ended = !pushed && page.next.is_none();
        let (records, payload) = (page.records.len(), page.records.payload());
        let short = records < TIP_RECORDS.min(usize::try_from(self.limit).unwrap_or(1));
        let tip = page.behind_ms.map_or(payload < TIP_BYTES && !ended, |ms| ms == 0);
        // What was read last is not seen yet: an empty page may be a mistake.
        let doubtful = records == 0 && self.overlap;
        let caught_up = tip && (short || pushed) && !doubtful;
        let through_ms = match page.behind_ms {
            Some(behind) => Some(asked_ms.saturating_sub(behind)),
            None if caught_up => Some(asked_ms),
            None => page.records.last().and_then(|r| r.arrival_ms).or(self.through_ms),
        };
        self.expected = if caught_up { TIP_REPLY } else { LARGEST_REPLY };
        self.aim.arrived(payload);
        if let Some(size) = payload.checked_div(records) {
            let fitting = i32::try_from(self.aim.bytes() / size.max(1)).unwrap_or(i32::MAX);
            self.limit = fitting.clamp(1, self.most.min(self.limit.saturating_mul(GROWTH)));
        }
        let reached = page.records.last().map(|r| (r.position().sequence, r.arrival_ms));
        let known = self.overlap || self.detour.is_some();
        let again = self.drop_read(&mut page.records);
        let repeated = if known { 0 } else { again };
        let detour = match records {
            0 => self.blank(page.behind_ms, asked_ms, pushed),
            _ => None,
        };
        // Where the position leads nowhere, the lag is not that of what was read; and one empty page
        // at the tip may be a mistake.
        self.through_ms = match records > 0 || self.is_at_tip() {
            true => through_ms,
            false => self.through_ms.or(through_ms.filter(|_| !tip)),
        };
        if let Some(bound) = &self.range.bound {
            let tip = caught_up && records == 0 && bound.is_settled(asked_ms);
            if let Some(inside) = bound.cut(&page.records) {
                page.records.truncate(inside);
                self.over = true;
            }
            self.over |= tip;
        }
        if records > 0 {
            self.patience.renew();
            self.overlap = false;
            if let Some(last) = page.records.last() {
                self.last = Some(last.position().sequence);
                let arrival_ms = reached.and_then(|(_, at)| at).unwrap_or(i64::MAX);
                self.last_ms = through_ms.unwrap_or(asked_ms).min(arrival_ms);
                self.detour = None;
            } else if let Some((sequence, _)) = reached.filter(|_| self.detour.is_some()) {
                // On the way back to the position: a new iterator need not begin the way anew.
                self.detour = Some(StartAt::After(sequence));
            }
        }
        if pushed {
            let continued = page.next.as_deref().and_then(|c| SequenceNumber::parse(c).ok());
            self.continuation = continued.or(self.continuation.take());
        }
        self.iterator = page.next.filter(|_| !pushed && detour.is_none());
        let Split { records: found, foreign, aggregates } = self.user_records(page.records);
        self.ends = if ended && records == 0 { self.ends.saturating_add(1) } else { 0 };
        let told =
            !page.children.is_empty() || self.ends >= ENDS || mutant::is(Mutant::EndIsBelieved);
        let next = if self.over && found.is_empty() {
            PageOutcome::Bound
        } else if ended && found.is_empty() && told {
            PageOutcome::End(page.children)
        } else {
            // An end that comes with records is found again by a read behind the last of them.
            PageOutcome::Records(found)
        };
        let shown = matches!(&next, PageOutcome::Records(found) if !found.is_empty());
        let lost = shown && std::mem::take(&mut self.lost);
        let records = records - again;
        PageStats { records, payload, caught_up, repeated, lost, detour, aggregates, foreign, next }
    }

    /// Drops what was read before, and what is twice in the page. Returns how many.
    fn drop_read(&self, records: &mut Records) -> usize {
        let before = records.len();
        let read = match (&self.last, &self.range.start) {
            (Some(last), _) | (None, StartAt::After(last)) => {
                records.iter().take_while(|r| r.cmp_sequence(last).is_le()).count()
            }
            (None, StartAt::At(first)) => {
                records.iter().take_while(|r| r.cmp_sequence(first).is_lt()).count()
            }
            (None, StartAt::TrimHorizon | StartAt::Latest | StartAt::Timestamp(_)) => 0,
        };
        records.skip(read);
        records.retain_rising();
        before - records.len()
    }

    /// The user records that are in range.
    fn user_records(&self, records: Records) -> Split {
        let ReadRange { aggregates, after, hash_range, .. } = &self.range;
        let mut all = user_records(records, *aggregates, after.as_ref(), *hash_range);
        if self.range.after.is_some() || self.range.until.is_some() {
            all.records.retain(|record| self.range.wants(record));
        }
        // An empty list need not keep a buffer.
        if all.records.is_empty() {
            all.records = Records::default();
        }
        all
    }

    /// GetShardIterator refuses AT_TIMESTAMP in the future as an invalid argument.
    pub(crate) fn is_ahead(&self, error: &CallError) -> bool {
        matches!(self.start(), StartAt::Timestamp(_)) && error.detail == Detail::FutureStart
    }
}

#[cfg(test)]
mod tests;
