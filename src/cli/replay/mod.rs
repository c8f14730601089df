//! `catchment replay`: delivers a range again.

mod manage;
mod show;
mod start;

pub(super) use start::past;

use clap::{ArgGroup, Args, Subcommand};

use crate::aws::clients::Clients;
use crate::clock::Clock;
use crate::config::Config;
use crate::config::raw::{Layers, Source};
use crate::replay::store::StoreError;

use super::{Failure, Settings, runtime};

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    start: Start,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The replays beside the lease table, one line each.
    List {
        #[command(flatten)]
        settings: Settings,
        /// As JSON lines.
        #[arg(long)]
        json: bool,
    },
    /// Plan and progress of one replay.
    Status {
        /// Its id.
        id: String,
        #[command(flatten)]
        settings: Settings,
        /// As one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Delete the leases and the plan of a replay. Its objects stay.
    Delete {
        /// Its id.
        id: String,
        #[command(flatten)]
        settings: Settings,
        /// Also if it is not complete.
        #[arg(long)]
        yes: bool,
    },
}

/// Begin, end, and where to.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("from").multiple(false)))]
#[command(group(ArgGroup::new("until").multiple(false)))]
struct Start {
    #[command(flatten)]
    settings: Settings,
    /// Begin with this record; its shard is looked for, or named with --shard.
    #[arg(long, value_name = "N", group = "from")]
    from_sequence_number: Option<String>,
    /// Begin, in every shard, with the first record that arrived at or after this time, for instance
    /// 2026-11-23T07:00:00Z.
    #[arg(long, value_name = "TIME", group = "from")]
    from_timestamp: Option<String>,
    /// Begin with the oldest record the stream still has.
    #[arg(long, group = "from")]
    from_trim_horizon: bool,
    /// End with this record, included.
    #[arg(long, value_name = "M", group = "until")]
    until_sequence_number: Option<String>,
    /// End, in every shard, before the first record that arrived at or after this time.
    #[arg(long, value_name = "TIME", group = "until")]
    until_timestamp: Option<String>,
    /// End with what has arrived when the replay is planned (the default).
    #[arg(long, group = "until")]
    until_now: bool,
    /// Only this shard and its descendants.
    #[arg(long, value_name = "SHARD")]
    shard: Option<String>,
    /// The shard of --until-sequence-number, if it cannot be found.
    #[arg(long, value_name = "SHARD", requires = "until_sequence_number")]
    until_shard: Option<String>,
    /// In front of every key, uploads included.  [default: replays/<ID>/]
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Name of the replay: to share its work between processes, and to resume it. Made from the time
    /// if not given.
    #[arg(long)]
    id: Option<String>,
    /// Say what would be done, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Progress and summary as JSON lines on standard output, as without a terminal.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    match &options.action {
        None => start::run(&options.start),
        Some(Action::List { settings, json }) => with(settings, |config, clients, _| async move {
            manage::list(&config, &clients, *json).await
        }),
        Some(Action::Status { id, settings, json }) => {
            with(settings, |config, clients, _| async move {
                manage::status(&config, &clients, id, *json).await
            })
        }
        Some(Action::Delete { id, settings, yes }) => {
            with(settings, |config, clients, clock| async move {
                manage::delete(&config, &clients, &clock, id, *yes).await
            })
        }
    }
}

/// What a replay takes from elsewhere than the configuration, if it is not set there: the plan has
/// its own stream and bucket, and a worker on the same host has the port.
fn layers(settings: &Settings) -> Result<Layers, Failure> {
    let mut layers = Layers::default();
    for (key, value) in [
        ("stream.name", "unused"),
        ("delivery.bucket", "unused"),
        ("telemetry.listen", "off"),
        // A shard takes in 1 MB per second at the most, and gives 2: this leaves live readers theirs.
        ("stream.bytes_per_second", "1MB"),
        ("stream.calls_per_second", "2"),
    ] {
        layers.set(key, value.to_owned(), Source::Default);
    }
    settings.layers(layers)
}

fn with<F: Future<Output = Result<(), Failure>>>(
    settings: &Settings,
    act: impl FnOnce(Config, Clients, Clock) -> F,
) -> Result<(), Failure> {
    let config = Config::from_layers(layers(settings)?)?;
    let (runtime, _tasks) = runtime(1)?;
    runtime.block_on(async {
        let clients =
            Clients::from_environment(&config.aws).await.map_err(|e| Failure::new(2, e))?;
        act(config, clients, Clock::system()).await
    })
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Call(_) | StoreError::Lease(_) => 1,
            StoreError::Table(_) | StoreError::Plan { .. } | StoreError::Range(_) => 2,
        };
        Self::new(code, error)
    }
}
