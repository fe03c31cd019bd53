//! TQ1_0: 256 weights of three values, five in a byte, and one scale, 1.6875 bits per weight.
//! `x = d * q`, `q` in -1..=1. It is read, not written.
//!
//! Layout: `block_tq1_0` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::float::F16;
use super::symmetric::{Symmetric, Unpack};

/// 256 weights in 54 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTQ1_0 {
    /// Digit `n` of byte `i` is weight `32 * n + i` in the first 32 bytes, and `160 + 16 * n + i` in
    /// the others.
    qs: [u8; 48],
    /// Digit `n` of byte `i` is weight `240 + 4 * n + i`.
    qh: [u8; 4],
    /// The scale.
    d: F16,
}
const _: () = assert!(size_of::<BlockTQ1_0>() == 54);

/// Digit `n` of a byte, less 1. The byte is a fraction of 256, in the system of base 3, rounded up.
fn digit(byte: u8, n: usize) -> i8 {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let rest = byte.wrapping_mul(POWERS[n]);
    ((u16::from(rest) * 3) >> 8) as i8 - 1
}

impl Unpack for BlockTQ1_0 {
    fn unpack(&self) -> Symmetric {
        let mut q = [0; 256];
        for n in 0..5 {
            let (low, high) = self.qs.split_at(32);
            q[32 * n..].iter_mut().zip(low).for_each(|(q, byte)| *q = digit(*byte, n));
            q[160 + 16 * n..].iter_mut().zip(high).for_each(|(q, byte)| *q = digit(*byte, n));
        }
        for n in 0..4 {
            q[240 + 4 * n..].iter_mut().zip(&self.qh).for_each(|(q, byte)| *q = digit(*byte, n));
        }
        Symmetric { d: self.d.to_f32(), scales: [1; 16], q }
    }
}
