//! `catchment completions` and `catchment man`, both made from the command line itself.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, Failure};

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// Whose completions to print.
    #[arg(value_enum)]
    shell: Known,
}

/// The shells we try.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Known {
    /// source <(catchment completions bash)
    Bash,
    /// catchment completions zsh > "${fpath[1]}/_catchment"
    Zsh,
    /// catchment completions fish > ~/.config/fish/completions/catchment.fish
    Fish,
}

#[derive(Debug, Args)]
pub(super) struct ManPages {
    /// The command whose page to print, for instance `leases rewind`; the whole program's if none.
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    path: Vec<String>,
    /// Write the pages of all commands into this directory instead.
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(options: &Completions) -> Result<(), Failure> {
    let shell = match options.shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "catchment", &mut text);
    print(&text)
}

pub(super) fn man(options: &ManPages) -> Result<(), Failure> {
    let mut command = Cli::command();
    if let Some(dir) = &options.dir {
        return clap_mangen::generate_to(command, dir).map_err(|error| {
            let message = format!("--dir {}: {error}; name a writable directory", dir.display());
            Failure { code: 2, message }
        });
    }
    // Names the commands below as they are called: `catchment leases rewind`.
    command.build();
    let mut found = &command;
    for name in &options.path {
        found = found.find_subcommand(name).ok_or_else(|| {
            let known: Vec<&str> = found.get_subcommands().map(clap::Command::get_name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Failure { code: 2, message: format!("{name}: no such command; there are: {known}") }
        })?;
    }
    // `.TH` is one word, and so is the name of the file.
    let title = found.get_bin_name().unwrap_or("catchment").replace(' ', "-");
    let mut text = Vec::new();
    let page = Man::new(found.clone()).title(title);
    page.render(&mut text).map_err(|e| Failure::new(1, e))?;
    print(&text)
}

/// Whoever reads may stop early: `catchment man | head`.
fn print(text: &[u8]) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(1, format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}
