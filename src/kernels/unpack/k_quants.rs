//! The k-quants' blocks. Layouts are described beside their definitions in `formats`.

use lapidary_formats::quant::blocks::{BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K, Scales};
use lapidary_formats::quant::Block;

use super::{Heads, KBlock, Rule};
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

/// Sixteen bytes of each of four blocks.
macro_rules! heads {
    ($s:expr, $w:expr, $field:ident) => {
        $s.load_heads([&$w[0].$field, &$w[1].$field, &$w[2].$field, &$w[3].$field])
    };
}

/// A half of each of four blocks.
macro_rules! halves {
    ($s:expr, $w:expr, $field:ident) => {
        $s.halves([
            $w[0].$field.to_bits(),
            $w[1].$field.to_bits(),
            $w[2].$field.to_bits(),
            $w[3].$field.to_bits(),
        ])
    };
}

impl KBlock for BlockQ2K {
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 3;
    const RULE: Rule = Rule::Affine;

    #[inline(always)]
    fn codes<S: SimdInt>(&self, s: S) -> [S::B; 4] {
        crumbs(s, &self.qs)
    }

    #[inline(always)]
    fn heads<S: SimdInt>(s: S, w: [&Self; 4]) -> Heads<S> {
        let both = heads!(s, w, scales);
        Heads {
            scales: s.nibble_heads(both, false),
            mins: s.nibble_heads(both, true),
            d: halves!(s, w, d),
            dmin: halves!(s, w, dmin),
        }
    }

    #[inline(always)]
    fn scales_and_mins(&self) -> ([i8; 16], [u8; 16]) {
        let (mut scales, mut mins) = ([0; 16], [0; 16]);
        for i in 0..16 {
            scales[i] = (self.scales[i] & 15) as i8;
            mins[i] = self.scales[i] >> 4;
        }
        (scales, mins)
    }

    #[inline(always)]
    fn d(&self) -> [u16; 2] {
        [self.d.to_bits(), self.dmin.to_bits()]
    }
}

impl KBlock for BlockQ3K {
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 7;
    const RULE: Rule = Rule::Symmetric(4);

    #[inline(always)]
    fn codes<S: SimdInt>(&self, s: S) -> [S::B; 4] {
        let high = twice(s, &self.hmask, 0);
        let thirds = [
            bits::<S, -2, -1>(s, high, 4),
            bits::<S, 0, 1>(s, high, 4),
            bits::<S, 2, 3>(s, high, 4),
            bits::<S, 4, 5>(s, high, 4),
        ];
        or(s, crumbs(s, &self.qs), thirds)
    }

    #[inline(always)]
    fn heads<S: SimdInt>(s: S, w: [&Self; 4]) -> Heads<S> {
        let ends = [end(w[0]), end(w[1]), end(w[2]), end(w[3])];
        let scales = s.signed_six_bit_heads(s.load_heads(ends));
        Heads { scales, mins: scales, d: halves!(s, w, d), dmin: [0.0; 4] }
    }

    #[inline(always)]
    fn scales_and_mins(&self) -> ([i8; 16], [u8; 16]) {
        (self.unpack_scales(), [0; 16])
    }

    #[inline(always)]
    fn d(&self) -> [u16; 2] {
        [self.d.to_bits(), 0]
    }
}

/// The last sixteen bytes of a block.
#[inline(always)]
fn end<T: Block>(w: &T) -> &[u8; 16] {
    bytemuck::bytes_of(w).last_chunk().expect("a block is longer")
}

/// The first sixteen bytes of a block.
#[inline(always)]
fn begin<T: Block>(w: &T) -> &[u8; 16] {
    bytemuck::bytes_of(w).first_chunk().expect("a block is longer")
}

/// Of Q4_K and Q5_K, which begin alike: `d`, `dmin` and `scales`, sixteen bytes.
#[inline(always)]
fn six_bit_heads<S: SimdInt, T: Block>(s: S, w: [&T; 4]) -> Heads<S> {
    let begins = s.load_heads([begin(w[0]), begin(w[1]), begin(w[2]), begin(w[3])]);
    let (both, [d, dmin]) = (s.six_bit_heads(begins), s.first_halves(begins));
    Heads { scales: both, mins: both, d, dmin }
}

/// Eight scales and eight minimums, each twice.
#[inline(always)]
fn doubled(scales: &Scales) -> ([i8; 16], [u8; 16]) {
    let (scales, mins) = scales.unpack();
    let mut y = ([0; 16], [0; 16]);
    for i in 0..16 {
        (y.0[i], y.1[i]) = (scales[i / 2] as i8, mins[i / 2]);
    }
    y
}

impl KBlock for BlockQ4K {
    const GROUP: usize = 32;
    const MAX_CODE: u32 = 15;
    const RULE: Rule = Rule::Affine;

    #[inline(always)]
    fn codes<S: SimdInt>(&self, s: S) -> [S::B; 4] {
        nibbles(s, &self.qs)
    }

    #[inline(always)]
    fn heads<S: SimdInt>(s: S, w: [&Self; 4]) -> Heads<S> {
        six_bit_heads(s, w)
    }

    #[inline(always)]
    fn scales_and_mins(&self) -> ([i8; 16], [u8; 16]) {
        doubled(&self.scales)
    }

    #[inline(always)]
    fn d(&self) -> [u16; 2] {
        [self.d.to_bits(), self.dmin.to_bits()]
    }
}

impl KBlock for BlockQ5K {
    const GROUP: usize = 32;
    const MAX_CODE: u32 = 31;
    const RULE: Rule = Rule::Affine;

    #[inline(always)]
    fn codes<S: SimdInt>(&self, s: S) -> [S::B; 4] {
        let high = twice(s, &self.qh, 0);
        let fifths = [
            bits::<S, -4, -3>(s, high, 16),
            bits::<S, -2, -1>(s, high, 16),
            bits::<S, 0, 1>(s, high, 16),
            bits::<S, 2, 3>(s, high, 16),
        ];
        or(s, nibbles(s, &self.qs), fifths)
    }

    #[inline(always)]
    fn heads<S: SimdInt>(s: S, w: [&Self; 4]) -> Heads<S> {
        six_bit_heads(s, w)
    }

    #[inline(always)]
    fn scales_and_mins(&self) -> ([i8; 16], [u8; 16]) {
        doubled(&self.scales)
    }

    #[inline(always)]
    fn d(&self) -> [u16; 2] {
        [self.d.to_bits(), self.dmin.to_bits()]
    }
}

impl KBlock for BlockQ6K {
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 63;
    const RULE: Rule = Rule::Symmetric(32);

    #[inline(always)]
    fn codes<S: SimdInt>(&self, s: S) -> [S::B; 4] {
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
        or(s, fours, twos)
    }

    #[inline(always)]
    fn heads<S: SimdInt>(s: S, w: [&Self; 4]) -> Heads<S> {
        let scales = s.load_heads([
            bytemuck::cast_ref(&w[0].scales),
            bytemuck::cast_ref(&w[1].scales),
            bytemuck::cast_ref(&w[2].scales),
            bytemuck::cast_ref(&w[3].scales),
        ]);
        Heads { scales, mins: scales, d: halves!(s, w, d), dmin: [0.0; 4] }
    }

    #[inline(always)]
    fn scales_and_mins(&self) -> ([i8; 16], [u8; 16]) {
        (self.scales, [0; 16])
    }

    #[inline(always)]
    fn d(&self) -> [u16; 2] {
        [self.d.to_bits(), 0]
    }
}
