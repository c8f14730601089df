//! The processes beside this one, and what they say of themselves.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Outcome, STREAM};

const BIN: &str = env!("CARGO_BIN_EXE_catchment");

/// A process that does not outlive us.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Without settings that happen to be in our environment.
fn catchment() -> Command {
    let mut command = Command::new(BIN);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CATCHMENT_")) {
        command.env_remove(name);
    }
    command
}

/// A lease table over TLS in a process of its own: the real one does not share its processors with
/// the pushing of a thousand subscriptions.
pub(crate) struct Table {
    process: Process,
    pub(crate) endpoint: String,
    pub(crate) authority: PathBuf,
}

impl Table {
    pub(crate) fn start() -> Outcome<Self> {
        let mut child = catchment()
            .args(["local", "--workers", "0", "--tls"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let process = Process(child);
        let (mut endpoint, mut authority) = (None, None);
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            let Some((name, value)) = line.trim_start_matches("export ").split_once('=') else {
                continue;
            };
            let value = value.trim_matches('\'').to_owned();
            match name {
                "AWS_ENDPOINT_URL" => endpoint = Some(value),
                "AWS_CA_BUNDLE" => authority = Some(PathBuf::from(value)),
                // The last line.
                "AWS_CBOR_DISABLE" => break,
                _ => {}
            }
        }
        let endpoint = endpoint.ok_or("`catchment local` names no endpoint")?;
        let authority = authority.ok_or("`catchment local` names no authority")?;
        Ok(Self { process, endpoint, authority })
    }

    pub(crate) fn cpu(&self) -> Outcome<f64> {
        self.process.cpu()
    }
}

/// `catchment run`, with its page of metrics.
pub(crate) struct Worker {
    process: Process,
    listen: String,
}

impl Worker {
    /// With defaults, but that it subscribes, and that a record is not a minute under way.
    pub(crate) fn start(environment: &[(String, String)]) -> Outcome<Self> {
        // Nobody else takes it in a moment.
        let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let child = catchment()
            .args(["run", "--stream", STREAM, "--bucket", "archive"])
            .args(["--set", "stream.reader=fan-out", "--set", "aws.path_style=true"])
            .args(["--set", "delivery.batch_age=2s"])
            .args(["--set", &format!("telemetry.listen={listen}")])
            .envs(environment.iter().cloned())
            .env("CATCHMENT_LOG", "warn")
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { process: Process(child), listen })
    }

    /// A metric, all its labels together.
    pub(crate) fn metric(&self, name: &str) -> Outcome<f64> {
        let mut stream = TcpStream::connect(&self.listen)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        let of_name =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let values = reply.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next());
        Ok(values.filter_map(|value| value.parse::<f64>().ok()).sum())
    }

    /// CPU seconds so far, user and system, all threads.
    pub(crate) fn cpu(&self) -> Outcome<f64> {
        self.process.cpu()
    }

    /// The most memory it has held, bytes.
    pub(crate) fn peak(&self) -> Outcome<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: u64 = line.ok_or("no VmHWM")?.trim().trim_end_matches(" kB").parse()?;
        Ok(kib << 10)
    }

    /// Lets it finish what is in hand.
    pub(crate) fn stop(mut self) -> Outcome<()> {
        Command::new("kill").args(["-TERM", &self.process.0.id().to_string()]).status()?;
        let status = self.process.0.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the worker ended: {status}").into()) }
    }
}

/// Ticks of /proc/PID/stat per second; the same on every Linux.
const TICKS: f64 = 100.0;

impl Process {
    fn cpu(&self) -> Outcome<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let mut fields = fields.split_whitespace().skip(11);
        let mut next = || fields.next().and_then(|f| f.parse::<f64>().ok());
        let (user, system) = (next(), next());
        Ok((user.ok_or("stat")? + system.ok_or("stat")?) / TICKS)
    }
}

/// The lines of all objects below a directory, sorted.
pub(crate) fn lines(directory: &Path) -> Outcome<Vec<String>> {
    let (mut lines, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let mut raw = Vec::new();
                zstd::stream::copy_decode(std::fs::File::open(path)?, &mut raw)?;
                lines.extend(String::from_utf8(raw)?.lines().map(str::to_owned));
            }
        }
    }
    lines.sort();
    Ok(lines)
}
