//! Watches a replay while its workers deliver: progress, and the end.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::metrics::table as metric;
use crate::replay::plan::Plan;
use crate::replay::progress::{ReplayPace, ReplayProgress};
use crate::replay::store::Store;
use crate::worker::context::TaskContext;

/// Configuration of the replay's worker: the live one with the plan's table, keys and settings.
pub(crate) fn configure(config: &mut crate::config::Config, plan: &Plan, table: &str) {
    let settings = &plan.settings;
    config.lease.table = table.to_owned();
    config.stream.name.clone_from(&settings.stream);
    if let Some((arn, _)) = plan.stream.rsplit_once('@') {
        config.stream.name = arn.to_owned();
    }
    config.delivery.settings.clone_from(settings);
}

/// How often something is done.
pub(crate) struct WatchPace {
    /// Looking at the table.
    pub(crate) look: Duration,
    /// Telling a person.
    pub(crate) tell: Duration,
}

/// Looks at the table until everything is delivered; then asks the worker to stop. Returns the last
/// state seen, and never before `stop` or completion.
pub(crate) async fn watch(
    ctx: TaskContext,
    plan: Arc<Plan>,
    store: Store,
    pace: WatchPace,
    drain: CancellationToken,
    mut tell: impl FnMut(&ReplayProgress, f64) + Send,
) -> ReplayProgress {
    let clock = ctx.clock.clone();
    let mut speed = ReplayPace::default();
    let mut last = ReplayProgress::default();
    let mut told = clock.now();
    loop {
        match store.progress(true).await {
            Ok(progress) => last = progress,
            Err(error) => tracing::warn!(%error, "reading the replay's table failed"),
        }
        let lag = lag_ms(&ctx, &plan);
        last.lag_seconds = lag.map(|ms| ms as f64 / 1000.0);
        let (ratio, left) = lag.map_or((0.0, None), |ms| speed.note(clock.now(), ms));
        last.eta_seconds = left.map(|left| left.as_secs_f64());
        if last.complete {
            (last.lag_seconds, last.eta_seconds) = (Some(0.0), Some(0.0));
        }
        show(&ctx, &last);
        if last.complete {
            drain.cancel();
            return last;
        }
        if drain.is_cancelled() {
            return last;
        }
        if clock.now() - told >= pace.tell {
            told = clock.now();
            tell(&last, ratio);
        }
        tokio::select! {
            biased;
            () = drain.cancelled() => {}
            () = clock.sleep(pace.look) => {}
        }
    }
}

/// How far the slowest shard of this process is from the end of the range: MillisBehindLatest counts
/// from now, the range may have ended earlier.
fn lag_ms(ctx: &TaskContext, plan: &Plan) -> Option<i64> {
    let past = (ctx.clock.wall() - plan.end_ms()).max(0);
    let status = ctx.status.snapshot();
    status.shards.values().filter_map(|s| s.behind_ms).map(|ms| (ms - past).max(0)).max()
}

fn show(ctx: &TaskContext, progress: &ReplayProgress) {
    let metrics = &ctx.metrics;
    let active = progress.shards - progress.finished;
    metrics.set(metric::REPLAY_SHARDS, &["finished"], progress.finished);
    metrics.set(metric::REPLAY_SHARDS, &["active"], active);
    metrics.set(metric::REPLAY_RECORDS, &[], progress.records);
    metrics.set(metric::REPLAY_BYTES, &[], progress.bytes);
    if let Some(lag) = progress.lag_seconds {
        metrics.set_float(metric::REPLAY_LAG_SECONDS, &[], lag);
    }
}
