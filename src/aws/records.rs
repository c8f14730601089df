//! ▶ GetRecords past the SDK's JSON parser.
//!
//! Credentials, signing, retries, time-outs and errors stay the SDK's. Only the body of a good
//! reply is replaced, while it arrives: it is collected into a buffer that is used again, its
//! records are taken out (`stream/scan.rs`), and the SDK's parser gets the rest. A reply the scan
//! does not understand passes as it came.
//!
//! The interceptor is installed for each call: it then runs after the operation's own and reads
//! outside of stalled-stream protection, which has to see the bytes arrive.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextMut;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use http_body::{Body, Frame};

use crate::stream::Record;
use crate::stream::arena::{Arena, Arenas};
use crate::stream::scan;

/// The records of one reply.
#[derive(Debug)]
pub(super) struct Scanned {
    /// In order.
    pub(super) records: Vec<Record>,
    /// Size of the buffer they are slices of, bytes.
    pub(super) arena: usize,
}

/// Takes the records out of the reply of one call. Clones share the slot.
#[derive(Clone, Debug)]
pub(super) struct TakeRecords {
    pool: Arenas,
    slot: Arc<Mutex<Option<Scanned>>>,
}

impl TakeRecords {
    pub(super) fn new(pool: &Arenas) -> Self {
        Self { pool: pool.clone(), slot: Arc::default() }
    }

    /// What the call's last attempt brought; `None` if the SDK's parser has the records.
    pub(super) fn taken(&self) -> Option<Scanned> {
        self.put(None)
    }

    fn put(&self, scanned: Option<Scanned>) -> Option<Scanned> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *slot, scanned)
    }
}

#[dyn_dispatch_hint]
impl Intercept for TakeRecords {
    fn name(&self) -> &'static str {
        "TakeRecords"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // Of an attempt whose reply broke off further on.
        self.put(None);
        let response = context.response_mut();
        if response.status().as_u16() != 200 {
            return Ok(());
        }
        let length = response.headers().get("content-length").and_then(|n| n.parse().ok());
        let inner = response.take_body();
        let arena = self.pool.take(length.unwrap_or(0));
        *response.body_mut() = SdkBody::from_body_1_x(Absorbing {
            inner,
            arena: Some(arena),
            rest: None,
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
                    let (rest, scanned) = take(arena)?;
                    this.take.put(scanned);
                    this.rest = Some(rest);
                }
            }
        }
        Poll::Ready(this.rest.take().map(|rest| Ok(Frame::data(rest))))
    }
}

/// Splits a reply into its records and the rest.
fn take(mut arena: Arena) -> Result<(Bytes, Option<Scanned>), scan::BadPayload> {
    let Some(layout) = scan::take(arena.bytes())? else {
        return Ok((arena.freeze(), None));
    };
    let rest = layout.rest(arena.bytes());
    let held = arena.capacity();
    let records = layout.records(&arena.freeze());
    Ok((rest.into(), Some(Scanned { records, arena: held })))
}

#[cfg(test)]
mod tests;
