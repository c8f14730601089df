//! `catchment config`: is it right, and what is it?

use clap::{Args, Subcommand};
use serde_json::json;

use crate::config::raw::Layers;
use crate::config::{Config, Invalid, print};

use super::{Failure, Settings};

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Load file, environment and flags as a worker does; say `ok`, or everything that is wrong
    /// (exit code 2). Calls nothing: `catchment doctor` looks at AWS.
    Check(Settings),
    /// The effective configuration, each value with where it came from. The text is itself a
    /// configuration file.
    Print {
        #[command(flatten)]
        settings: Settings,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    match &options.action {
        Action::Check(settings) => check(settings),
        Action::Print { settings, json } => print(settings, *json),
    }
}

fn check(settings: &Settings) -> Result<(), Failure> {
    settings.load(Layers::default())?;
    match &settings.config {
        Some(path) => println!("ok: {}", path.display()),
        None => println!("ok: no file (environment and flags only)"),
    }
    Ok(())
}

/// Prints also what is wrong as it stands, so that its origin can be seen; then fails as `check`.
fn print(settings: &Settings, as_json: bool) -> Result<(), Failure> {
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
