//! IQ1_S: 256 weights in points of eight, with a scale of 3 bits for every 32, 1.5625 bits per weight.
//! `x = d * (2 * scale + 1) * (g ± 1/8)`, where `g` is -1, 0 or 1. It is read, not written.
//!
//! Layout: `block_iq1_s` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::float::F16;
use super::grids;
use super::symmetric::{Symmetric, Unpack};

/// 256 weights in 50 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ1S {
    /// The scale of the scales.
    d: F16,
    /// The low eight bits of the points' places in the grid.
    qs: [u8; 32],
    /// For every 32 weights, as `u16`: three high bits for each of four places, the scale, and whether
    /// the eighth is subtracted.
    qh: [[u8; 2]; 8],
}
const _: () = assert!(size_of::<BlockIQ1S>() == 50);

impl Unpack for BlockIQ1S {
    /// The codes are in eighths.
    fn unpack(&self) -> Symmetric {
        let qh = |i: usize| u16::from_le_bytes(self.qh[i]);
        let scale = |j: usize| 2 * (qh(j / 2) >> 12 & 7) as i8 + 1;
        let codes = |i: usize| {
            let high = qh(i / 4) >> (3 * (i % 4)) & 7;
            grids::iq1(u16::from(self.qs[i]) | high << 8, qh(i / 4) >> 15 == 1)
        };
        Symmetric::new(self.d.to_f32() / 8.0, scale, codes)
    }
}
