//! MD5 of many messages at once (RFC 1321).
//!
//! MD5 is one long chain of additions, so a core that works on one message mostly waits. The
//! aggregates of a page do not depend on each other: four of them go through the same steps side
//! by side, in the vectors that every x86-64 and arm64 has. Written so that the compiler finds
//! them; why not by a library: `docs/adr/0002-md5.md`.

use md5::{Digest, Md5};

/// Messages at once: 32-bit words of a vector of 128 bits.
const LANES: usize = 4;
const BLOCK: usize = 64;

/// One word of each message.
type Words = [u32; LANES];
/// The state of each message, from A to D.
type DigestState = [Words; 4];

const INITIAL: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// `floor(2^32 * abs(sin(i + 1)))`, i from 0.
const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// The MD5 of each message, in their order.
pub(crate) fn digests(messages: &[&[u8]]) -> Vec<[u8; 16]> {
    let mut digests = vec![[0; 16]; messages.len()];
    // Neighbours of about the same length: a lane whose message has ended idles.
    let mut order: Vec<usize> = (0..messages.len()).collect();
    order.sort_unstable_by_key(|at| messages[*at].len());
    for group in order.chunks(LANES) {
        if let [alone] = group {
            digests[*alone] = Md5::digest(messages[*alone]).into();
            continue;
        }
        let lanes =
            std::array::from_fn(|n| Lane::new(group.get(n).map_or(&[][..], |at| messages[*at])));
        for (at, digest) in group.iter().zip(side_by_side(&lanes)) {
            digests[*at] = digest;
        }
    }
    digests
}

/// A message in blocks.
struct Lane<'a> {
    whole: &'a [[u8; BLOCK]],
    /// The rest of the message, a one bit, zeros, and its length in bits: one block or two.
    end: [[u8; BLOCK]; 2],
    blocks: usize,
}

impl<'a> Lane<'a> {
    fn new(message: &'a [u8]) -> Self {
        let (whole, rest) = message.as_chunks();
        let ends = if rest.len() + 9 <= BLOCK { 1 } else { 2 };
        let mut end = [[0; BLOCK]; 2];
        let room = end.as_flattened_mut();
        room[..rest.len()].copy_from_slice(rest);
        room[rest.len()] = 0x80;
        let bits = (message.len() as u64).wrapping_mul(8);
        room[ends * BLOCK - 8..ends * BLOCK].copy_from_slice(&bits.to_le_bytes());
        Self { whole, end, blocks: whole.len() + ends }
    }

    /// Block `at`; behind the end, any.
    fn block(&self, at: usize) -> &[u8; BLOCK] {
        self.whole.get(at).unwrap_or_else(|| &self.end[(at - self.whole.len()).min(1)])
    }
}

fn side_by_side(lanes: &[Lane<'_>; LANES]) -> [[u8; 16]; LANES] {
    let mut digests = [[0; 16]; LANES];
    let mut state = INITIAL.map(|word| [word; LANES]);
    let longest = lanes.iter().map(|lane| lane.blocks).max().unwrap_or(0);
    for at in 0..longest {
        take(&mut state, lanes.each_ref().map(|lane| lane.block(at)));
        for ((n, lane), digest) in lanes.iter().enumerate().zip(&mut digests) {
            if at + 1 == lane.blocks {
                for (to, word) in digest.as_chunks_mut().0.iter_mut().zip(&state) {
                    *to = word[n].to_le_bytes();
                }
            }
        }
    }
    digests
}

/// One block of each message into the state.
fn take(state: &mut DigestState, blocks: [&[u8; BLOCK]; LANES]) {
    let words: [Words; 16] =
        std::array::from_fn(|w| blocks.map(|block| u32::from_le_bytes(block.as_chunks().0[w])));
    let mut next = *state;
    for i in (0..16).step_by(4) {
        let f = |b: u32, c: u32, d: u32| d ^ (b & (c ^ d));
        let word = |n: usize| &words[(i + n) & 15];
        four::<7, 12, 17, 22>(&mut next, f, word, i);
    }
    for i in (16..32).step_by(4) {
        let f = |b: u32, c: u32, d: u32| c ^ (d & (b ^ c));
        let word = |n: usize| &words[(5 * (i + n) + 1) & 15];
        four::<5, 9, 14, 20>(&mut next, f, word, i);
    }
    for i in (32..48).step_by(4) {
        let word = |n: usize| &words[(3 * (i + n) + 5) & 15];
        four::<4, 11, 16, 23>(&mut next, |b, c, d| b ^ c ^ d, word, i);
    }
    for i in (48..64).step_by(4) {
        let word = |n: usize| &words[(7 * (i + n)) & 15];
        four::<6, 10, 15, 21>(&mut next, |b, c, d| c ^ (b | !d), word, i);
    }
    for (words, more) in state.iter_mut().zip(&next) {
        for (word, more) in words.iter_mut().zip(more) {
            *word = word.wrapping_add(*more);
        }
    }
}

/// Steps `i` to `i + 3`, after which A to D are in their places again.
#[inline(always)]
fn four<'a, const R: u32, const S: u32, const T: u32, const U: u32>(
    [a, b, c, d]: &mut DigestState,
    f: impl Fn(u32, u32, u32) -> u32,
    word: impl Fn(usize) -> &'a Words,
    i: usize,
) {
    *a = step::<R>(a, b, c, d, &f, word(0), SINES[i]);
    *d = step::<S>(d, a, b, c, &f, word(1), SINES[i + 1]);
    *c = step::<T>(c, d, a, b, &f, word(2), SINES[i + 2]);
    *b = step::<U>(b, c, d, a, &f, word(3), SINES[i + 3]);
}

#[inline(always)]
fn step<const ROTATE: u32>(
    a: &Words,
    b: &Words,
    c: &Words,
    d: &Words,
    f: impl Fn(u32, u32, u32) -> u32,
    word: &Words,
    sine: u32,
) -> Words {
    std::array::from_fn(|n| {
        a[n].wrapping_add(f(b[n], c[n], d[n]))
            .wrapping_add(word[n])
            .wrapping_add(sine)
            .rotate_left(ROTATE)
            .wrapping_add(b[n])
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one_by_one(messages: &[&[u8]]) -> Vec<[u8; 16]> {
        messages.iter().map(|message| Md5::digest(message).into()).collect()
    }

    /// Where padding starts another block, each length beside every other.
    #[test]
    fn all_lengths_around_blocks() {
        let text: Vec<u8> = (0..300_u32).map(|n| (n * 7 % 251) as u8).collect();
        let lengths = [0, 1, 54, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 129, 192, 300];
        for a in lengths {
            for b in lengths {
                let messages = [&text[..a], &text[300 - b..], &text[..b], &text[1..], &text[..a]];
                for count in 0..=messages.len() {
                    assert_eq!(digests(&messages[..count]), one_by_one(&messages[..count]));
                }
            }
        }
        assert_eq!(
            digests(&[b"abc", b""])[0],
            0x9001_5098_3cd2_4fb0_d696_3f7d_28e1_7f72_u128.to_be_bytes(),
            "the RFC's example"
        );
    }

    proptest! {
        #[test]
        fn equal_to_the_library(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..12),
        ) {
            let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(digests(&messages), one_by_one(&messages));
        }
    }
}
