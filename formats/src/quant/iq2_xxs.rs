//! IQ2_XXS: 256 weights in points of eight, with a scale of 4 bits for every 32, 2.0625 bits per
//! weight. `x = d * (2 * scale + 1) / 8 * g`, where `g` is ±8, ±25 or ±43. It is read, not written.
//!
//! Layout: `block_iq2_xxs` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::float::F16;
use super::grids;
use super::symmetric::{Symmetric, Unpack};

/// 256 weights in 66 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ2XXS {
    /// The scale of the scales.
    d: F16,
    /// For every 32 weights: the places of four points in the grid, and, as `u32`, seven bits with the
    /// signs of each point and the scale.
    qs: [[[u8; 4]; 2]; 8],
}
const _: () = assert!(size_of::<BlockIQ2XXS>() == 66);

impl Unpack for BlockIQ2XXS {
    fn unpack(&self) -> Symmetric {
        let signs_and_scale = |i: usize| u32::from_le_bytes(self.qs[i][1]);
        let scale = |j: usize| 2 * (signs_and_scale(j / 2) >> 28) as i8 + 1;
        let codes = |i: usize| {
            let point = grids::IQ2_XXS[usize::from(self.qs[i / 4][0][i % 4])];
            let signs = grids::even_signs(signs_and_scale(i / 4) >> (7 * (i % 4)));
            grids::signed(point, signs)
        };
        Symmetric::new(self.d.to_f32() / 8.0, scale, codes)
    }
}
