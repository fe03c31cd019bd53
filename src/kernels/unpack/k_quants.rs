//! The k-quants' blocks. Layouts are described beside their definitions in `formats`.

use lapidary_formats::quant::blocks::{BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K};

use super::{KBlock, Rule, Unpacked};
use crate::kernels::isa::SimdInt;

/// The 32 bytes from `32 * i`, for both halves of a register.
#[inline(always)]
fn twice<S: SimdInt>(s: S, bytes: &[u8], i: usize) -> S::B {
    s.load_twice(&bytes.as_chunks().0[i])
}

/// Bits `FIRST` and up of the first half's bytes, `SECOND` and up of the second's, `mask`ed.
#[inline(always)]
fn bits<S: SimdInt, const FIRST: i32, const SECOND: i32>(s: S, x: S::B, mask: u8) -> S::B {
    s.and(s.shift_halves::<FIRST, SECOND>(x), s.splat_byte(mask))
}

/// Codes of two bits, as Q2_K has them and Q3_K its low bits.
#[inline(always)]
fn crumbs<S: SimdInt>(s: S, qs: &[u8; 64]) -> [S::B; 4] {
    let (a, b) = (twice(s, qs, 0), twice(s, qs, 1));
    [
        bits::<S, 0, 2>(s, a, 3),
        bits::<S, 4, 6>(s, a, 3),
        bits::<S, 0, 2>(s, b, 3),
        bits::<S, 4, 6>(s, b, 3),
    ]
}

/// Codes of four bits, as Q4_K has them and Q5_K its low bits.
#[inline(always)]
fn nibbles<S: SimdInt>(s: S, qs: &[u8; 128]) -> [S::B; 4] {
    [
        bits::<S, 0, 4>(s, twice(s, qs, 0), 15),
        bits::<S, 0, 4>(s, twice(s, qs, 1), 15),
        bits::<S, 0, 4>(s, twice(s, qs, 2), 15),
        bits::<S, 0, 4>(s, twice(s, qs, 3), 15),
    ]
}

/// `a | b`, register by register.
#[inline(always)]
fn or<S: SimdInt>(s: S, a: [S::B; 4], b: [S::B; 4]) -> [S::B; 4] {
    [s.or(a[0], b[0]), s.or(a[1], b[1]), s.or(a[2], b[2]), s.or(a[3], b[3])]
}

impl KBlock for BlockQ2K {
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 3;
    const RULE: Rule = Rule::Affine;

    #[inline(always)]
    fn unpack<S: SimdInt>(&self, s: S) -> Unpacked<S> {
        let q = crumbs(s, &self.qs);
        let (mut scales, mut mins) = ([0; 16], [0; 16]);
        for i in 0..16 {
            scales[i] = (self.scales[i] & 15) as i8;
            mins[i] = (self.scales[i] >> 4) as i8;
        }
        Unpacked { q, scales: s.scales_16(&scales), mins: s.widen(&mins) }
    }

    #[inline(always)]
    fn scales_of_scales(&self) -> (u16, u16) {
        (self.d.to_bits(), self.dmin.to_bits())
    }
}

impl KBlock for BlockQ3K {
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 7;
    const RULE: Rule = Rule::Symmetric;

    #[inline(always)]
    fn unpack<S: SimdInt>(&self, s: S) -> Unpacked<S> {
        let high = twice(s, &self.hmask, 0);
        let thirds = [
            bits::<S, -2, -1>(s, high, 4),
            bits::<S, 0, 1>(s, high, 4),
            bits::<S, 2, 3>(s, high, 4),
            bits::<S, 4, 5>(s, high, 4),
        ];
        let q = or(s, crumbs(s, &self.qs), thirds);
        let scales = self.unpack_scales();
        let mins = s.mul_words(s.widen(&scales), -4);
        Unpacked { q, scales: s.scales_16(&scales), mins }
    }

    #[inline(always)]
    fn scales_of_scales(&self) -> (u16, u16) {
        (self.d.to_bits(), 0)
    }
}

impl KBlock for BlockQ4K {
    const GROUP: usize = 32;
    const MAX_CODE: u32 = 15;
    const RULE: Rule = Rule::Affine;

    #[inline(always)]
    fn unpack<S: SimdInt>(&self, s: S) -> Unpacked<S> {
        let q = nibbles(s, &self.qs);
        let (scales, mins) = self.scales.unpack();
        Unpacked { q, scales: s.scales_32(scales), mins: s.widen_doubled(mins) }
    }

    #[inline(always)]
    fn scales_of_scales(&self) -> (u16, u16) {
        (self.d.to_bits(), self.dmin.to_bits())
    }
}

impl KBlock for BlockQ5K {
    const GROUP: usize = 32;
    const MAX_CODE: u32 = 31;
    const RULE: Rule = Rule::Affine;

    #[inline(always)]
    fn unpack<S: SimdInt>(&self, s: S) -> Unpacked<S> {
        let high = twice(s, &self.qh, 0);
        let fifths = [
            bits::<S, -4, -3>(s, high, 16),
            bits::<S, -2, -1>(s, high, 16),
            bits::<S, 0, 1>(s, high, 16),
            bits::<S, 2, 3>(s, high, 16),
        ];
        let q = or(s, nibbles(s, &self.qs), fifths);
        let (scales, mins) = self.scales.unpack();
        Unpacked { q, scales: s.scales_32(scales), mins: s.widen_doubled(mins) }
    }

    #[inline(always)]
    fn scales_of_scales(&self) -> (u16, u16) {
        (self.d.to_bits(), self.dmin.to_bits())
    }
}

impl KBlock for BlockQ6K {
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 63;
    const RULE: Rule = Rule::Symmetric;

    #[inline(always)]
    fn unpack<S: SimdInt>(&self, s: S) -> Unpacked<S> {
        let ql: &[[u8; 64]] = self.ql.as_chunks().0;
        let low = [s.load_bytes(&ql[0]), s.load_bytes(&ql[1])];
        let high = [twice(s, &self.qh, 0), twice(s, &self.qh, 1)];
        let fours = [
            bits::<S, 0, 0>(s, low[0], 15),
            bits::<S, 4, 4>(s, low[0], 15),
            bits::<S, 0, 0>(s, low[1], 15),
            bits::<S, 4, 4>(s, low[1], 15),
        ];
        let twos = [
            bits::<S, -4, -2>(s, high[0], 0x30),
            bits::<S, 0, 2>(s, high[0], 0x30),
            bits::<S, -4, -2>(s, high[1], 0x30),
            bits::<S, 0, 2>(s, high[1], 0x30),
        ];
        let q = or(s, fours, twos);
        let mins = s.mul_words(s.widen(&self.scales), -32);
        Unpacked { q, scales: s.scales_16(&self.scales), mins }
    }

    #[inline(always)]
    fn scales_of_scales(&self) -> (u16, u16) {
        (self.d.to_bits(), 0)
    }
}
