//! The parts of one object that goes up in parts: what is stored, what is next, what is held.
//!
//! Every part but the last is of the same size, and a part is cut wherever that size ends, in the
//! middle of a chunk of the body too. A chunk is dropped once its last byte is stored. A failed
//! attempt changes nothing here, so the next one goes on with the same part of the same upload.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::delivery::body::Body;

/// A part in the store, as the list that completes the upload names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPart {
    /// From 1.
    pub number: i32,
    /// As the store returned it.
    pub etag: Option<String>,
    /// CRC-32 in base64, computed here.
    pub crc32: String,
}

/// What to ask of the store next.
#[derive(Debug)]
pub enum Step<'a> {
    /// Begin an upload; its id goes to [`Parts::begun`].
    Begin,
    /// Store this part of the upload; what comes of it goes to [`Parts::stored`].
    Part(&'a str, i32, Body),
    /// Make the object of these parts of the upload.
    Complete(&'a str, &'a [StoredPart]),
}

/// See the module.
#[derive(Debug)]
pub struct Parts {
    size: usize,
    id: Option<String>,
    stored: Vec<StoredPart>,
    /// Chunks with bytes that are not stored.
    held: VecDeque<Bytes>,
    /// Bytes of the first of them that are.
    offset: usize,
    /// A chunk is gone.
    freed: bool,
}

impl Parts {
    /// A body in parts of `size` bytes, at least 1.
    pub fn new(body: Body, size: usize) -> Self {
        Self {
            size: size.max(1),
            id: None,
            stored: Vec::new(),
            held: body.chunks.into_iter().filter(|chunk| !chunk.is_empty()).collect(),
            offset: 0,
            freed: false,
        }
    }

    /// Bytes held: chunks count whole until their last byte is stored.
    pub fn memory(&self) -> usize {
        self.held.iter().map(Bytes::len).sum()
    }

    /// The upload that was begun.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Parts stored so far.
    pub fn done(&self) -> usize {
        self.stored.len()
    }

    /// What to ask of the store.
    pub fn next(&self) -> Step<'_> {
        let Some(id) = &self.id else { return Step::Begin };
        if self.held.is_empty() {
            return Step::Complete(id, &self.stored);
        }
        let mut part = Body::default();
        let (mut room, mut from) = (self.size, self.offset);
        for chunk in &self.held {
            let to = chunk.len().min(from + room);
            part.chunks.push(chunk.slice(from..to));
            room -= to - from;
            if room == 0 {
                break;
            }
            from = 0;
        }
        Step::Part(id, self.number(), part)
    }

    fn number(&self) -> i32 {
        i32::try_from(self.stored.len()).unwrap_or(i32::MAX).saturating_add(1)
    }

    /// The store knows the upload by this id.
    pub fn begun(&mut self, id: String) {
        self.id = Some(id);
    }

    /// The next part is stored. Returns how many bytes are held no more.
    pub fn stored(&mut self, part: StoredPart) -> usize {
        self.stored.push(part);
        let (mut gone, mut left) = (0, self.size);
        while let Some(chunk) = self.held.front() {
            let rest = chunk.len() - self.offset;
            if rest > left {
                self.offset += left;
                break;
            }
            left -= rest;
            self.offset = 0;
            self.freed = true;
            gone += chunk.len();
            self.held.pop_front();
        }
        gone
    }

    /// The store has forgotten the upload and its parts: can all of them be sent again? Then the
    /// next step begins another upload.
    pub fn restart(&mut self) -> bool {
        if !self.freed {
            (self.id, self.offset) = (None, 0);
            self.stored.clear();
        }
        !self.freed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(number: i32) -> StoredPart {
        StoredPart { number, etag: Some(format!("etag {number}")), crc32: String::new() }
    }

    fn body(chunks: &[usize]) -> Body {
        let mut byte = 0_u8;
        let mut chunk = |len: &usize| {
            let bytes = (0..*len).map(|_| {
                byte = byte.wrapping_add(1);
                byte
            });
            bytes.collect::<Vec<u8>>().into()
        };
        Body { chunks: chunks.iter().map(&mut chunk).collect() }
    }

    #[test]
    fn a_chunk_is_held_until_its_last_byte_is_stored() {
        let mut parts = Parts::new(body(&[70, 70, 10]), 60);
        parts.begun("a".into());
        let mut freed = Vec::new();
        while let Step::Part(_, number, _) = parts.next() {
            freed.push((parts.stored(stored(number)), parts.memory()));
        }
        assert_eq!(freed, [(0, 150), (70, 80), (80, 0)]);
    }

    #[test]
    fn what_is_freed_cannot_be_sent_again() {
        let mut parts = Parts::new(body(&[100, 100]), 60);
        parts.begun("a".into());
        assert_eq!(parts.stored(stored(1)), 0);
        assert!(parts.restart(), "the first chunk is still there");
        assert!(matches!(parts.next(), Step::Begin));
        assert_eq!((parts.id(), parts.done(), parts.memory()), (None, 0, 200));
        parts.begun("b".into());
        parts.stored(stored(1));
        assert_eq!(parts.stored(stored(2)), 100);
        assert!(!parts.restart());
        assert!(matches!(parts.next(), Step::Part("b", 3, part) if part.len() == 60));
    }

    proptest! {
        /// Whatever fails and however often, and however often the upload is forgotten while all of
        /// it can be sent again: the parts in the list are the body, each once and in order.
        #[test]
        fn the_parts_are_the_body(
            chunks in proptest::collection::vec(0_usize..50, 0..20),
            size in 1_usize..80,
            fates in proptest::collection::vec(0_u8..4, 0..60),
        ) {
            let whole = body(&chunks);
            let mut parts = Parts::new(whole.clone(), size);
            let mut fates = fates.into_iter();
            // The store: uploads and their parts.
            let mut store: Vec<Vec<Bytes>> = Vec::new();
            let done = loop {
                let held = parts.memory();
                let fate = fates.next().unwrap_or(0);
                if fate == 3 && parts.restart() {
                    prop_assert_eq!(parts.memory(), whole.len());
                    continue;
                }
                match parts.next() {
                    Step::Begin => {
                        store.push(Vec::new());
                        parts.begun((store.len() - 1).to_string());
                    }
                    Step::Part(id, number, part) => {
                        let upload = &mut store[id.parse::<usize>().unwrap()];
                        let index = usize::try_from(number).unwrap() - 1;
                        prop_assert!(index <= upload.len(), "a part is left out");
                        upload.truncate(index);
                        upload.push(part.concat());
                        // The reply may be lost: then the same part is sent once more.
                        if fate == 0 {
                            drop(part);
                            let freed = parts.stored(stored(number));
                            prop_assert_eq!(parts.memory(), held - freed);
                            let sent = size * parts.done();
                            prop_assert!(parts.memory() >= whole.len().saturating_sub(sent));
                        }
                    }
                    Step::Complete(id, list) => {
                        let id = id.parse::<usize>().unwrap();
                        prop_assert!((1..).zip(list).all(|(number, part)| part.number == number));
                        break (id, list.len());
                    }
                }
            };
            let upload = &store[done.0];
            prop_assert_eq!(upload.len(), done.1);
            prop_assert_eq!(upload.concat(), whole.concat().to_vec());
            let (last, others) = upload.split_last().map_or((0, &[][..]), |(l, o)| (l.len(), o));
            prop_assert!(last <= size && others.iter().all(|part| part.len() == size));
            prop_assert_eq!(parts.memory(), 0);
        }
    }
}
