//! The bytes of one object.

use bytes::Bytes;

/// The bytes of one object, in pieces that are never copied together.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// In order.
    pub chunks: Vec<Bytes>,
}

impl Body {
    /// Total length, bytes.
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    /// No bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One piece.
    pub fn of(bytes: impl Into<Bytes>) -> Self {
        Self { chunks: vec![bytes.into()] }
    }

    /// All bytes in one piece; copies unless there is only one.
    pub fn concat(&self) -> Bytes {
        match self.chunks.as_slice() {
            [one] => one.clone(),
            many => many.concat().into(),
        }
    }
}
