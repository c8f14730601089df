//! What a worker costs and how late it is, from the outside: release processes, the embedded
//! services in one of their own, loopback. `benches/README.md` tells how to read it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "tables are the result")]

mod backlog;
mod catch_up;
#[path = "../shared/document.rs"]
mod document;
mod front;
mod idle;
mod latency;
mod process;
#[path = "../shared/reader.rs"]
mod reader;
mod report;
mod roles;

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use catchment::clock::Clock;

use backlog::{Backlog, FOREVER};
use front::Front;
use process::Process;
use report::Report;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// After this long without what is waited for, something is broken.
const PATIENCE: Duration = Duration::from_secs(600);

/// What the command line asks for.
#[derive(Default)]
struct Options {
    quick: bool,
    write: bool,
    only: Vec<String>,
    role: Option<String>,
    serve: Option<u16>,
    endpoint: Option<SocketAddr>,
    shards: u64,
    size: usize,
}

/// What every part needs.
pub(crate) struct Bench {
    pub(crate) clock: Clock,
    pub(crate) quick: bool,
    pub(crate) services: SocketAddr,
    _services: Process,
    _data: tempfile::TempDir,
}

fn main() -> Outcome<()> {
    let options = options()?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().build()?;
    if let (Some(role), Some(endpoint)) = (&options.role, options.endpoint) {
        return runtime.block_on(Box::pin(roles::run(role, endpoint, options.shards)));
    }
    runtime.block_on(Box::pin(run(&options)))
}

async fn run(options: &Options) -> Outcome<()> {
    if cfg!(debug_assertions) {
        println!("This build is not optimised: figures mean nothing.\n");
    }
    let data = tempfile::tempdir()?;
    let (process, services) = process::services(data.path(), 4)?;
    let bench = Bench {
        clock: Clock::system(),
        quick: options.quick,
        services,
        _services: process,
        _data: data,
    };
    if let Some(port) = options.serve {
        return bench.serve(port, options.shards, options.size).await;
    }
    let mut report = Report::default();
    let wanted = |part: &str| options.only.is_empty() || options.only.iter().any(|o| o == part);
    if wanted("latency") {
        latency::run(&bench, &mut report).await?;
    }
    if wanted("catch-up") {
        catch_up::run(&bench, &mut report).await?;
    }
    if wanted("partitions") {
        catch_up::partitions(&bench, &mut report).await?;
    }
    if wanted("idle") {
        idle::run(&bench, &mut report).await?;
    }
    if options.write { report.write() } else { Ok(()) }
}

impl Bench {
    pub(crate) fn front(&self, backlog: Option<Backlog>) -> Outcome<Front> {
        Ok(Front::start(backlog, self.services, 0, &self.clock)?)
    }

    /// Waits for something to be so.
    pub(crate) async fn until(
        &self,
        what: &str,
        of: &mut [Process],
        mut done: impl FnMut() -> bool,
    ) -> Outcome<()> {
        let begun = self.clock.now();
        while !done() {
            of.iter_mut().try_for_each(Process::check)?;
            if self.clock.now() - begun > PATIENCE {
                return Err(format!("after {PATIENCE:?} still not: {what}").into());
            }
            self.clock.sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// A backlog without end, or idle shards with a size of 0, for programs that others start, until
    /// standard input is closed.
    async fn serve(&self, port: u16, shards: u64, size: usize) -> Outcome<()> {
        let records = if size == 0 { 0 } else { FOREVER };
        let backlog = Backlog::new(shards, records, size, self.clock.wall());
        let front = Front::start(Some(backlog), self.services, port, &self.clock)?;
        let this = std::env::current_exe()?;
        println!("http://{} {} {}", front.address, this.display(), process::BIN);
        tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await?;
        Ok(())
    }
}

fn options() -> Outcome<Options> {
    let mut options = Options { shards: 1, size: 1000, ..Options::default() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            // Cargo adds it.
            "--bench" => {}
            "--quick" => options.quick = true,
            "--write" => options.write = true,
            "--only" => options.only.push(value()?),
            "--serve" => options.serve = Some(value()?.parse()?),
            "--role" => options.role = Some(value()?),
            "--endpoint" => options.endpoint = Some(value()?.parse()?),
            "--shards" => options.shards = value()?.parse()?,
            "--size" => options.size = value()?.parse()?,
            other => {
                return Err(format!(
                    "{other}: --quick, --write, --only latency|catch-up|partitions|idle, or \
                     --serve PORT [--shards N] [--size BYTES] is expected"
                )
                .into());
            }
        }
    }
    Ok(options)
}

/// The middle one.
pub(crate) fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
