//! What a reply has to say to be one.
//!
//! The SDK fills a required field that a reply does not have with a zero value: a creation time of
//! 1970, a list without entries, an iterator of no letters. A proxy that answers 200 with an empty
//! body would so tell of a stream that was made anew, or of a shard without records. Every
//! operation asks here for the fields it lives by; without them the call has failed, and is made
//! again like any other that found the service unavailable.

use std::collections::HashMap;

use aws_sdk_kinesis::primitives::DateTime;

use crate::fault::{CallError, Detail, Fault};

/// A value that may stand for nothing.
pub(super) trait Blank {
    /// Is it what the SDK puts in the place of a field that is absent, or as good as that?
    fn is_blank(&self) -> bool;
}

impl Blank for String {
    fn is_blank(&self) -> bool {
        self.is_empty()
    }
}

impl Blank for &str {
    fn is_blank(&self) -> bool {
        self.is_empty()
    }
}

impl Blank for &DateTime {
    fn is_blank(&self) -> bool {
        self.secs() <= 0
    }
}

impl Blank for i32 {
    fn is_blank(&self) -> bool {
        *self <= 0
    }
}

/// A list may be empty; it has to be there.
impl<T> Blank for Vec<T> {
    fn is_blank(&self) -> bool {
        false
    }
}

/// An item has its key at least.
impl<K, V> Blank for HashMap<K, V> {
    fn is_blank(&self) -> bool {
        self.is_empty()
    }
}

/// The field of a reply.
///
/// # Errors
/// [`incomplete`], where it is absent or blank.
pub(super) fn required<T: Blank>(
    operation: &'static str,
    field: &str,
    value: Option<T>,
) -> Result<T, CallError> {
    value.filter(|value| !value.is_blank()).ok_or_else(|| incomplete(operation, field))
}

/// A reply without what it is for.
pub(super) fn incomplete(operation: &'static str, field: &str) -> CallError {
    CallError {
        operation,
        fault: Fault::Unavailable,
        detail: Detail::Plain,
        code: "IncompleteReply".into(),
        message: format!("the reply was a success and had no {field}"),
        request_id: None,
    }
}

#[cfg(test)]
mod tests;
