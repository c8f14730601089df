//! Buffers of replies, used again.
//!
//! A reply of megabytes in a fresh buffer costs more in page faults than its scan. A buffer comes
//! back when the last slice of it is gone; how much may lie idle is bounded, because idle buffers
//! are outside of the byte budget.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Most bytes that lie idle, in the whole pool.
const IDLE: usize = 8 << 20;
/// Smaller buffers are not kept, larger sizes are rounded up to it, so that replies of about the
/// same size fit each other's buffers.
const STEP: usize = 64 << 10;
/// Most bytes reserved on the word of a header.
const TRUSTED: usize = 32 << 20;

/// A pool of buffers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Arenas(Arc<Mutex<Idle>>);

#[derive(Debug, Default)]
struct Idle {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// A buffer lent by a pool.
#[derive(Debug)]
pub struct Arena {
    bytes: Vec<u8>,
    pool: Arenas,
}

impl Arenas {
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty buffer with room for `expected` bytes. Never one that is far too large: what a page
    /// holds counts, and many small pages must not hold large buffers.
    pub fn take(&self, expected: usize) -> Arena {
        let bytes = if expected < STEP {
            Vec::with_capacity(expected)
        } else {
            let wanted = expected.min(TRUSTED).next_multiple_of(STEP);
            self.reuse(wanted).unwrap_or_else(|| Vec::with_capacity(wanted))
        };
        Arena { bytes, pool: self.clone() }
    }

    fn reuse(&self, wanted: usize) -> Option<Vec<u8>> {
        let mut idle = self.idle();
        let fits = |buffer: &Vec<u8>| (wanted..=wanted * 2).contains(&buffer.capacity());
        let found = idle.buffers.iter().rposition(fits)?;
        let buffer = idle.buffers.swap_remove(found);
        idle.bytes -= buffer.capacity();
        Some(buffer)
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut idle = self.idle();
        if buffer.capacity() >= STEP && idle.bytes + buffer.capacity() <= IDLE {
            idle.bytes += buffer.capacity();
            idle.buffers.push(buffer);
        }
    }
}

impl Arena {
    /// The buffer, to be filled.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Memory held, bytes.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Shares the content. The buffer goes back to its pool with the last slice.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Arena {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frozen(pool: &Arenas, length: usize) -> Bytes {
        let mut arena = pool.take(length);
        arena.bytes().resize(length, 7);
        arena.freeze()
    }

    #[test]
    fn a_buffer_comes_back_with_its_last_slice() {
        let pool = Arenas::default();
        let all = frozen(&pool, 200_000);
        let (at, part) = (all.as_ptr(), all.slice(5..9));
        drop(all);
        assert_eq!(pool.idle().bytes, 0);
        assert_eq!(part.as_ref(), [7; 4]);
        drop(part);
        let mut again = pool.take(190_000);
        assert!(again.bytes().is_empty());
        again.bytes().push(1);
        assert_eq!(again.bytes().as_ptr(), at);
    }

    #[test]
    fn small_replies_get_small_buffers_and_idle_ones_are_bounded() {
        let pool = Arenas::default();
        drop(frozen(&pool, 4 << 20));
        assert!(pool.take(1000).capacity() < STEP);
        assert!(pool.take(STEP).capacity() <= 2 * STEP);
        let held: Vec<_> = (0..9).map(|_| frozen(&pool, 3 << 20)).collect();
        drop(held);
        assert!(pool.idle().bytes <= IDLE);
        let counted = pool.idle().buffers.iter().map(Vec::capacity).sum::<usize>();
        assert_eq!(pool.idle().bytes, counted);
        drop(frozen(&pool, 16 << 20));
        assert!(pool.idle().bytes <= IDLE);
    }
}
