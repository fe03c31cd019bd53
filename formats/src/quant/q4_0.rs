//! Q4_0: 32 weights of 4 bits and one scale, 4.5 bits per weight. `x = d * (q - 8)`, `q` in 0..16.
//!
//! Layout: `block_q4_0` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, Quantize};
use super::effort::Effort;
use super::float::F16;
use super::lanes::Lanes;
use super::q8_0::BlockQ8_0;
use super::range::Range;
use super::search;
use super::second_order::{Codes, OnGrid, Parts};

const CODES: Range = Range::signed(4);

/// 32 weights in 18 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// The scale.
    pub d: F16,
    /// Weight `i` in the low half of byte `i`, weight `i + 16` in the high half.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ4_0>() == 18);

impl BlockQ4_0 {
    /// The codes, in -8..8.
    pub fn codes(&self) -> [i8; 32] {
        let mut q = [0; 32];
        for (i, byte) in self.qs.iter().enumerate() {
            q[i] = (byte & 15) as i8 - 8;
            q[i + 16] = (byte >> 4) as i8 - 8;
        }
        q
    }
}

impl Block for BlockQ4_0 {
    const LEN: usize = 32;
    type Activation = BlockQ8_0;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (y, q) in y.iter_mut().zip(self.codes()) {
            *y = d * f32::from(q);
        }
    }

    fn dot_row(w: &[Self], a: &[BlockQ8_0]) -> f32 {
        w.iter().zip(a).fold(0.0, |sum, (w, a)| sum + w.d.to_f32() * a.dot(&w.codes()))
    }
}

impl Quantize for BlockQ4_0 {
    #[inline(always)]
    fn quantize<L: Lanes>(l: L, x: &[f32], w: &[f32], _: Effort) -> Self {
        let (x, w) = (search::finite::<32>(x), search::importance::<32>(w));
        let d = F16::from_f32(search::scale_of_block(l, &x, &w, CODES, &[0.0]));
        let mut q = [0; 32];
        search::encode(&x, d.to_f32(), 0.0, CODES, &mut q);
        let q = |i: usize| q[i].wrapping_add(8);
        Self { d, qs: std::array::from_fn(|i| q(i) | q(i + 16) << 4) }
    }
}

impl OnGrid for BlockQ4_0 {
    const SUB: usize = 32;
    const CODES: Codes = Codes::Range(CODES);
    const SCALES: Option<Range> = None;

    fn parts(&self) -> Parts {
        Parts::scale(self.d.to_f32())
    }

    fn from_parts(parts: &Parts, q: &[i8]) -> Self {
        let q = |i: usize| (q[i] + 8) as u8;
        Self { d: F16::from_f32(parts.d), qs: std::array::from_fn(|i| q(i) | q(i + 16) << 4) }
    }
}
