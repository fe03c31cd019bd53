//! Q5_K: 256 weights of 5 bits in 8 sub-blocks of 32, each with a scale and a minimum of 6 bits,
//! 5.5 bits per weight. `x = d * scale * q - dmin * min`, `q` in 0..32.
//!
//! Layout: `block_q5_K` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::affine::{Affine, TRIALS};
use super::block::{Block, Quantize};
use super::effort::Effort;
use super::float::F16;
use super::lanes::Lanes;
use super::q4_k::Scales;
use super::q8_k::BlockQ8K;
use super::range::Range;
use super::second_order::{Codes, OnGrid, Parts};

const CODES: Range = Range::unsigned(5);
const SCALES: Range = Range::unsigned(6);

/// 256 weights in 176 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5K {
    /// The scale of the scales.
    pub d: F16,
    /// The scale of the minimums.
    pub dmin: F16,
    /// The scales and minimums, packed.
    pub scales: Scales,
    /// The fifth bits: that of weight `32 * j + i` is in bit `j` of byte `i`.
    pub qh: [u8; 32],
    /// The low bits: in every group of 64 weights, those of weight `i` are in the low half of byte
    /// `i`, those of weight `i + 32` in the high half.
    pub qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockQ5K>() == 176);

impl BlockQ5K {
    /// The block's numbers, unpacked.
    pub fn unpack(&self) -> Affine<8> {
        let (scales, mins) = self.scales.unpack();
        let mut q = [0; 256];
        for (n, (q, qs)) in q.chunks_exact_mut(64).zip(self.qs.chunks_exact(32)).enumerate() {
            for i in 0..32 {
                let qh = self.qh[i] >> (2 * n);
                q[i] = (qs[i] & 15) | (qh & 1) << 4;
                q[i + 32] = qs[i] >> 4 | (qh & 2) << 3;
            }
        }
        Affine { d: self.d.to_f32(), dmin: self.dmin.to_f32(), scales, mins, q }
    }

    #[inline(always)]
    fn pack(x: &Affine<8>) -> Self {
        let (mut qh, mut qs) = ([0; 32], [0; 128]);
        for (n, (q, qs)) in x.q.chunks_exact(64).zip(qs.chunks_exact_mut(32)).enumerate() {
            for i in 0..32 {
                qs[i] = (q[i] & 15) | q[i + 32] << 4;
                qh[i] |= (q[i] >> 4 | q[i + 32] >> 4 << 1) << (2 * n);
            }
        }
        let scales = Scales::pack(&x.scales, &x.mins);
        Self { d: F16::from_f32(x.d), dmin: F16::from_f32(x.dmin), scales, qh, qs }
    }
}

impl Block for BlockQ5K {
    const LEN: usize = 256;
    type Activation = BlockQ8K;

    fn dequantize(&self, y: &mut [f32]) {
        self.unpack().dequantize(y);
    }

    fn dot_row(w: &[Self], a: &[BlockQ8K]) -> f32 {
        w.iter().zip(a).fold(0.0, |sum, (w, a)| sum + w.unpack().dot(a))
    }
}

impl Quantize for BlockQ5K {
    #[inline(always)]
    fn quantize<L: Lanes>(l: L, x: &[f32], w: &[f32], effort: Effort) -> Self {
        Self::pack(&Affine::fit::<L, 32>(l, x, w, (CODES, SCALES), TRIALS.of(effort)))
    }
}

impl OnGrid for BlockQ5K {
    const SUB: usize = 32;
    const CODES: Codes = Codes::Range(CODES);
    const SCALES: Option<Range> = Some(SCALES);

    fn parts(&self) -> Parts {
        self.unpack().parts()
    }

    fn from_parts(parts: &Parts, q: &[i8]) -> Self {
        Self::pack(&Affine::from_parts(parts, q))
    }
}
