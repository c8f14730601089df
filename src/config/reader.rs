//! Reads and validates the keys of a configuration, all problems at once.

use std::net::SocketAddr;
use std::time::Duration;

use super::raw::{ConfigProblem, Layers};
use super::{
    AwsConfig, Config, DeliveryConfig, GapPolicy, Invalid, LeaseConfig, Logs, OnGap, ReadBy,
    StreamConfig, TelemetryConfig,
};
use crate::delivery::batch::BatchLimits;
use crate::delivery::field::Path;
use crate::delivery::object_key::Template;
use crate::delivery::settings::{Codec, ForeignRecords, Format, Settings};
use crate::stream::pacing;
use crate::stream::position::InitialPosition;
use crate::stream::wire::WireFormat;

/// What a connection may take to open, on a machine with other work.
const CONNECTING: Duration = Duration::from_millis(500);
/// What to do at a gap.
const ON_GAP: &[(&str, OnGap)] = &[("stop", OnGap::Stop), ("continue", OnGap::Continue)];

impl Config {
    /// Validates all layers.
    ///
    /// # Errors
    /// [`Invalid`] with every problem there is.
    pub fn from_layers(mut layers: Layers) -> Result<Self, Invalid> {
        let problems = std::mem::take(&mut layers.problems);
        let mut read = ConfigReader { layers, problems };
        let config = read.config();
        if read.problems.is_empty() { Ok(config) } else { Err(Invalid(read.problems)) }
    }
}

struct ConfigReader {
    layers: Layers,
    problems: Vec<ConfigProblem>,
}

impl ConfigReader {
    fn config(&mut self) -> Config {
        let application = self.name("lease.application", 3, 255);
        let table = match self.layers.get("lease.table").0 {
            "" => application.clone(),
            _ => self.name("lease.table", 3, 255),
        };
        let failover = self.duration("lease.failover", 1_000, 600_000);
        Config {
            stream: self.stream(&application),
            lease: LeaseConfig {
                application,
                table,
                stream_id: Some(self.layers.get("lease.stream_id").0.to_owned())
                    .filter(|id| !id.is_empty()),
                worker: Some(self.layers.get("lease.worker").0.to_owned())
                    .filter(|w| !w.is_empty()),
                failover,
                scan: self.duration("lease.scan", 50, 60_000),
                full_scan: self.duration("lease.full_scan", 1_000, 3_600_000),
                shard_sync: self.duration("lease.shard_sync", 100, 3_600_000),
                max: self.number("lease.max", 1, 100_000),
            },
            delivery: self.delivery(),
            budget: self.bytes("memory.budget", 8 << 20, 1 << 40),
            threads: self.number("runtime.threads", 0, 1024),
            aws: self.aws(failover),
            telemetry: self.telemetry(),
            shutdown_deadline: self.duration("shutdown.deadline", 100, 3_600_000),
        }
    }

    fn stream(&mut self, application: &str) -> StreamConfig {
        StreamConfig {
            name: self.stream_name(),
            start: self.start(),
            reader: self.reader(),
            consumer: match self.layers.get("stream.consumer").0 {
                "" => application.to_owned(),
                consumer => consumer.to_owned(),
            },
            pace: pacing::PaceLimits {
                idle: self.duration("stream.idle", 10, 60_000),
                calls_per_second: self.number::<f64>("stream.calls_per_second", 0.1, 1000.0),
                bytes_per_second: match self.bytes("stream.bytes_per_second", 0, 1 << 40) {
                    0 => f64::INFINITY,
                    bytes => bytes as f64,
                },
            },
            page_records: self.number("stream.page_records", 1, 10_000),
            wire: self
                .choice("stream.wire", &[("json", WireFormat::Json), ("cbor", WireFormat::Cbor)]),
        }
    }

    fn delivery(&mut self) -> DeliveryConfig {
        let codec: Codec = self.parse("delivery.compression", Codec::Zstd);
        let level = self.level(codec);
        let partitions = self.number("delivery.partitions", 1, 10_000_u32);
        let spills = self.choice("delivery.overflow", &[("cut", false), ("spill", true)]);
        let limits = BatchLimits {
            partitions: partitions as usize,
            bytes: self.bytes("delivery.batch_bytes", 1, 5 << 30) as u64,
            records: self.number("delivery.batch_records", 1, 100_000_000),
            age: self.duration("delivery.batch_age", 50, 86_400_000),
            ..BatchLimits::NONE
        };
        DeliveryConfig {
            settings: Settings {
                format: self.parse("delivery.format", Format::Ndjson),
                codec,
                level,
                prefix: self.template("delivery.prefix", false),
                time_field: self.field("delivery.time_field"),
                spill: if spills { partitions } else { 0 },
                errors: self.template("delivery.error_prefix", true),
                uploads: self.parse("delivery.upload_events", true),
                deaggregate: self.parse("delivery.deaggregate", true),
                foreign_records: self.choice(
                    "delivery.foreign_records",
                    &[
                        ("dead-letter", ForeignRecords::DeadLetter),
                        ("keep", ForeignRecords::Keep),
                        ("drop", ForeignRecords::Drop),
                    ],
                ),
                ..Settings::new(&self.bucket(), "")
            },
            limits,
            inflight_batches: self.number("delivery.inflight_batches", 1, 8),
            concurrent_puts: self.number("delivery.concurrent_puts", 1, 1024),
            multipart_bytes: self.bytes("delivery.multipart_bytes", 5 << 20, 1 << 30),
            upload_deadline: self.duration("delivery.upload_deadline", 1_000, 86_400_000),
            gaps: GapPolicy {
                known: self.choice("delivery.on_gap", ON_GAP),
                possible: self.choice("delivery.on_possible_gap", ON_GAP),
            },
        }
    }

    /// Time-outs of the lease table follow from the failover time.
    fn aws(&mut self, failover: Duration) -> AwsConfig {
        let attempt_timeout = self.duration("aws.attempt_timeout", 100, 300_000);
        let operation_timeout = self.duration("aws.operation_timeout", 100, 600_000);
        if operation_timeout < attempt_timeout {
            self.problem("aws.operation_timeout", "must not be below aws.attempt_timeout");
        }
        // A write of unknown outcome is told, and repeated, before the lease it keeps runs out.
        // Not less than what a new connection may take, while a second attempt has room.
        let tenth = (failover / 10).max(CONNECTING.min(failover / 3));
        let table_attempt_timeout =
            self.within("lease.attempt_timeout", attempt_timeout, tenth, "tenth");
        let table_operation_timeout =
            self.within("lease.operation_timeout", operation_timeout, failover / 3, "third");
        if table_operation_timeout < table_attempt_timeout {
            self.problem("lease.operation_timeout", "must not be below lease.attempt_timeout");
        }
        AwsConfig {
            attempt_timeout,
            operation_timeout,
            table_attempt_timeout,
            table_operation_timeout,
            upload_timeout: self.duration("aws.upload_timeout", 1_000, 3_600_000),
            path_style: self.parse("aws.path_style", false),
        }
    }

    fn telemetry(&mut self) -> TelemetryConfig {
        TelemetryConfig {
            listen: match self.layers.get("telemetry.listen").0 {
                "off" => None,
                _ => Some(self.parse("telemetry.listen", SocketAddr::from(([127, 0, 0, 1], 0)))),
            },
            logs: self.choice(
                "telemetry.logs",
                &[("auto", Logs::Auto), ("json", Logs::Json), ("text", Logs::Text)],
            ),
            shard_labels: self.parse("telemetry.shard_labels", true),
        }
    }

    fn problem(&mut self, name: &'static str, reason: impl Into<String>) {
        let (value, source) = self.layers.get(name);
        let value = value.to_owned();
        self.problems.push(ConfigProblem {
            key: name.into(),
            value,
            reason: reason.into(),
            source,
        });
    }

    fn parse<T: std::str::FromStr>(&mut self, name: &'static str, fallback: T) -> T
    where
        T::Err: std::fmt::Display,
    {
        match self.layers.get(name).0.parse() {
            Ok(value) => value,
            Err(error) => {
                let reason = error.to_string();
                self.problem(name, reason);
                fallback
            }
        }
    }

    fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> T {
        let value = self.layers.get(name).0;
        if let Some((_, choice)) = choices.iter().find(|(text, _)| *text == value) {
            return *choice;
        }
        let known: Vec<_> = choices.iter().map(|(text, _)| *text).collect();
        self.problem(name, format!("one of {} is expected", known.join(", ")));
        choices[0].1
    }

    fn number<T>(&mut self, name: &'static str, min: T, max: T) -> T
    where
        T: std::str::FromStr + PartialOrd + std::fmt::Display,
    {
        match self.layers.get(name).0.parse::<T>() {
            Ok(value) if value >= min && value <= max => value,
            _ => {
                self.problem(name, format!("a number from {min} to {max} is expected"));
                min
            }
        }
    }

    fn bytes(&mut self, name: &'static str, min: usize, max: usize) -> usize {
        let size = self.layers.get(name).0.parse::<bytesize::ByteSize>();
        match size.map(|s| usize::try_from(s.as_u64()).unwrap_or(usize::MAX)) {
            Ok(bytes) if bytes >= min && bytes <= max => bytes,
            _ => {
                let show = |n: usize| bytesize::ByteSize::b(n as u64).display().iec().to_string();
                self.problem(
                    name,
                    format!(
                        "a size such as `64MiB` from {} to {} is expected",
                        show(min),
                        show(max)
                    ),
                );
                min
            }
        }
    }

    fn duration(&mut self, name: &'static str, min_ms: u64, max_ms: u64) -> Duration {
        let (min, max) = (Duration::from_millis(min_ms), Duration::from_millis(max_ms));
        match humantime::parse_duration(self.layers.get(name).0) {
            Ok(value) if value >= min && value <= max => value,
            _ => {
                let (min_text, max_text) =
                    (humantime::format_duration(min), humantime::format_duration(max));
                self.problem(
                    name,
                    format!("a duration such as `10s` from {min_text} to {max_text} is expected"),
                );
                min
            }
        }
    }

    /// A time-out of the lease table: within its part of the failover time, which it is, or `usual`
    /// if that is shorter, when it is not set.
    fn within(
        &mut self,
        name: &'static str,
        usual: Duration,
        most: Duration,
        part: &str,
    ) -> Duration {
        let derived = most.min(usual);
        if self.layers.get(name).0.is_empty() {
            return derived;
        }
        let set = self.duration(name, 50, 200_000);
        if set <= most {
            return set;
        }
        let most = humantime::format_duration(Duration::from_millis(
            u64::try_from(most.as_millis()).unwrap_or(u64::MAX),
        ));
        self.problem(
            name,
            format!(
                "must not be above a {part} of lease.failover, {most}: a lease would be lost for one \
                 slow write. Lower it, leave it out, or raise lease.failover on the whole fleet"
            ),
        );
        derived
    }

    fn name(&mut self, name: &'static str, min: usize, max: usize) -> String {
        let value = self.layers.get(name).0.to_owned();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if value.len() < min || value.len() > max || !value.chars().all(legal) {
            self.problem(
                name,
                format!("{min} to {max} letters, digits, `_`, `-` or `.` are expected"),
            );
        }
        value
    }

    fn stream_name(&mut self) -> String {
        let value = self.layers.get("stream.name").0.to_owned();
        let name = if value.starts_with("arn:") {
            value.rsplit_once(":stream/").map(|(_, name)| name)
        } else {
            Some(value.as_str())
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if value.is_empty() {
            self.problem("stream.name", "is required: the name or ARN of a Kinesis data stream");
        } else if !name.is_some_and(|n| !n.is_empty() && n.len() <= 128 && n.chars().all(legal)) {
            self.problem(
                "stream.name",
                "a stream name (1 to 128 letters, digits, `_`, `-`, `.`) or an ARN such as \
                 `arn:aws:kinesis:eu-west-1:123456789012:stream/NAME` is expected",
            );
        }
        value
    }

    fn bucket(&mut self) -> String {
        let value = self.layers.get("delivery.bucket").0.to_owned();
        let legal =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if value.is_empty() {
            self.problem("delivery.bucket", "is required: the destination bucket");
        } else if value.len() < 3 || value.len() > 63 || !value.chars().all(legal) {
            self.problem(
                "delivery.bucket",
                "a bucket name is 3 to 63 lower-case letters, digits, `-` or `.`; no `s3://`, no path",
            );
        }
        value
    }

    fn start(&mut self) -> InitialPosition {
        let value = self.layers.get("stream.start").0;
        match value {
            "trim-horizon" => InitialPosition::TrimHorizon,
            "latest" => InitialPosition::Latest,
            _ => match value.parse::<jiff::Timestamp>() {
                Ok(time) => InitialPosition::AtTimestamp(time.as_millisecond()),
                Err(_) => {
                    self.problem(
                        "stream.start",
                        "`trim-horizon`, `latest` or a time such as `2026-11-23T07:00:00Z` is expected",
                    );
                    InitialPosition::TrimHorizon
                }
            },
        }
    }

    fn reader(&mut self) -> ReadBy {
        match self.layers.get("stream.reader").0 {
            "polling" => ReadBy::Polling,
            "fan-out" => ReadBy::FanOut,
            "auto" => ReadBy::Auto,
            _ => {
                self.problem("stream.reader", "one of polling, fan-out, auto is expected");
                ReadBy::Polling
            }
        }
    }

    fn level(&mut self, codec: Codec) -> i32 {
        if codec == Codec::None {
            return 0;
        }
        let levels = codec.levels();
        self.number("delivery.level", *levels.start(), *levels.end())
    }

    fn field(&mut self, name: &'static str) -> String {
        let value = self.layers.get(name).0.to_owned();
        if !value.is_empty()
            && let Err(why) = Path::parse(&value)
        {
            self.problem(name, why);
        }
        value
    }

    fn template(&mut self, name: &'static str, errors: bool) -> String {
        let value = self.layers.get(name).0.to_owned();
        if let Err(error) = Template::parse(&value, errors) {
            self.problem(name, error.to_string());
        }
        value
    }
}
