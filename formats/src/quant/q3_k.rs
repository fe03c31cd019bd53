//! Q3_K: 256 weights of 3 bits in 16 sub-blocks of 16, each with a signed scale of 6 bits, 3.4375
//! bits per weight. `x = d * (scale - 32) * (q - 4)`, `q` in 0..8.
//!
//! Layout: `block_q3_K` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::block::Quantize;
use super::effort::{ByEffort, Effort};
use super::float::F16;
use super::lanes::Lanes;
use super::q2_k;
use super::range::Range;
use super::second_order::{Codes, OnGrid, Parts};
use super::symmetric::{Symmetric, Trials, Unpack, BEST};

const CODES: Range = Range::signed(3);
const SCALES: Range = Range::signed(6);

/// The codes are so coarse that errors are small for scales far from each other.
pub(super) const TRIALS: ByEffort<Trials> = ByEffort {
    fast: Trials { real_scales: 4, d_factors: &[1.0], scales: 16, refits: 1, refit_scales: 4 },
    default: Trials {
        real_scales: 4,
        d_factors: &[1.0, 1.067],
        scales: 16,
        refits: 2,
        refit_scales: 8,
    },
    best: BEST,
};

/// 256 weights in 110 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ3K {
    /// The third bits: that of weight `32 * k + i` is in bit `k` of byte `i`.
    pub hmask: [u8; 32],
    /// The low bits: in every group of 128 weights, those of weight `32 * k + i` are in bits `2 * k`
    /// and up of byte `i`.
    pub qs: [u8; 64],
    /// The scales plus 32. The low four bits of scale `j` are in the low half of byte `j`, those of
    /// scale `j + 8` in the high half; the upper two bits of scale `j` are in byte `8 + j % 4`, from
    /// bit `j / 4 * 2`.
    pub scales: [u8; 12],
    /// The scale of the scales.
    pub d: F16,
}
const _: () = assert!(size_of::<BlockQ3K>() == 110);

impl BlockQ3K {
    /// The scales, in -32..32.
    #[inline(always)]
    pub fn unpack_scales(&self) -> [i8; 16] {
        // Eight at a time, one in each byte.
        const LOW: u64 = 0x0f0f_0f0f_0f0f_0f0f;
        const HIGH: u64 = 0x3030_3030_3030_3030;
        const TOP: u64 = 0x8080_8080_8080_8080;
        const OFFSET: u64 = 0x2020_2020_2020_2020;
        let b = &self.scales;
        let low = u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        let high = u64::from(u32::from_le_bytes([b[8], b[9], b[10], b[11]]));
        let first = low & LOW | (high << 4 | high << 34) & HIGH;
        let second = low >> 4 & LOW | (high | high >> 2 << 32) & HIGH;
        // Subtracts 32 from every byte. The top bit is set meanwhile, so that no byte borrows from
        // the next.
        let subtract = |x: u64| (((x | TOP) - OFFSET) ^ TOP).to_le_bytes();
        bytemuck::cast([subtract(first), subtract(second)])
    }

    #[inline(always)]
    fn pack(x: &Symmetric) -> Self {
        let q = x.q.map(|q| (q + 4) as u8);
        let mut hmask = [0; 32];
        for (k, q) in q.chunks_exact(32).enumerate() {
            for i in 0..32 {
                hmask[i] |= (q[i] >> 2) << k;
            }
        }
        let scales = pack_scales(&x.scales);
        Self { hmask, qs: q2_k::pack(&q), scales, d: F16::from_f32(x.d) }
    }
}

impl Unpack for BlockQ3K {
    fn unpack(&self) -> Symmetric {
        let low = q2_k::unpack(&self.qs);
        let mut q = [0; 256];
        for (k, (q, low)) in q.chunks_exact_mut(32).zip(low.chunks_exact(32)).enumerate() {
            for i in 0..32 {
                q[i] = (low[i] | (self.hmask[i] >> k & 1) << 2) as i8 - 4;
            }
        }
        Symmetric { d: self.d.to_f32(), scales: self.unpack_scales(), q }
    }
}

impl Quantize for BlockQ3K {
    #[inline(always)]
    fn quantize<L: Lanes>(l: L, x: &[f32], w: &[f32], effort: Effort) -> Self {
        Self::pack(&Symmetric::fit::<L, Range, 16, 16>(l, x, w, (CODES, SCALES), TRIALS.of(effort)))
    }
}

impl OnGrid for BlockQ3K {
    const SUB: usize = 16;
    const CODES: Codes = Codes::Range(CODES);
    const SCALES: Option<Range> = Some(SCALES);

    fn parts(&self) -> Parts {
        self.unpack().parts::<16>()
    }

    fn from_parts(parts: &Parts, q: &[i8]) -> Self {
        Self::pack(&Symmetric::from_parts::<16>(parts, q))
    }
}

/// Packs the scales as described at [`BlockQ3K::scales`].
#[inline(always)]
fn pack_scales(scales: &[i8; 16]) -> [u8; 12] {
    let mut b = [0; 12];
    for (j, scale) in scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        b[j % 8] |= (scale & 15) << (j / 8 * 4);
        b[8 + j % 4] |= (scale >> 4) << (j / 4 * 2);
    }
    b
}
