//! What a page of a shard comes to.

use crate::stream::position::StartAt;
use crate::stream::{Records, ShardInfo};

/// How a page came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// When it was asked for, or waited for (wall clock, ms since the epoch).
    pub(crate) asked_ms: i64,
    /// By a subscription.
    pub(crate) pushed: bool,
}

/// What a page says.
#[derive(Debug)]
pub(crate) struct PageStats {
    /// New records of Kinesis, and their payload in bytes.
    pub(crate) records: usize,
    pub(crate) payload: usize,
    /// Nothing more was there when it was asked for.
    pub(crate) caught_up: bool,
    /// Records that were read before: a page that came twice, or a record twice in a page.
    pub(crate) repeated: usize,
    /// Records between these and what was read before may have left retention.
    pub(crate) lost: bool,
    /// The position led nowhere: reading begins here instead.
    pub(crate) detour: Option<StartAt>,
    /// How many were aggregates, and user records of them that other shards deliver.
    pub(crate) aggregates: u64,
    pub(crate) foreign: u64,
    pub(crate) next: PageOutcome,
}

impl PageStats {
    /// Nothing but this outcome.
    pub(super) fn of(next: PageOutcome) -> Self {
        Self {
            records: 0,
            payload: 0,
            caught_up: false,
            repeated: 0,
            lost: false,
            detour: None,
            aggregates: 0,
            foreign: 0,
            next,
        }
    }
}

/// What follows from a page.
#[derive(Debug)]
pub(crate) enum PageOutcome {
    /// New records, or none: that is progress too.
    Records(Records),
    /// The page is kept, and so must its memory be: one of the next brings its records.
    Held,
    /// The shard has ended, it is said. Its children, if the reply named them.
    End(Vec<ShardInfo>),
    /// The end of the range was seen.
    Bound,
}
