//! How far the reader of a shard is, what it asks for next, and what each page means.

use crate::fault::{CallError, Detail, Fault};
use crate::ids::SequenceNumber;
use crate::stream::bound::Bound;
use crate::stream::deaggregate::{HashRange, Split, may_be_aggregate, split};
use crate::stream::pacing::Aim;
use crate::stream::position::{Position, StartAt, may_have_lost};
use crate::stream::{Page, Record, Records, ShardInfo};

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

/// How long a record that was seen speaks for those behind it.
const CONFIRMED_MS: i64 = 60_000;

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
    /// Take KPL aggregates apart.
    pub deaggregate: bool,
    /// Hash keys of the shard: user records outside it are another shard's.
    pub hash_range: Option<HashRange>,
}

impl ReadRange {
    fn wants(&self, record: Record<'_>) -> bool {
        self.after.as_ref().is_none_or(|after| record.cmp_position(after).is_gt())
            && self.until.as_ref().is_none_or(|until| record.cmp_position(until).is_le())
    }
}

/// What a reader knows of the record it was asked to begin at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartCheck {
    /// A record was seen: it is known whether the one to begin at is still there.
    pub seen: bool,
    /// It is not: retention has passed it.
    pub gone: bool,
}

/// How a page came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// When it was asked for, or waited for (wall clock, ms since the epoch).
    pub(crate) asked_ms: i64,
    /// By a subscription.
    pub(crate) pushed: bool,
}

/// What a page says.
#[derive(Debug)]
pub(crate) struct PageStats {
    /// New records of Kinesis, and their payload in bytes.
    pub(crate) records: usize,
    pub(crate) payload: usize,
    /// Nothing more was there when it was asked for.
    pub(crate) caught_up: bool,
    /// How many were aggregates, and user records of them that other shards deliver.
    pub(crate) aggregates: u64,
    pub(crate) foreign: u64,
    pub(crate) next: PageOutcome,
}

/// What follows from a page.
#[derive(Debug)]
pub(crate) enum PageOutcome {
    /// It says nothing: read on.
    More,
    /// New records; none of a shard at its tip says that everything is read.
    Records(Records),
    /// The closed shard has no more records. Its children, if the reply named them.
    End(Vec<ShardInfo>),
    /// The end of the range was seen.
    Bound,
}

/// The state of a reader.
pub(crate) struct ReaderState {
    range: ReadRange,
    /// How long the stream keeps a record.
    retention_ms: i64,
    /// Most records per call.
    most: i32,
    /// Where a new iterator starts.
    resume: StartAt,
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
    /// What was read last, where the next page must begin with it: see [`ReaderState::look_back`].
    overlap: Option<SequenceNumber>,
    /// When a page was asked for that showed that and nothing more, if it was the last one.
    confirmed_ms: Option<i64>,
    /// The bound was seen.
    over: bool,
}

impl ReaderState {
    /// Nothing read yet. `most`: records per call.
    pub(crate) fn new(range: ReadRange, retention_ms: i64, most: i32) -> Self {
        Self {
            retention_ms,
            most,
            resume: range.start.clone(),
            range,
            iterator: None,
            limit: FIRST.min(most),
            aim: Aim::default(),
            expected: LARGEST_REPLY,
            beginning: StartCheck::default(),
            through_ms: None,
            asked_ms: None,
            overlap: None,
            confirmed_ms: None,
            over: false,
        }
    }

    pub(crate) fn beginning(&self) -> StartCheck {
        self.beginning
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
        match (&self.range.until, &self.resume) {
            (Some(until), StartAt::After(last)) => *last >= until.sequence,
            _ => false,
        }
    }

    /// Where a subscription begins; `None` while the shard has to be polled.
    pub(crate) fn subscribes(&self, now_ms: i64) -> Option<&StartAt> {
        (self.overlap.is_none() && !self.is_near(now_ms)).then_some(&self.resume)
    }

    /// Memory the next reply may need, bytes.
    pub(crate) fn expected(&self) -> usize {
        self.expected
    }

    /// Where a new iterator starts.
    pub(crate) fn start(&self) -> StartAt {
        self.overlap.clone().map_or_else(|| self.resume.clone(), StartAt::At)
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
    /// [`CallError`] when records may have left retention before any was read. Whether something
    /// was lost is decided anew by whoever begins at the checkpoint again.
    pub(crate) fn ask(&mut self, now_ms: i64) -> Result<i32, CallError> {
        let before = self.asked_ms.replace(now_ms);
        let still = |at| may_have_lost(Some(at), now_ms, self.retention_ms);
        if !self.beginning.seen && before.is_some_and(still) {
            return Err(passed("no record was read for as long as the stream keeps one".into()));
        }
        self.look_back(now_ms);
        // What was read last, and one more.
        let least = if self.overlap.is_some() { 2 } else { 1 };
        Ok(self.limit.max(least))
    }

    /// Kinesis passes over records that left retention without a word, also those behind an
    /// iterator. A reader that may be that far behind (it stood still, or is slower than time)
    /// therefore reads what it read last once more: as long as that is there, nothing after it is
    /// gone. Where it was just seen alone, the next call has to go on: a large record comes alone
    /// every time.
    fn look_back(&mut self, now_ms: i64) {
        let near = self.is_near(now_ms);
        let confirmed_ms = self.confirmed_ms.take();
        if let StartAt::After(last) = &self.resume
            && near
            && self.overlap.is_none()
            && confirmed_ms.is_none_or(|at| now_ms.saturating_sub(at) > CONFIRMED_MS)
        {
            self.overlap = Some(last.clone());
            self.iterator = None;
        }
    }

    /// So far behind that records may leave retention unread.
    fn is_near(&self, now_ms: i64) -> bool {
        self.through_ms.is_some_and(|at| may_have_lost(Some(at), now_ms, self.retention_ms))
    }

    /// A page came.
    ///
    /// # Errors
    /// [`CallError`] when what was read last is not there any more: the shard must begin again at
    /// its checkpoint, where what is missing is found and told.
    pub(crate) fn take(
        &mut self,
        mut page: Page,
        arrival: Arrival,
    ) -> Result<PageStats, CallError> {
        let Arrival { asked_ms, pushed } = arrival;
        self.asked_ms = Some(asked_ms);
        self.join(&mut page)?;
        let (records, payload) = (page.records.len(), page.records.payload());
        let short = records < TIP_RECORDS.min(usize::try_from(self.limit).unwrap_or(1));
        let caught_up =
            page.behind_ms.map_or(payload < TIP_BYTES, |ms| ms == 0) && (short || pushed);
        self.through_ms = match page.behind_ms {
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
        // Remembered: the page that shows it may hold nothing to hand over (an aggregate whose
        // user records are all another shard's).
        self.beginning.gone |= self.is_start_gone(&page);
        if let Some(bound) = &self.range.bound {
            let tip = caught_up && page.records.is_empty() && bound.is_settled(asked_ms);
            if let Some(inside) = bound.cut(&page.records) {
                page.records.truncate(inside);
                self.over = true;
            }
            self.over |= tip;
        }
        if let Some(last) = page.records.last() {
            self.resume = StartAt::After(last.position().sequence);
            self.beginning.seen = true;
        }
        // What was pushed leaves no iterator behind, and says nothing of the end.
        let ended = !pushed && page.next.is_none();
        self.iterator = page.next.filter(|_| !pushed);
        let Split { records: found, foreign, aggregates } = self.user_records(page.records);
        let next = if self.over && found.is_empty() {
            PageOutcome::Bound
        } else if ended && found.is_empty() {
            PageOutcome::End(page.children)
        } else if !found.is_empty() || caught_up || self.is_done() {
            // An end that comes with records is found again by a read behind the last of them.
            PageOutcome::Records(found)
        } else {
            PageOutcome::More
        };
        Ok(PageStats { records, payload, caught_up, aggregates, foreign, next })
    }

    /// Takes the record that was read twice out of the page.
    fn join(&mut self, page: &mut Page) -> Result<(), CallError> {
        let Some(last) = &self.overlap else { return Ok(()) };
        match page.records.first() {
            Some(first) if first.cmp_sequence(last).is_eq() => {
                page.records.skip(1);
                self.confirmed_ms = self.asked_ms.filter(|_| page.records.is_empty());
                self.overlap = None;
                Ok(())
            }
            // On the way there.
            None if page.behind_ms != Some(0) && page.next.is_some() => Ok(()),
            _ => Err(passed(format!("record {last} was read and is gone: others may be too"))),
        }
    }

    /// Did reading begin behind the record it was asked to begin at?
    fn is_start_gone(&self, page: &Page) -> bool {
        let asked: &SequenceNumber = match &self.range.start {
            StartAt::At(sequence) if !self.beginning.seen => sequence,
            _ => return false,
        };
        page.records.first().is_some_and(|r| r.cmp_sequence(asked).is_ne())
    }

    /// The user records that are in range.
    fn user_records(&self, records: Records) -> Split {
        let mut all = match self.range.deaggregate && records.payloads().any(may_be_aggregate) {
            true => split(&records, self.range.hash_range),
            false => Split { records, ..Split::default() },
        };
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
        matches!(self.resume, StartAt::Timestamp(_)) && error.detail == Detail::FutureStart
    }
}

fn passed(message: String) -> CallError {
    CallError {
        operation: "GetRecords",
        fault: Fault::Unavailable,
        detail: Detail::Plain,
        code: "PassedByRetention".into(),
        message,
        request_id: None,
    }
}

#[cfg(test)]
mod tests;
