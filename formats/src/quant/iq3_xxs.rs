//! IQ3_XXS: 256 weights in points of four, with a scale of 4 bits for every 32, 3.0625 bits per
//! weight. `x = d * (2 * scale + 1) / 4 * g`, where `g` is ±4, ±12 and so on to ±62. It is read, not
//! written.
//!
//! Layout: `block_iq3_xxs` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::float::F16;
use super::grids;
use super::symmetric::{Symmetric, Unpack};

/// 256 weights in 98 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ3XXS {
    /// The scale of the scales.
    d: F16,
    /// The places of the points in the grid.
    qs: [u8; 64],
    /// For every 32 weights, as `u32`: seven bits with the signs of every eight of them, and the scale.
    signs_and_scales: [[u8; 4]; 8],
}
const _: () = assert!(size_of::<BlockIQ3XXS>() == 98);

impl Unpack for BlockIQ3XXS {
    fn unpack(&self) -> Symmetric {
        let signs_and_scale = |i: usize| u32::from_le_bytes(self.signs_and_scales[i]);
        let scale = |j: usize| 2 * (signs_and_scale(j / 2) >> 28) as i8 + 1;
        let point = |i: usize| grids::IQ3_XXS[usize::from(self.qs[i])];
        let codes = |i: usize| {
            let signs = grids::even_signs(signs_and_scale(i / 4) >> (7 * (i % 4)));
            grids::signed(grids::joined(point(2 * i), point(2 * i + 1)), signs)
        };
        Symmetric::new(self.d.to_f32() / 4.0, scale, codes)
    }
}
