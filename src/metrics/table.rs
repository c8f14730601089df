//! Every metric, in one table: name, type, labels, help.
//!
//! Base units only; the help texts carry the AWS words that operators search for.

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Only grows, by fractions.
    FloatCounter,
    /// Integer that goes up and down.
    Gauge,
    /// Fraction that goes up and down.
    FloatGauge,
    /// Distribution of seconds.
    Seconds,
    /// Distribution of bytes.
    Bytes,
}

/// One row of the table.
#[derive(Debug)]
pub struct Def {
    /// Full name.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Label names.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

const fn def(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Def {
    Def { name, kind, labels, help }
}

/// The table.
pub const TABLE: &[Def] = &[
    def(
        "catchment_build_info",
        Kind::Gauge,
        &["version", "worker"],
        "Always 1; names the running version and worker.",
    ),
    def(
        "catchment_records_read_total",
        Kind::Counter,
        &["shard"],
        "User records read from the stream.",
    ),
    def(
        "catchment_bytes_read_total",
        Kind::Counter,
        &["shard"],
        "Payload bytes read from the stream.",
    ),
    def("catchment_aggregates_total", Kind::Counter, &[], "KPL aggregates taken apart."),
    def(
        "catchment_foreign_records_total",
        Kind::Counter,
        &[],
        "User records inside KPL aggregates whose hash key belongs to another shard; that shard delivers them.",
    ),
    def(
        "catchment_get_records_total",
        Kind::Counter,
        &["result"],
        "GetRecords calls by result: records, empty, or the kind of failure (throttled is ReadProvisionedThroughputExceeded).",
    ),
    def(
        "catchment_strict_replies_total",
        Kind::Counter,
        &[],
        "GetRecords replies and fan-out events in a form the fast path does not take; the SDK's parser read them, at three times the CPU. Nothing is lost by it.",
    ),
    def(
        "catchment_wire_fallbacks_total",
        Kind::Counter,
        &["reason"],
        "With stream.wire = cbor: GetRecords calls made again in JSON because the one in CBOR was refused, its reply unreadable, or its arrival times implausible. Nothing is lost by it.",
    ),
    def(
        "catchment_fan_out_events_total",
        Kind::Counter,
        &["result"],
        "Events of enhanced fan-out subscriptions by result: records, empty.",
    ),
    def(
        "catchment_subscriptions_total",
        Kind::Counter,
        &["result"],
        "Enhanced fan-out: subscriptions opened, over (Kinesis ends them after five minutes), silent, given up for want of memory, refused because another is young (occupied), or the kind of failure. Shards are polled meanwhile.",
    ),
    def(
        "catchment_behind_latest_seconds",
        Kind::FloatGauge,
        &["shard"],
        "MillisBehindLatest of the last page, in seconds (the IteratorAge of an owned shard).",
    ),
    def(
        "catchment_oldest_undelivered_seconds",
        Kind::FloatGauge,
        &["shard"],
        "Time since the oldest record in hand was read, in seconds; 0 if all is committed (DataFreshness).",
    ),
    def(
        "catchment_no_progress_seconds",
        Kind::FloatGauge,
        &["shard"],
        "Time since a page of the shard was read, or a batch announced or committed; /livez fails at 600.",
    ),
    def(
        "catchment_retention_seconds",
        Kind::Gauge,
        &[],
        "How long the stream keeps records, as it was when the worker started.",
    ),
    def(
        "catchment_records_delivered_total",
        Kind::Counter,
        &["shard"],
        "User records committed: in an object, or in the dead letters.",
    ),
    def("catchment_bytes_delivered_total", Kind::Counter, &["shard"], "Payload bytes committed."),
    def(
        "catchment_batches_total",
        Kind::Counter,
        &["cause"],
        "Batches cut, by cause: size, count, partitions, time, pressure, shard_end, drain.",
    ),
    def(
        "catchment_intents_recovered_total",
        Kind::Counter,
        &[],
        "Batches finished that another owner had announced.",
    ),
    def(
        "catchment_commits_total",
        Kind::Counter,
        &[],
        "Writes that moved progress in the lease table.",
    ),
    def(
        "catchment_objects_written_total",
        Kind::Counter,
        &["kind"],
        "Objects created in S3: archive, upload or dead_letter.",
    ),
    def(
        "catchment_objects_existed_total",
        Kind::Counter,
        &[],
        "Creations answered 412 because the object was there: a duplicate prevented.",
    ),
    def("catchment_object_bytes", Kind::Bytes, &[], "Size of created objects."),
    def("catchment_put_seconds", Kind::Seconds, &[], "Time to store one object, retries included."),
    def(
        "catchment_upload_seconds",
        Kind::Seconds,
        &[],
        "Time from the front door's acceptance of a file to its object in S3, by the clocks of both.",
    ),
    def(
        "catchment_put_retries_total",
        Kind::Counter,
        &["class"],
        "Failed attempts to store an object, by kind of failure.",
    ),
    def(
        "catchment_dead_letters_total",
        Kind::Counter,
        &["kind"],
        "Records that could not be processed and were put aside, by kind.",
    ),
    def(
        "catchment_records_misplaced_total",
        Kind::Counter,
        &["reason"],
        "Records that stand in another partition than their data asks for: the field of the key \
         template is absent or unusable, the time is none, or the batch had too many partitions.",
    ),
    def(
        "catchment_gaps_total",
        Kind::Counter,
        &[],
        "Ranges of records that left retention before they were delivered.",
    ),
    def("catchment_leases_owned", Kind::Gauge, &[], "Leases this worker holds (CurrentLeases)."),
    def(
        "catchment_leases",
        Kind::Gauge,
        &["state"],
        "Leases of the table as this worker last saw them: active, waiting for a parent shard, or finished.",
    ),
    def(
        "catchment_workers",
        Kind::Gauge,
        &[],
        "Workers that hold leases of the table, this one included.",
    ),
    def("catchment_leases_taken_total", Kind::Counter, &[], "Leases taken, free or expired."),
    def(
        "catchment_leases_lost_total",
        Kind::Counter,
        &[],
        "Leases lost to another worker or to silence (LostLeases).",
    ),
    def(
        "catchment_lease_handoffs_total",
        Kind::Counter,
        &["step"],
        "Graceful handoffs by step: asked, received, or given to another worker.",
    ),
    def("catchment_leases_released_total", Kind::Counter, &[], "Leases given back."),
    def(
        "catchment_lease_renewals_total",
        Kind::Counter,
        &["result"],
        "Heartbeats by result: ok, retry or lost.",
    ),
    def(
        "catchment_lease_news_total",
        Kind::Counter,
        &["result"],
        "Times this worker told the fleet that there are leases to take, by result: told or failed.",
    ),
    def(
        "catchment_lease_scans_total",
        Kind::Counter,
        &[],
        "Readings of the whole lease table to find leases to take (Scan).",
    ),
    def(
        "catchment_leases_freed_total",
        Kind::Counter,
        &[],
        "Leases of dead workers that this worker, as the lookout, freed for all to take.",
    ),
    def(
        "catchment_shards_finished_total",
        Kind::Counter,
        &[],
        "Shards delivered to their end (SHARD_END).",
    ),
    def(
        "catchment_rewinds_total",
        Kind::Counter,
        &[],
        "Shards gone back in place on request (catchment leases rewind).",
    ),
    def(
        "catchment_replay_shards",
        Kind::Gauge,
        &["state"],
        "In a replay: shards of its range by state, active or finished, whoever works on them.",
    ),
    def(
        "catchment_replay_records",
        Kind::Gauge,
        &[],
        "In a replay: user records committed so far, by all its workers.",
    ),
    def(
        "catchment_replay_bytes",
        Kind::Gauge,
        &[],
        "In a replay: payload bytes committed so far, by all its workers.",
    ),
    def(
        "catchment_replay_lag_seconds",
        Kind::FloatGauge,
        &[],
        "In a replay: how far the slowest shard of this worker is from the end of the range.",
    ),
    def("catchment_leases_created_total", Kind::Counter, &[], "Leases created for shards found."),
    def(
        "catchment_start_ignored",
        Kind::Gauge,
        &[],
        "Leases with a checkpoint that overruled a configured stream.start when the worker started; it counts for new leases only.",
    ),
    def(
        "catchment_leases_unreadable",
        Kind::Gauge,
        &[],
        "Items of the lease table that cannot be read; see the log.",
    ),
    def(
        "catchment_shard_failures_total",
        Kind::Counter,
        &[],
        "Shards given up and retried after an error.",
    ),
    def(
        "catchment_call_failures_total",
        Kind::Counter,
        &["operation", "class"],
        "Failed AWS calls by operation and kind of failure.",
    ),
    def(
        "catchment_dynamodb_consumed_units_total",
        Kind::FloatCounter,
        &["kind"],
        "Request units of the lease table used by this worker, as the replies tell them: read or write (ConsumedReadCapacityUnits, ConsumedWriteCapacityUnits); a refused write counts as one.",
    ),
    def("catchment_buffer_bytes", Kind::Gauge, &[], "Bytes of the budget in use."),
    def("catchment_budget_bytes", Kind::Gauge, &[], "The byte budget."),
    def("catchment_budget_waiting", Kind::Gauge, &[], "Fetches waiting for room in the budget."),
    def(
        "process_cpu_seconds_total",
        Kind::FloatCounter,
        &[],
        "User and system CPU time of the process, in seconds.",
    ),
    def("process_resident_memory_bytes", Kind::Gauge, &[], "Resident memory of the process."),
];

/// Values of a label that are known beforehand. Their counters stand at zero from the start:
/// Prometheus does not count the step from no series to the first value.
pub const KNOWN: &[(&str, &[&str])] = &[
    (
        "catchment_get_records_total",
        &[
            "records",
            "empty",
            "throttled",
            "unavailable",
            "denied",
            "not_found",
            "expired_iterator",
            "invalid",
        ],
    ),
    ("catchment_wire_fallbacks_total", &["refused", "unreadable", "implausible"]),
    ("catchment_fan_out_events_total", &["records", "empty"]),
    (
        "catchment_subscriptions_total",
        &[
            "opened",
            "over",
            "silent",
            "memory",
            "occupied",
            "throttled",
            "unavailable",
            "denied",
            "not_found",
            "expired_iterator",
            "invalid",
        ],
    ),
    ("catchment_records_misplaced_total", &["absent", "unusable", "time", "overflow"]),
    (
        "catchment_batches_total",
        &["size", "count", "partitions", "time", "pressure", "shard_end", "drain"],
    ),
    ("catchment_objects_written_total", &["archive", "upload", "dead_letter"]),
    (
        "catchment_put_retries_total",
        &["throttled", "unavailable", "denied", "not_found", "expired_iterator", "invalid"],
    ),
    (
        "catchment_dead_letters_total",
        &[
            "invalid-json",
            "upload-malformed",
            "upload-version",
            "upload-key",
            "upload-field",
            "upload-body",
            "upload-checksum",
            "upload-conflict",
        ],
    ),
    ("catchment_lease_handoffs_total", &["asked", "received", "given"]),
    ("catchment_lease_renewals_total", &["ok", "retry", "lost"]),
    ("catchment_lease_news_total", &["told", "failed"]),
    ("catchment_dynamodb_consumed_units_total", &["read", "write"]),
];
