//! `catchment config`: is it right, and what is it?

use clap::{Args, Subcommand};
use serde_json::json;

use crate::config::raw::Layers;
use crate::config::{Config, Invalid, print};

use super::{Failure, SettingsArgs};

#[derive(Debug, Args)]
pub(super) struct ConfigOptions {
    #[command(subcommand)]
    action: ConfigAction,
}

#[derive(Debug, Subcommand)]
enum ConfigAction {
    /// Load file, environment and flags as a worker does; say `ok`, or everything that is wrong
    /// (exit code 2). Calls nothing: `catchment doctor` looks at AWS.
    Check(SettingsArgs),
    /// The effective configuration, each value with where it came from. The text is itself a
    /// configuration file.
    Print {
        #[command(flatten)]
        settings: SettingsArgs,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(options: &ConfigOptions) -> Result<(), Failure> {
    match &options.action {
        ConfigAction::Check(settings) => check(settings),
        ConfigAction::Print { settings, json } => print(settings, *json),
    }
}

fn check(settings: &SettingsArgs) -> Result<(), Failure> {
    settings.load(Layers::default())?;
    match &settings.config {
        Some(path) => println!("ok: {}", path.display()),
        None => println!("ok: no file (environment and flags only)"),
    }
    Ok(())
}

/// Prints also what is wrong as it stands, so that its origin can be seen; then fails as `check`.
fn print(settings: &SettingsArgs, as_json: bool) -> Result<(), Failure> {
    let layers = settings.layers(Layers::default())?;
    let effective = print::settings(&layers);
    let judged = Config::from_layers(layers);
    if as_json {
        let problems = match &judged {
            Ok(_) => Vec::new(),
            Err(Invalid(problems)) => problems.iter().map(ToString::to_string).collect(),
        };
        let report = json!({ "settings": effective, "problems": problems });
        println!("{}", serde_json::to_string_pretty(&report).map_err(|e| Failure::new(1, e))?);
    } else {
        print!("{}", print::toml(&effective));
    }
    judged?;
    Ok(())
}
