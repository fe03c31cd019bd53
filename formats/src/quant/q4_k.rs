//! Q4_K: 256 weights of 4 bits in 8 sub-blocks of 32, each with a scale and a minimum of 6 bits,
//! 4.5 bits per weight. `x = d * scale * q - dmin * min`, `q` in 0..16.
//!
//! Layout: `block_q4_K` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::affine::{Affine, TRIALS};
use super::block::{Block, Quantize};
use super::effort::Effort;
use super::float::F16;
use super::lanes::Lanes;
use super::q8_k::BlockQ8K;
use super::range::Range;
use super::second_order::{Codes, OnGrid, Parts};

const CODES: Range = Range::unsigned(4);
const SCALES: Range = Range::unsigned(6);

/// 256 weights in 144 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4K {
    /// The scale of the scales.
    pub d: F16,
    /// The scale of the minimums.
    pub dmin: F16,
    /// The scales and minimums, packed.
    pub scales: Scales,
    /// In every group of 64 weights, weight `i` is in the low half of byte `i`, weight `i + 32` in
    /// the high half.
    pub qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockQ4K>() == 144);

impl BlockQ4K {
    /// The block's numbers, unpacked.
    pub fn unpack(&self) -> Affine<8> {
        let (scales, mins) = self.scales.unpack();
        let mut q = [0; 256];
        for (q, qs) in q.chunks_exact_mut(64).zip(self.qs.chunks_exact(32)) {
            for i in 0..32 {
                q[i] = qs[i] & 15;
                q[i + 32] = qs[i] >> 4;
            }
        }
        Affine { d: self.d.to_f32(), dmin: self.dmin.to_f32(), scales, mins, q }
    }

    #[inline(always)]
    fn pack(x: &Affine<8>) -> Self {
        let mut qs = [0; 128];
        for (q, qs) in x.q.chunks_exact(64).zip(qs.chunks_exact_mut(32)) {
            for i in 0..32 {
                qs[i] = q[i] | q[i + 32] << 4;
            }
        }
        let scales = Scales::pack(&x.scales, &x.mins);
        Self { d: F16::from_f32(x.d), dmin: F16::from_f32(x.dmin), scales, qs }
    }
}

impl Block for BlockQ4K {
    const LEN: usize = 256;
    type Activation = BlockQ8K;

    fn dequantize(&self, y: &mut [f32]) {
        self.unpack().dequantize(y);
    }

    fn dot_row(w: &[Self], a: &[BlockQ8K]) -> f32 {
        w.iter().zip(a).fold(0.0, |sum, (w, a)| sum + w.unpack().dot(a))
    }
}

impl Quantize for BlockQ4K {
    #[inline(always)]
    fn quantize<L: Lanes>(l: L, x: &[f32], w: &[f32], effort: Effort) -> Self {
        Self::pack(&Affine::fit::<L, 32>(l, x, w, (CODES, SCALES), TRIALS.of(effort)))
    }
}

impl OnGrid for BlockQ4K {
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

/// Eight scales and eight minimums of 6 bits each, as Q4_K and Q5_K store them. The low six bits of
/// bytes 0..4 are scales 0..4, those of bytes 4..8 are minimums 0..4. Bytes 8..12 hold the low four
/// bits of scales 4..8 (in their low halves) and of minimums 4..8 (in their high halves). The upper
/// two bits of those are the top bits of bytes 0..4 (scales) and 4..8 (minimums).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(transparent)]
pub struct Scales([u8; 12]);

impl Scales {
    /// `(scales, mins)`, each below 64.
    #[inline(always)]
    pub fn unpack(&self) -> ([u8; 8], [u8; 8]) {
        // Four at a time, one in each byte.
        const LOW: u32 = 0x0f0f_0f0f;
        const TOP: u32 = 0x3030_3030;
        const SIX: u32 = 0x3f3f_3f3f;
        let b = &self.0;
        let scales = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let mins = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
        let high = u32::from_le_bytes([b[8], b[9], b[10], b[11]]);
        let high_scales = (high & LOW) | (scales >> 2 & TOP);
        let high_mins = (high >> 4 & LOW) | (mins >> 2 & TOP);
        let scales = u64::from(scales & SIX) | u64::from(high_scales) << 32;
        let mins = u64::from(mins & SIX) | u64::from(high_mins) << 32;
        (scales.to_le_bytes(), mins.to_le_bytes())
    }

    /// The reverse of [`unpack`](Self::unpack).
    #[inline(always)]
    pub(super) fn pack(scales: &[u8; 8], mins: &[u8; 8]) -> Self {
        let mut b = [0; 12];
        for i in 0..4 {
            b[i] = scales[i] | (scales[i + 4] >> 4) << 6;
            b[i + 4] = mins[i] | (mins[i + 4] >> 4) << 6;
            b[i + 8] = (scales[i + 4] & 15) | mins[i + 4] << 4;
        }
        Self(b)
    }
}
