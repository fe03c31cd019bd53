//! Q8_0: 32 weights of 8 bits and one scale, 8.5 bits per weight. `x = d * q`. Also used for the
//! activations that the other blocks of 32 weights are multiplied with.
//!
//! Layout: `block_q8_0` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, Quantize};
use super::effort::Effort;
use super::float::F16;
use super::lanes::Lanes;
use super::range::Range;
use super::search;
use super::second_order::{Codes, OnGrid, Parts};

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
        Self { d: F16::from_f32(d), qs: x.map(|x| round_half_away(x * inverse)) }
    }
}

impl OnGrid for BlockQ8_0 {
    const SUB: usize = 32;
    const CODES: Codes = Codes::Range(Range { low: -127.0, high: 127.0 });
    const SCALES: Option<Range> = None;

    fn parts(&self) -> Parts {
        Parts::scale(self.d.to_f32())
    }

    fn from_parts(parts: &Parts, q: &[i8]) -> Self {
        Self { d: F16::from_f32(parts.d), qs: std::array::from_fn(|i| q[i]) }
    }
}

/// `x.round()` for magnitudes up to 127, without the library call that processors before SSE4.1
/// need. The remainder of the truncation is exact, so ties are recognized.
fn round_half_away(x: f32) -> i8 {
    let whole = x as i32;
    let rest = x - whole as f32;
    (whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)) as i8
}
