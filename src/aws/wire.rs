//! GetRecords in CBOR: what a call brought, and when to ask in JSON instead.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::get_records::{GetRecordsError, GetRecordsOutput};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::aws::fault::describe;
use crate::aws::records::Scanned;
use crate::fault::CallError;
use crate::metrics::registry::Metrics;
use crate::metrics::table as metric;
use crate::stream::cbor::Unreadable;
use crate::stream::wire::{CborBreaker, Fallback};

/// What a client knows of the service's CBOR. Clones share it.
#[derive(Clone)]
pub(super) struct Cbor {
    trust: Arc<Mutex<CborBreaker>>,
    metrics: Arc<Metrics>,
}

/// A call in CBOR without a page.
pub(super) enum WireFailure {
    /// Whatever it is spoken in.
    Call(CallError),
    /// Because of the CBOR, perhaps.
    Form(Doubt),
}

/// Why a call is to be made again in JSON.
pub(super) struct Doubt {
    why: Fallback,
    /// For the log.
    words: String,
}

impl fmt::Debug for Cbor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.trust().fmt(f)
    }
}

impl Cbor {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Self {
        Self { trust: Arc::default(), metrics: Arc::clone(metrics) }
    }

    fn trust(&self) -> MutexGuard<'_, CborBreaker> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Not given up.
    pub(super) fn is_spoken(&self) -> bool {
        !self.trust().is_over()
    }

    /// Takes a reply as a whole or not at all.
    pub(super) fn judge(
        &self,
        reply: Result<GetRecordsOutput, SdkError<GetRecordsError, HttpResponse>>,
        taken: Option<Result<Scanned, Unreadable>>,
    ) -> Result<(GetRecordsOutput, Option<Scanned>), WireFailure> {
        let doubt = |why, words| Err(WireFailure::Form(Doubt { why, words }));
        match (reply, taken) {
            (_, Some(Err(unreadable))) => {
                let why = match unreadable {
                    Unreadable::Form(_) => Fallback::Unreadable,
                    Unreadable::Time(_) => Fallback::Implausible,
                };
                doubt(why, unreadable.to_string())
            }
            (Ok(reply), Some(Ok(scanned))) => {
                if scanned.cbor {
                    self.trust().prove();
                }
                Ok((reply, Some(scanned)))
            }
            // In JSON all the same.
            (Ok(reply), None) => Ok((reply, None)),
            // The records were sound, the rest was not.
            (Err(error), Some(Ok(scanned))) if scanned.cbor => {
                doubt(Fallback::Unreadable, describe("GetRecords", &error).to_string())
            }
            (Err(error), _) => {
                let status = error.raw_response().map_or(0, |raw| raw.status().as_u16());
                let doubted = self.trust().doubts(status, error.code());
                let error = describe("GetRecords", &error);
                if doubted {
                    doubt(Fallback::Refused, error.to_string())
                } else {
                    Err(WireFailure::Call(error))
                }
            }
        }
    }

    /// The call was made again in JSON; `answered`: with success.
    pub(super) fn fell_back(&self, doubt: &Doubt, answered: bool) {
        let Doubt { why, words } = doubt;
        self.metrics.add(metric::WIRE_FALLBACKS_TOTAL, &[why.as_str()], 1);
        let over = self.trust().fell_back(*why, answered);
        if over {
            tracing::warn!(
                reason = why.as_str(),
                "GetRecords does not work in CBOR here ({words}); this worker goes on in JSON. \
                 Set stream.wire = \"json\" to begin with it"
            );
        } else {
            tracing::debug!(reason = why.as_str(), "GetRecords made again in JSON: {words}");
        }
    }
}

#[cfg(test)]
mod tests;
