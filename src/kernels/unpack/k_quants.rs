//! The blocks of the k-quants. `formats` describes their layouts.

use lapidary_formats::quant::blocks::{BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K};
use lapidary_formats::quant::Block;

use super::{Headers, KBlock, Rule};
use crate::kernels::isa::SimdInt;

/// The 32 bytes from `32 * i` on, in both halves of a register.
#[inline(always)]
fn twice<S: SimdInt>(s: S, bytes: &[u8], i: usize) -> S::Bytes {
    s.load_twice(&bytes.as_chunks().0[i])
}

/// The bits from bit `FIRST` on of each byte of the first half, and from bit `SECOND` on of each byte
/// of the second half, masked with `mask`.
#[inline(always)]
fn bits<S: SimdInt, const FIRST: i32, const SECOND: i32>(s: S, x: S::Bytes, mask: u8) -> S::Bytes {
    s.and(s.shift_halves::<FIRST, SECOND>(x), s.splat_byte(mask))
}

/// Codes of two bits: all of Q2_K's, and the low bits of Q3_K's.
#[inline(always)]
fn two_bits<S: SimdInt>(s: S, qs: &[u8; 64]) -> [S::Bytes; 4] {
    let (a, b) = (twice(s, qs, 0), twice(s, qs, 1));
    [
        bits::<S, 0, 2>(s, a, 3),
        bits::<S, 4, 6>(s, a, 3),
        bits::<S, 0, 2>(s, b, 3),
        bits::<S, 4, 6>(s, b, 3),
    ]
}

/// Codes of four bits: all of Q4_K's, and the low bits of Q5_K's.
#[inline(always)]
fn four_bits<S: SimdInt>(s: S, qs: &[u8; 128]) -> [S::Bytes; 4] {
    [
        bits::<S, 0, 4>(s, twice(s, qs, 0), 15),
        bits::<S, 0, 4>(s, twice(s, qs, 1), 15),
        bits::<S, 0, 4>(s, twice(s, qs, 2), 15),
        bits::<S, 0, 4>(s, twice(s, qs, 3), 15),
    ]
}

/// `a | b`, register by register.
#[inline(always)]
fn or<S: SimdInt>(s: S, a: [S::Bytes; 4], b: [S::Bytes; 4]) -> [S::Bytes; 4] {
    [s.or(a[0], b[0]), s.or(a[1], b[1]), s.or(a[2], b[2]), s.or(a[3], b[3])]
}

/// Sixteen bytes of each of four blocks.
macro_rules! load_each {
    ($s:expr, $w:expr, $field:ident) => {
        $s.load_quarters([&$w[0].$field, &$w[1].$field, &$w[2].$field, &$w[3].$field])
    };
}

/// The same sixteen bytes again and again.
pub(super) const fn repeat<const N: usize>(x: [u8; 16]) -> [u8; N] {
    let (mut y, mut i) = ([0; N], 0);
    while i < N {
        y[i] = x[i % 16];
        i += 1;
    }
    y
}

impl KBlock for BlockQ2K {
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 3;
    const SCALES: [i16; 2] = [0, 15];
    const RULE: Rule = Rule::Affine;

    #[inline(always)]
    fn codes<S: SimdInt>(&self, s: S) -> [S::Bytes; 4] {
        two_bits(s, &self.qs)
    }

    #[inline(always)]
    fn headers<S: SimdInt>(s: S, w: [&Self; 4]) -> Headers<S> {
        // A scale in the low four bits of each byte, and a minimum in the high ones.
        let (both, low) = (load_each!(s, w, scales), s.splat_byte(15));
        Headers {
            scales: s.and(both, low),
            mins: s.and(s.shift_dwords::<4, 4, 4, 4>(both), low),
            d: widen_each!(s, w, d),
            dmin: widen_each!(s, w, dmin),
        }
    }
}

impl KBlock for BlockQ3K {
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 7;
    const SCALES: [i16; 2] = [-32, 31];
    const RULE: Rule = Rule::Symmetric(4);

    #[inline(always)]
    fn codes<S: SimdInt>(&self, s: S) -> [S::Bytes; 4] {
        let high = twice(s, &self.hmask, 0);
        let third_bits = [
            bits::<S, -2, -1>(s, high, 4),
            bits::<S, 0, 1>(s, high, 4),
            bits::<S, 2, 3>(s, high, 4),
            bits::<S, 4, 5>(s, high, 4),
        ];
        or(s, two_bits(s, &self.qs), third_bits)
    }

    #[inline(always)]
    fn headers<S: SimdInt>(s: S, w: [&Self; 4]) -> Headers<S> {
        /// Where the low four bits of the scales lie in the last sixteen bytes of a block, of which
        /// the first two belong to the codes and the last two are `d`: first the low nibbles of
        /// these bytes, then the high ones.
        const LOW: [u8; 64] = repeat([2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9]);
        /// Where the high two bits lie: a byte has those of every fourth scale.
        const HIGH: [u8; 64] =
            repeat([10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13]);
        let ends = s.load_quarters([end(w[0]), end(w[1]), end(w[2]), end(w[3])]);
        let low = s.shift_dwords::<0, 0, 4, 4>(s.shuffle(ends, &LOW));
        let high = s.shift_dwords::<-4, -2, 0, 2>(s.shuffle(ends, &HIGH));
        let (low, high) = (s.and(low, s.splat_byte(15)), s.and(high, s.splat_byte(0x30)));
        // They are stored with 32 added.
        let scales = s.sub_bytes(s.or(low, high), s.splat_byte(32));
        Headers { scales, mins: scales, d: widen_each!(s, w, d), dmin: [0.0; 4] }
    }
}

/// The last sixteen bytes of a block.
#[inline(always)]
fn end<T: Block>(w: &T) -> &[u8; 16] {
    bytemuck::bytes_of(w).last_chunk().expect("a block is longer")
}

/// The first sixteen bytes of a block.
#[inline(always)]
pub(super) fn begin<T: Block>(w: &T) -> &[u8; 16] {
    bytemuck::bytes_of(w).first_chunk().expect("a block is longer")
}

/// The headers of Q4_K and Q5_K, whose blocks begin alike: `d`, `dmin`, and then eight scales and
/// eight minimums of six bits each in twelve bytes.
#[inline(always)]
fn headers_of_six_bits<S: SimdInt, T: Block>(s: S, w: [&T; 4]) -> Headers<S> {
    /// Where the low six bits of the first four scales lie, and the low four of the others; then
    /// the same of the minimums. The last four of both share bytes.
    const LOW: [u8; 64] = repeat([4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15]);
    const LOW_MASK: [u8; 32] =
        repeat([63, 63, 63, 63, 15, 15, 15, 15, 63, 63, 63, 63, 15, 15, 15, 15]);
    /// Where the high two bits of the last four scales and minimums lie: in the bytes of the first
    /// four.
    const HIGH: [u8; 64] = repeat([4, 5, 6, 7, 4, 5, 6, 7, 8, 9, 10, 11, 8, 9, 10, 11]);
    const HIGH_MASK: [u8; 32] = repeat([0, 0, 0, 0, 48, 48, 48, 48, 0, 0, 0, 0, 48, 48, 48, 48]);
    let begins = s.load_quarters([begin(w[0]), begin(w[1]), begin(w[2]), begin(w[3])]);
    let low = s.shift_dwords::<0, 0, 0, 4>(s.shuffle(begins, &LOW));
    let high = s.shift_dwords::<2, 2, 2, 2>(s.shuffle(begins, &HIGH));
    let low = s.and(low, s.load_twice(&LOW_MASK));
    let both = s.or(low, s.and(high, s.load_twice(&HIGH_MASK)));
    let [d, dmin] = s.first_f16_pairs(begins);
    Headers { scales: both, mins: both, d, dmin }
}

impl KBlock for BlockQ4K {
    const GROUP: usize = 32;
    const MAX_CODE: u32 = 15;
    const SCALES: [i16; 2] = [0, 63];
    const RULE: Rule = Rule::Affine;

    #[inline(always)]
    fn codes<S: SimdInt>(&self, s: S) -> [S::Bytes; 4] {
        four_bits(s, &self.qs)
    }

    #[inline(always)]
    fn headers<S: SimdInt>(s: S, w: [&Self; 4]) -> Headers<S> {
        headers_of_six_bits(s, w)
    }
}

impl KBlock for BlockQ5K {
    const GROUP: usize = 32;
    const MAX_CODE: u32 = 31;
    const SCALES: [i16; 2] = [0, 63];
    const RULE: Rule = Rule::Affine;

    #[inline(always)]
    fn codes<S: SimdInt>(&self, s: S) -> [S::Bytes; 4] {
        let high = twice(s, &self.qh, 0);
        let fifth_bits = [
            bits::<S, -4, -3>(s, high, 16),
            bits::<S, -2, -1>(s, high, 16),
            bits::<S, 0, 1>(s, high, 16),
            bits::<S, 2, 3>(s, high, 16),
        ];
        or(s, four_bits(s, &self.qs), fifth_bits)
    }

    #[inline(always)]
    fn headers<S: SimdInt>(s: S, w: [&Self; 4]) -> Headers<S> {
        headers_of_six_bits(s, w)
    }
}

impl KBlock for BlockQ6K {
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 63;
    const SCALES: [i16; 2] = [-128, 127];
    const RULE: Rule = Rule::Symmetric(32);

    #[inline(always)]
    fn codes<S: SimdInt>(&self, s: S) -> [S::Bytes; 4] {
        let ql: &[[u8; 64]] = self.ql.as_chunks().0;
        let low = [s.load_bytes(&ql[0]), s.load_bytes(&ql[1])];
        let high = [twice(s, &self.qh, 0), twice(s, &self.qh, 1)];
        let low_bits = [
            bits::<S, 0, 0>(s, low[0], 15),
            bits::<S, 4, 4>(s, low[0], 15),
            bits::<S, 0, 0>(s, low[1], 15),
            bits::<S, 4, 4>(s, low[1], 15),
        ];
        let high_bits = [
            bits::<S, -4, -2>(s, high[0], 0x30),
            bits::<S, 0, 2>(s, high[0], 0x30),
            bits::<S, -4, -2>(s, high[1], 0x30),
            bits::<S, 0, 2>(s, high[1], 0x30),
        ];
        or(s, low_bits, high_bits)
    }

    #[inline(always)]
    fn headers<S: SimdInt>(s: S, w: [&Self; 4]) -> Headers<S> {
        let scales = s.load_quarters([
            bytemuck::cast_ref(&w[0].scales),
            bytemuck::cast_ref(&w[1].scales),
            bytemuck::cast_ref(&w[2].scales),
            bytemuck::cast_ref(&w[3].scales),
        ]);
        Headers { scales, mins: scales, d: widen_each!(s, w, d), dmin: [0.0; 4] }
    }
}
