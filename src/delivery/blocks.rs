//! Blocks of one size, for what many open objects hold.
//!
//! A batch with thousands of partitions is thousands of pieces that grow, are compressed, and go. As
//! allocations of their own they leave holes behind, and the worker keeps half as much again as they
//! hold. Blocks of one size leave none: a free one fits whatever comes next. They are cut from
//! buffers of a frame's size, which the batch gives back as a whole.

use bytes::{Bytes, BytesMut};

use crate::delivery::buffers;

/// Bytes in a block. Half of one is what an object wastes on average.
const BLOCK: usize = 4 * 1024;
/// Blocks in a buffer.
const EACH: usize = buffers::SIZE / BLOCK;
/// Finished objects are put together in pieces of this size, bytes, one behind the other: they are
/// stored in the same order, so a piece is free soon after the first of them.
const PIECE: usize = 256 * 1024;

/// The blocks of one batch.
#[derive(Debug, Default)]
pub struct Blocks {
    buffers: Vec<Vec<u8>>,
    free: Vec<u32>,
    finished: BytesMut,
    scratch: Vec<u8>,
}

/// Bytes in blocks, in order. Empty it by [`Blocks::take`] or [`Blocks::finish`]: a chain knows
/// where its blocks are, not whose.
#[derive(Debug, Default)]
pub struct Chain {
    blocks: Vec<u32>,
    length: usize,
}

impl Chain {
    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl Blocks {
    /// Memory held, bytes, free blocks included.
    pub fn memory(&self) -> usize {
        self.buffers.len() * buffers::SIZE + self.scratch.capacity()
    }

    /// Puts bytes at the end of a chain.
    pub fn append(&mut self, chain: &mut Chain, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let filled = chain.length % BLOCK;
            let block = match chain.blocks.last() {
                Some(last) if filled > 0 => *last,
                _ => {
                    let block = self.unused();
                    chain.blocks.push(block);
                    block
                }
            };
            let part = bytes.len().min(BLOCK - filled);
            let (now, later) = bytes.split_at(part);
            self.block(block)[filled..filled + part].copy_from_slice(now);
            chain.length += part;
            bytes = later;
        }
    }

    /// Moves what is in a chain to the end of `to`.
    pub fn take(&mut self, chain: &mut Chain, to: &mut Vec<u8>) {
        to.reserve(chain.length);
        self.drain(chain, |part| to.extend_from_slice(part));
    }

    /// What is in a chain, outside of the blocks.
    pub fn finish(&mut self, chain: &mut Chain) -> Bytes {
        let mut to = std::mem::take(&mut self.finished);
        if to.capacity() < chain.length {
            to = BytesMut::with_capacity(chain.length.max(PIECE));
        }
        self.drain(chain, |part| to.extend_from_slice(part));
        let whole = to.split().freeze();
        self.finished = to;
        whole
    }

    /// An empty buffer, which [`Blocks::give_back`] keeps for the next time.
    pub fn scratch(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.scratch)
    }

    /// Takes the buffer back; what one long record needed is freed.
    pub fn give_back(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= PIECE {
            buffer.clear();
            self.scratch = buffer;
        }
    }

    fn drain(&mut self, chain: &mut Chain, mut part: impl FnMut(&[u8])) {
        let mut left = std::mem::take(&mut chain.length);
        for block in chain.blocks.drain(..) {
            let length = left.min(BLOCK);
            part(&self.block(block)[..length]);
            left -= length;
            self.free.push(block);
        }
    }

    fn unused(&mut self) -> u32 {
        if let Some(block) = self.free.pop() {
            return block;
        }
        let first = (self.buffers.len() * EACH) as u32;
        let mut buffer = buffers::take();
        buffer.resize(EACH * BLOCK, 0);
        self.buffers.push(buffer);
        self.free.extend((first + 1..first + EACH as u32).rev());
        first
    }

    fn block(&mut self, block: u32) -> &mut [u8] {
        let begin = block as usize % EACH * BLOCK;
        &mut self.buffers[block as usize / EACH][begin..begin + BLOCK]
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.buffers.drain(..).for_each(buffers::give);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn free_blocks_are_used_before_another_buffer() {
        let mut blocks = Blocks::default();
        let mut chains: Vec<Chain> = (0..EACH).map(|_| Chain::default()).collect();
        for chain in &mut chains {
            blocks.append(chain, b"x");
        }
        assert_eq!(blocks.memory(), buffers::SIZE);
        let mut out = Vec::new();
        chains.iter_mut().for_each(|chain| blocks.take(chain, &mut out));
        let mut long = Chain::default();
        blocks.append(&mut long, &vec![b'y'; EACH * BLOCK]);
        assert_eq!((blocks.memory(), out.len()), (buffers::SIZE, EACH));
        blocks.append(&mut long, b"z");
        assert_eq!(blocks.memory(), 2 * buffers::SIZE);
    }

    proptest! {
        /// Whatever is appended to whichever chain comes out of it, and of no other.
        #[test]
        fn chains_keep_what_is_theirs(
            steps in prop::collection::vec((0..5_usize, 0..3 * BLOCK, 0..8_u8), 1..80),
        ) {
            let mut blocks = Blocks::default();
            let mut chains: [Chain; 5] = Default::default();
            let mut expected: [Vec<u8>; 5] = Default::default();
            let mut finished = Vec::new();
            for (at, (index, length, what)) in steps.into_iter().enumerate() {
                let chain = &mut chains[index];
                match what {
                    0 => {
                        let mut out = b"before".to_vec();
                        blocks.take(chain, &mut out);
                        let whole = std::mem::take(&mut expected[index]);
                        prop_assert_eq!(out, [b"before", whole.as_slice()].concat());
                    }
                    1 => {
                        let whole = std::mem::take(&mut expected[index]);
                        finished.push((blocks.finish(chain), whole));
                    }
                    _ => {
                        let bytes: Vec<u8> = (0..length).map(|n| (n / 7 + at) as u8).collect();
                        blocks.append(chain, &bytes);
                        expected[index].extend_from_slice(&bytes);
                    }
                }
                prop_assert_eq!(chain.len(), expected[index].len());
                prop_assert_eq!(chain.is_empty(), expected[index].is_empty());
            }
            drop(blocks);
            for (is, expected) in finished {
                prop_assert_eq!(is, expected);
            }
        }
    }
}
