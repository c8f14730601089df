//! The command line. The only place that prints.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the command line")]

mod config;
mod cost;
mod doctor;
mod healthcheck;
mod iam_policy;
mod leases;
#[cfg(feature = "local")]
mod local;
mod replay;
mod run;
#[cfg(feature = "local")]
mod send;
mod shell;
mod verify;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::raw::{Layers, Source};
use crate::config::{Config, Invalid};
use crate::heap;
use crate::task::Tasks;

/// Amazon Kinesis to Amazon S3: completely, once, cheaply and fast.
#[derive(Debug, Parser)]
#[command(name = "catchment", version = version(), arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a worker until SIGTERM or SIGINT.
    Run(SettingsArgs),
    /// Run everything on this machine, without AWS: embedded Kinesis, DynamoDB and S3, and a worker.
    #[cfg(feature = "local")]
    Local(local::LocalOptions),
    /// Send the lines of a file to a stream, each exactly once.
    #[cfg(feature = "local")]
    Send(send::SendOptions),
    /// Look at the lease table, give leases back, move checkpoints.
    Leases(leases::LeasesOptions),
    /// Deliver a range of the stream again, beside live traffic, under a prefix of its own.
    #[command(args_conflicts_with_subcommands = true)]
    Replay(Box<replay::ReplayOptions>),
    /// Check that the objects hold what the lease table says is delivered; exit code 3 if not.
    Verify(verify::VerifyOptions),
    /// Check the configuration, or print it with where each value came from.
    Config(config::ConfigOptions),
    /// Would a worker run here? Looks at credentials, clock, stream, lease table and bucket, changes
    /// nothing; exit code 3 if something fails.
    Doctor(doctor::DoctorOptions),
    /// Print the least-privilege IAM policy for a configuration.
    IamPolicy(iam_policy::IamPolicyOptions),
    /// What a month costs, against Firehose and the stream's own channel.
    Cost(cost::CostOptions),
    /// Ask a running worker whether it is live; for container health checks.
    Healthcheck {
        /// Address of the worker's telemetry endpoint.
        #[arg(long, default_value = "127.0.0.1:9464", env = "CATCHMENT_TELEMETRY_LISTEN")]
        address: SocketAddr,
    },
    /// Print completions for a shell.
    Completions(shell::Completions),
    /// Print the manual page, or those of all commands into a directory.
    Man(shell::ManPages),
}

/// Where the configuration comes from: defaults, then the file, then `CATCHMENT_*`, then flags.
#[derive(Clone, Debug, Default, Args)]
struct SettingsArgs {
    /// TOML file; docs/CONFIGURATION.md lists its keys.
    #[arg(long, env = "CATCHMENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one key, for instance `--set delivery.format=raw`. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Same as `--set stream.name=NAME`.
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Same as `--set delivery.bucket=NAME`.
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
}

impl SettingsArgs {
    fn load(&self, layers: Layers) -> Result<Config, Failure> {
        Ok(Config::from_layers(self.layers(layers)?)?)
    }

    /// Everything that was set, in order, over the given defaults.
    fn layers(&self, mut layers: Layers) -> Result<Layers, Failure> {
        if let Some(path) = &self.config {
            let text = std::fs::read_to_string(path).map_err(|error| Failure {
                code: 2,
                message: format!("--config {}: {error}; name a readable TOML file", path.display()),
            })?;
            layers.file(&path.display().to_string(), &text);
        }
        let variables = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        layers.environment(variables);
        for pair in &self.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| Failure {
                code: 2,
                message: format!("--set {pair}: KEY=VALUE is expected"),
            })?;
            layers.set(key, value.to_owned(), Source::Flag(format!("--set {key}")));
        }
        if let Some(name) = &self.stream {
            layers.set("stream.name", name.clone(), Source::Flag("--stream".into()));
        }
        if let Some(name) = &self.bucket {
            layers.set("delivery.bucket", name.clone(), Source::Flag("--bucket".into()));
        }
        Ok(layers)
    }
}

/// An end with an exit code: 1 failure, 2 usage or configuration, 3 data would be skipped,
/// or a check that found something.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(code: u8, error: impl std::fmt::Display) -> Self {
        Self { code, message: error.to_string() }
    }
}

impl From<Invalid> for Failure {
    fn from(error: Invalid) -> Self {
        Self::new(2, error)
    }
}

/// Version, commit and features. The commit comes from `GIT_COMMIT` at build time, which release
/// builds set; a build script would ask git, and compile everything again after every commit.
fn version() -> &'static str {
    static TEXT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let commit = option_env!("GIT_COMMIT").filter(|text| !text.is_empty());
        let features: Vec<&str> =
            [("local", cfg!(feature = "local")), ("lambda", cfg!(feature = "lambda"))]
                .into_iter()
                .filter_map(|(name, on)| on.then_some(name))
                .collect();
        format!(
            "{} (commit {}, features: {}, {}-{})",
            env!("CARGO_PKG_VERSION"),
            commit.unwrap_or("not recorded"),
            if features.is_empty() { "none".to_owned() } else { features.join(" ") },
            std::env::consts::ARCH,
            std::env::consts::OS,
        )
    });
    &TEXT
}

/// Parses the command line, runs the command, says how it ended.
pub fn main() -> ExitCode {
    heap::follow_use();
    let result = match Cli::parse().command {
        Command::Run(settings) => run::run(&settings),
        #[cfg(feature = "local")]
        Command::Local(options) => local::run(options),
        #[cfg(feature = "local")]
        Command::Send(options) => send::run(&options),
        Command::Leases(options) => leases::run(&options),
        Command::Verify(options) => verify::run(&options),
        Command::Replay(options) => replay::run(&options),
        Command::Config(options) => config::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::IamPolicy(options) => iam_policy::run(&options),
        Command::Cost(options) => cost::run(&options),
        Command::Healthcheck { address } => healthcheck::run(address),
        Command::Completions(options) => shell::completions(&options),
        Command::Man(options) => shell::man(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("catchment: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// A runtime with the configured number of threads, and the tasks that go with it.
fn runtime(threads: usize) -> Result<(tokio::runtime::Runtime, Tasks), Failure> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if threads == 0 { cores } else { threads };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|e| Failure::new(1, format!("the runtime cannot start: {e}")))?;
    Ok((runtime, Tasks::pooled(threads)))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
