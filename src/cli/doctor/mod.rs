//! `catchment doctor`: would a worker run here, and how is what it works on?

mod checks;
mod probe;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::aws::clients::Clients;
use crate::config::raw::Layers;
use crate::iam::Role;

use super::{Failure, SettingsArgs, runtime};
use checks::{CheckVerdict, Finding};

#[derive(Debug, Args)]
pub(super) struct DoctorOptions {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Whose permissions to expect of the credentials it runs with.
    #[arg(long, value_enum, default_value = "worker")]
    role: DoctorRole,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DoctorRole {
    /// `catchment run`: everything is probed.
    Worker,
    /// A person: writes that only a worker makes are not probed.
    Operator,
}

pub(super) fn run(options: &DoctorOptions) -> Result<(), Failure> {
    let config = options.settings.load(Layers::default())?;
    let role = match options.role {
        DoctorRole::Worker => Role::Worker,
        DoctorRole::Operator => Role::Operator,
    };
    let (runtime, _tasks) = runtime(1)?;
    let findings = runtime.block_on(async {
        let clients =
            Clients::from_environment(&config.aws).await.map_err(|e| Failure::new(2, e))?;
        Ok::<_, Failure>(Box::pin(probe::everything(&config, role, clients)).await)
    })?;
    // What was not tried is no news.
    let tried = findings.iter().map(|f| f.verdict).filter(|v| *v != CheckVerdict::Skipped);
    let worst = tried.max().unwrap_or(CheckVerdict::Skipped);
    if options.json {
        let report = json!({ "verdict": worst, "checks": findings });
        println!("{}", serde_json::to_string_pretty(&report).map_err(|e| Failure::new(1, e))?);
    } else {
        print!("{}", text(&findings));
    }
    if worst == CheckVerdict::Fail {
        let failed = findings.iter().filter(|f| f.verdict == CheckVerdict::Fail).count();
        let message = format!("{failed} of {} checks failed", findings.len());
        return Err(Failure { code: 3, message });
    }
    Ok(())
}

/// One line for each check, its remedy below it.
fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let word = match finding.verdict {
            CheckVerdict::Ok => "ok",
            CheckVerdict::Skipped => "-",
            CheckVerdict::Warn => "warn",
            CheckVerdict::Fail => "FAIL",
        };
        text.push_str(&format!("{word:4} {:13} {}\n", finding.check, line(&finding.found)));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("{:18} => {}\n", "", line(remedy)));
        }
    }
    text
}

/// Services may answer in several lines.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
