//! ▶ Reads one shard, by GetRecords or as it is pushed, one page ahead of its consumer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::aws::kinesis::Kinesis;
use crate::clock::{Clock, Jitter};
use crate::delivery::budget::{Budget, Permit};
use crate::fault::{CallError, Fault};
use crate::ids::{SequenceNumber, ShardId};
use crate::stream::bound::Bound;
use crate::stream::deaggregate::{HashRange, may_be_aggregate, split};
use crate::stream::fan_out::FanOut;
use crate::stream::pacing::{Limits, Pacing};
use crate::stream::position::{Position, StartAt, may_have_lost};
use crate::stream::{Page, Record, Records, ShardInfo};
use crate::telemetry::metrics::Metrics;

/// Memory a reply may need: 10 MiB of payload, base64 of it, and the records' allocations. (The
/// fast path decodes in place and stays below. The SDK's parser does not; its records are copied
/// once the reply is gone.)
const LARGEST_REPLY: usize = 26 << 20;
/// The same at the tip of a shard, which takes in 1 MB per second.
const TIP_REPLY: usize = 4 << 20;
/// A page this small says the shard is at its tip even where MillisBehindLatest is absent.
const TIP_BYTES: usize = 1 << 20;

/// Payload asked for at once. A shard gives 2 MB per second, so larger replies bring nothing but
/// large allocations, which the allocator is slow to give back.
const AIM: usize = 2 << 20;
/// Records asked for while their size is not known, and how much more are asked for from one reply
/// to the next: the first records of a shard may be smaller than the rest.
const FIRST: i32 = 2;
const GROWTH: i32 = 8;

/// What a reader needs.
#[derive(Clone)]
pub struct Means {
    /// The stream.
    pub kinesis: Kinesis,
    /// Its ARN.
    pub arn: String,
    /// ARN of the consumer to subscribe as; `None` to poll.
    pub consumer: Option<String>,
    /// How long the stream keeps a record, milliseconds.
    pub retention_ms: i64,
    /// Pace.
    pub pace: Limits,
    /// Records per call.
    pub page_records: i32,
    /// Memory.
    pub budget: Budget,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub jitter: Jitter,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// What to read: where from, how far, and how a record is understood.
#[derive(Clone, Debug)]
pub struct Range {
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

/// What a reader knows of the record it was asked to begin at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beginning {
    /// A record was seen: it is known whether the one to begin at is still there.
    pub seen: bool,
    /// It is not: retention has passed it.
    pub gone: bool,
}

/// What a reader hands over.
pub enum Fetched {
    /// Records, in order, with the permit for their memory.
    Page {
        /// New records.
        records: Records,
        /// Memory of the page.
        permit: Permit,
        /// MillisBehindLatest.
        behind_ms: Option<i64>,
        /// What is known of the beginning.
        beginning: Beginning,
    },
    /// The closed shard has no more records.
    End {
        /// Its children, if the reply named them.
        children: Vec<ShardInfo>,
        /// What is known of the beginning.
        beginning: Beginning,
    },
    /// The end of the range was seen: nothing behind it is wanted.
    Bound(Beginning),
    /// Something that trying again does not mend.
    Failed(CallError),
}

/// Reads until the end, a lasting failure, or until nobody listens.
pub async fn read(means: Means, shard: ShardId, range: Range, to: mpsc::Sender<Fetched>) {
    // A bounded range is short, and its memory was given to it as a whole.
    let consumer = means.consumer.clone().filter(|_| range.until.is_none());
    let mut reader = Reader {
        push: consumer.map(FanOut::new),
        pacing: Pacing::new(means.pace),
        limit: FIRST.min(means.page_records),
        means,
        shard,
        iterator: None,
        resume: range.start.clone(),
        range,
        expected: LARGEST_REPLY,
        beginning: Beginning::default(),
        through_ms: None,
        asked_ms: None,
        overlap: None,
        confirmed: false,
        over: false,
    };
    // A place in the channel first, memory second: a consumer that is behind must not make this
    // reader sit on budget that others could use.
    while let Ok(place) = to.reserve().await {
        let fetched = reader.next().await;
        let last = !matches!(fetched, Fetched::Page { .. }) || reader.is_done();
        place.send(fetched);
        if last {
            return;
        }
    }
}

struct Reader {
    means: Means,
    shard: ShardId,
    range: Range,
    /// Where a new iterator starts.
    resume: StartAt,
    iterator: Option<String>,
    push: Option<FanOut>,
    pacing: Pacing,
    expected: usize,
    /// Records to ask for.
    limit: i32,
    beginning: Beginning,
    /// All that arrived up to this time (wall clock) was read.
    through_ms: Option<i64>,
    /// When the last page was asked for (wall clock).
    asked_ms: Option<i64>,
    /// What was read last, where the next page must begin with it: see [`Reader::overlap`].
    overlap: Option<SequenceNumber>,
    /// The last page showed that and nothing more.
    confirmed: bool,
    /// The bound was seen.
    over: bool,
}

impl Reader {
    fn is_done(&self) -> bool {
        match (&self.range.until, &self.resume) {
            (Some(until), StartAt::After(last)) => *last >= until.sequence,
            _ => false,
        }
    }

    /// The next page with something to say, or the end.
    async fn next(&mut self) -> Fetched {
        let clock = self.means.clock.clone();
        loop {
            if self.over {
                return Fetched::Bound(self.beginning);
            }
            let Received { mut page, mut permit, asked_ms, pushed } = match self.receive().await {
                Ok(received) => received,
                Err(Some(failed)) => return failed,
                Err(None) => continue,
            };
            if let Err(passed) = self.joined(&mut page) {
                return Fetched::Failed(passed);
            }
            let payload = page.records.payload();
            let short = page.records.len() < 1000.min(usize::try_from(self.limit).unwrap_or(1));
            let caught_up =
                page.behind_ms.map_or(payload < TIP_BYTES, |ms| ms == 0) && (short || pushed);
            self.through_ms = match page.behind_ms {
                Some(behind) => Some(asked_ms.saturating_sub(behind)),
                None if caught_up => Some(asked_ms),
                None => page.records.last().and_then(|r| r.arrival_ms).or(self.through_ms),
            };
            self.expected = if caught_up { TIP_REPLY } else { LARGEST_REPLY };
            if !pushed {
                self.pacing.page(clock.now(), payload, caught_up);
            }
            let label = self.means.metrics.shard(&self.shard);
            let count = page.records.len() as u64;
            self.means.metrics.add("catchment_records_read_total", &[label], count);
            self.means.metrics.add("catchment_bytes_read_total", &[label], payload as u64);
            let result = if count == 0 { "empty" } else { "records" };
            let calls = match pushed {
                false => "catchment_get_records_total",
                true => "catchment_fan_out_events_total",
            };
            self.means.metrics.add(calls, &[result], 1);
            if page.strict {
                self.means.metrics.add("catchment_strict_replies_total", &[], 1);
            }
            if let Some(size) = payload.checked_div(page.records.len()) {
                let fitting = i32::try_from(AIM / size.max(1)).unwrap_or(i32::MAX);
                let most = self.means.page_records.min(self.limit.saturating_mul(GROWTH));
                self.limit = fitting.clamp(1, most);
            }
            // Remembered: the page that shows it may hold nothing to hand over (an aggregate whose
            // user records are all another shard's).
            self.beginning.gone |= self.is_start_gone(&page);
            if let Some(bound) = &self.range.bound {
                let tip = caught_up && page.records.is_empty() && bound.is_settled(clock.wall());
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
            let records = self.user_records(page.records);
            permit.resize(records.memory());
            if self.over && records.is_empty() {
                return Fetched::Bound(self.beginning);
            }
            if ended && records.is_empty() {
                let (children, beginning) = (page.children, self.beginning);
                return Fetched::End { children, beginning };
            }
            // An end that comes with records is found again by a read behind the last of them.
            // An empty page of a shard that has more says nothing; of a shard at its tip it says
            // that everything is read.
            if !records.is_empty() || caught_up || self.is_done() {
                let (behind_ms, beginning) = (page.behind_ms, self.beginning);
                return Fetched::Page { records, permit, behind_ms, beginning };
            }
        }
    }

    /// The next page, pushed or asked for, with memory for it. `Err(None)`: try again.
    async fn receive(&mut self) -> Result<Received, Option<Fetched>> {
        let clock = self.means.clock.clone();
        if let Some(push) = &mut self.push
            && self.overlap.is_none()
            && !is_near(self.through_ms, clock.wall(), self.means.retention_ms)
        {
            let asked_ms = clock.wall();
            if let Some(page) = Box::pin(push.next(&self.means, &self.shard, &self.resume)).await {
                if let Some(permit) = self.means.budget.try_acquire(page.records.memory()) {
                    self.asked_ms = Some(asked_ms);
                    return Ok(Received { page, permit, asked_ms, pushed: true });
                }
                push.crowded(&self.means);
            }
        }
        clock.sleep_until(self.pacing.next_call()).await;
        // A bounded range was given room as a whole: see `checkpoint::recovery`.
        let permit = match self.range.until {
            Some(_) => self.means.budget.overdraw(self.expected),
            None => self.means.budget.acquire(self.expected).await,
        };
        let asked_ms = clock.wall();
        if self.slept_through(asked_ms) {
            let what = "no record was read for as long as the stream keeps one";
            return Err(Some(Fetched::Failed(passed(what))));
        }
        match self.fetch(asked_ms).await {
            Ok(page) => Ok(Received { page, permit, asked_ms, pushed: false }),
            Err(error) => {
                drop(permit);
                Err(self.failed(error).await)
            }
        }
    }

    /// The user records of a page that are in range.
    fn user_records(&self, mut records: Records) -> Records {
        if self.range.deaggregate && records.payloads().any(may_be_aggregate) {
            let all = split(&records, self.range.hash_range);
            self.means.metrics.add("catchment_aggregates_total", &[], all.aggregates);
            self.means.metrics.add("catchment_foreign_records_total", &[], all.foreign);
            records = all.records;
        }
        if self.range.after.is_some() || self.range.until.is_some() {
            records.retain(|r| self.wanted(r));
        }
        // An empty list need not keep a buffer.
        if records.is_empty() { Records::default() } else { records }
    }

    fn wanted(&self, record: Record<'_>) -> bool {
        self.range.after.as_ref().is_none_or(|after| record.cmp_position(after).is_gt())
            && self.range.until.as_ref().is_none_or(|until| record.cmp_position(until).is_le())
    }

    /// Did reading begin behind the record it was asked to begin at?
    fn is_start_gone(&self, page: &Page) -> bool {
        let asked: &SequenceNumber = match &self.range.start {
            StartAt::At(sequence) if !self.beginning.seen => sequence,
            _ => return false,
        };
        page.records.first().is_some_and(|r| r.cmp_sequence(asked).is_ne())
    }

    /// Kinesis passes over records that left retention without a word, also those behind an
    /// iterator. A reader that may be that far behind (it stood still, or is slower than time)
    /// therefore reads what it read last once more: as long as that is there, nothing after it is
    /// gone.
    fn overlap(&mut self, now_ms: i64) {
        let near = is_near(self.through_ms, now_ms, self.means.retention_ms);
        if let StartAt::After(last) = &self.resume
            && near
            && self.overlap.is_none()
            && !std::mem::take(&mut self.confirmed)
        {
            self.overlap = Some(last.clone());
            self.iterator = None;
        }
    }

    /// Stood still, before any record was read, for as long as the stream keeps one: whether
    /// something was lost is decided anew by whoever begins at the checkpoint again.
    fn slept_through(&mut self, now_ms: i64) -> bool {
        let before = self.asked_ms.replace(now_ms);
        let still = |at| may_have_lost(Some(at), now_ms, self.means.retention_ms);
        !self.beginning.seen && before.is_some_and(still)
    }

    /// Takes the record that was read twice out of the page.
    ///
    /// # Errors
    /// [`CallError`] when it is not there any more: the shard must begin again at its checkpoint,
    /// where what is missing is found and told.
    fn joined(&mut self, page: &mut Page) -> Result<(), CallError> {
        let Some(last) = &self.overlap else { return Ok(()) };
        match page.records.first() {
            Some(first) if first.cmp_sequence(last).is_eq() => {
                page.records.skip(1);
                self.confirmed = page.records.is_empty();
                self.overlap = None;
                Ok(())
            }
            // On the way there.
            None if page.behind_ms != Some(0) && page.next.is_some() => Ok(()),
            _ => Err(passed(&format!("record {last} was read and is gone: others may be too"))),
        }
    }

    async fn fetch(&mut self, now_ms: i64) -> Result<Page, CallError> {
        self.overlap(now_ms);
        let Means { kinesis, arn, .. } = &self.means;
        let again = self.overlap.clone().map(StartAt::At);
        let (start, limit) = match &again {
            Some(again) => (again, self.limit.max(2)),
            None => (&self.resume, self.limit),
        };
        let iterator = match self.iterator.take() {
            Some(iterator) => iterator,
            None => Box::pin(kinesis.iterator(arn, &self.shard, start)).await?,
        };
        // Kept for the retry: a failed call does not use an iterator up.
        self.iterator = Some(iterator.clone());
        // A shard waits most of the time; a call in its future would hold its kilobytes all along.
        Box::pin(kinesis.get_records(arn, &iterator, limit)).await
    }

    /// GetShardIterator refuses AT_TIMESTAMP in the future as an invalid argument.
    fn is_ahead(&self, error: &CallError) -> bool {
        matches!(self.resume, StartAt::Timestamp(_))
            && error.operation == "GetShardIterator"
            && error.message.to_ascii_lowercase().contains("timestamp")
    }

    /// Waits out what passes; hands over what does not.
    async fn failed(&mut self, error: CallError) -> Option<Fetched> {
        let class = error.fault.as_str();
        self.means.metrics.add("catchment_get_records_total", &[class], 1);
        self.means.metrics.add("catchment_call_failures_total", &[error.operation, class], 1);
        match error.fault {
            Fault::Throttled => tracing::debug!(shard = %self.shard, %error, "throttled"),
            Fault::ExpiredIterator => {
                tracing::debug!(shard = %self.shard, "iterator expired; asking for a new one");
                self.iterator = None;
                return None;
            }
            Fault::Unavailable => tracing::warn!(shard = %self.shard, %error, "reading failed"),
            Fault::Denied => tracing::error!(shard = %self.shard, %error, "reading is refused"),
            Fault::Invalid if self.iterator.take().is_some() => {
                // Some stores forget iterators; a fresh one tells whether the position is at fault.
                tracing::warn!(shard = %self.shard, %error, "iterator refused; asking for a new one");
            }
            // LATEST is the time of the host that made the lease, or a time was configured that is
            // still to come.
            Fault::Invalid if self.is_ahead(&error) => {
                tracing::warn!(shard = %self.shard, start = ?self.resume, %error,
                    "the shard starts at a time that has not come yet by the clock of Kinesis; waiting");
            }
            Fault::NotFound | Fault::Invalid => return Some(Fetched::Failed(error)),
        }
        self.pacing.throttled(self.means.clock.now());
        let extra = self.means.jitter.up_to(Duration::from_millis(500));
        self.means.clock.sleep(extra).await;
        None
    }
}

/// A page as it came.
struct Received {
    page: Page,
    permit: Permit,
    /// When it was asked for, or waited for (wall clock).
    asked_ms: i64,
    /// By a subscription.
    pushed: bool,
}

/// So far behind that records may leave retention unread.
fn is_near(through_ms: Option<i64>, now_ms: i64, retention_ms: i64) -> bool {
    through_ms.is_some_and(|through| may_have_lost(Some(through), now_ms, retention_ms))
}

fn passed(what: &str) -> CallError {
    CallError {
        operation: "GetRecords",
        fault: Fault::Unavailable,
        code: "PassedByRetention".into(),
        message: what.to_owned(),
        request_id: None,
    }
}
