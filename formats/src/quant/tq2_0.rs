//! TQ2_0: 256 weights of 2 bits and one scale, 2.0625 bits per weight. `x = d * (q - 1)`, `q` in 0..4;
//! quantizers write no 3. It is read, not written.
//!
//! Layout: `block_tq2_0` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::float::F16;
use super::symmetric::{Symmetric, Unpack};

/// 256 weights in 66 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTQ2_0 {
    /// In every group of 128 weights, weight `32 * k + i` is in bits `2 * k` and up of byte `i`.
    qs: [u8; 64],
    /// The scale.
    d: F16,
}
const _: () = assert!(size_of::<BlockTQ2_0>() == 66);

impl Unpack for BlockTQ2_0 {
    fn unpack(&self) -> Symmetric {
        let mut q = [0; 256];
        for (k, q) in q.chunks_exact_mut(32).enumerate() {
            let qs = &self.qs[k / 4 * 32..];
            q.iter_mut().zip(qs).for_each(|(q, byte)| *q = (byte >> (k % 4 * 2) & 3) as i8 - 1);
        }
        Symmetric { d: self.d.to_f32(), scales: [1; 16], q }
    }
}
