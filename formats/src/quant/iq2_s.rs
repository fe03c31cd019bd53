//! IQ2_S: 256 weights in points of eight, with a scale of 4 bits for every 16, 2.5625 bits per weight.
//! `x = d * (2 * scale + 1) / 8 * g`, where `g` is ±8, ±25 or ±43. It is read, not written.
//!
//! Layout: `block_iq2_s` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::float::F16;
use super::grids;
use super::symmetric::{Symmetric, Unpack};

/// 256 weights in 82 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ2S {
    /// The scale of the scales.
    d: F16,
    /// The low eight bits of the points' places in the grid.
    qs: [u8; 32],
    /// The signs of each point.
    signs: [u8; 32],
    /// The two high bits of four places in each byte.
    qh: [u8; 8],
    /// Two scales in each byte, the first one in the low half.
    scales: [u8; 8],
}
const _: () = assert!(size_of::<BlockIQ2S>() == 82);

impl Unpack for BlockIQ2S {
    fn unpack(&self) -> Symmetric {
        let scale = |j: usize| 2 * (self.scales[j / 2] >> (4 * (j % 2)) & 15) as i8 + 1;
        let codes = |i: usize| {
            let high = self.qh[i / 4] >> (2 * (i % 4)) & 3;
            let point = grids::IQ2_S[usize::from(self.qs[i]) | usize::from(high) << 8];
            grids::signed(point, self.signs[i])
        };
        Symmetric::new(self.d.to_f32() / 8.0, scale, codes)
    }
}
