//! IQ2_XS: 256 weights in points of eight, with a scale of 4 bits for every 16, 2.3125 bits per
//! weight. `x = d * (2 * scale + 1) / 8 * g`, where `g` is ±8, ±25 or ±43. It is read, not written.
//!
//! Layout: `block_iq2_xs` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::float::F16;
use super::grids;
use super::symmetric::{Symmetric, Unpack};

/// 256 weights in 74 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ2XS {
    /// The scale of the scales.
    d: F16,
    /// For each point, as `u16`: nine bits with its place in the grid and seven with its signs.
    qs: [[u8; 2]; 32],
    /// Two scales in each byte, the first one in the low half.
    scales: [u8; 8],
}
const _: () = assert!(size_of::<BlockIQ2XS>() == 74);

impl Unpack for BlockIQ2XS {
    fn unpack(&self) -> Symmetric {
        let scale = |j: usize| 2 * (self.scales[j / 2] >> (4 * (j % 2)) & 15) as i8 + 1;
        let codes = |i: usize| {
            let q = u16::from_le_bytes(self.qs[i]);
            let signs = grids::even_signs(u32::from(q >> 9));
            grids::signed(grids::IQ2_XS[usize::from(q & 511)], signs)
        };
        Symmetric::new(self.d.to_f32() / 8.0, scale, codes)
    }
}
