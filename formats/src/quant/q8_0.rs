//! Q8_0: 32 weights of 8 bits and one scale, 8.5 bits per weight. `x = d * q`. Also used for the
//! activations that the other blocks of 32 weights are multiplied with.
//!
//! Layout: `block_q8_0` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, Quantize};
use super::effort::Effort;
use super::float::F16;
use super::lanes::Lanes;
use super::range::{Integers, Range};
use super::search;
use super::second_order::{Codes, OnGrid, Parts};

const CODES: Range = Range { low: -127.0, high: 127.0 };

/// 32 weights in 34 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// The scale.
    pub d: F16,
    /// The codes; -128 is never written.
    pub qs: [i8; 32],
}
const _: () = assert!(size_of::<BlockQ8_0>() == 34);

impl BlockQ8_0 {
    /// The dot product with a block of integers.
    pub(super) fn dot(&self, q: &[i8; 32]) -> f32 {
        let sum: i32 = self.qs.iter().zip(q).map(|(a, q)| i32::from(*a) * i32::from(*q)).sum();
        self.d.to_f32() * sum as f32
    }

    /// The sum of the values.
    pub(super) fn sum(&self) -> f32 {
        self.d.to_f32() * self.qs.iter().map(|q| i32::from(*q)).sum::<i32>() as f32
    }
}

impl Block for BlockQ8_0 {
    const LEN: usize = 32;
    type Activation = BlockQ8_0;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (y, q) in y.iter_mut().zip(self.qs) {
            *y = d * f32::from(q);
        }
    }

    fn dot_row(w: &[Self], a: &[BlockQ8_0]) -> f32 {
        w.iter().zip(a).fold(0.0, |sum, (w, a)| sum + w.d.to_f32() * a.dot(&w.qs))
    }
}

impl Quantize for BlockQ8_0 {
    /// Follows ggml and Python's `gguf`, byte for byte: `d` is the largest magnitude / 127, and the
    /// codes are `x * (1 / d)` rounded half away from zero, with the `d` from before it is rounded
    /// to f16.
    #[inline(always)]
    fn quantize<L: Lanes>(_: L, x: &[f32], _: &[f32], _: Effort) -> Self {
        let x = search::finite::<32>(x);
        let d = search::magnitude(&x) / 127.0;
        let inverse = search::inverse(d);
        let mut qs = [0; 32];
        for (q, x) in qs.iter_mut().zip(x) {
            *q = CODES.code(round_half_away(x * inverse)) as i8;
        }
        Self { d: F16::from_f32(d), qs }
    }
}

impl OnGrid for BlockQ8_0 {
    const SUB: usize = 32;
    const CODES: Codes = Codes::Range(CODES);
    const SCALES: Option<Range> = None;

    fn parts(&self) -> Parts {
        Parts::scale(self.d.to_f32())
    }

    fn from_parts(parts: &Parts, q: &[i8]) -> Self {
        Self { d: F16::from_f32(parts.d), qs: std::array::from_fn(|i| q[i]) }
    }
}

/// `x.round()` of magnitudes up to 127, in instructions that all vector units have.
#[inline(always)]
fn round_half_away(x: f32) -> f32 {
    let size = x.abs();
    // Rounded to even, a half may have been rounded down. What is left is exact, so that it is recognized.
    let even = CODES.nearest(size);
    let up = if size - even >= 0.5 { even + 1.0 } else { even };
    up.copysign(x)
}
