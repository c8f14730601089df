//! Configuration: text layers into values that cannot be wrong.
//!
//! Every problem is reported at once, with key, value, reason and source.

pub mod keys;
pub mod print;
pub mod raw;
mod reader;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::batch::BatchLimits;
use crate::delivery::recipe::Recipe;
use crate::delivery::settings::Settings;
use crate::stream::pacing;
use crate::stream::position::InitialPosition;
use crate::stream::wire::WireFormat;
use raw::ConfigProblem;

/// The validated configuration, by concern.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to read.
    pub stream: StreamConfig,
    /// How to share it.
    pub lease: LeaseConfig,
    /// What to write.
    pub delivery: DeliveryConfig,
    /// Byte budget of the process.
    pub budget: usize,
    /// Worker threads; 0 for one per core.
    pub threads: usize,
    /// Calls to AWS.
    pub aws: AwsConfig,
    /// What to show.
    pub telemetry: TelemetryConfig,
    /// Time to drain.
    pub shutdown_deadline: Duration,
}

/// Reading.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// Name or ARN.
    pub name: String,
    /// Start of shards without a checkpoint.
    pub start: InitialPosition,
    /// How shards are read.
    pub reader: ReadBy,
    /// Name or ARN of the fan-out consumer.
    pub consumer: String,
    /// Polling pace.
    pub pace: pacing::PaceLimits,
    /// Most records per call.
    pub page_records: i32,
    /// In what GetRecords is spoken.
    pub wire: WireFormat,
}

/// How shards are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBy {
    /// GetRecords.
    Polling,
    /// SubscribeToShard; the consumer is registered if need be.
    FanOut,
    /// SubscribeToShard if the consumer is registered.
    Auto,
}

/// Coordination.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    /// Application name.
    pub application: String,
    /// DynamoDB table.
    pub table: String,
    /// StreamConfig identifier of our rows in a multi-stream table.
    pub stream_id: Option<String>,
    /// Explicit worker id.
    pub worker: Option<String>,
    /// Expiry of a standing counter.
    pub failover: Duration,
    /// Look for leases to take.
    pub scan: Duration,
    /// Read the whole table although nothing calls for it.
    pub full_scan: Duration,
    /// Compare shards with leases.
    pub shard_sync: Duration,
    /// Most leases held.
    pub max: usize,
}

/// What to do when records are lost to retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnGap {
    /// Park the shard; end with exit code 3 when nothing else is left.
    Stop,
    /// Record it and go on.
    Continue,
}

/// By what is known of a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GapPolicy {
    /// Records were lost.
    pub known: OnGap,
    /// Records may have been lost.
    pub possible: OnGap,
}

impl GapPolicy {
    /// Whether shards wait for an operator at some gaps. Who never waits passes what others wait at.
    pub fn waits(self) -> bool {
        self.known == OnGap::Stop || self.possible == OnGap::Stop
    }
}

/// Writing.
#[derive(Clone, Debug)]
pub struct DeliveryConfig {
    /// What decides which objects records become; the name of the stream is filled in at start. A
    /// replay puts its own here.
    pub settings: Settings,
    /// When to cut.
    pub limits: BatchLimits,
    /// Announced batches per shard.
    pub inflight_batches: usize,
    /// Concurrent puts.
    pub concurrent_puts: usize,
    /// Part size and threshold.
    pub multipart_bytes: usize,
    /// Give a shard up after this.
    pub upload_deadline: Duration,
    /// Policies for lost records.
    pub gaps: GapPolicy,
}

impl DeliveryConfig {
    /// The recipe for a stream.
    ///
    /// # Errors
    /// Only for templates that [`Config::from_layers`] would have refused.
    pub fn recipe(&self, stream: &str) -> Result<Recipe, crate::delivery::object_key::BadTemplate> {
        let settings = Settings { stream: stream.to_owned(), ..self.settings.clone() };
        Recipe::new(Arc::new(settings.versioned()))
    }
}

/// Calls.
#[derive(Clone, Debug)]
pub struct AwsConfig {
    /// One attempt.
    pub attempt_timeout: Duration,
    /// All attempts of a call.
    pub operation_timeout: Duration,
    /// One attempt of a call to the lease table; a tenth of the failover time or less.
    pub table_attempt_timeout: Duration,
    /// All attempts of a call to the lease table; a third of the failover time or less.
    pub table_operation_timeout: Duration,
    /// One attempt of an upload.
    pub upload_timeout: Duration,
    /// Buckets in the path.
    pub path_style: bool,
}

/// Form of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logs {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
    /// Text on a terminal, JSON elsewhere.
    Auto,
}

/// Showing.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// Address of the HTTP endpoint.
    pub listen: Option<SocketAddr>,
    /// Log form.
    pub logs: Logs,
    /// Label series by shard.
    pub shard_labels: bool,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} problem{}:{}", .0.len(), if .0.len() == 1 { "" } else { "s" },
    .0.iter().map(|p| format!("\n  {p}")).collect::<String>())]
pub struct Invalid(pub Vec<ConfigProblem>);

#[cfg(test)]
mod tests {
    use super::raw::Layers;
    use super::*;

    fn load(text: &str) -> Result<Config, Invalid> {
        let mut layers = Layers::default();
        layers.file("catchment.toml", text);
        Config::from_layers(layers)
    }

    #[test]
    fn a_minimal_file_is_enough() {
        let config =
            load("[stream]\nname = \"clicks\"\n[delivery]\nbucket = \"archive\"\n").unwrap();
        assert_eq!(config.lease.table, "catchment");
        assert_eq!(config.delivery.limits.bytes, 64 << 20);
        assert_eq!(config.lease.failover, Duration::from_secs(10));
        let recipe = config.delivery.recipe("clicks").unwrap();
        assert_eq!(*recipe.settings, Settings::new("archive", "clicks"));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let error = load(
            "[stream]\nstart = \"soon\"\npage_records = 0\n\
             [delivery]\nbucket = \"s3://x/\"\nprefix = \"!{year}/\"\nbatch_bytes = \"huge\"\n\
             compression = \"gzip\"\nlevel = 12\n[memory]\nbudget = \"1KiB\"\n",
        )
        .unwrap_err();
        let text = error.to_string();
        for part in [
            "stream.name",
            "stream.start",
            "stream.page_records",
            "delivery.bucket",
            "delivery.prefix",
            "delivery.batch_bytes",
            "delivery.level",
            "memory.budget",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert_eq!(error.0.len(), 8, "{text}");
    }

    #[test]
    fn a_call_to_the_lease_table_ends_well_within_the_failover_time() {
        let load = |text: &str| {
            load(&format!("[stream]\nname = \"s\"\n[delivery]\nbucket = \"abc\"\n{text}"))
        };
        let table = |text: &str| {
            let aws = load(text).unwrap().aws;
            [aws.table_attempt_timeout, aws.table_operation_timeout].map(|d| d.as_millis())
        };
        assert_eq!(table(""), [1_000, 3_333]);
        assert_eq!(table("[lease]\nfailover = \"60s\"\n"), [6_000, 20_000]);
        // A new connection takes its time, however short the failover time.
        assert_eq!(table("[lease]\nfailover = \"3s\"\n"), [500, 1_000]);
        assert_eq!(table("[lease]\nfailover = \"1s\"\n"), [333, 333]);
        // Never longer than any other call.
        assert_eq!(table("[lease]\nfailover = \"10m\"\n"), [10_000, 25_000]);
        assert_eq!(
            table("[lease]\nattempt_timeout = \"300ms\"\noperation_timeout = \"1s\"\n"),
            [300, 1_000]
        );
        let long = "[lease]\nattempt_timeout = \"2s\"\noperation_timeout = \"4s\"\n";
        let error = load(long).unwrap_err();
        let text = error.to_string();
        for part in [
            "lease.attempt_timeout",
            "2s",
            "a tenth of lease.failover, 1s",
            "lease.operation_timeout",
            "4s",
            "a third of lease.failover, 3s 333ms",
            "raise lease.failover",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert_eq!(error.0.len(), 2, "{text}");
        let crossed = "[lease]\nattempt_timeout = \"1s\"\noperation_timeout = \"500ms\"\n";
        assert!(load(crossed).unwrap_err().to_string().contains("must not be below"));
    }

    #[test]
    fn arns_are_stream_names() {
        let name =
            |n: &str| load(&format!("[stream]\nname = \"{n}\"\n[delivery]\nbucket = \"abc\"\n"));
        assert!(name("arn:aws:kinesis:eu-west-1:123456789012:stream/clicks").is_ok());
        assert!(name("arn:aws:kinesis:eu-west-1:123456789012:clicks").is_err());
        assert!(name("a b").is_err());
    }
}
