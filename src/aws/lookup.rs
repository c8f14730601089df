//! Single looks into a shard, for planning; bulk reading is `stream::poll`.

use std::time::Duration;

use futures::StreamExt;

use crate::aws::kinesis::Kinesis;
use crate::clock::Clock;
use crate::fault::{CallError, Fault};
use crate::ids::{SequenceNumber, ShardId};
use crate::stream::position::StartAt;
use crate::stream::{Page, ShardInfo};

/// Looks under way at once.
pub const PARALLEL: usize = 16;
/// GetRecords allows five calls per second and shard to all readers together.
const PAUSE: Duration = Duration::from_millis(250);
/// Passing failures are tried again this often.
const ATTEMPTS: u32 = 40;

/// What probing needs.
#[derive(Clone)]
pub struct RecordLookup {
    /// The stream.
    pub kinesis: Kinesis,
    /// Its ARN.
    pub arn: String,
    /// Time.
    pub clock: Clock,
}

/// Where a reading stands.
#[derive(Debug)]
pub struct Cursor {
    resume: StartAt,
    iterator: Option<String>,
    first: bool,
}

impl Cursor {
    /// A reading that has not begun.
    pub fn new(start: StartAt) -> Self {
        Self { resume: start, iterator: None, first: true }
    }
}

impl RecordLookup {
    /// The next page of a reading, whatever is in it.
    ///
    /// # Errors
    /// [`CallError`]; `Invalid` for a sequence number that is not of this shard.
    pub async fn page(
        &self,
        shard: &ShardId,
        cursor: &mut Cursor,
        limit: i32,
    ) -> Result<Page, CallError> {
        let mut failures = 0;
        loop {
            if !std::mem::replace(&mut cursor.first, false) {
                self.clock.sleep(PAUSE).await;
            }
            let iterator = cursor.iterator.take();
            let page = async {
                let at = match iterator {
                    Some(at) => at,
                    None => self.kinesis.iterator(&self.arn, shard, &cursor.resume).await?,
                };
                self.kinesis.get_records(&self.arn, &at, limit).await
            };
            match page.await {
                Ok(page) => {
                    if let Some(last) = page.records.last() {
                        cursor.resume = StartAt::After(last.position().sequence);
                    }
                    cursor.iterator.clone_from(&page.next);
                    return Ok(page);
                }
                Err(error) => {
                    let passing =
                        error.fault.is_transient() || error.fault == Fault::ExpiredIterator;
                    failures += 1;
                    if !passing || failures > ATTEMPTS {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The first page with records from a position on, or the page that says there are none: at the
    /// tip of the shard, or at its end.
    ///
    /// # Errors
    /// [`CallError`]; `Invalid` for a sequence number that is not of this shard.
    pub async fn first_page(
        &self,
        shard: &ShardId,
        start: &StartAt,
        limit: i32,
    ) -> Result<Page, CallError> {
        let mut cursor = Cursor::new(start.clone());
        loop {
            let page = self.page(shard, &mut cursor, limit).await?;
            let tip = page.behind_ms.is_none_or(|ms| ms == 0);
            if !page.records.is_empty() || page.next.is_none() || tip {
                return Ok(page);
            }
        }
    }

    /// The number of the first record from a position on.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn first(
        &self,
        shard: &ShardId,
        start: &StartAt,
    ) -> Result<Option<SequenceNumber>, CallError> {
        let page = self.first_page(shard, start, 1).await?;
        Ok(page.records.first().map(|r| r.position().sequence))
    }

    /// The shards that hold a record of exactly this number. Numbers say nothing about shards that a
    /// client could rely on, so the record itself is looked for: a shard asked for a number that is
    /// not its own refuses it, or answers with another record.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn holders(
        &self,
        shards: &[ShardInfo],
        number: &SequenceNumber,
    ) -> Result<Vec<ShardId>, CallError> {
        let looks = shards.iter().map(|shard| async move {
            match self.first(&shard.id, &StartAt::At(number.clone())).await {
                Ok(found) => Ok((found.as_ref() == Some(number)).then(|| shard.id.clone())),
                Err(error) if matches!(error.fault, Fault::Invalid | Fault::NotFound) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let mut looks = futures::stream::iter(looks).buffer_unordered(PARALLEL);
        let mut found = Vec::new();
        while let Some(look) = looks.next().await {
            found.extend(look?);
        }
        Ok(found)
    }
}
