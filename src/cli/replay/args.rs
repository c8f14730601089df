//! Arguments of `catchment replay`.

use clap::{ArgGroup, Args, Subcommand};

use crate::cli::{Failure, SettingsArgs};
use crate::config::raw::{Layers, Source};

#[derive(Debug, Args)]
pub(in crate::cli) struct ReplayOptions {
    #[command(subcommand)]
    pub(super) action: Option<ReplayAction>,
    #[command(flatten)]
    pub(super) start: StartOptions,
}

#[derive(Debug, Subcommand)]
pub(super) enum ReplayAction {
    /// The replays beside the lease table, one line each.
    List {
        #[command(flatten)]
        settings: SettingsArgs,
        /// As JSON lines.
        #[arg(long)]
        json: bool,
    },
    /// Plan and progress of one replay.
    Status {
        /// Its id.
        id: String,
        #[command(flatten)]
        settings: SettingsArgs,
        /// As one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Delete the leases and the plan of a replay. Its objects stay.
    Delete {
        /// Its id.
        id: String,
        #[command(flatten)]
        settings: SettingsArgs,
        /// Also if it is not complete.
        #[arg(long)]
        yes: bool,
    },
}

/// Begin, end, and where to.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("from").multiple(false)))]
#[command(group(ArgGroup::new("until").multiple(false)))]
pub(super) struct StartOptions {
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
    /// Begin with this record; its shard is looked for, or named with --shard.
    #[arg(long, value_name = "N", group = "from")]
    pub(super) from_sequence_number: Option<String>,
    /// Begin, in every shard, with the first record that arrived at or after this time, for instance
    /// 2026-11-23T07:00:00Z.
    #[arg(long, value_name = "TIME", group = "from")]
    pub(super) from_timestamp: Option<String>,
    /// Begin with the oldest record the stream still has.
    #[arg(long, group = "from")]
    pub(super) from_trim_horizon: bool,
    /// End with this record, included.
    #[arg(long, value_name = "M", group = "until")]
    pub(super) until_sequence_number: Option<String>,
    /// End, in every shard, before the first record that arrived at or after this time.
    #[arg(long, value_name = "TIME", group = "until")]
    pub(super) until_timestamp: Option<String>,
    /// End with what has arrived when the replay is planned (the default).
    #[arg(long, group = "until")]
    pub(super) until_now: bool,
    /// Only this shard and its descendants.
    #[arg(long, value_name = "SHARD")]
    pub(super) shard: Option<String>,
    /// The shard of --until-sequence-number, if it cannot be found.
    #[arg(long, value_name = "SHARD", requires = "until_sequence_number")]
    pub(super) until_shard: Option<String>,
    /// In front of every key, uploads included.  [default: replays/ID/]
    #[arg(long, value_name = "PREFIX")]
    pub(super) prefix: Option<String>,
    /// Name of the replay: to share its work between processes, and to resume it. Made from the time
    /// if not given.
    #[arg(long)]
    pub(super) id: Option<String>,
    /// Say what would be done, and write nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Progress and summary as JSON lines on standard output, as without a terminal.
    #[arg(long)]
    pub(super) json: bool,
}

/// What a replay takes from elsewhere than the configuration, if it is not set there: the plan has
/// its own stream and bucket, and a worker on the same host has the port.
pub(super) fn layers(settings: &SettingsArgs) -> Result<Layers, Failure> {
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
