//! Reads one shard, by GetRecords or as it is pushed, one page ahead of its consumer.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::budget::Permit;
use crate::fault::{CallError, Fault};
use crate::ids::ShardId;
use crate::metrics::table as metric;
use crate::stream::pacing::Pacing;
use crate::stream::reading::{Arrival, PageOutcome, PageStats, ReadRange, ReaderState, StartCheck};
use crate::stream::{Page, Records, ShardInfo};
use crate::worker::reader::context::ReaderDeps;
use crate::worker::reader::fan_out::{FanOut, UNREAD};

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
        beginning: StartCheck,
    },
    /// The closed shard has no more records.
    End {
        /// Its children, if the reply named them.
        children: Vec<ShardInfo>,
        /// What is known of the beginning.
        beginning: StartCheck,
    },
    /// The end of the range was seen: nothing behind it is wanted.
    Bound(StartCheck),
    /// Something that trying again does not mend.
    Failed(CallError),
}

/// Reads until the end, a lasting failure, or until nobody listens.
pub async fn read(means: ReaderDeps, shard: ShardId, range: ReadRange, to: mpsc::Sender<Fetched>) {
    let reading = ReaderState::new(range, means.retention_ms, means.page_records);
    let consumer = means.consumer.clone().filter(|_| !reading.is_bounded());
    let mut reader = ShardReader {
        push: consumer.map(FanOut::new),
        pacing: Pacing::new(means.pace),
        means,
        shard,
        reading,
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

    /// The next page with something to say, or the end.
    async fn next(&mut self) -> Fetched {
        loop {
            if self.reading.is_over() {
                return Fetched::Bound(self.reading.beginning());
            }
            let ReceivedPage { page, mut permit, arrival } = match self.receive().await {
                Ok(received) => received,
                Err(Some(failed)) => return Fetched::Failed(failed),
                Err(None) => continue,
            };
            let (behind_ms, strict, now) = (page.behind_ms, page.strict, self.means.clock.now());
            let news = match self.reading.take(page, arrival) {
                Ok(news) => news,
                Err(passed) => return Fetched::Failed(passed),
            };
            if !arrival.pushed {
                self.pacing.page(now, news.payload, news.caught_up);
            }
            self.count(&news, arrival.pushed, strict);
            let beginning = self.reading.beginning();
            match news.next {
                PageOutcome::More => {}
                PageOutcome::Records(records) => {
                    permit.resize(records.memory());
                    return Fetched::Page { records, permit, behind_ms, beginning };
                }
                PageOutcome::End(children) => return Fetched::End { children, beginning },
                PageOutcome::Bound => return Fetched::Bound(beginning),
            }
        }
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
    }

    /// The next page, pushed or asked for. `Err(None)`: try again.
    async fn receive(&mut self) -> Result<ReceivedPage, Option<CallError>> {
        let clock = self.means.clock.clone();
        let asked_ms = clock.wall();
        if let Some(push) = &mut self.push
            && let Some(start) = self.reading.subscribes(asked_ms)
            && let Some(page) = Box::pin(push.next(&self.means, &self.shard, start)).await
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
        let permit = match self.reading.is_bounded() {
            true => self.means.budget.force_acquire(expected),
            false => self.means.budget.acquire(expected).await,
        };
        let asked_ms = clock.wall();
        let limit = self.reading.ask(asked_ms)?;
        match self.fetch(limit).await {
            Ok(page) => {
                Ok(ReceivedPage { page, permit, arrival: Arrival { asked_ms, pushed: false } })
            }
            Err(error) => {
                drop(permit);
                Err(self.failed(error).await)
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
                tracing::debug!(shard = %self.shard, "iterator expired; asking for a new one");
                self.reading.forget_iterator();
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
        self.pacing.throttled(self.means.clock.now());
        let extra = self.means.jitter.up_to(Duration::from_millis(500));
        self.means.clock.sleep(extra).await;
        None
    }
}
