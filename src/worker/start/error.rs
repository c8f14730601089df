//! Why a worker cannot start, and how long what may pass is waited for.

use std::time::Duration;

use crate::aws::dynamodb::admin::TableError;
use crate::clock::Clock;
use crate::delivery::object_key::BadTemplate;
use crate::fault::{CallError, Fault};
use crate::lease::keys::BadKeys;

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No such stream.
    #[error(
        "stream `{name}` does not exist in this account and region: check stream.name, AWS_REGION \
         and the credentials' account ({source})"
    )]
    NoStream {
        /// As configured.
        name: String,
        /// What the service said.
        source: CallError,
    },
    /// Being created or deleted.
    #[error(
        "stream `{0}` is not ACTIVE after a minute: wait until it is created, or check that it is not \
         being deleted"
    )]
    NotReadable(String),
    /// No such bucket, or elsewhere.
    #[error("bucket `{bucket}` cannot be used: {source}; create it, or correct delivery.bucket")]
    Bucket {
        /// As configured.
        bucket: String,
        /// What the service said.
        source: CallError,
    },
    /// The table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The table belongs to another stream.
    #[error(
        "table `{table}` holds the leases of another stream ({found}), not of {expected}: a stream \
         that was deleted and created again counts as another; set lease.application to a new \
         name, or delete the table if its checkpoints are not needed"
    )]
    OtherStream {
        /// Table name.
        table: String,
        /// Identity found.
        found: String,
        /// Identity of the configured stream.
        expected: String,
    },
    /// Rows that contradict each other or the configuration.
    #[error("lease table `{table}`: {source}")]
    Keys {
        /// Table name.
        table: String,
        /// What is wrong.
        source: BadKeys,
    },
    /// Workers of KCL 3.x are alive on the table.
    #[error(
        "a KCL 3.x application is alive on this lease table: in table `{table}`, its {item}, and its \
         leader assigns the leases. Stop that application and start again two minutes later \
         (Catchment goes on at its checkpoints), or set lease.application to another name to run \
         beside it"
    )]
    Kcl3 {
        /// Table of the item.
        table: String,
        /// The item seen.
        item: String,
    },
    /// No such fan-out consumer, and none can be registered.
    #[error(
        "the fan-out consumer `{consumer}` cannot be used: {source}; name one with stream.consumer, \
         set stream.reader = \"auto\" to poll without it, or deregister one of the stream's 20"
    )]
    NoConsumer {
        /// As configured.
        consumer: String,
        /// What Kinesis says.
        source: CallError,
    },
    /// Not allowed.
    #[error("{0}; {remedy}", remedy = .0.remedy().unwrap_or_default())]
    Denied(CallError),
    /// Kept failing.
    #[error("{0}; gave up after {1:?}")]
    Unavailable(CallError, Duration),
    /// Templates.
    #[error(transparent)]
    Template(#[from] BadTemplate),
}

impl StartError {
    /// Nothing that a person must mend, for all that is known: a later start may find it healed.
    pub fn may_heal(&self) -> bool {
        match self {
            Self::Unavailable(call, _) => call.fault.is_transient(),
            Self::Table(TableError::Call(call)) => call.fault.is_transient(),
            Self::Table(TableError::NotActive { .. }) | Self::NotReadable(_) => true,
            _ => false,
        }
    }
}

/// How long passing failures are tried again at start.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Tries a call again while its failure may pass.
pub(super) async fn retry_transient<T, F: Future<Output = Result<T, CallError>>>(
    clock: &Clock,
    mut call: impl FnMut() -> F,
) -> Result<T, StartError> {
    let begun = clock.now();
    loop {
        let error = match call().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let waited = clock.now() - begun;
        if !error.fault.is_transient() || waited > PATIENCE {
            return Err(match error.fault {
                Fault::Denied => StartError::Denied(error),
                _ => StartError::Unavailable(error, waited),
            });
        }
        tracing::warn!(%error, "not reachable yet; trying again");
        clock.sleep(Duration::from_secs(1)).await;
    }
}
