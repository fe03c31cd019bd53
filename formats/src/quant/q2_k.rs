//! Q2_K: 256 weights of 2 bits in 16 sub-blocks of 16, each with a scale and a minimum of 4 bits,
//! 2.625 bits per weight. `x = d * scale * q - dmin * min`, `q` in 0..4.
//!
//! Layout: `block_q2_K` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::affine::{Affine, TRIALS};
use super::block::{Block, Quantize};
use super::effort::Effort;
use super::float::F16;
use super::lanes::Lanes;
use super::q8_k::BlockQ8K;
use super::range::Range;
use super::second_order::{Codes, OnGrid, Parts};

const CODES: Range = Range::unsigned(2);
const SCALES: Range = Range::unsigned(4);

/// 256 weights in 84 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ2K {
    /// For each sub-block, the scale in the low 4 bits and the minimum in the high 4 bits.
    pub scales: [u8; 16],
    /// In every group of 128 weights, weight `32 * k + i` is in bits `2 * k` and up of byte `i`.
    pub qs: [u8; 64],
    /// The scale of the scales.
    pub d: F16,
    /// The scale of the minimums.
    pub dmin: F16,
}
const _: () = assert!(size_of::<BlockQ2K>() == 84);

impl BlockQ2K {
    /// The block's numbers, unpacked.
    pub fn unpack(&self) -> Affine<16> {
        Affine {
            d: self.d.to_f32(),
            dmin: self.dmin.to_f32(),
            scales: self.scales.map(|s| s & 15),
            mins: self.scales.map(|s| s >> 4),
            q: unpack(&self.qs),
        }
    }

    #[inline(always)]
    fn pack(x: &Affine<16>) -> Self {
        Self {
            scales: std::array::from_fn(|j| x.scales[j] | x.mins[j] << 4),
            qs: pack(&x.q),
            d: F16::from_f32(x.d),
            dmin: F16::from_f32(x.dmin),
        }
    }
}

impl Block for BlockQ2K {
    const LEN: usize = 256;
    type Activation = BlockQ8K;

    fn dequantize(&self, y: &mut [f32]) {
        self.unpack().dequantize(y);
    }

    fn dot_row(w: &[Self], a: &[BlockQ8K]) -> f32 {
        w.iter().zip(a).fold(0.0, |sum, (w, a)| sum + w.unpack().dot(a))
    }
}

impl Quantize for BlockQ2K {
    #[inline(always)]
    fn quantize<L: Lanes>(l: L, x: &[f32], w: &[f32], effort: Effort) -> Self {
        Self::pack(&Affine::fit::<L, 16>(l, x, w, (CODES, SCALES), TRIALS.of(effort)))
    }
}

impl OnGrid for BlockQ2K {
    const SUB: usize = 16;
    const CODES: Codes = Codes::Range(CODES);
    const SCALES: Option<Range> = Some(SCALES);

    fn parts(&self) -> Parts {
        self.unpack().parts()
    }

    fn from_parts(parts: &Parts, q: &[i8]) -> Self {
        Self::pack(&Affine::from_parts(parts, q))
    }
}

/// 256 codes of 2 bits from 64 bytes, as in [`BlockQ2K::qs`]; also Q3_K's low bits.
pub(super) fn unpack(qs: &[u8; 64]) -> [u8; 256] {
    let mut q = [0; 256];
    for (q, qs) in q.chunks_exact_mut(128).zip(qs.chunks_exact(32)) {
        for (k, q) in q.chunks_exact_mut(32).enumerate() {
            for (q, qs) in q.iter_mut().zip(qs) {
                *q = qs >> (2 * k) & 3;
            }
        }
    }
    q
}

/// The reverse of [`unpack`], of the codes' low two bits.
#[inline(always)]
pub(super) fn pack(q: &[u8; 256]) -> [u8; 64] {
    let mut qs = [0; 64];
    for (q, qs) in q.chunks_exact(128).zip(qs.chunks_exact_mut(32)) {
        for (k, q) in q.chunks_exact(32).enumerate() {
            for (q, qs) in q.iter().zip(&mut *qs) {
                *qs |= (q & 3) << (2 * k);
            }
        }
    }
    qs
}
