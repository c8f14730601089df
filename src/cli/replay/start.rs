//! Plans, resumes and runs a replay.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use crate::aws::clients::Clients;
use crate::cli::replay::watch as replay;
use crate::clock::{Clock, Jitter};
use crate::config::Config;
use crate::config::raw::{Layers, Source};
use crate::replay::plan::Plan;
use crate::replay::progress::ReplayProgress;
use crate::replay::store::{Store, table_prefix};
use crate::shutdown::Shutdown;
use crate::telemetry::{http, logs};
use crate::worker::supervisor::Exit;
use crate::worker::{self, Node};

use super::args::{self, StartOptions};
use super::show;
use super::values::prefix;
use crate::cli::run::{judge, serve};
use crate::cli::{Failure, runtime};

/// Settings that shape the objects: recorded in the plan.
const RECORDED: [&str; 6] = [
    "delivery.format",
    "delivery.compression",
    "delivery.level",
    "delivery.prefix",
    "delivery.upload_events",
    "delivery.deaggregate",
];

pub(super) fn run(options: &StartOptions) -> Result<(), Failure> {
    let layers = args::layers(&options.settings)?;
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
fn asked(options: &StartOptions, layers: &Layers) -> Result<BTreeMap<String, String>, Failure> {
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

pub(super) struct Session<'a> {
    pub(super) options: &'a StartOptions,
    pub(super) config: Config,
    pub(super) asked: BTreeMap<String, String>,
    pub(super) clients: Clients,
    pub(super) node: Node,
    pub(super) tty: bool,
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

    async fn deliver(self, plan: Plan, store: Store, shutdown: &Shutdown) -> Result<(), Failure> {
        let listener = match self.config.telemetry.listen {
            Some(address) => Some(http::listen(address).await.map_err(|e| Failure::new(2, e))?),
            None => None,
        };
        let plan = Arc::new(plan);
        let worker = tokio::select! {
            biased;
            prepared = worker::prepare_for(
                &self.node,
                self.config,
                self.clients,
                Some(Arc::clone(&plan)),
            ) => prepared.map_err(|e| Failure::new(2, e))?,
            () = shutdown.drain.cancelled() => return Err(interrupted(&plan.id)),
        };
        let begun = self.node.clock.now();
        let tell = Duration::from_secs(if self.tty { 1 } else { 5 });
        let pace = replay::WatchPace { look: tell.min(worker.leases.pace.look), tell };
        let mut teller = show::Teller::new(&plan, self.tty);
        let watching = replay::watch(
            worker.ctx.clone(),
            Arc::clone(&plan),
            store,
            pace,
            shutdown.drain.clone(),
            move |progress, ratio| teller.tell(progress, ratio),
        );
        let watching = self.node.tasks.spawn("watch", watching);
        let exit = serve(worker, listener, shutdown.clone()).await;
        shutdown.drain.cancel();
        let progress: ReplayProgress = watching.await.map_err(|e| Failure::new(1, e))?;
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
