//! MXFP4: 32 weights of 4 bits and a power of two as their scale, 4.25 bits per weight. `x = d * v[q]`,
//! where `v` are twice the values of a float with two bits of exponent and one of mantissa, and `d` is
//! half of the power. It is read, not written.
//!
//! Layout: `block_mxfp4` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>. The
//! format is described in [OCP's Microscaling Formats](
//! https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf).

use bytemuck::{Pod, Zeroable};

use super::block::Block;
use super::iq4;
use super::q8_0::BlockQ8_0;

/// 32 weights in 17 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockMXFP4 {
    /// The exponent of the scale, plus 127.
    pub e: u8,
    /// Weight `i` in the low half of byte `i`, weight `i + 16` in the high half.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockMXFP4>() == 17);

impl BlockMXFP4 {
    /// What the codes stand for.
    pub const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

    /// The scale, 2^(e - 128).
    #[inline(always)]
    pub fn d(&self) -> f32 {
        // The first two are below the normal numbers, which have an exponent of at least -126.
        f32::from_bits(match self.e {
            e @ ..2 => 0x0020_0000 << e,
            e => u32::from(e - 1) << 23,
        })
    }

    fn values(&self) -> [i8; 32] {
        iq4::unpack(&self.qs, &Self::VALUES)
    }
}

impl Block for BlockMXFP4 {
    const LEN: usize = 32;
    type Activation = BlockQ8_0;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d();
        for (y, q) in y.iter_mut().zip(self.values()) {
            *y = d * f32::from(q);
        }
    }

    fn dot_row(w: &[Self], a: &[BlockQ8_0]) -> f32 {
        w.iter().zip(a).fold(0.0, |sum, (w, a)| sum + w.d() * a.dot(&w.values()))
    }
}
