//! Q6_K: 256 weights of 6 bits in 16 sub-blocks of 16, each with a signed scale of 8 bits, 6.5625
//! bits per weight. `x = d * scale * (q - 32)`, `q` in 0..64.
//!
//! Layout: `block_q6_K` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::block::Quantize;
use super::effort::{ByEffort, Effort};
use super::float::F16;
use super::lanes::Lanes;
use super::range::Range;
use super::second_order::{Codes, OnGrid, Parts};
use super::symmetric::{Symmetric, Trials, Unpack, BEST};

const CODES: Range = Range::signed(6);
const SCALES: Range = Range::signed(8);

pub(super) const TRIALS: ByEffort<Trials> = ByEffort {
    fast: Trials {
        real_scales: 16,
        d_factors: &[1.0, 1.033],
        scales: 4,
        refits: 1,
        refit_scales: 4,
    },
    default: Trials {
        real_scales: 16,
        d_factors: &[1.0, 1.033, 1.067],
        scales: 8,
        refits: 2,
        refit_scales: 4,
    },
    best: BEST,
};

/// 256 weights in 210 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ6K {
    /// The low bits: in every group of 128 weights, those of weight `i` are in the low half of byte
    /// `i`, those of weight `i + 64` in the high half.
    pub ql: [u8; 128],
    /// The upper two bits: in every group of 128 weights, those of weight `32 * k + i` are in bits
    /// `2 * k` and up of byte `i`.
    pub qh: [u8; 64],
    /// The scales.
    pub scales: [i8; 16],
    /// The scale of the scales.
    pub d: F16,
}
const _: () = assert!(size_of::<BlockQ6K>() == 210);

impl BlockQ6K {
    #[inline(always)]
    fn pack(x: &Symmetric) -> Self {
        let (mut ql, mut qh) = ([0; 128], [0; 64]);
        let halves = ql.chunks_exact_mut(64).zip(qh.chunks_exact_mut(32));
        for (q, (ql, qh)) in x.q.chunks_exact(128).zip(halves) {
            let q = |i: usize| (q[i] + 32) as u8;
            for (i, ql) in ql.iter_mut().enumerate() {
                *ql = q(i) & 15 | q(i + 64) << 4;
            }
            for (i, qh) in qh.iter_mut().enumerate() {
                *qh = (0..4).fold(0, |qh, k| qh | (q(32 * k + i) >> 4) << (2 * k));
            }
        }
        Self { ql, qh, scales: x.scales, d: F16::from_f32(x.d) }
    }
}

impl Unpack for BlockQ6K {
    fn unpack(&self) -> Symmetric {
        let mut q = [0; 256];
        let (ql, qh) = (self.ql.chunks_exact(64), self.qh.chunks_exact(32));
        for (q, (ql, qh)) in q.chunks_exact_mut(128).zip(ql.zip(qh)) {
            for i in 0..32 {
                q[i] = (ql[i] & 15 | (qh[i] & 3) << 4) as i8 - 32;
                q[i + 32] = (ql[i + 32] & 15 | (qh[i] >> 2 & 3) << 4) as i8 - 32;
                q[i + 64] = (ql[i] >> 4 | (qh[i] >> 4 & 3) << 4) as i8 - 32;
                q[i + 96] = (ql[i + 32] >> 4 | (qh[i] >> 6) << 4) as i8 - 32;
            }
        }
        Symmetric { d: self.d.to_f32(), scales: self.scales, q }
    }
}

impl Quantize for BlockQ6K {
    #[inline(always)]
    fn quantize<L: Lanes>(l: L, x: &[f32], w: &[f32], effort: Effort) -> Self {
        Self::pack(&Symmetric::fit::<L, Range, 16, 16>(l, x, w, (CODES, SCALES), TRIALS.of(effort)))
    }
}

impl OnGrid for BlockQ6K {
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
