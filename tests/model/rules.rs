//! The switches of the model.

/// What an intent or commit write is conditional upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cas {
    /// The row's checkpoint and pending list must be what the writer read. The protocol.
    State,
    /// The same, without asking who owns the lease.
    StateOnly,
    /// Owner and epoch; the pending list is overwritten.
    OwnerAndEpoch,
    /// Owner only.
    Owner,
    /// Pending must be absent (or the tail match), but the checkpoint is not compared.
    PendingOnly,
    /// A row version, raised by every write, heartbeats included.
    Version,
}

/// What becomes of another owner's pending intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Finish it with the settings it records.
    Recorded,
    /// Finish it with one's own settings.
    Own,
    /// Delete the old object first, then write with one's own settings.
    DeleteFirst,
    /// Forget it.
    Drop,
}

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Overwrite,
    /// `If-None-Match: *`, a refusal counts as success.
    CreateOnly,
    /// Look first, write if absent.
    HeadFirst,
}

/// Where batches end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batching {
    /// Anywhere: every size is tried.
    Free,
    /// After every second record and at the end of the shard, without an intent.
    Count,
    /// The same, but the sizes differ between owners.
    CountDiffers,
    /// The same, but a timer may flush earlier.
    CountAndTimer,
}

/// How a batch becomes several objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fan {
    /// One object.
    None,
    /// Two objects by a field of the record, commit after all are acknowledged.
    AllAcks,
    /// The same, commit after the first acknowledgement.
    FirstAck,
    /// One object under a path taken from the wall clock when it is encoded.
    WallClock,
    /// One object under a path taken from a stamp in the intent.
    Stamped,
}

/// A protocol.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub cas: Cas,
    pub recovery: Recovery,
    pub put: Put,
    pub batching: Batching,
    pub fan: Fan,
    /// Intents in flight: 1, or an ordered list of this many.
    pub pipeline: u8,
    /// Pipelining with one pending value instead of a list: later intents extend it.
    pub collapse: bool,
    /// Commit whichever batch is durable, not the oldest.
    pub out_of_order: bool,
    /// Commit of one batch and intent of the next are one write.
    pub merged: bool,
    /// Wait for the intent before the PUT.
    pub confirm_intent: bool,
    /// An intent without an answer counts as not written.
    pub timeout_is_failure: bool,
    /// Re-reading may return an earlier row.
    pub stale_reads: bool,
    /// Taking the lease raises the epoch.
    pub bump_epoch: bool,
    /// The two workers have different settings.
    pub settings_differ: bool,
    /// A finished row may be deleted and created afresh.
    pub row_recreated: bool,
    /// Records may leave retention.
    pub retention: bool,
    /// A consumer may delete objects it has read.
    pub consumer_deletes: bool,
    pub records: u8,
    pub epochs: u8,
    pub crashes: u8,
}

/// The protocol of the design: state compare-and-set, confirmed intent.
pub const BASE: Rules = Rules {
    cas: Cas::State,
    recovery: Recovery::Recorded,
    put: Put::Overwrite,
    batching: Batching::Free,
    fan: Fan::None,
    pipeline: 1,
    collapse: false,
    out_of_order: false,
    merged: false,
    confirm_intent: true,
    timeout_is_failure: false,
    stale_reads: false,
    bump_epoch: true,
    settings_differ: false,
    row_recreated: false,
    retention: false,
    consumer_deletes: false,
    records: 3,
    epochs: 3,
    crashes: 2,
};

impl Rules {
    /// Whether batches are announced before they are written.
    pub fn intents(&self) -> bool {
        self.batching == Batching::Free
    }
}
