//! IQ4_XS: 256 weights of 4 bits in 8 sub-blocks of 32, each with a signed scale of 6 bits, 4.25 bits
//! per weight. `x = d * scale * v[q]`, where `v` are 16 values at unequal distances
//! ([`IQ4_VALUES`]) and `scale` is in -32..32.
//!
//! Layout: `block_iq4_xs` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::block::Quantize;
use super::effort::{ByEffort, Effort};
use super::float::F16;
use super::iq4::{self, Values, IQ4_VALUES};
use super::lanes::Lanes;
use super::range::Range;
use super::second_order::{Codes, OnGrid, Parts};
use super::symmetric::{Symmetric, Trials, Unpack, BEST};

const SCALES: Range = Range::signed(6);

pub(super) const TRIALS: ByEffort<Trials> = ByEffort {
    fast: Trials { d_factors: &[1.0], refits: 0, ..BEST },
    default: Trials { d_factors: &[1.0, 16.0 / 15.0], refits: 1, ..BEST },
    best: BEST,
};

/// 256 weights in 136 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ4XS {
    /// The scale of the scales.
    pub d: F16,
    /// The two high bits of the scales plus 32, as `u16`: those of scale `j` are bits `2 * j` and up.
    pub scales_h: [u8; 2],
    /// The four low bits, two scales in each byte, the first one in the low half.
    pub scales_l: [u8; 4],
    /// In every group of 32 weights, weight `i` in the low half of byte `i`, weight `i + 16` in the
    /// high half.
    pub qs: [[u8; 16]; 8],
}
const _: () = assert!(size_of::<BlockIQ4XS>() == 136);

impl BlockIQ4XS {
    /// The scales.
    #[inline(always)]
    pub fn unpack_scales(&self) -> [i8; 8] {
        let high = u16::from_le_bytes(self.scales_h);
        std::array::from_fn(|j| {
            let (low, high) = (self.scales_l[j / 2] >> (4 * (j % 2)) & 15, high >> (2 * j) & 3);
            (low | (high as u8) << 4) as i8 - 32
        })
    }

    #[inline(always)]
    fn pack(x: &Symmetric) -> Self {
        let (mut scales_h, mut scales_l) = (0, [0; 4]);
        for j in 0..8 {
            let scale = (x.scales[2 * j] + 32) as u8;
            scales_l[j / 2] |= (scale & 15) << (4 * (j % 2));
            scales_h |= u16::from(scale >> 4) << (2 * j);
        }
        let values: &[[u8; 32]; 8] = bytemuck::cast_ref(&x.q);
        let qs = std::array::from_fn(|j| iq4::pack(&values[j]));
        Self { d: F16::from_f32(x.d), scales_h: u16::to_le_bytes(scales_h), scales_l, qs }
    }
}

impl Unpack for BlockIQ4XS {
    fn unpack(&self) -> Symmetric {
        let scales = self.unpack_scales();
        let q: [[i8; 32]; 8] = std::array::from_fn(|j| iq4::unpack(&self.qs[j], &IQ4_VALUES));
        Symmetric {
            d: self.d.to_f32(),
            scales: std::array::from_fn(|j| scales[j / 2]),
            q: bytemuck::cast(q),
        }
    }
}

impl Quantize for BlockIQ4XS {
    #[inline(always)]
    fn quantize<L: Lanes>(l: L, x: &[f32], w: &[f32], effort: Effort) -> Self {
        Self::pack(&Symmetric::fit::<L, Values, 8, 32>(
            l,
            x,
            w,
            (Values, SCALES),
            TRIALS.of(effort),
        ))
    }
}

impl OnGrid for BlockIQ4XS {
    const SUB: usize = 32;
    const CODES: Codes = Codes::Values(Values);
    const SCALES: Option<Range> = Some(SCALES);

    fn parts(&self) -> Parts {
        self.unpack().parts::<32>()
    }

    fn from_parts(parts: &Parts, q: &[i8]) -> Self {
        Self::pack(&Symmetric::from_parts::<32>(parts, q))
    }
}
