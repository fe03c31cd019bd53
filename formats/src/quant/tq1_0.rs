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
        let code = |i: usize| match i {
            ..160 => digit(self.qs[i % 32], i / 32),
            160..240 => digit(self.qs[32 + i % 16], (i - 160) / 16),
            _ => digit(self.qh[i % 4], (i - 240) / 4),
        };
        Symmetric::new(self.d.to_f32(), |_| 1, |i| std::array::from_fn(|k| code(8 * i + k)))
    }
}
