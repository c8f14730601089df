//! Buffers of the size of a frame, used again.
//!
//! A frame is laid out in one of these. Uncompressed, it is handed over in it, and the buffer comes
//! back when the upload drops the object; else when its object is finished. Pages that the kernel
//! has to supply anew cost more than laying out the records.

use std::sync::{Mutex, PoisonError};

/// Raw bytes per compressed frame.
pub const FRAME: usize = 2 * 1024 * 1024;

/// Capacity of a buffer, bytes: a frame, and the end of the record that fills it. What a frame
/// leaves of that, 3 % at most, is not counted by the budget once it is handed over.
pub(crate) const SIZE: usize = FRAME + 64 * 1024;
/// At most this many wait for their next use: 17 MB for the process, beside its budget, which
/// counts what is in use.
const SPARES: usize = 8;

static ALL: Spares = Spares(Mutex::new(Vec::new()));

/// An empty buffer with a capacity of [`SIZE`].
pub(crate) fn take() -> Vec<u8> {
    ALL.take()
}

/// Takes a buffer back; one of another size is freed.
pub(crate) fn give(buffer: Vec<u8>) {
    ALL.give(buffer);
}

/// Bytes in a buffer of [`take`], which comes back when nobody needs them any more.
pub(crate) struct PooledBuffer(pub(crate) Vec<u8>);

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.0));
    }
}

struct Spares(Mutex<Vec<Vec<u8>>>);

impl Spares {
    fn take(&self) -> Vec<u8> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| Vec::with_capacity(SIZE))
    }

    fn give(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() != SIZE {
            return;
        }
        buffer.clear();
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spares.len() < SPARES {
            spares.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spares_come_back_empty_and_are_bounded() {
        let spares = Spares(Mutex::new(Vec::new()));
        let mut taken: Vec<_> = (0..SPARES + 3).map(|_| spares.take()).collect();
        taken[0].extend_from_slice(b"secret");
        let first = taken[0].as_ptr();
        spares.give(taken.remove(0));
        spares.give(Vec::with_capacity(SIZE + 1));
        spares.give(Vec::new());
        let again = spares.take();
        assert_eq!((again.as_ptr(), again.len(), again.capacity()), (first, 0, SIZE));
        for buffer in taken {
            spares.give(buffer);
        }
        assert_eq!(spares.0.lock().unwrap().len(), SPARES);
    }
}
