//! IQ1_M: 256 weights in points of eight, with a scale of 3 bits for every 16, 1.75 bits per weight.
//! `x = d * (2 * scale + 1) * (g ± 1/8)`, where `g` is -1, 0 or 1. It is read, not written.
//!
//! Layout: `block_iq1_m` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::float::F16;
use super::grids;
use super::symmetric::{Symmetric, Unpack};

/// 256 weights in 56 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ1M {
    /// The low eight bits of the points' places in the grid.
    qs: [u8; 32],
    /// Four bits for each point, the first one's in the low half of a byte: three high bits of its place,
    /// and whether the eighth is subtracted.
    qh: [u8; 16],
    /// Four `u16` with four scales each. Their top four bits are, one after the other, the bits of
    /// `d`, from the lowest on.
    scales: [[u8; 2]; 4],
}
const _: () = assert!(size_of::<BlockIQ1M>() == 56);

impl Unpack for BlockIQ1M {
    /// The codes are in eighths.
    fn unpack(&self) -> Symmetric {
        let scales = self.scales.map(u16::from_le_bytes);
        let d = scales.iter().rev().fold(0, |d, scales| d << 4 | scales >> 12);
        let scale = |j: usize| 2 * (scales[j / 4] >> (3 * (j % 4)) & 7) as i8 + 1;
        let codes = |i: usize| {
            let qh = self.qh[i / 2] >> (4 * (i % 2));
            grids::iq1(u16::from(self.qs[i]) | u16::from(qh & 7) << 8, qh & 8 != 0)
        };
        Symmetric::new(F16::from_bits(d).to_f32() / 8.0, scale, codes)
    }
}
