//! Every configuration key: its name, default and meaning, in one table.
//!
//! Environment names, the unknown-key check, `docs/CONFIGURATION.md` and the sample file all come
//! from here.

/// One key.
#[derive(Debug)]
pub struct Key {
    /// `section.name`, as in the TOML file.
    pub name: &'static str,
    /// Text of the default; empty for none.
    pub default: &'static str,
    /// One sentence for a reader who knows Kinesis.
    pub help: &'static str,
}

impl Key {
    /// `CATCHMENT_SECTION_NAME`.
    pub fn environment(&self) -> String {
        format!("CATCHMENT_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }
}

/// The table, in the order of the documentation.
pub const KEYS: &[Key] = &[
    Key {
        name: "stream.name",
        default: "",
        help: "Name or ARN of the Kinesis data stream. Required.",
    },
    Key {
        name: "stream.start",
        default: "trim-horizon",
        help: "Where a shard without a checkpoint starts: `trim-horizon`, `latest`, or a time such as `2026-11-23T07:00:00Z`.",
    },
    Key {
        name: "stream.reader",
        default: "polling",
        help: "`polling` (GetRecords), `fan-out` (a registered consumer with 2 MB per second and shard of its own, which Kinesis charges for), or `auto`: fan-out if the consumer is registered.",
    },
    Key {
        name: "stream.consumer",
        default: "",
        help: "Name or ARN of the fan-out consumer; named like the application if empty. `fan-out` registers a name that is not.",
    },
    Key {
        name: "stream.idle",
        default: "1s",
        help: "Pause between polls of a shard that has nothing new.",
    },
    Key {
        name: "stream.calls_per_second",
        default: "4",
        help: "GetRecords calls per second and shard; Kinesis allows 5 to all readers together.",
    },
    Key {
        name: "stream.bytes_per_second",
        default: "2MB",
        help: "Bytes read per second and shard; Kinesis allows 2 MB to all polling readers together. `0B` for no limit.",
    },
    Key {
        name: "stream.page_records",
        default: "10000",
        help: "Most records per GetRecords call, 1 to 10000; fewer are asked for when they are large.",
    },
    Key {
        name: "stream.wire",
        default: "json",
        help: "In what GetRecords is spoken: `json` or `cbor`. CBOR takes fewer bytes and less CPU, but is unproven on the real service: only tests have answered in it so far. Where it is refused or cannot be read, the worker asks again in JSON and, if that persists, stays with it.",
    },
    Key {
        name: "lease.application",
        default: "catchment",
        help: "Application name; also the name of the DynamoDB lease table, as with the KCL.",
    },
    Key {
        name: "lease.table",
        default: "",
        help: "Lease table, if it is not named like the application.",
    },
    Key {
        name: "lease.stream_id",
        default: "",
        help: "In the table of a multi-stream KCL application: whose rows are ours, `account:stream:creationEpoch`. Found in the table if empty.",
    },
    Key {
        name: "lease.worker",
        default: "",
        help: "Worker id, unique per process life; made from the host name and a random part if empty.",
    },
    Key {
        name: "lease.failover",
        default: "10s",
        help: "A lease whose counter stands still this long may be taken. The same for the whole fleet.",
    },
    Key {
        name: "lease.scan",
        default: "1s",
        help: "How often a worker looks whether there are leases to take: at one row; the worker that owns that row reads the whole table every second time.",
    },
    Key {
        name: "lease.full_scan",
        default: "30s",
        help: "How often any other worker reads the whole table although nothing calls for it; fleets of more than five workers share these scans.",
    },
    Key {
        name: "lease.shard_sync",
        default: "60s",
        help: "How often shards are compared with leases.",
    },
    Key {
        name: "lease.attempt_timeout",
        default: "",
        help: "Longest time for one attempt of a call to the lease table, at most a tenth of `lease.failover` (or 500 ms, if a third of it is more); that, or `aws.attempt_timeout` if it is shorter, if empty.",
    },
    Key {
        name: "lease.operation_timeout",
        default: "",
        help: "Longest time for a call to the lease table with its retries, at most a third of `lease.failover`; that, or `aws.operation_timeout` if it is shorter, if empty.",
    },
    Key { name: "lease.max", default: "5000", help: "Most leases one worker holds." },
    Key { name: "delivery.bucket", default: "", help: "Destination bucket. Required." },
    Key {
        name: "delivery.prefix",
        default: "!{stream}/dt=!{timestamp:yyyy-MM-dd}/hour=!{timestamp:HH}/",
        help: "Key template of archive objects (UTC). `!{field:PATH}` stands for a field of a JSON record, see docs/PARTITIONING.md.",
    },
    Key {
        name: "delivery.time_field",
        default: "",
        help: "Path of the JSON field that holds a record's time, for the times in `delivery.prefix`; empty for the time of arrival.",
    },
    Key {
        name: "delivery.partitions",
        default: "500",
        help: "Most partitions (prefixes) in one batch of a shard.",
    },
    Key {
        name: "delivery.overflow",
        default: "cut",
        help: "When a record needs one partition more: `cut` the batch, or `spill` the record into the partition `__overflow__`.",
    },
    Key {
        name: "delivery.error_prefix",
        default: "errors/!{error}/!{stream}/dt=!{timestamp:yyyy-MM-dd}/",
        help: "Key template of dead letters.",
    },
    Key {
        name: "delivery.format",
        default: "ndjson",
        help: "`raw`, `ndjson`, `json-array` or `envelope`.",
    },
    Key { name: "delivery.compression", default: "zstd", help: "`none`, `gzip` or `zstd`." },
    Key {
        name: "delivery.level",
        default: "1",
        help: "Compression level: gzip 1 to 9, zstd 1 to 19.",
    },
    Key {
        name: "delivery.upload_events",
        default: "true",
        help: "Store upload events as objects of their own instead of archiving them.",
    },
    Key {
        name: "delivery.deaggregate",
        default: "true",
        help: "Take KPL aggregates apart; false delivers them as they came.",
    },
    Key {
        name: "delivery.foreign_records",
        default: "dead-letter",
        help: "What becomes of a user record of a KPL aggregate whose hash key belongs to another shard, where a reshard may be the cause: `dead-letter`, `keep` it like any other, or `drop` its payload and put aside only that it was there.",
    },
    Key {
        name: "delivery.batch_bytes",
        default: "64MiB",
        help: "Cut a batch at this much raw payload, or at four times as much before compression.",
    },
    Key {
        name: "delivery.batch_records",
        default: "1000000",
        help: "Cut a batch at this many records.",
    },
    Key {
        name: "delivery.batch_age",
        default: "60s",
        help: "Cut a batch when its first record has waited this long.",
    },
    Key {
        name: "delivery.inflight_batches",
        default: "2",
        help: "Batches of one shard announced and not yet committed, 1 to 8.",
    },
    Key {
        name: "delivery.concurrent_puts",
        default: "16",
        help: "Objects put at the same time by one worker.",
    },
    Key {
        name: "delivery.multipart_bytes",
        default: "32MiB",
        help: "Objects larger than this, uploaded files excepted, go up in parts of this size; at least 5MiB.",
    },
    Key {
        name: "delivery.upload_deadline",
        default: "5m",
        help: "Give a shard up for another worker to try when an object, or the next part of one, cannot be stored for this long.",
    },
    Key {
        name: "delivery.on_gap",
        default: "stop",
        help: "When records left retention undelivered: `stop` parks the shard until `catchment leases resume` (exit code 3 when nothing else is left), `continue` records the gap as a dead letter and goes on.",
    },
    Key {
        name: "delivery.on_possible_gap",
        default: "continue",
        help: "The same where records may have been lost and nothing says so either way, as in the row of a KCL whose last record has left retention: `continue` reports it and goes on, `stop` parks the shard.",
    },
    Key {
        name: "memory.budget",
        default: "256MiB",
        help: "Bytes of records held at once, whatever the number of shards.",
    },
    Key { name: "runtime.threads", default: "0", help: "Worker threads; 0 for one per core." },
    Key {
        name: "aws.attempt_timeout",
        default: "10s",
        help: "Longest time for one attempt of a call, except object uploads; calls to the lease table have `lease.attempt_timeout`.",
    },
    Key {
        name: "aws.operation_timeout",
        default: "25s",
        help: "Longest time for a call with its retries, except object uploads; calls to the lease table have `lease.operation_timeout`.",
    },
    Key {
        name: "aws.upload_timeout",
        default: "60s",
        help: "Longest time for one attempt of an object or part upload.",
    },
    Key {
        name: "aws.path_style",
        default: "false",
        help: "Address buckets by path; for S3-compatible stores.",
    },
    Key {
        name: "telemetry.listen",
        default: "127.0.0.1:9464",
        help: "Address of the status page (`/`), /events, /metrics, /livez, /readyz and /status; `off` for none. There is no login: keep it in your network.",
    },
    Key {
        name: "telemetry.logs",
        default: "auto",
        help: "`json`, `text`, or `auto`: text on a terminal.",
    },
    Key {
        name: "telemetry.shard_labels",
        default: "true",
        help: "Per-shard series; turn off for streams with very many shards.",
    },
    Key {
        name: "shutdown.deadline",
        default: "25s",
        help: "Time to drain after SIGTERM. Must be below the container's stop timeout.",
    },
];

/// The entry of a name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_also_as_environment() {
        let names: std::collections::BTreeSet<_> = KEYS.iter().map(Key::environment).collect();
        assert_eq!(names.len(), KEYS.len());
        assert_eq!(find("lease.table").unwrap().environment(), "CATCHMENT_LEASE_TABLE");
    }
}
