//! Logs: one JSON object per line in containers, text on a terminal. Never a payload, never a token.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::Logs;

/// Installs the subscriber, once. `RUST_LOG` or `CATCHMENT_LOG` choose what is shown.
pub fn install(form: Logs, default: &str) {
    let filter = std::env::var("CATCHMENT_LOG")
        .or_else(|_| std::env::var("RUST_LOG"))
        .ok()
        .and_then(|text| text.parse::<EnvFilter>().ok())
        .unwrap_or_else(|| EnvFilter::new(default));
    let json = match form {
        Logs::Json => true,
        Logs::Text => false,
        Logs::Auto => !std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    // A second installation is a test's doing; the first one stays.
    drop(installed);
}
