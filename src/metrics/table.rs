//! Every metric, in one table: name, type, labels, help.
//!
//! Base units only; the help texts carry the AWS words that operators search for.

/// MetricKind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
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
    pub kind: MetricKind,
    /// Label names.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

/// Makes [`TABLE`] and, for each row, the handle that names it: a metric that is not in the table
/// does not compile, nor does one used as another kind than it is.
macro_rules! metrics {
    ($($handle:ident: $kind:ident = $name:literal, [$($label:literal),*], $help:literal;)*) => {
        #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "rows, by their handles")]
        enum Row { $($handle),* }

        $(
            #[doc = concat!("`", $name, "`: ", $help)]
            pub const $handle: $kind = $kind(Row::$handle as usize);
        )*

        /// The table.
        pub const TABLE: &[Def] = &[
            $(Def { name: $name, kind: MetricKind::$kind, labels: &[$($label),*], help: $help }),*
        ];
    };
}

/// Makes the type of a handle: the row of the table it names.
macro_rules! handles {
    ($($kind:ident, $what:literal;)*) => {
        $(
            #[doc = $what]
            #[derive(Clone, Copy, Debug)]
            pub struct $kind(pub(super) usize);
        )*
    };
}

handles! {
    Counter, "A counter.";
    FloatCounter, "A counter that grows by fractions.";
    Gauge, "A gauge.";
    FloatGauge, "A gauge of fractions.";
    Seconds, "A distribution of seconds.";
    Bytes, "A distribution of bytes.";
}

metrics! {
    BUILD_INFO: Gauge = "catchment_build_info", ["version", "worker"],
        "Always 1; names the running version and worker.";
    RECORDS_READ_TOTAL: Counter = "catchment_records_read_total", ["shard"],
        "User records read from the stream.";
    BYTES_READ_TOTAL: Counter = "catchment_bytes_read_total", ["shard"],
        "Payload bytes read from the stream.";
    AGGREGATES_TOTAL: Counter = "catchment_aggregates_total", [],
        "KPL aggregates taken apart.";
    FOREIGN_RECORDS_TOTAL: Counter = "catchment_foreign_records_total", [],
        "User records inside KPL aggregates whose hash key belongs to another shard than the one they are in, of shards with a parent; delivery.foreign_records says what becomes of them.";
    REPEATED_RECORDS_TOTAL: Counter = "catchment_repeated_records_total", [],
        "Records that GetRecords or a subscription gave again, at or before the position or twice in a page; left out.";
    ENDS_REFUTED_TOTAL: Counter = "catchment_ends_refuted_total", [],
        "Answers without NextShardIterator for a shard that ListShards shows open; reading went on.";
    STUCK_POSITIONS_TOTAL: Counter = "catchment_stuck_positions_total", [],
        "Positions that led to nothing but empty pages (out of retention, or before a long idle stretch; MillisBehindLatest stands still); reading went on from TRIM_HORIZON or a time.";
    GET_RECORDS_TOTAL: Counter = "catchment_get_records_total", ["result"],
        "GetRecords calls by result: records, empty, or the kind of failure (throttled is ReadProvisionedThroughputExceeded).";
    SLOW_PATH_REPLIES_TOTAL: Counter = "catchment_slow_path_replies_total", [],
        "GetRecords replies and fan-out events in a form the fast path does not take; the SDK's parser read them, at three times the CPU. Nothing is lost by it.";
    WIRE_FALLBACKS_TOTAL: Counter = "catchment_wire_fallbacks_total", ["reason"],
        "With stream.wire = cbor: GetRecords calls made again in JSON because the one in CBOR was refused, its reply unreadable, or its arrival times implausible. Nothing is lost by it.";
    FAN_OUT_EVENTS_TOTAL: Counter = "catchment_fan_out_events_total", ["result"],
        "Events of enhanced fan-out subscriptions by result: records, empty.";
    SUBSCRIPTIONS_TOTAL: Counter = "catchment_subscriptions_total", ["result"],
        "Enhanced fan-out: subscriptions opened, over (Kinesis ends them after five minutes), silent, given up for want of memory or because nobody read them for a second (unread), refused because another is young (occupied), or the kind of failure. Shards are polled meanwhile.";
    BEHIND_LATEST_SECONDS: FloatGauge = "catchment_behind_latest_seconds", ["shard"],
        "MillisBehindLatest of the last page, in seconds (the IteratorAge of an owned shard).";
    OLDEST_UNDELIVERED_SECONDS: FloatGauge = "catchment_oldest_undelivered_seconds", ["shard"],
        "Time since the oldest record in hand was read, in seconds; 0 if all is committed (DataFreshness).";
    NO_PROGRESS_SECONDS: FloatGauge = "catchment_no_progress_seconds", ["shard"],
        "Time since a page of the shard was read, or a batch announced or committed; /livez fails at 600.";
    RETENTION_SECONDS: Gauge = "catchment_retention_seconds", [],
        "How long the stream keeps records, as it was when the worker started.";
    RECORDS_DELIVERED_TOTAL: Counter = "catchment_records_delivered_total", ["shard"],
        "User records committed: in an object, or in the dead letters.";
    BYTES_DELIVERED_TOTAL: Counter = "catchment_bytes_delivered_total", ["shard"],
        "Payload bytes committed.";
    BATCHES_TOTAL: Counter = "catchment_batches_total", ["cause"],
        "Batches cut, by cause: size, count, partitions, time, pressure, shard_end, drain.";
    INTENTS_RECOVERED_TOTAL: Counter = "catchment_intents_recovered_total", [],
        "Batches finished that another owner had announced.";
    COMMITS_TOTAL: Counter = "catchment_commits_total", [],
        "Writes that moved progress in the lease table.";
    OBJECTS_WRITTEN_TOTAL: Counter = "catchment_objects_written_total", ["kind"],
        "Objects created in S3: archive, upload or dead_letter.";
    OBJECTS_EXISTED_TOTAL: Counter = "catchment_objects_existed_total", [],
        "Creations answered 412 because the object was there: a duplicate prevented.";
    OBJECT_BYTES: Bytes = "catchment_object_bytes", [],
        "Size of created objects.";
    PUT_SECONDS: Seconds = "catchment_put_seconds", [],
        "Time to store one object, retries included.";
    UPLOAD_SECONDS: Seconds = "catchment_upload_seconds", [],
        "Time from the front door's acceptance of a file to its object in S3, by the clocks of both.";
    PUT_RETRIES_TOTAL: Counter = "catchment_put_retries_total", ["class"],
        "Failed attempts to store an object, by kind of failure.";
    DEAD_LETTERS_TOTAL: Counter = "catchment_dead_letters_total", ["kind"],
        "Records that could not be processed and were put aside, by kind.";
    RECORDS_FALLBACK_PARTITION_TOTAL: Counter = "catchment_records_fallback_partition_total", ["reason"],
        "Records that stand in another partition than their data asks for: the field of the key \
         template is absent or unusable, the time is none, or the batch had too many partitions.";
    GAPS_TOTAL: Counter = "catchment_gaps_total", [],
        "Ranges of records that left retention before they were delivered.";
    POSSIBLE_GAPS_TOTAL: Counter = "catchment_possible_gaps_total", [],
        "Ranges whose records may have left retention undelivered: the checkpointed record is gone, and the row does not say when the shard was last read to its tip.";
    LEASES_OWNED: Gauge = "catchment_leases_owned", [],
        "Leases this worker holds (CurrentLeases).";
    LEASES: Gauge = "catchment_leases", ["state"],
        "Leases of the table as this worker last saw them: active, waiting for a parent shard, parked at a gap until an operator accepts it (`catchment leases resume`), or finished.";
    WORKERS: Gauge = "catchment_workers", [],
        "Workers that hold leases of the table, this one included.";
    LEASES_TAKEN_TOTAL: Counter = "catchment_leases_taken_total", [],
        "Leases taken, free or expired.";
    LEASES_LOST_TOTAL: Counter = "catchment_leases_lost_total", [],
        "Leases lost to another worker or to silence (LostLeases).";
    LEASE_HANDOFFS_TOTAL: Counter = "catchment_lease_handoffs_total", ["step"],
        "Graceful handoffs by step: asked, received, or given to another worker.";
    LEASES_RELEASED_TOTAL: Counter = "catchment_leases_released_total", [],
        "Leases given back.";
    LEASE_RENEWALS_TOTAL: Counter = "catchment_lease_renewals_total", ["result"],
        "Heartbeats by result: ok, retry or lost.";
    LEASE_CHANGE_SIGNALS_TOTAL: Counter = "catchment_lease_change_signals_total", ["result"],
        "Times this worker told the fleet that there are leases to take, by result: told or failed.";
    LEASE_SCANS_TOTAL: Counter = "catchment_lease_scans_total", [],
        "Readings of the whole lease table to find leases to take (Scan).";
    LEASES_FREED_TOTAL: Counter = "catchment_leases_freed_total", [],
        "Leases of dead workers that this worker, as the sweeper, freed for all to take.";
    SHARDS_FINISHED_TOTAL: Counter = "catchment_shards_finished_total", [],
        "Shards delivered to their end (SHARD_END).";
    REWINDS_TOTAL: Counter = "catchment_rewinds_total", [],
        "Shards gone back in place on request (catchment leases rewind).";
    REPLAY_SHARDS: Gauge = "catchment_replay_shards", ["state"],
        "In a replay: shards of its range by state, active or finished, whoever works on them.";
    REPLAY_RECORDS: Gauge = "catchment_replay_records", [],
        "In a replay: user records committed so far, by all its workers.";
    REPLAY_BYTES: Gauge = "catchment_replay_bytes", [],
        "In a replay: payload bytes committed so far, by all its workers.";
    REPLAY_LAG_SECONDS: FloatGauge = "catchment_replay_lag_seconds", [],
        "In a replay: how far the slowest shard of this worker is from the end of the range.";
    LEASES_CREATED_TOTAL: Counter = "catchment_leases_created_total", [],
        "Leases created for shards found.";
    START_IGNORED: Gauge = "catchment_start_ignored", [],
        "Leases with a checkpoint that overruled a configured stream.start when the worker started; it counts for new leases only.";
    LEASES_UNREADABLE: Gauge = "catchment_leases_unreadable", [],
        "Items of the lease table that cannot be read; see the log.";
    LEASES_OPEN_ENDS: Gauge = "catchment_leases_open_ends", [],
        "Leases at SHARD_END of shards that the stream shows open, in two comparisons in a row: nobody reads these shards. See the log; `catchment leases rewind` sets them back.";
    SHARD_FAILURES_TOTAL: Counter = "catchment_shard_failures_total", [],
        "Shards given up and retried after an error.";
    CALL_FAILURES_TOTAL: Counter = "catchment_call_failures_total", ["operation", "class"],
        "Failed AWS calls by operation and kind of failure.";
    DYNAMODB_CONSUMED_UNITS_TOTAL: FloatCounter = "catchment_dynamodb_consumed_units_total", ["kind"],
        "Request units of the lease table used by this worker, as the replies tell them: read or write (ConsumedReadCapacityUnits, ConsumedWriteCapacityUnits); a refused write counts as one.";
    BUFFER_BYTES: Gauge = "catchment_buffer_bytes", [],
        "Bytes of the budget in use.";
    BUDGET_BYTES: Gauge = "catchment_budget_bytes", [],
        "The byte budget.";
    BUDGET_WAITING: Gauge = "catchment_budget_waiting", [],
        "Fetches waiting for room in the budget.";
    PROCESS_CPU_SECONDS_TOTAL: FloatCounter = "process_cpu_seconds_total", [],
        "User and system CPU time of the process, in seconds.";
    PROCESS_RESIDENT_MEMORY_BYTES: Gauge = "process_resident_memory_bytes", [],
        "Resident memory of the process.";
}

/// Values of a label that are known beforehand. Their counters stand at zero from the start:
/// Prometheus does not count the step from no series to the first value. By row of [`TABLE`].
pub const KNOWN: &[(usize, &[&str])] = &[
    (
        GET_RECORDS_TOTAL.0,
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
    (WIRE_FALLBACKS_TOTAL.0, &["refused", "unreadable", "implausible"]),
    (FAN_OUT_EVENTS_TOTAL.0, &["records", "empty"]),
    (
        SUBSCRIPTIONS_TOTAL.0,
        &[
            "opened",
            "over",
            "silent",
            "memory",
            "unread",
            "occupied",
            "throttled",
            "unavailable",
            "denied",
            "not_found",
            "expired_iterator",
            "invalid",
        ],
    ),
    (RECORDS_FALLBACK_PARTITION_TOTAL.0, &["absent", "unusable", "time", "overflow"]),
    (BATCHES_TOTAL.0, &["size", "count", "partitions", "time", "pressure", "shard_end", "drain"]),
    (OBJECTS_WRITTEN_TOTAL.0, &["archive", "upload", "dead_letter"]),
    (
        PUT_RETRIES_TOTAL.0,
        &["throttled", "unavailable", "denied", "not_found", "expired_iterator", "invalid"],
    ),
    (
        DEAD_LETTERS_TOTAL.0,
        &[
            "invalid-json",
            "foreign-record",
            "upload-refused",
            "upload-malformed",
            "upload-version",
            "upload-key",
            "upload-field",
            "upload-body",
            "upload-checksum",
            "upload-conflict",
        ],
    ),
    (LEASE_HANDOFFS_TOTAL.0, &["asked", "received", "given"]),
    (LEASE_RENEWALS_TOTAL.0, &["ok", "retry", "lost"]),
    (LEASE_CHANGE_SIGNALS_TOTAL.0, &["told", "failed"]),
    (DYNAMODB_CONSUMED_UNITS_TOTAL.0, &["read", "write"]),
];
