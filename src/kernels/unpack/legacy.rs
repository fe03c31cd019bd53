//! The types with 32 weights a block. `formats` describes their layouts.

use lapidary_formats::quant::blocks::{BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0};

use super::{Block32, Codes};
use crate::kernels::isa::{Simd, SimdInt};

/// The codes of two blocks with five bits each: the low four in `qs`, as in the types of four bits,
/// and the fifth in `qh`.
#[inline(always)]
fn five_bits<S: SimdInt>(s: S, qs: [&[u8; 16]; 2], qh: [[u8; 4]; 2]) -> S::Bytes {
    let bits = u64::from(u32::from_le_bytes(qh[0])) | u64::from(u32::from_le_bytes(qh[1])) << 32;
    let fifth_bits = s.and(s.bit_mask(bits), s.splat_byte(16));
    s.or(s.nibbles(qs[0], qs[1]), fifth_bits)
}

impl Block32 for BlockQ4_0 {
    const CODES: Codes = Codes::Offset(8);
    const MAX_CODE: u32 = 15;

    #[inline(always)]
    fn codes<S: SimdInt>(s: S, a: &Self, b: &Self) -> S::Bytes {
        s.nibbles(&a.qs, &b.qs)
    }

    #[inline(always)]
    fn d<S: Simd>(s: S, w: [&Self; 4]) -> [f32; 4] {
        widen_each!(s, w, d)
    }
}

impl Block32 for BlockQ4_1 {
    const CODES: Codes = Codes::Offset(0);
    const HAS_M: bool = true;
    const MAX_CODE: u32 = 15;

    #[inline(always)]
    fn codes<S: SimdInt>(s: S, a: &Self, b: &Self) -> S::Bytes {
        s.nibbles(&a.qs, &b.qs)
    }

    #[inline(always)]
    fn d<S: Simd>(s: S, w: [&Self; 4]) -> [f32; 4] {
        widen_each!(s, w, d)
    }

    #[inline(always)]
    fn m<S: Simd>(s: S, w: [&Self; 4]) -> [f32; 4] {
        widen_each!(s, w, m)
    }
}

impl Block32 for BlockQ5_0 {
    const CODES: Codes = Codes::Offset(16);
    const MAX_CODE: u32 = 31;

    #[inline(always)]
    fn codes<S: SimdInt>(s: S, a: &Self, b: &Self) -> S::Bytes {
        five_bits(s, [&a.qs, &b.qs], [a.qh, b.qh])
    }

    #[inline(always)]
    fn d<S: Simd>(s: S, w: [&Self; 4]) -> [f32; 4] {
        widen_each!(s, w, d)
    }
}

impl Block32 for BlockQ5_1 {
    const CODES: Codes = Codes::Offset(0);
    const HAS_M: bool = true;
    const MAX_CODE: u32 = 31;

    #[inline(always)]
    fn codes<S: SimdInt>(s: S, a: &Self, b: &Self) -> S::Bytes {
        five_bits(s, [&a.qs, &b.qs], [a.qh, b.qh])
    }

    #[inline(always)]
    fn d<S: Simd>(s: S, w: [&Self; 4]) -> [f32; 4] {
        widen_each!(s, w, d)
    }

    #[inline(always)]
    fn m<S: Simd>(s: S, w: [&Self; 4]) -> [f32; 4] {
        widen_each!(s, w, m)
    }
}

impl Block32 for BlockQ8_0 {
    const CODES: Codes = Codes::Signed;
    const MAX_CODE: u32 = 255;

    #[inline(always)]
    fn codes<S: SimdInt>(s: S, a: &Self, b: &Self) -> S::Bytes {
        s.load_halves(bytemuck::cast_ref(&a.qs), bytemuck::cast_ref(&b.qs))
    }

    #[inline(always)]
    fn d<S: Simd>(s: S, w: [&Self; 4]) -> [f32; 4] {
        widen_each!(s, w, d)
    }
}
