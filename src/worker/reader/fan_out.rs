//! A shard as a registered consumer sees it: enhanced fan-out.
//!
//! Kinesis pushes, 2 MB a second for this consumer alone. A subscription is a help, never the only
//! way: while there is none (another worker's is still young, Kinesis throttles, memory is short,
//! the consumer was deregistered) the shard is read by GetRecords, which also has the last word on
//! whether a shard has ended. What is pushed lies in memory before room for it can be asked for:
//! one event of each shard (at most about 2 MB) is outside the budget while it is decided.

use std::time::Duration;

use crate::aws::fan_out::Subscription;
use crate::clock::{Clock, Jitter};
use crate::fault::{Detail, Fault};
use crate::ids::ShardId;
use crate::metrics::table as metric;
use crate::mutant::{self, Mutant};
use crate::stream::Page;
use crate::stream::position::StartAt;
use crate::worker::reader::context::ReaderDeps;

/// Kinesis sends an event every few seconds, an empty one if there is nothing: longer silence is a
/// connection that died (the KCL waits as long).
const SILENCE: Duration = Duration::from_secs(35);
/// A second subscription of a consumer to a shard is refused for five seconds after the first.
const OCCUPIED: Duration = Duration::from_secs(5);
/// A subscription that nobody reads for this long is closed.
pub const UNREAD: Duration = Duration::from_secs(1);
/// Until the next attempt after a failure that a person must mend.
const REFUSED: Duration = Duration::from_secs(60);

/// What reads by subscription, while it can.
pub struct FanOut {
    consumer: String,
    open: Option<Subscription>,
    /// When it was last opened.
    opened: Duration,
    /// No new subscription before.
    rest_until: Duration,
    /// The end of the shard was announced; GetRecords finds it.
    ended: bool,
}

impl FanOut {
    /// For the consumer with this ARN.
    pub fn new(consumer: String) -> Self {
        Self {
            consumer,
            open: None,
            opened: Duration::ZERO,
            rest_until: Duration::ZERO,
            ended: false,
        }
    }

    /// The next page, from behind `resume`; `None` when the shard is to be read by GetRecords this
    /// time. `Page::next` says nothing.
    pub async fn next(
        &mut self,
        means: &ReaderDeps,
        shard: &ShardId,
        resume: &StartAt,
    ) -> Option<Page> {
        let ReaderDeps { clock, jitter, .. } = means;
        if self.ended || clock.now() < self.rest_until {
            return None;
        }
        if self.open.is_none() {
            self.subscribe(means, shard, resume).await?;
        }
        let subscription = self.open.as_mut()?;
        let event = tokio::select! {
            biased;
            event = subscription.next() => Some(event),
            () = clock.sleep(SILENCE) => None,
        };
        match event {
            Some(Ok(Some(page))) => {
                if page.next.is_none() {
                    self.ended = true;
                    self.open = None;
                }
                // Whatever else the end says is asked of GetRecords again.
                (!self.ended || !page.records.is_empty()).then_some(page)
            }
            Some(Ok(None)) => {
                means.metrics.add(metric::SUBSCRIPTIONS_TOTAL, &["over"], 1);
                // One that ended early keeps the next one out as long as any.
                let pause = (self.opened + OCCUPIED).saturating_sub(clock.now());
                self.rest(clock, jitter, pause.max(Duration::from_secs(1)));
                None
            }
            Some(Err(error)) => {
                let class = error.fault.as_str();
                means.metrics.add(metric::SUBSCRIPTIONS_TOTAL, &[class], 1);
                tracing::debug!(%shard, %error, "subscription broken; polling meanwhile");
                self.rest(clock, jitter, OCCUPIED);
                None
            }
            None => {
                means.metrics.add(metric::SUBSCRIPTIONS_TOTAL, &["silent"], 1);
                tracing::warn!(%shard, "subscription silent for {SILENCE:?}; polling meanwhile");
                self.rest(clock, jitter, OCCUPIED);
                None
            }
        }
    }

    async fn subscribe(
        &mut self,
        means: &ReaderDeps,
        shard: &ShardId,
        resume: &StartAt,
    ) -> Option<()> {
        let ReaderDeps { clock, jitter, metrics, .. } = means;
        let subscribing = tokio::select! {
            biased;
            reply = means.kinesis.subscribe(&self.consumer, shard, resume) => Some(reply),
            // The time-outs of the client end with the head of the reply.
            () = clock.sleep(SILENCE) => None,
        };
        let Some(reply) = subscribing else {
            metrics.add(metric::SUBSCRIPTIONS_TOTAL, &["silent"], 1);
            tracing::warn!(%shard, "no word on a subscription for {SILENCE:?}; polling meanwhile");
            self.rest(clock, jitter, OCCUPIED);
            return None;
        };
        let error = match reply {
            Ok(subscription) => {
                metrics.add(metric::SUBSCRIPTIONS_TOTAL, &["opened"], 1);
                (self.open, self.opened) = (Some(subscription), clock.now());
                return Some(());
            }
            Err(error) => error,
        };
        let occupied = error.detail == Detail::Occupied;
        let class = if occupied { "occupied" } else { error.fault.as_str() };
        metrics.add(metric::SUBSCRIPTIONS_TOTAL, &[class], 1);
        match error.fault {
            // The worker that had the shard before, or our own before this one: it passes.
            Fault::Throttled | Fault::Unavailable | Fault::ExpiredIterator => {
                tracing::debug!(%shard, %error, "no subscription yet; polling meanwhile");
                let pause = if mutant::is(Mutant::NoRest) { Duration::ZERO } else { OCCUPIED };
                self.rest(clock, jitter, pause);
            }
            Fault::Denied | Fault::NotFound | Fault::Invalid => {
                tracing::warn!(%shard, %error, consumer = self.consumer,
                    "subscribing is refused; polling instead");
                self.rest(clock, jitter, REFUSED);
            }
        }
        None
    }

    /// Is there a subscription that wants to be read?
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Nobody has asked for what is pushed for as long as [`UNREAD`]. It would fill the window of
    /// the connection, and the shards that share it would get nothing.
    pub fn unread(&mut self, means: &ReaderDeps) {
        means.metrics.add(metric::SUBSCRIPTIONS_TOTAL, &["unread"], 1);
        self.rest(&means.clock, &means.jitter, OCCUPIED);
    }

    /// The shard goes on, whatever the subscription said.
    pub fn goes_on(&mut self) {
        self.ended = false;
    }

    /// There is no room for what was pushed: read by GetRecords, which asks for memory first.
    pub fn crowded(&mut self, means: &ReaderDeps) {
        means.metrics.add(metric::SUBSCRIPTIONS_TOTAL, &["memory"], 1);
        self.rest(&means.clock, &means.jitter, OCCUPIED * 2);
    }

    fn rest(&mut self, clock: &Clock, jitter: &Jitter, pause: Duration) {
        self.open = None;
        self.rest_until = clock.now() + jitter.spread(pause, 0.2);
    }
}
