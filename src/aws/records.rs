//! GetRecords past the SDK's JSON parser, and in CBOR if asked for.
//!
//! Credentials, signing, retries, time-outs and errors stay the SDK's. Only the body of a good
//! reply is replaced, while it arrives: it is collected into a buffer that is used again, its
//! records are taken out (`stream/scan.rs`), and the SDK's parser gets the rest. A reply in JSON
//! that the scan does not understand passes as it came.
//!
//! In CBOR (`stream/cbor.rs`) the request's body is replaced too, before the first attempt, so that
//! each attempt is signed for what is sent. The SDK reads no CBOR: it gets the rest of a reply, and
//! errors, in JSON.
//!
//! The interceptor is installed for each call: it then runs after the operation's own and reads
//! outside of stalled-stream protection, which has to see the bytes arrive.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextMut, BeforeTransmitInterceptorContextMut,
    BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use http_body::{Body, Frame};

use crate::aws::silence::Pulse;
use crate::stream::Records;
use crate::stream::arena::{Arena, Arenas};
use crate::stream::cbor::{self, Unreadable};
use crate::stream::scan;

/// The records of one reply.
#[derive(Debug)]
pub(super) struct Scanned {
    /// In order.
    pub(super) records: Records,
    /// The reply was in CBOR.
    pub(super) cbor: bool,
}

/// What became of a reply; `None` if the SDK's parser has the records.
type ScanOutcome = Option<Result<Scanned, Unreadable>>;

/// Takes the records out of the reply of one call. Clones share the slot.
#[derive(Clone, Debug)]
pub(super) struct TakeRecords {
    pool: Arenas,
    /// Body of the request in CBOR.
    request: Option<Bytes>,
    slot: Arc<Mutex<ScanOutcome>>,
    /// The last good reply in JSON had no records, not even none.
    bare: Arc<AtomicBool>,
    pulse: Pulse,
}

/// As much of a reply as says whether it is one.
#[derive(serde::Deserialize)]
struct ReplyFields {
    #[serde(rename = "Records")]
    records: Option<serde::de::IgnoredAny>,
}

/// A good reply whose list of records is absent or null, or that has no body at all. What is no
/// JSON is left to the SDK to tell of.
fn is_bare(body: &[u8]) -> bool {
    body.trim_ascii().is_empty()
        || serde_json::from_slice::<ReplyFields>(body).is_ok_and(|fields| fields.records.is_none())
}

impl TakeRecords {
    pub(super) fn new(pool: &Arenas) -> Self {
        Self {
            pool: pool.clone(),
            request: None,
            slot: Arc::default(),
            bare: Arc::default(),
            pulse: Pulse::default(),
        }
    }

    /// Asks in CBOR, with this body.
    pub(super) fn asking(self, request: Vec<u8>) -> Self {
        Self { request: Some(request.into()), ..self }
    }

    /// What the call's last reply brought. An error is one of CBOR; the SDK was then told of a
    /// reply without anything in it.
    pub(super) fn taken(&self) -> ScanOutcome {
        self.put(None)
    }

    /// A good reply had no records, not even an empty list of them.
    pub(super) fn is_bare(&self) -> bool {
        self.bare.load(Ordering::Relaxed)
    }

    /// Signs of life of the call.
    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    fn put(&self, outcome: ScanOutcome) -> ScanOutcome {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *slot, outcome)
    }
}

#[dyn_dispatch_hint]
impl Intercept for TakeRecords {
    fn name(&self) -> &'static str {
        "TakeRecords"
    }

    fn modify_before_retry_loop(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(body) = &self.request else { return Ok(()) };
        let request = context.request_mut();
        request.headers_mut().try_insert("content-type", cbor::CONTENT_TYPE)?;
        if request.headers().contains_key("content-length") {
            request.headers_mut().try_insert("content-length", body.len().to_string())?;
        }
        *request.body_mut() = SdkBody::from(body.clone());
        Ok(())
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.pulse.beat();
        Ok(())
    }

    fn read_after_attempt(
        &self,
        _: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.pulse.rest();
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // Of an attempt whose reply broke off further on.
        self.put(None);
        self.bare.store(false, Ordering::Relaxed);
        self.pulse.beat();
        let response = context.response_mut();
        let good = response.status().as_u16() == 200;
        if !good && self.request.is_none() {
            return Ok(());
        }
        let headers = response.headers();
        let length = headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        let named = headers.get("content-type").is_some_and(|kind| kind.contains("cbor"));
        let cbor = self.request.is_some() && named;
        let inner = response.take_body();
        *response.body_mut() = SdkBody::from_body_1_x(Absorbing {
            inner,
            arena: Some(self.pool.take(length)),
            rest: None,
            good,
            cbor,
            take: self.clone(),
        });
        Ok(())
    }
}

/// A body that holds back what it gets until it has all of it.
struct Absorbing {
    inner: SdkBody,
    arena: Option<Arena>,
    /// What the SDK gets to see.
    rest: Option<Bytes>,
    /// Not an error.
    good: bool,
    /// Announced as CBOR.
    cbor: bool,
    take: TakeRecords,
}

impl Body for Absorbing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        while let Some(arena) = &mut this.arena {
            match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => {
                    this.take.pulse.beat();
                    if let Some(data) = frame.data_ref() {
                        arena.bytes().extend_from_slice(data);
                    }
                }
                Some(Err(error)) => {
                    this.arena = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    let Some(arena) = this.arena.take() else { break };
                    this.rest = Some(this.read(arena)?);
                }
            }
        }
        Poll::Ready(this.rest.take().map(|rest| Ok(Frame::data(rest))))
    }
}

impl Absorbing {
    /// Takes the records out of a whole body; what the SDK gets to see.
    fn read(&self, mut arena: Arena) -> Result<Bytes, scan::BadPayload> {
        // Whoever was asked in CBOR may forget to say that it answers in it. No JSON begins so.
        let unnamed = || self.take.request.is_some() && cbor::begins(arena.as_ref());
        if self.cbor || unnamed() {
            return Ok(self.read_cbor(arena));
        }
        if !self.good {
            return Ok(arena.freeze());
        }
        let Some(layout) = scan::take(arena.bytes())? else {
            self.take.bare.store(is_bare(arena.bytes()), Ordering::Relaxed);
            return Ok(arena.freeze());
        };
        let rest = layout.rest(arena.bytes());
        let held = arena.capacity();
        let records = layout.records(arena.freeze(), held);
        self.take.put(Some(Ok(Scanned { records, cbor: false })));
        Ok(rest.into())
    }

    fn read_cbor(&self, mut arena: Arena) -> Bytes {
        if !self.good {
            let json = cbor::error(arena.bytes());
            return json.map_or_else(|| arena.freeze(), Bytes::from);
        }
        let (outcome, rest) = match cbor::take(arena.bytes()) {
            Ok(layout) => {
                let held = arena.capacity();
                let (records, rest) = layout.parts(arena.freeze(), held);
                (Ok(Scanned { records, cbor: true }), rest)
            }
            Err(unreadable) => (Err(unreadable), b"{\"Records\":[]}".to_vec()),
        };
        self.take.put(Some(outcome));
        rest.into()
    }
}

#[cfg(test)]
pub(super) mod tests;
