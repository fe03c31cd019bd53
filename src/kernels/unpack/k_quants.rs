//! The k-quants' blocks. Layouts are described beside their definitions in `formats`.

use lapidary_formats::quant::blocks::{BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K};

use super::{KBlock, Rule, Unpacked};
use crate::kernels::isa::SimdInt;

/// An array of eight expressions, each with its own constant: no closure that might stay a call.
macro_rules! eight {
    ($k:ident => $e:expr) => {
        eight!($k => $e; 0 1 2 3 4 5 6 7)
    };
    ($k:ident => $e:expr; $($n:literal)*) => {
        [$({
            const $k: usize = $n;
            $e
        }),*]
    };
}

/// The 32 bytes from `32 * i`.
#[inline(always)]
fn part<S: SimdInt>(s: S, bytes: &[u8], i: usize) -> S::B {
    s.load_bytes(&bytes.as_chunks().0[i])
}

/// Bit `from` of every byte, moved to bit `to`.
#[inline(always)]
fn bit<S: SimdInt>(s: S, x: S::B, from: usize, to: usize) -> S::B {
    let moved = match from as i32 - to as i32 {
        -4 => s.shl::<4>(x),
        -3 => s.shl::<3>(x),
        -2 => s.shl::<2>(x),
        -1 => s.shl::<1>(x),
        1 => s.shr::<1>(x),
        2 => s.shr::<2>(x),
        3 => s.shr::<3>(x),
        4 => s.shr::<4>(x),
        5 => s.shr::<5>(x),
        _ => x,
    };
    s.and(moved, s.splat_byte(1 << to))
}

/// The low or the high four bits of every byte.
#[inline(always)]
fn nibble<S: SimdInt>(s: S, x: S::B, high: bool) -> S::B {
    s.and(if high { s.shr::<4>(x) } else { x }, s.splat_byte(15))
}

/// Bits `2 * k` and up of every byte, two of them.
#[inline(always)]
fn crumb<S: SimdInt>(s: S, x: S::B, k: usize) -> S::B {
    let moved = match k {
        0 => x,
        1 => s.shr::<2>(x),
        2 => s.shr::<4>(x),
        _ => s.shr::<6>(x),
    };
    s.and(moved, s.splat_byte(3))
}

impl KBlock for BlockQ2K {
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 3;
    const RULE: Rule = Rule::Affine;

    #[inline(always)]
    fn unpack<S: SimdInt>(&self, s: S) -> Unpacked<S> {
        let q = eight!(K => crumb(s, part(s, &self.qs, K / 4), K % 4));
        let scales = self.scales.map(|x| (x & 15) as i8);
        let mins = self.scales.map(|x| (x >> 4) as i8);
        Unpacked { q, scales: s.widen_even_odd(&scales), mins: s.widen(&mins) }
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
        let high = part(s, &self.hmask, 0);
        let q = eight!(K => {
            let low = crumb(s, part(s, &self.qs, K / 4), K % 4);
            s.or(low, bit(s, high, K, 2))
        });
        let scales = self.unpack_scales();
        let mins = s.mul_words(s.widen(&scales), -4);
        Unpacked { q, scales: s.widen_even_odd(&scales), mins }
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
        let q = eight!(K => nibble(s, part(s, &self.qs, K / 2), K % 2 == 1));
        let (scales, mins) = self.scales.unpack();
        Unpacked { q, scales: s.widen_twice(scales), mins: s.widen_doubled(mins) }
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
        let high = part(s, &self.qh, 0);
        let q = eight!(K => {
            let low = nibble(s, part(s, &self.qs, K / 2), K % 2 == 1);
            s.or(low, bit(s, high, K, 4))
        });
        let (scales, mins) = self.scales.unpack();
        Unpacked { q, scales: s.widen_twice(scales), mins: s.widen_doubled(mins) }
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
        let q = eight!(K => {
            let low = nibble(s, part(s, &self.ql, K / 4 * 2 + K % 2), K % 4 >= 2);
            let high = part(s, &self.qh, K / 4);
            let high = match K % 4 {
                0 => s.shl::<4>(high),
                1 => s.shl::<2>(high),
                2 => high,
                _ => s.shr::<2>(high),
            };
            s.or(low, s.and(high, s.splat_byte(0x30)))
        });
        let mins = s.mul_words(s.widen(&self.scales), -32);
        Unpacked { q, scales: s.widen_even_odd(&self.scales), mins }
    }

    #[inline(always)]
    fn scales_of_scales(&self) -> (u16, u16) {
        (self.d.to_bits(), 0)
    }
}
