//! What survives a kill: an append-only log of JSON lines, rewritten at start.
//!
//! The engine's own durable mode writes its whole state again for every request. Here a request
//! costs its own size. Lines reach the operating system before they are acknowledged, so they
//! survive the end of the process (not a power cut); a line cut short by a kill was never
//! acknowledged and is dropped.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ferrokinesis::persistence::PersistentStream;
use ferrokinesis::types::{Consumer, StoredRecord};
use serde::{Deserialize, Serialize};

use crate::local::LocalError;

/// One change.
#[derive(Serialize, Deserialize)]
pub(super) enum LogLine {
    /// A stream as it is from now on.
    Stream(Box<PersistentStream>),
    /// A stream is gone.
    Deleted(String),
    /// The fan-out consumers of the stream with this ARN from now on.
    Consumers(String, Vec<Consumer>),
    /// Records of a stream, by their key in the store.
    Records(String, Vec<(String, StoredRecord)>),
}

/// Everything the log says.
#[derive(Default)]
pub(super) struct LogContents {
    pub(super) streams: BTreeMap<String, Box<PersistentStream>>,
    pub(super) consumers: BTreeMap<String, Vec<Consumer>>,
    pub(super) records: BTreeMap<String, BTreeMap<String, StoredRecord>>,
}

/// The open log. Cheap to clone.
#[derive(Clone)]
pub(super) struct Log(Arc<Mutex<File>>);

impl Log {
    /// Reads the log in `directory` and writes it anew without what is superseded.
    pub(super) fn open(directory: &Path, now_ms: i64) -> Result<(Self, LogContents), LocalError> {
        let path = directory.join("log.jsonl");
        let mut contents = read(&path)?;
        contents.drop_expired(now_ms);
        let failed = |source| LocalError::Directory { path: path.clone(), source };
        let fresh = directory.join("log.jsonl.new");
        let mut out = BufWriter::new(File::create(&fresh).map_err(failed)?);
        contents.write(&mut out).map_err(failed)?;
        out.flush().map_err(failed)?;
        out.get_ref().sync_all().map_err(failed)?;
        drop(out);
        fs::rename(&fresh, &path).map_err(failed)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(failed)?;
        Ok((Self(Arc::new(Mutex::new(file))), contents))
    }

    /// Appends one line.
    pub(super) fn append(&self, line: &LogLine) -> std::io::Result<()> {
        // By way of a `Value`, which is written by code of its own crate: that is optimised in tests too.
        let mut bytes = serde_json::to_value(line)?.to_string().into_bytes();
        bytes.push(b'\n');
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = file.metadata()?.len();
        file.write_all(&bytes).inspect_err(|_| {
            // A torn line in the middle would make the rest unreadable.
            let _ = file.set_len(before);
        })
    }
}

fn read(path: &PathBuf) -> Result<LogContents, LocalError> {
    let mut contents = LogContents::default();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(contents),
        Err(source) => {
            return Err(LocalError::Directory { path: path.clone(), source });
        }
    };
    let mut reader = BufReader::new(file);
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let failed = |reason: String| LocalError::Streams { path: path.clone(), line, reason };
        let got = reader.read_until(b'\n', &mut bytes).map_err(|e| failed(e.to_string()))?;
        if got == 0 || bytes.last() != Some(&b'\n') {
            break;
        }
        contents.apply(serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()))?);
    }
    Ok(contents)
}

impl LogContents {
    fn apply(&mut self, line: LogLine) {
        match line {
            LogLine::Stream(stream) => {
                self.streams.insert(stream.name.clone(), stream);
            }
            LogLine::Deleted(name) => {
                if let Some(stream) = self.streams.remove(&name) {
                    self.consumers.remove(&stream.stream_arn);
                }
                self.records.remove(&name);
            }
            LogLine::Consumers(arn, consumers) => {
                self.consumers.insert(arn, consumers);
            }
            LogLine::Records(name, records) => {
                self.records.entry(name).or_default().extend(records);
            }
        }
    }

    /// Drops records past their stream's retention; the counters keep their numbers from being
    /// given out again.
    fn drop_expired(&mut self, now_ms: i64) {
        for (name, stream) in &mut self.streams {
            let Some(records) = self.records.get_mut(name) else {
                continue;
            };
            for key in records.keys() {
                super::counters::count(&mut stream.shard_counters, key);
            }
            let oldest = super::retention::horizon(now_ms, stream.retention_period_hours);
            records.retain(|_, record| record.approximate_arrival_timestamp >= oldest);
        }
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let mut put = |line: &LogLine| {
            serde_json::to_writer(&mut *out, line)?;
            out.write_all(b"\n")
        };
        for stream in self.streams.values() {
            put(&LogLine::Stream(stream.clone()))?;
        }
        for (arn, consumers) in &self.consumers {
            put(&LogLine::Consumers(arn.clone(), consumers.clone()))?;
        }
        for (name, records) in &self.records {
            for (key, record) in records {
                put(&LogLine::Records(name.clone(), vec![(key.clone(), record.clone())]))?;
            }
        }
        Ok(())
    }
}
