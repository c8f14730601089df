//! Plans, resumes and runs a replay.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use crate::aws::clients::Clients;
use crate::aws::kinesis::Kinesis;
use crate::aws::objects::Objects;
use crate::clock::{Clock, Jitter};
use crate::config::raw::{Layers, Source};
use crate::config::{Config, OnGap};
use crate::delivery::object_key::Template;
use crate::fault::Fault;
use crate::ids::{SequenceNumber, ShardId};
use crate::replay::plan::{From, Plan};
use crate::replay::progress::Progress;
use crate::replay::resolve::{self, Asked, Begin, End, ResolveError};
use crate::replay::run as replay;
use crate::replay::store::{Store, table_prefix};
use crate::shutdown::Shutdown;
use crate::stream::position::StartAt;
use crate::stream::probe::Probe;
use crate::stream::{ShardInfo, StreamInfo};
use crate::telemetry::{http, logs};
use crate::worker::supervisor::Exit;
use crate::worker::{self, Node};

use super::super::run::{judge, serve};
use super::{Failure, Start, runtime, show};

/// Settings that shape the objects: recorded in the plan.
const RECORDED: [&str; 6] = [
    "delivery.format",
    "delivery.compression",
    "delivery.level",
    "delivery.prefix",
    "delivery.uploads",
    "delivery.deaggregate",
];

pub(super) fn run(options: &Start) -> Result<(), Failure> {
    let layers = super::layers(&options.settings)?;
    let asked = asked(options, &layers)?;
    let config = Config::from_layers(layers.clone())?;
    let tty = std::io::stderr().is_terminal() && !options.json;
    logs::install(config.telemetry.logs, if tty { "warn" } else { "info" });
    let (runtime, tasks) = runtime(config.threads)?;
    runtime.block_on(async {
        let shutdown = Shutdown::default();
        let _signals = tasks.spawn("signals", shutdown.clone().on_signals());
        let clients =
            Clients::from_environment(&config.aws).await.map_err(|e| Failure::new(2, e))?;
        let node = Node { clock: Clock::system(), jitter: Jitter::system(), tasks };
        let session = Session { options, config, asked, clients, node, tty };
        tokio::select! {
            biased;
            ended = session.run(&shutdown) => ended,
            () = shutdown.abort.cancelled() => Err(Failure::new(
                1,
                "left at once on a second signal; the replay is not complete, resume it by its id",
            )),
        }
    })
}

/// What was asked for explicitly, by name.
fn asked(options: &Start, layers: &Layers) -> Result<BTreeMap<String, String>, Failure> {
    let mut asked = BTreeMap::new();
    let mut note = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            asked.insert(name.to_owned(), value);
        }
    };
    let flag = |name: &str, value: &Option<String>| value.as_ref().map(|v| format!("{name} {v}"));
    note("begin", flag("--from-sequence-number", &options.from_sequence_number));
    note("begin", flag("--from-timestamp", &options.from_timestamp));
    note("begin", options.from_trim_horizon.then(|| "--from-trim-horizon".to_owned()));
    note("end", flag("--until-sequence-number", &options.until_sequence_number));
    note("end", flag("--until-timestamp", &options.until_timestamp));
    note("end", options.until_now.then(|| "--until-now".to_owned()));
    note("--shard", options.shard.clone());
    note("--until-shard", options.until_shard.clone());
    note("--prefix", options.prefix.as_deref().map(prefix).transpose()?);
    for key in ["stream.name", "delivery.bucket"] {
        let (value, source) = layers.get(key);
        let value = value.rsplit_once(":stream/").map_or(value, |(_, name)| name).to_owned();
        note(key, (source != Source::Default).then_some(value));
    }
    for key in RECORDED {
        let (value, source) = layers.get(key);
        note(key, matches!(source, Source::Flag(_)).then(|| value.to_owned()));
    }
    Ok(asked)
}

/// A prefix for archive, dead letters and uploads alike: literal text.
fn prefix(text: &str) -> Result<String, Failure> {
    let prefix = if text.ends_with('/') { text.to_owned() } else { format!("{text}/") };
    let bad = |why: String| Failure::new(2, format!("--prefix {text}: {why}"));
    if text.is_empty() {
        return Err(bad("is empty: a replay must not write among the live objects".into()));
    }
    if prefix.contains("!{") {
        return Err(
            bad("variables belong into delivery.prefix, this is put in front of it".into()),
        );
    }
    Template::parse(&prefix, false).map_err(|e| bad(e.to_string()))?;
    Ok(prefix)
}

fn time(flag: &str, text: &str) -> Result<i64, Failure> {
    let parsed = text.parse::<jiff::Timestamp>();
    parsed.map(jiff::Timestamp::as_millisecond).map_err(|_| {
        Failure::new(2, format!("{flag} {text}: a time such as 2026-11-23T07:00:00Z is expected"))
    })
}

/// Kinesis refuses to begin in the future.
pub(in crate::cli) fn past(flag: &str, text: &str, clock: &Clock) -> Result<i64, Failure> {
    let ms = time(flag, text)?;
    if ms > clock.wall() {
        return Err(Failure::new(2, format!("{flag} {text}: is in the future")));
    }
    Ok(ms)
}

fn number(flag: &str, text: &str) -> Result<SequenceNumber, Failure> {
    SequenceNumber::parse(text).map_err(|e| Failure::new(2, format!("{flag}: {e}")))
}

struct Session<'a> {
    options: &'a Start,
    config: Config,
    asked: BTreeMap<String, String>,
    clients: Clients,
    node: Node,
    tty: bool,
}

impl Session<'_> {
    async fn run(mut self, shutdown: &Shutdown) -> Result<(), Failure> {
        let id = self.id()?;
        let store = Store::new(&self.clients, &self.config.lease.table, &id);
        let found = match &self.options.id {
            Some(_) => store.load().await?,
            None => None,
        };
        if let Some(found) = &found {
            self.same(&id, &found.plan)?;
        }
        if self.options.dry_run {
            let (plan, stream, shards) = match found {
                Some(found) => {
                    let (stream, shards) = self.stream(Some(&found.plan)).await?;
                    (found.plan, stream, shards)
                }
                None => self.plan(&id).await?,
            };
            return self.dry_run(&plan, &stream, &shards, store.name()).await;
        }
        let (plan, ready, shards) = match found {
            Some(found) if found.ready => (found.plan, true, Vec::new()),
            Some(found) => {
                let (_, shards) = self.stream(Some(&found.plan)).await?;
                (found.plan, false, shards)
            }
            None => {
                let (plan, stream, shards) = self.plan(&id).await?;
                self.admit(&plan, &stream).await?;
                if store.create(&plan, &self.node.clock).await? {
                    (plan, false, shards)
                } else {
                    // Another process with the same id was faster: its plan counts.
                    let theirs = store.load().await?.ok_or_else(|| {
                        Failure::new(1, "the replay was deleted in the meantime; start it again")
                    })?;
                    self.same(&id, &theirs.plan)?;
                    (theirs.plan, theirs.ready, shards)
                }
            }
        };
        if !ready {
            store.fill(&plan, &shards, &self.node.clock).await?;
        }
        replay::configure(&mut self.config, &plan, store.name());
        self.deliver(plan, store, shutdown).await
    }

    fn id(&self) -> Result<String, Failure> {
        let id = match &self.options.id {
            Some(id) => id.clone(),
            None => {
                let now = jiff::Timestamp::from_millisecond(self.node.clock.wall());
                let now = now.unwrap_or_default().strftime("%Y%m%dT%H%M%SZ").to_string();
                let tail = self.node.jitter.uuid().simple().to_string();
                format!("{now}-{}", &tail[..4])
            }
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let room = 255 - table_prefix(&self.config.lease.table).len().min(254);
        if id.is_empty() || id.len() > room.min(100) || !id.chars().all(legal) || id.contains("..")
        {
            return Err(Failure::new(
                2,
                format!(
                    "--id {id}: 1 to {} letters, digits, `_`, `-` or `.` are expected; it becomes \
                     part of a table name",
                    room.min(100)
                ),
            ));
        }
        Ok(id)
    }

    /// Refuses arguments that are not those of the plan.
    fn same(&self, id: &str, plan: &Plan) -> Result<(), Failure> {
        let differences = plan.differences(&self.asked);
        if differences.is_empty() {
            return Ok(());
        }
        let told: String = differences
            .iter()
            .map(|(name, now, then)| {
                let then = if then.is_empty() { "none" } else { then };
                format!("\n  {name}: `{now}` is asked for, the replay has `{then}`")
            })
            .collect();
        Err(Failure::new(
            2,
            format!(
                "replay `{id}` exists and was planned otherwise:{told}\nGive only --id to resume it, \
                 or another --id for another replay"
            ),
        ))
    }

    async fn stream(&self, plan: Option<&Plan>) -> Result<(StreamInfo, Vec<ShardInfo>), Failure> {
        let name = match plan {
            Some(plan) => plan.settings.stream.as_str(),
            None => self.config.stream.name.as_str(),
        };
        let kinesis = self.kinesis();
        let stream = kinesis.describe(name).await.map_err(|e| match e.fault {
            Fault::NotFound => Failure::new(2, format!("stream `{name}` does not exist: {e}")),
            _ => Failure::new(1, e),
        })?;
        if let Some(plan) = plan
            && stream.identity() != plan.stream
        {
            return Err(Failure::new(
                2,
                format!(
                    "the replay was planned for {}, the stream is {} now: records of the former one \
                     are gone; delete the replay",
                    plan.stream,
                    stream.identity()
                ),
            ));
        }
        let shards = kinesis.list_shards(&stream.arn).await.map_err(|e| Failure::new(1, e))?;
        Ok((stream, shards))
    }

    fn kinesis(&self) -> Kinesis {
        Kinesis::new(self.clients.kinesis.clone())
    }

    fn probe(&self, stream: &StreamInfo) -> Probe {
        Probe { kinesis: self.kinesis(), arn: stream.arn.clone(), clock: self.node.clock.clone() }
    }

    async fn plan(&self, id: &str) -> Result<(Plan, StreamInfo, Vec<ShardInfo>), Failure> {
        let options = self.options;
        let from = match (&options.from_sequence_number, &options.from_timestamp) {
            (Some(n), _) => Begin::Sequence(number("--from-sequence-number", n)?),
            (_, Some(t)) => Begin::Timestamp(past("--from-timestamp", t, &self.node.clock)?),
            _ if options.from_trim_horizon => Begin::TrimHorizon,
            _ => {
                let why = match &options.id {
                    Some(id) => format!("there is no replay `{id}` to resume"),
                    None => "nothing says where to begin".into(),
                };
                return Err(Failure::new(
                    2,
                    format!(
                        "{why}: give --from-timestamp, --from-sequence-number or \
                         --from-trim-horizon; `catchment replay list` shows the replays of this \
                         lease.application"
                    ),
                ));
            }
        };
        let until = match (&options.until_sequence_number, &options.until_timestamp) {
            (Some(n), _) => End::Sequence(number("--until-sequence-number", n)?),
            (_, Some(t)) => End::Timestamp(time("--until-timestamp", t)?),
            _ => End::Now,
        };
        for (key, flag) in [("stream.name", "--stream"), ("delivery.bucket", "--bucket")] {
            if !self.asked.contains_key(key) {
                return Err(Failure::new(2, format!("a new replay needs {key}: give {flag}")));
            }
        }
        let (stream, shards) = self.stream(None).await?;
        let prefix = match &options.prefix {
            Some(text) => prefix(text)?,
            None => prefix(&format!("replays/{id}"))?,
        };
        let delivery = &self.config.delivery;
        let mut settings =
            (*delivery.recipe(&stream.name).map_err(|e| Failure::new(2, e))?.settings).clone();
        settings.prefix = format!("{prefix}{}", settings.prefix);
        settings.errors = format!("{prefix}{}", settings.errors);
        settings.uploads_prefix.clone_from(&prefix);
        let settings = settings.versioned();
        for (template, errors) in [(&settings.prefix, false), (&settings.errors, true)] {
            Template::parse(template, errors).map_err(|e| {
                Failure::new(2, format!("--prefix {prefix}: with the template: {e}"))
            })?;
        }
        let mut asked = self.asked.clone();
        asked.entry("end".into()).or_insert_with(|| "--until-now".into());
        asked.entry("--prefix".into()).or_insert_with(|| prefix.clone());
        let asked = Asked {
            id: id.to_owned(),
            from,
            until,
            shard: options.shard.as_deref().map(ShardId::new),
            until_shard: options.until_shard.as_deref().map(ShardId::new),
            prefix,
            settings,
            asked,
        };
        let plan = resolve::plan(&self.probe(&stream), &stream, &shards, asked).await;
        let plan = plan.map_err(|e| match e {
            ResolveError::Call(_) => Failure::new(1, e),
            ResolveError::Undecided { .. } | ResolveError::Range(_) => Failure::new(2, e),
        })?;
        // Wrong shards are told now, not by a worker.
        plan.rows(&shards).map_err(|e| Failure::new(2, e))?;
        Ok((plan, stream, shards))
    }

    /// What a new replay must not begin with: lost records, or a prefix that is in use.
    async fn admit(&self, plan: &Plan, stream: &StreamInfo) -> Result<(), Failure> {
        if let Some(lost) = self.lost(plan, stream).await?
            && self.config.delivery.on_gap == OnGap::Stop
        {
            return Err(Failure::new(
                3,
                format!(
                    "{lost}. To replay what is left, begin later, use --from-trim-horizon, or set \
                     delivery.on_gap=continue to have the gap reported under the error prefix"
                ),
            ));
        }
        let objects = Objects::new(self.clients.s3.clone());
        let bucket = &plan.settings.bucket;
        let taken = objects.any(bucket, &plan.prefix).await;
        let taken = taken.map_err(|e| Failure::new(2, format!("bucket `{bucket}`: {e}")))?;
        match taken {
            Some(key) => Err(Failure::new(
                2,
                format!(
                    "prefix `{}` is in use (s3://{bucket}/{key}): objects of two replays, or of a \
                     replay and live ones, must not mix; choose another --prefix or --id",
                    plan.prefix
                ),
            )),
            None => Ok(()),
        }
    }

    /// What of the range is outside retention already.
    async fn lost(&self, plan: &Plan, stream: &StreamInfo) -> Result<Option<String>, Failure> {
        if let Some(ms) = plan.outside_ms(stream, self.node.clock.wall()) {
            let lost = Duration::from_secs(u64::try_from(ms / 1000).unwrap_or(0));
            return Ok(Some(format!(
                "the first {} of the range are outside the stream's retention of {} hours",
                humantime::format_duration(lost),
                stream.retention_ms / 3_600_000
            )));
        }
        let From::Sequence(shard, first) = &plan.from else { return Ok(None) };
        match self.probe(stream).first(shard, &StartAt::At(first.clone())).await {
            Ok(Some(found)) if found == *first => Ok(None),
            Ok(found) => Ok(Some(format!(
                "record {first} is not in {shard} (any more): reading there begins with {}",
                found.map_or_else(|| "nothing".to_owned(), |n| n.to_string())
            ))),
            Err(error) if error.fault == Fault::Invalid => Err(Failure::new(
                2,
                format!("--from-sequence-number {first} is no number of {shard}: {error}"),
            )),
            Err(error) => Err(Failure::new(1, error)),
        }
    }

    async fn dry_run(
        &self,
        plan: &Plan,
        stream: &StreamInfo,
        shards: &[ShardInfo],
        table: &str,
    ) -> Result<(), Failure> {
        let rows = plan.rows(shards).map_err(|e| Failure::new(2, e))?;
        let samples = resolve::samples(&self.probe(stream), plan, &rows).await;
        let samples = samples.map_err(|e| Failure::new(1, e))?;
        let lost = self.lost(plan, stream).await?;
        let rate = self.config.stream.pace.bytes_per_second;
        let estimate = show::Estimate { rows: &rows, samples: &samples, lost, rate, table };
        show::plan(plan, &estimate, self.options.json);
        Ok(())
    }

    async fn deliver(self, plan: Plan, store: Store, shutdown: &Shutdown) -> Result<(), Failure> {
        let listener = match self.config.telemetry.listen {
            Some(address) => Some(http::listen(address).await.map_err(|e| Failure::new(2, e))?),
            None => None,
        };
        let plan = Arc::new(plan);
        let prepared = tokio::select! {
            biased;
            prepared = worker::prepare_for(
                &self.node,
                self.config,
                self.clients,
                Some(Arc::clone(&plan)),
            ) => prepared.map_err(|e| Failure::new(2, e))?,
            () = shutdown.drain.cancelled() => return Err(interrupted(&plan.id)),
        };
        let shared = prepared;
        let begun = self.node.clock.now();
        let every = Duration::from_secs(if self.tty { 1 } else { 5 });
        let mut teller = show::Teller::new(&plan, self.tty);
        let watching = replay::watch(
            Arc::clone(&shared),
            Arc::clone(&plan),
            store,
            every,
            shutdown.drain.clone(),
            move |progress, ratio| teller.tell(progress, ratio),
        );
        let watching = self.node.tasks.spawn("watch", watching);
        let exit = serve(&self.node.tasks, shared, listener, shutdown.clone()).await;
        shutdown.drain.cancel();
        let progress: Progress = watching.await.map_err(|e| Failure::new(1, e))?;
        judge(&exit)?;
        let seconds = (self.node.clock.now() - begun).as_secs_f64();
        show::summary(&plan, &progress, seconds, self.tty);
        match (exit, progress.complete) {
            (Exit::Drained, true) => Ok(()),
            _ => Err(interrupted(&plan.id)),
        }
    }
}

fn interrupted(id: &str) -> Failure {
    Failure::new(
        1,
        format!(
            "the replay is not complete; `catchment replay --id {id}` resumes where it stopped"
        ),
    )
}
