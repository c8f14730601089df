//! `list` and `show`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use crate::clock::Clock;
use crate::ids::ShardId;
use crate::lease::parked::Parked;
use crate::lease::row::Lease;

use super::lag::{self, Lag};
use super::{Depth, Failure, Tools, all, find};

/// How a counter behaved while it was watched.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Counter {
    /// It moved.
    pub(super) moved: bool,
    /// How long it had stood still at the end; where it did not move, at least this long.
    pub(super) still_ms: u64,
}

/// A lease as shown.
#[derive(Serialize)]
struct Shown<'a> {
    shard: &'a ShardId,
    owner: Option<&'a str>,
    handing_over: Option<&'a str>,
    counter: u64,
    /// With `--watch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    counter_age: Option<Counter>,
    checkpoint: String,
    /// With `--lag`.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<&'a Lag>,
    /// Ends of the announced batches.
    announced: Vec<String>,
    state: &'static str,
    /// The gap it waits at.
    #[serde(skip_serializing_if = "Option::is_none")]
    parked: Option<&'a Parked>,
    parents: &'a [ShardId],
    children: &'a [ShardId],
    stream: Option<&'a str>,
}

/// Everything asked for, by lease.
#[derive(Default)]
struct ShowRequest {
    counters: BTreeMap<ShardId, Counter>,
    lags: BTreeMap<ShardId, Lag>,
}

impl<'a> Shown<'a> {
    fn of(lease: &'a Lease, asked: &'a ShowRequest) -> Self {
        let state = match (&lease.progress, lease.is_free()) {
            _ if lease.is_finished() => "finished",
            _ if lease.parked().is_some() => "parked",
            (_, _) if lease.checkpoint_owner.is_some() => "handing over",
            (_, true) => "free",
            (_, false) => "owned",
        };
        let intents = lease.progress.pending.intents().iter();
        Self {
            shard: &lease.shard,
            owner: lease.owner.as_ref().map(|w| w.as_str()),
            handing_over: lease.checkpoint_owner.as_ref().map(|w| w.as_str()),
            counter: lease.counter,
            counter_age: asked.counters.get(&lease.shard).copied(),
            checkpoint: lease.progress.checkpoint.to_string(),
            lag: asked.lags.get(&lease.shard),
            announced: intents.map(|i| i.last.to_string()).collect(),
            state,
            parked: lease.parked(),
            parents: &lease.parents,
            children: &lease.children,
            stream: lease.stream.as_deref(),
        }
    }
}

pub(super) async fn list(tools: &Tools, json: bool, depth: &Depth) -> Result<(), Failure> {
    let (leases, asked) = look(tools, all(&tools.table).await?, depth).await?;
    let mut text = String::new();
    let more = |watched: &str, lag: &str| {
        let mut columns = String::new();
        if depth.watch.is_some() {
            let _ = write!(columns, " {watched:>9}");
        }
        if depth.lag {
            let _ = write!(columns, " {lag:>9}");
        }
        columns
    };
    if !json {
        let _ = writeln!(
            text,
            "{:24} {:12} {:>8}{} {:60} OWNER",
            "SHARD",
            "STATE",
            "COUNTER",
            more("STILL", "LAG"),
            "CHECKPOINT"
        );
    }
    for lease in &leases {
        let shown = Shown::of(lease, &asked);
        if json {
            let line = serde_json::to_string(&shown).map_err(|e| Failure::new(1, e))?;
            text.push_str(&line);
            text.push('\n');
            continue;
        }
        let still = shown.counter_age.map_or("-".to_owned(), |age| {
            let seconds = age.still_ms as f64 / 1000.0;
            format!("{}{seconds:.1}s", if age.moved { "" } else { ">" })
        });
        let lag = shown.lag.map_or("-".to_owned(), Lag::short);
        let _ = writeln!(
            text,
            "{:24} {:12} {:>8}{} {:60} {}",
            shown.shard.as_str(),
            shown.state,
            shown.counter,
            more(&still, &lag),
            shown.checkpoint,
            shown.owner.unwrap_or("-"),
        );
    }
    print!("{text}");
    Ok(())
}

pub(super) async fn one(tools: &Tools, shard: &str, depth: &Depth) -> Result<(), Failure> {
    let lease = find(&tools.table, shard).await?;
    let (leases, asked) = look(tools, vec![lease], depth).await?;
    for lease in &leases {
        let text = serde_json::to_string_pretty(&Shown::of(lease, &asked));
        println!("{}", text.map_err(|e| Failure::new(1, e))?);
    }
    Ok(())
}

/// Watches and asks what was asked for; returns the leases as last seen.
async fn look(
    tools: &Tools,
    mut leases: Vec<Lease>,
    depth: &Depth,
) -> Result<(Vec<Lease>, ShowRequest), Failure> {
    let mut asked = ShowRequest::default();
    if let Some(watch) = depth.watch {
        asked.counters = counters(tools, &mut leases, watch).await?;
    }
    if depth.lag {
        asked.lags = lag::of(tools, &leases).await?;
    }
    Ok((leases, asked))
}

/// Reads the leases again and again, for as long as asked.
async fn counters(
    tools: &Tools,
    leases: &mut Vec<Lease>,
    watch: Duration,
) -> Result<BTreeMap<ShardId, Counter>, Failure> {
    let clock = Clock::system();
    let begun = clock.now();
    let pause = (watch / 10).clamp(Duration::from_millis(100), Duration::from_secs(5));
    // When each counter was last seen to move; absent for those that did not.
    let mut moved: BTreeMap<ShardId, Duration> = BTreeMap::new();
    while clock.now() - begun < watch {
        clock.sleep(pause.min(begun + watch - clock.now())).await;
        let seen = match leases.as_slice() {
            // One lease is not worth the whole table.
            [one] => vec![find(&tools.table, one.shard.as_str()).await?],
            _ => all(&tools.table).await?,
        };
        let before: BTreeMap<&ShardId, u64> =
            leases.iter().map(|l| (&l.shard, l.counter)).collect();
        for lease in &seen {
            if before.get(&lease.shard).is_some_and(|counter| *counter != lease.counter) {
                moved.insert(lease.shard.clone(), clock.now());
            }
        }
        *leases = seen;
    }
    let now = clock.now();
    let counter = |shard: &ShardId| {
        let since = moved.get(shard);
        let still = now - since.copied().unwrap_or(begun);
        let still_ms = u64::try_from(still.as_millis()).unwrap_or(u64::MAX);
        Counter { moved: since.is_some(), still_ms }
    };
    Ok(leases.iter().map(|l| (l.shard.clone(), counter(&l.shard))).collect())
}
