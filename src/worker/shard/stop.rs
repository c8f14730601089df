//! How the work on a shard ends.

use crate::delivery::encode::EncodeError;
use crate::delivery::gap::Gap;
use crate::fault::CallError;
use crate::task::TaskDied;
use crate::worker::leases::held::Lost;
use crate::worker::reader::poll::ReadError;
use crate::worker::shard::recovery::RecoveryError;
use crate::worker::shard::sending::UploadError;

/// How the work on a shard ended.
#[derive(Debug)]
pub enum Ended {
    /// Delivered to SHARD_END.
    Finished,
    /// Drained and released.
    Released,
    /// The lease went to somebody else.
    Lost,
    /// Records were lost to retention and the policy is to stop: the lease is parked.
    Parked,
    /// Something failed; the lease was released, somebody tries again.
    Failed(String),
    /// The same, and the stream itself is not the one it was.
    Vanished(String),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    #[error("lost")]
    Lost,
    #[error("gap")]
    Gap(Gap),
    #[error("the reader of the shard ended unexpectedly")]
    ReaderStopped,
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the stream was deleted, or deleted and created again: {0}")]
    Vanished(CallError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error(
        "an announced batch names bucket `{announced}`, and delivery.bucket is `{configured}`: run \
         a worker with delivery.bucket={announced} until it is delivered; if nobody configured that \
         bucket, somebody else writes to the lease table"
    )]
    OtherBucket { announced: String, configured: String },
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Task(#[from] TaskDied),
    #[error(transparent)]
    Upload(Box<UploadError>),
}

impl From<Lost> for Stop {
    fn from(_: Lost) -> Self {
        Self::Lost
    }
}

impl From<UploadError> for Stop {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Lost => Self::Lost,
            error => Self::Upload(Box::new(error)),
        }
    }
}
