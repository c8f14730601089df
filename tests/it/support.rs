//! Starts the real binary and talks to it as a user would.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use catchment::aws::clients::Clients;
use catchment::config::AwsConfig;

pub(crate) const BIN: &str = env!("CARGO_BIN_EXE_catchment");

/// Seconds that S3 is away in the memory test. Not for the binary, which refuses names it does not
/// know.
pub(crate) const OUTAGE: &str = "CATCHMENT_OUTAGE_SECONDS";

/// A process that does not outlive its test.
pub(crate) struct Running {
    pub(crate) child: Child,
    /// `export` lines it printed.
    pub(crate) environment: Vec<(String, String)>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for the end; the bound only keeps a hanging test from hanging for ever.
    pub(crate) fn wait(&mut self, bound: Duration) -> std::process::ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < bound, "the process did not end within {bound:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Embedded services in a process of their own, without workers.
pub(crate) fn services(data_dir: &Path, shards: u32) -> Running {
    let mut child = Command::new(BIN)
        .args(["local", "--workers", "0", "--shards", &shards.to_string(), "--data-dir"])
        .arg(data_dir)
        .env_remove(OUTAGE)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut environment = Vec::new();
    let stdout = child.stdout.take().unwrap();
    for line in BufReader::new(stdout).lines() {
        let line = line.unwrap();
        let (name, value) = line.strip_prefix("export ").unwrap().split_once('=').unwrap();
        environment.push((name.to_owned(), value.trim_matches('\'').to_owned()));
        if environment.len() == 7 {
            break;
        }
    }
    Running { child, environment }
}

/// `catchment run` against started services.
pub(crate) fn worker(services: &Running, settings: &[(&str, &str)]) -> Running {
    let mut command = Command::new(BIN);
    command
        .arg("run")
        .args(["--stream", "local", "--bucket", "archive"])
        .args(["--set", "aws.path_style=true", "--set", "telemetry.listen=off"])
        .args(["--set", "stream.idle=100ms", "--set", "stream.calls_per_second=50"])
        .args(["--set", "lease.scan=200ms"])
        .envs(services.environment.iter().cloned())
        .env("CATCHMENT_LOG", "info")
        .env_remove(OUTAGE)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    for (key, value) in settings {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    Running { child: command.spawn().unwrap(), environment: Vec::new() }
}

/// Sends lines to the stream of started services.
pub(crate) fn send(services: &Running, dir: &Path, name: &str, lines: &[Vec<u8>]) {
    let file = dir.join(name);
    std::fs::write(&file, lines.join(&b'\n')).unwrap();
    let output = catchment(
        &["send", "--stream", "local", "--input", file.to_str().unwrap()],
        &services.environment,
    );
    assert!(output.status.success(), "{}", stderr(&output));
}

/// The lines of the archive objects below a prefix, sorted.
pub(crate) fn lines_below(data_dir: &Path, prefix: &str) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = objects(data_dir, "archive")
        .into_iter()
        .filter(|(key, _)| key.starts_with(prefix))
        .flat_map(|(_, raw)| {
            let raw = raw.strip_suffix(b"\n").map(<[u8]>::to_vec).unwrap_or(raw);
            raw.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>()
        })
        .collect();
    lines.sort();
    lines
}

/// Runs the binary to its end.
pub(crate) fn catchment(arguments: &[&str], environment: &[(String, String)]) -> Output {
    let mut command = Command::new(BIN);
    command.args(arguments).envs(environment.iter().cloned()).env_remove(OUTAGE);
    command.stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until `done` answers; the bound only ends a test that hangs.
pub(crate) fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "never happened: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Every object below a bucket's directory: key and decoded bytes.
pub(crate) fn objects(data_dir: &Path, bucket: &str) -> Vec<(String, Vec<u8>)> {
    fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(dir) else {
            return;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else {
                files.push(path);
            }
        }
    }
    let root = data_dir.join(bucket);
    let mut files = Vec::new();
    walk(&root, &mut files);
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let key = path.strip_prefix(&root).unwrap().display().to_string();
            let bytes = std::fs::read(&path).unwrap();
            let mut raw = Vec::new();
            if key.ends_with(".zst") {
                zstd::stream::copy_decode(bytes.as_slice(), &mut raw).unwrap();
            } else if key.ends_with(".gz") {
                flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut raw).unwrap();
            } else {
                raw = bytes;
            }
            (key, raw)
        })
        .collect()
}

/// All lines of all objects, sorted.
pub(crate) fn lines(data_dir: &Path) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = objects(data_dir, "archive")
        .into_iter()
        .flat_map(|(_, raw)| {
            let raw = raw.strip_suffix(b"\n").map(<[u8]>::to_vec).unwrap_or(raw);
            raw.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>()
        })
        .collect();
    lines.sort();
    lines
}

/// SDK clients of the services.
pub(crate) fn clients(services: &Running) -> Clients {
    let endpoint = services.environment.iter().find(|(name, _)| name == "AWS_ENDPOINT_URL");
    Clients::at(&endpoint.unwrap().1, "us-east-1", &calls())
}

/// Time-outs for a busy machine.
pub(crate) fn calls() -> AwsConfig {
    AwsConfig {
        attempt_timeout: Duration::from_secs(30),
        operation_timeout: Duration::from_secs(60),
        table_attempt_timeout: Duration::from_secs(30),
        table_operation_timeout: Duration::from_secs(60),
        upload_timeout: Duration::from_secs(60),
        path_style: true,
    }
}
