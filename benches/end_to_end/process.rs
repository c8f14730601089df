//! Processes, and what the kernel says of them.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::Outcome;

pub(crate) const BIN: &str = env!("CARGO_BIN_EXE_catchment");
/// Ticks of /proc/PID/stat per second; the same on every Linux.
const TICKS: f64 = 100.0;

/// A process that does not outlive us.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Memory of a process, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) peak: u64,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Outcome<Self> {
        let quiet = std::env::var_os("BENCH_STDERR").is_none();
        let errors = if quiet { Stdio::null() } else { Stdio::inherit() };
        Ok(Self(command.stdout(Stdio::null()).stderr(errors).spawn()?))
    }

    /// CPU seconds so far, user and system, all threads.
    pub(crate) fn cpu(&self) -> Outcome<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let mut fields = fields.split_whitespace().skip(11);
        let mut next = || fields.next().and_then(|f| f.parse::<f64>().ok());
        let (user, system) = (next(), next());
        Ok((user.ok_or("stat")? + system.ok_or("stat")?) / TICKS)
    }

    pub(crate) fn memory(&self) -> Outcome<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let of = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let kib = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
            kib.map(|kib| kib << 10).ok_or(format!("no {name} in its status: did it end?"))
        };
        Ok(Memory { resident: of("VmRSS:")?, peak: of("VmHWM:")? })
    }

    /// Is it still running?
    pub(crate) fn check(&mut self) -> Outcome<()> {
        match self.0.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("a process ended early: {status}").into()),
        }
    }

    pub(crate) fn terminate(&mut self) -> Outcome<()> {
        Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status()?;
        self.0.wait()?;
        Ok(())
    }
}

/// Without settings that happen to be in our environment.
fn plain(mut command: Command) -> Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CATCHMENT_")) {
        command.env_remove(name);
    }
    command
}

/// `catchment local` without workers.
pub(crate) fn services(data: &Path, shards: usize) -> Outcome<(Process, SocketAddr)> {
    let mut child = plain(Command::new(BIN))
        .args(["local", "--workers", "0", "--shards", &shards.to_string(), "--data-dir"])
        .arg(data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdout = child.stdout.take().ok_or("no output")?;
    let process = Process(child);
    let mut address = None;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some((_, endpoint)) = line.split_once("AWS_ENDPOINT_URL=") {
            let endpoint = endpoint.trim_matches('\'').trim_start_matches("http://");
            address = Some(endpoint.parse()?);
            break;
        }
    }
    Ok((process, address.ok_or("`catchment local` names no endpoint")?))
}

/// The environment that leads every client of ours to an address.
pub(crate) fn environment(command: &mut Command, address: SocketAddr) {
    command
        .env("AWS_ENDPOINT_URL", format!("http://{address}"))
        .env("AWS_ACCESS_KEY_ID", "local")
        .env("AWS_SECRET_ACCESS_KEY", "local-secret")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        // Replies here are JSON.
        .env("AWS_CBOR_DISABLE", "true")
        .env("CATCHMENT_LOG", "warn");
}

/// `catchment run`, with defaults but for `settings`; `core`: nowhere else.
pub(crate) fn worker(
    stream: &str,
    address: SocketAddr,
    settings: &[String],
    core: Option<usize>,
) -> Outcome<Process> {
    let mut command = match core {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.args(["-c", &core.to_string(), BIN]);
            plain(command)
        }
        None => plain(Command::new(BIN)),
    };
    command.args(["run", "--stream", stream, "--bucket", "archive"]);
    command.args(["--set", "aws.path_style=true", "--set", "telemetry.listen=off"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    environment(&mut command, address);
    Process::start(&mut command)
}

/// This program again, in another role.
pub(crate) fn role(name: &str, address: SocketAddr, arguments: &[String]) -> Outcome<Process> {
    // Not by its path: a build may have replaced it.
    let mut command = Command::new("/proc/self/exe");
    command.args(["--role", name, "--endpoint", &address.to_string()]).args(arguments);
    Process::start(&mut command)
}
