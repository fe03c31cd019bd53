//! Q4_1: 32 weights of 4 bits, a scale and an offset, 5 bits per weight. `x = d * q + m`, `q` in
//! 0..16.
//!
//! Layout: `block_q4_1` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, Quantize};
use super::effort::Effort;
use super::float::F16;
use super::lanes::Lanes;
use super::q8_0::BlockQ8_0;
use super::range::Range;
use super::search;
use super::second_order::{Codes, OnGrid, Parts};

const CODES: Range = Range::unsigned(4);

/// 32 weights in 20 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// The scale.
    pub d: F16,
    /// The offset: the value of code 0.
    pub m: F16,
    /// Weight `i` in the low half of byte `i`, weight `i + 16` in the high half.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ4_1>() == 20);

impl BlockQ4_1 {
    /// The codes, in 0..16.
    pub fn codes(&self) -> [i8; 32] {
        let mut q = [0; 32];
        for (i, byte) in self.qs.iter().enumerate() {
            q[i] = (byte & 15) as i8;
            q[i + 16] = (byte >> 4) as i8;
        }
        q
    }
}

impl Block for BlockQ4_1 {
    const LEN: usize = 32;
    type Activation = BlockQ8_0;

    fn dequantize(&self, y: &mut [f32]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        for (y, q) in y.iter_mut().zip(self.codes()) {
            *y = d * f32::from(q) + m;
        }
    }

    fn dot_row(w: &[Self], a: &[BlockQ8_0]) -> f32 {
        w.iter().zip(a).fold(0.0, |sum, (w, a)| {
            sum + (w.d.to_f32() * a.dot(&w.codes()) + w.m.to_f32() * a.sum())
        })
    }
}

impl Quantize for BlockQ4_1 {
    #[inline(always)]
    fn quantize<L: Lanes>(l: L, x: &[f32], w: &[f32], _: Effort) -> Self {
        let (x, w) = (search::finite::<32>(x), search::importance::<32>(w));
        let (d, m) = search::scale_offset_of_block(l, &x, &w, CODES);
        let (d, m) = (F16::from_f32(d), F16::from_f32(m));
        let mut q = [0; 32];
        search::encode(&x, d.to_f32(), m.to_f32(), CODES, &mut q);
        Self { d, m, qs: std::array::from_fn(|i| q[i] | q[i + 16] << 4) }
    }
}

impl OnGrid for BlockQ4_1 {
    const SUB: usize = 32;
    const CODES: Codes = Codes::Range(CODES);
    const SCALES: Option<Range> = None;

    fn parts(&self) -> Parts {
        Parts::scale_offset(self.d.to_f32(), self.m.to_f32())
    }

    fn from_parts(parts: &Parts, q: &[i8]) -> Self {
        let (d, m) = (F16::from_f32(parts.d), F16::from_f32(-parts.dmin));
        let q = |i: usize| q[i] as u8;
        Self { d, m, qs: std::array::from_fn(|i| q(i) | q(i + 16) << 4) }
    }
}
