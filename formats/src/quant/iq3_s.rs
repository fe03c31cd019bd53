//! IQ3_S: 256 weights in points of four, with a scale of 4 bits for every 32, 3.4375 bits per weight.
//! `x = d * (2 * scale + 1) * g`, where `g` is an odd number within ±15. It is read, not written.
//!
//! Layout: `block_iq3_s` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::float::F16;
use super::grids;
use super::symmetric::{Symmetric, Unpack};

/// 256 weights in 110 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ3S {
    /// The scale of the scales.
    d: F16,
    /// The low eight bits of the points' places in the grid.
    qs: [u8; 64],
    /// The high bits of eight places in each byte.
    qh: [u8; 8],
    /// The signs of every eight weights.
    signs: [u8; 32],
    /// Two scales in each byte, the first one in the low half.
    scales: [u8; 4],
}
const _: () = assert!(size_of::<BlockIQ3S>() == 110);

impl Unpack for BlockIQ3S {
    fn unpack(&self) -> Symmetric {
        let scale = |j: usize| 2 * (self.scales[j / 4] >> (4 * (j / 2 % 2)) & 15) as i8 + 1;
        let point = |i: usize| {
            let high = self.qh[i / 8] >> (i % 8) & 1;
            grids::IQ3_S[usize::from(self.qs[i]) | usize::from(high) << 8]
        };
        let codes =
            |i: usize| grids::signed(grids::joined(point(2 * i), point(2 * i + 1)), self.signs[i]);
        Symmetric::new(self.d.to_f32(), scale, codes)
    }
}
