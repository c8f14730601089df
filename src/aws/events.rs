//! Fan-out events past the SDK's JSON parser, as `aws/records.rs` does it for GetRecords.
//!
//! The body of a subscription goes on while it is read. It is cut into messages
//! (`stream/eventstream.rs`); the records of an event are taken out where they stand in a buffer that is
//! used again, and the SDK gets the event without them. Every other message (the initial response,
//! exceptions) passes as it came, and so does whatever is not understood: it is the SDK that says
//! what is wrong with it.

use std::collections::VecDeque;
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
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::aws::records::Scanned;
use crate::stream::arena::{Arena, Arenas};
use crate::stream::eventstream::{PRELUDE, Prelude};
use crate::stream::scan;

/// Of the events looked into.
const EVENT: &str = "SubscribeToShardEvent";

/// What was taken out of the events that the SDK has not handed over yet, in their order. The SDK
/// asks for a message at a time, so these are one or two.
type Taken = VecDeque<EventRecords>;

/// Where the records of an event are.
#[derive(Debug)]
pub(super) enum EventRecords {
    /// Taken out here.
    Taken(Scanned),
    /// Left to the SDK.
    Left,
    /// Nowhere: the event has lost this field, which every event has. The SDK would hand over its
    /// zero value.
    Bare(&'static str),
}

/// The fields of an event that are never absent. (ContinuationSequenceNumber is, at the end of a
/// shard.)
#[derive(Deserialize)]
struct EventFields {
    #[serde(rename = "Records")]
    records: Option<IgnoredAny>,
    #[serde(rename = "MillisBehindLatest")]
    behind: Option<IgnoredAny>,
}

/// The field that an event lacks. What cannot be read is the SDK's to judge.
fn absent(payload: &[u8]) -> Option<&'static str> {
    let fields: EventFields = serde_json::from_slice(payload).ok()?;
    match fields {
        EventFields { records: None, .. } => Some("Records"),
        EventFields { behind: None, .. } => Some("MillisBehindLatest"),
        _ => None,
    }
}

/// Takes the records out of the events of one subscription. Clones share the queue.
#[derive(Clone, Debug)]
pub(super) struct TakeEvents {
    pool: Arenas,
    taken: Arc<Mutex<Taken>>,
}

impl TakeEvents {
    pub(super) fn new(pool: &Arenas) -> Self {
        Self { pool: pool.clone(), taken: Arc::default() }
    }

    /// Of the event that the SDK handed over.
    pub(super) fn next(&self) -> EventRecords {
        let next = self.taken.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        next.unwrap_or(EventRecords::Left)
    }

    fn push(&self, records: EventRecords) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).push_back(records);
    }
}

#[dyn_dispatch_hint]
impl Intercept for TakeEvents {
    fn name(&self) -> &'static str {
        "TakeEvents"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        if response.status().as_u16() != 200 {
            return Ok(());
        }
        let inner = response.take_body();
        *response.body_mut() = SdkBody::from_body_1_x(Events {
            inner,
            pending: Bytes::new(),
            head: Vec::with_capacity(PRELUDE),
            open: None,
            raw: false,
            ended: false,
            take: self.clone(),
        });
        Ok(())
    }
}

/// A body of messages, each a frame of its own.
struct Events {
    inner: SdkBody,
    /// Arrived and not looked at.
    pending: Bytes,
    /// The prelude of a message, so far.
    head: Vec<u8>,
    /// The message that is arriving.
    open: Option<(Prelude, Arena)>,
    /// Nothing is looked at any more.
    raw: bool,
    ended: bool,
    take: TakeEvents,
}

impl Body for Events {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            match this.next() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Ok(None) => {}
                Err(bad) => {
                    this.pending.clear();
                    this.ended = true;
                    return Poll::Ready(Some(Err(bad.into())));
                }
            }
            if this.ended {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => this.pending = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    this.ended = true;
                    this.raw = true;
                    // A message that broke off, for the SDK to tell of.
                    this.pending = match this.open.take() {
                        Some((_, arena)) => arena.freeze(),
                        None => std::mem::take(&mut this.head).into(),
                    };
                }
            }
        }
    }
}

impl Events {
    /// The next message of what is pending, or all of it if nothing is looked at.
    fn next(&mut self) -> Result<Option<Bytes>, scan::BadPayload> {
        while !self.pending.is_empty() {
            if self.raw {
                return Ok(Some(std::mem::take(&mut self.pending)));
            }
            let Some((prelude, mut arena)) = self.open.take() else {
                let missing = PRELUDE - self.head.len();
                let part = self.pending.split_to(missing.min(self.pending.len()));
                self.head.extend_from_slice(&part);
                if self.head.len() < PRELUDE {
                    continue;
                }
                let head = std::mem::replace(&mut self.head, Vec::with_capacity(PRELUDE));
                let Some(prelude) = Prelude::read(&head) else {
                    self.raw = true;
                    return Ok(Some(head.into()));
                };
                let mut arena = self.take.pool.take(prelude.total);
                arena.bytes().extend_from_slice(&head);
                self.open = Some((prelude, arena));
                continue;
            };
            let missing = prelude.total - arena.bytes().len();
            let part = self.pending.split_to(missing.min(self.pending.len()));
            arena.bytes().extend_from_slice(&part);
            if part.len() == missing {
                return self.message(prelude, arena).map(Some);
            }
            self.open = Some((prelude, arena));
        }
        Ok(None)
    }

    /// Takes the records out of a whole message; what the SDK gets to see.
    fn message(&self, prelude: Prelude, mut arena: Arena) -> Result<Bytes, scan::BadPayload> {
        let Some(payload) = prelude.event(arena.bytes(), EVENT) else {
            return Ok(arena.freeze());
        };
        let Some(layout) = scan::take(&mut arena.bytes()[payload.clone()])? else {
            let absent = absent(&arena.bytes()[payload]);
            self.take.push(absent.map_or(EventRecords::Left, EventRecords::Bare));
            return Ok(arena.freeze());
        };
        let rest = layout.rest(&arena.bytes()[payload.clone()]);
        if let Some(field) = absent(&rest) {
            self.take.push(EventRecords::Bare(field));
            return Ok(prelude.with_payload(arena.bytes(), &rest).into());
        }
        let rest = prelude.with_payload(arena.bytes(), &rest);
        let held = arena.capacity();
        let records = layout.records(arena.freeze().slice(payload), held);
        self.take.push(EventRecords::Taken(Scanned { records, cbor: false }));
        Ok(rest.into())
    }
}

#[cfg(test)]
mod tests;
