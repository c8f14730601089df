//! Reads one shard, by GetRecords or as it is pushed, one page ahead of its consumer.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::budget::Permit;
use crate::fault::{CallError, Fault};
use crate::ids::ShardId;
use crate::metrics::table as metric;
use crate::mutant::{self, Mutant};
use crate::stream::ending;
use crate::stream::pacing::Pacing;
use crate::stream::reading::outcome::{Arrival, PageOutcome, PageStats};
use crate::stream::reading::{PassedByRetention, ReadRange, ReaderState, StartCheck};
use crate::stream::{Page, Records, ShardInfo};
use crate::worker::reader::context::ReaderDeps;
use crate::worker::reader::fan_out::{FanOut, UNREAD};

/// What a reader hands over.
pub enum Fetched {
    /// Records, in order, with the permit for their memory. None: reading goes on.
    Page {
        /// New records.
        records: Records,
        /// Memory of the page.
        permit: Permit,
        /// MillisBehindLatest.
        behind_ms: Option<i64>,
        /// Nothing more was there when the page was asked for, as several pages before it said too:
        /// that time, ms since the epoch.
        caught_up_ms: Option<i64>,
        /// Records before these, and behind those handed over before, may have left retention.
        lost: bool,
        /// What is known of the beginning.
        beginning: StartCheck,
    },
    /// The closed shard has no more records.
    End {
        /// Its children, if the reply named them.
        children: Vec<ShardInfo>,
        /// Records behind those handed over may have left retention.
        lost: bool,
        /// What is known of the beginning.
        beginning: StartCheck,
    },
    /// The end of the range was seen: nothing behind it is wanted.
    Bound {
        /// Records behind those handed over may have left retention.
        lost: bool,
        /// What is known of the beginning.
        beginning: StartCheck,
    },
    /// Something that trying again does not mend.
    Failed(ReadError),
}

/// Why reading cannot go on where it is.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A call failed for good.
    #[error(transparent)]
    Call(#[from] CallError),
    /// No call failed; the shard must be read from its checkpoint again.
    #[error(transparent)]
    PassedByRetention(#[from] PassedByRetention),
}

/// Reads until the end, a lasting failure, or until nobody listens.
pub async fn read(means: ReaderDeps, shard: ShardId, range: ReadRange, to: mpsc::Sender<Fetched>) {
    let reading = ReaderState::new(range, means.retention.ms(), means.page_records);
    let consumer = means.consumer.clone().filter(|_| !reading.is_bounded());
    let mut reader = ShardReader {
        push: consumer.map(FanOut::new),
        pacing: Pacing::new(means.pace),
        means,
        shard,
        reading,
        expired: 0,
        held: None,
    };
    // A place in the channel first, memory second: a consumer that is behind must not make this
    // reader sit on budget that others could use.
    while let Some(place) = reader.place(&to).await {
        let fetched = reader.next().await;
        let last = !matches!(fetched, Fetched::Page { .. }) || reader.reading.is_done();
        place.send(fetched);
        if last {
            return;
        }
    }
}

struct ShardReader {
    means: ReaderDeps,
    shard: ShardId,
    reading: ReaderState,
    push: Option<FanOut>,
    pacing: Pacing,
    /// Iterators refused as expired, in a row.
    expired: u32,
    /// Memory of a page that is held, and of the one that decides about it.
    held: Option<Permit>,
}

/// A page with memory for it.
struct ReceivedPage {
    page: Page,
    permit: Permit,
    arrival: Arrival,
}

impl ShardReader {
    /// Waits until the next page is wanted; `None` when nobody listens any more.
    async fn place<'a>(
        &mut self,
        to: &'a mpsc::Sender<Fetched>,
    ) -> Option<mpsc::Permit<'a, Fetched>> {
        if let Some(push) = self.push.as_mut().filter(|push| push.is_open()) {
            tokio::select! {
                biased;
                place = to.reserve() => return place.ok(),
                () = self.means.clock.sleep(UNREAD) => push.unread(&self.means),
            }
        }
        to.reserve().await.ok()
    }

    /// The next page, or the end.
    async fn next(&mut self) -> Fetched {
        loop {
            if self.reading.is_over() {
                return self.bound();
            }
            let ReceivedPage { page, mut permit, arrival } = match self.receive().await {
                Ok(received) => received,
                Err(Some(failed)) => return Fetched::Failed(failed),
                Err(None) => continue,
            };
            let (behind_ms, strict, now) = (page.behind_ms, page.strict, self.means.clock.now());
            let news = self.reading.take(page, arrival);
            self.expired = 0;
            if !arrival.pushed {
                self.pacing.page(now, news.payload, news.caught_up);
            }
            self.count(&news, arrival.pushed, strict);
            let beginning = self.reading.beginning();
            match news.next {
                PageOutcome::Records(records) => {
                    if self.reading.is_holding() {
                        self.held = Some(permit);
                        permit = self.means.budget.force_acquire(0);
                    }
                    permit.resize(records.memory());
                    let caught_up = news.caught_up && self.reading.is_at_tip();
                    let caught_up_ms = caught_up.then_some(arrival.asked_ms);
                    let lost = news.lost;
                    return Fetched::Page {
                        records,
                        permit,
                        behind_ms,
                        caught_up_ms,
                        lost,
                        beginning,
                    };
                }
                PageOutcome::Held => self.held = Some(permit),
                PageOutcome::End(named) => {
                    drop(permit);
                    if let Some(children) = Box::pin(self.ended(named)).await {
                        let lost = self.reading.has_missed();
                        return Fetched::End { children, lost, beginning };
                    }
                }
                PageOutcome::Bound => return self.bound(),
            }
        }
    }

    fn bound(&self) -> Fetched {
        Fetched::Bound { lost: self.reading.has_missed(), beginning: self.reading.beginning() }
    }

    /// An answer says that the shard has ended. Believed only where something else says so too; its
    /// children then. Otherwise reading goes on behind the last record.
    async fn ended(&mut self, named: Vec<ShardInfo>) -> Option<Vec<ShardInfo>> {
        if !named.is_empty() || mutant::is(Mutant::EndIsBelieved) {
            return Some(named);
        }
        let listed = match self.means.kinesis.list_shards(&self.means.arn).await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(shard = %self.shard, %error, "whether a shard has ended is unknown");
                let labels = [error.operation, error.fault.as_str()];
                self.means.metrics.add(metric::CALL_FAILURES_TOTAL, &labels, 1);
                self.pause().await;
                return None;
            }
        };
        let children = ending::children(&self.shard, named, listed);
        if children.is_none() {
            self.means.metrics.add(metric::ENDS_REFUTED_TOTAL, &[], 1);
            tracing::warn!(shard = %self.shard, from = ?self.reading.start(),
                "an answer says that the shard has ended, ListShards says it is open; reading on");
            if let Some(push) = &mut self.push {
                push.goes_on();
            }
            self.pause().await;
        }
        children
    }

    /// Not at once again.
    async fn pause(&mut self) {
        self.pacing.throttled(self.means.clock.now());
        let extra = self.means.jitter.up_to(Duration::from_millis(500));
        self.means.clock.sleep(extra).await;
    }

    fn count(&self, news: &PageStats, pushed: bool, strict: bool) {
        let metrics = &self.means.metrics;
        let label = metrics.shard(&self.shard);
        metrics.add(metric::RECORDS_READ_TOTAL, &[label], news.records as u64);
        metrics.add(metric::BYTES_READ_TOTAL, &[label], news.payload as u64);
        let calls = match pushed {
            false => metric::GET_RECORDS_TOTAL,
            true => metric::FAN_OUT_EVENTS_TOTAL,
        };
        metrics.add(calls, &[if news.records == 0 { "empty" } else { "records" }], 1);
        metrics.add(metric::SLOW_PATH_REPLIES_TOTAL, &[], u64::from(strict));
        metrics.add(metric::AGGREGATES_TOTAL, &[], news.aggregates);
        metrics.add(metric::FOREIGN_RECORDS_TOTAL, &[], news.foreign);
        metrics.add(metric::REPEATED_RECORDS_TOTAL, &[], news.repeated as u64);
        if let Some(from) = &news.detour {
            metrics.add(metric::STUCK_POSITIONS_TOTAL, &[], 1);
            tracing::warn!(shard = %self.shard, ?from,
                "the position leads nowhere, page after page is empty; reading on from elsewhere");
        }
    }

    /// The next page, pushed or asked for. `Err(None)`: try again.
    async fn receive(&mut self) -> Result<ReceivedPage, Option<ReadError>> {
        let clock = self.means.clock.clone();
        let asked_ms = clock.wall();
        self.reading.keeps(self.means.retention.ms());
        if let Some(push) = &mut self.push
            && let Some(start) = self.reading.subscribes(asked_ms)
            && let Some(page) = Box::pin(push.next(&self.means, &self.shard, &start)).await
        {
            if let Some(permit) = self.means.budget.try_acquire(page.records.memory()) {
                let arrival = Arrival { asked_ms, pushed: true };
                return Ok(ReceivedPage { page, permit, arrival });
            }
            push.crowded(&self.means);
        }
        clock.sleep_until(self.pacing.next_call()).await;
        let expected = self.reading.expected();
        // A bounded range was given room as a whole: see `checkpoint::recovery`.
        let permit = match self.held.take() {
            Some(permit) => permit,
            None if self.reading.is_bounded() => self.means.budget.force_acquire(expected),
            None => self.means.budget.acquire(expected).await,
        };
        let asked_ms = clock.wall();
        let limit = self.reading.ask(asked_ms).map_err(ReadError::from)?;
        match self.fetch(limit).await {
            Ok(page) => {
                Ok(ReceivedPage { page, permit, arrival: Arrival { asked_ms, pushed: false } })
            }
            Err(error) => {
                self.held = Some(permit).filter(|_| self.reading.is_holding());
                Err(self.failed(error).await.map(ReadError::Call))
            }
        }
    }

    async fn fetch(&mut self, limit: i32) -> Result<Page, CallError> {
        let ReaderDeps { kinesis, arn, .. } = &self.means;
        let iterator = match self.reading.iterator() {
            Some(iterator) => iterator,
            None => {
                let start = self.reading.start();
                let iterator = Box::pin(kinesis.iterator(arn, &self.shard, &start)).await?;
                self.reading.begins(iterator)
            }
        };
        // A shard waits most of the time; a call in its future would hold its kilobytes all along.
        Box::pin(kinesis.get_records(arn, iterator, limit)).await
    }

    /// Waits out what passes; hands back what does not.
    async fn failed(&mut self, error: CallError) -> Option<CallError> {
        let class = error.fault.as_str();
        self.means.metrics.add(metric::GET_RECORDS_TOTAL, &[class], 1);
        self.means.metrics.add(metric::CALL_FAILURES_TOTAL, &[error.operation, class], 1);
        match error.fault {
            Fault::Throttled => tracing::debug!(shard = %self.shard, %error, "throttled"),
            Fault::ExpiredIterator => {
                self.reading.forget_iterator();
                self.expired = self.expired.saturating_add(1);
                // Once is what happens to an iterator that nobody used for five minutes.
                match self.expired {
                    1 => tracing::debug!(shard = %self.shard, "iterator expired"),
                    n => tracing::warn!(shard = %self.shard, in_a_row = n, %error,
                        "a fresh iterator is refused as expired"),
                }
            }
            Fault::Unavailable => {
                tracing::warn!(shard = %self.shard, %error, "reading failed");
                if error.code == "Timeout" && error.operation == "GetRecords" {
                    self.reading.timed_out();
                }
            }
            Fault::Denied => tracing::error!(shard = %self.shard, %error, "reading is refused"),
            Fault::Invalid if self.reading.forget_iterator() => {
                // Some stores forget iterators; a fresh one tells whether the position is at fault.
                tracing::warn!(shard = %self.shard, %error, "iterator refused; asking for a new one");
            }
            // LATEST is the time of the host that made the lease, or a time was configured that is
            // still to come.
            Fault::Invalid if self.reading.is_ahead(&error) => {
                tracing::warn!(shard = %self.shard, start = ?self.reading.start(), %error,
                    "the shard starts at a time that has not come yet by the clock of Kinesis; waiting");
            }
            Fault::NotFound | Fault::Invalid => return Some(error),
        }
        self.pause().await;
        None
    }
}
