//! What a block type supplies, and the loops over rows of blocks, written once.

use bytemuck::Pod;

use super::effort::Effort;
use super::lanes::Lanes;

/// One block of a quantized row: `LEN` weights in `size_of::<Self>()` bytes.
///
/// Blocks are made of bytes only (alignment 1), so that any slice of a mapped file of the right
/// length is a slice of blocks, on any machine.
pub trait Block: Pod {
    /// Weights per block.
    const LEN: usize;
    /// The type that the other factor of [`dot_row`](Block::dot_row) is quantized to.
    type Activation: Block;

    /// Quantizes `x` (`LEN` values), choosing scales for the least squared error, each value's
    /// times its importance `w` (as many). Types without a choice ignore `w`.
    ///
    /// Implementations, and all that they call, are `#[inline(always)]`: they become part of the
    /// function that the instructions of `l` are enabled for.
    fn quantize<L: Lanes>(l: L, x: &[f32], w: &[f32], effort: Effort) -> Self;

    /// Writes the block's `LEN` values to `y`.
    fn dequantize(&self, y: &mut [f32]);

    /// The dot product of two rows of equally many values.
    fn dot_row(w: &[Self], a: &[Self::Activation]) -> f32;
}

/// The typed view of a row's bytes: no copy.
///
/// # Panics
/// If `bytes` is no whole number of blocks; callers take rows from checked shapes.
pub(super) fn blocks<B: Block>(bytes: &[u8]) -> &[B] {
    const { assert!(align_of::<B>() == 1) };
    bytemuck::cast_slice(bytes)
}

#[inline(always)]
pub(super) fn quantize<L: Lanes, B: Block>(
    l: L,
    x: &[f32],
    importance: Option<&[f32]>,
    effort: Effort,
    y: &mut [u8],
) {
    const EQUAL: [f32; 256] = [1.0; 256];
    const { assert!(B::LEN <= EQUAL.len()) };
    let y: &mut [B] = bytemuck::cast_slice_mut(y);
    assert_eq!(x.len(), y.len() * B::LEN, "quantize: values and blocks differ in number");
    assert!(importance.is_none_or(|w| w.len() == x.len()), "quantize: one importance a value");
    for (i, (x, y)) in x.chunks_exact(B::LEN).zip(y).enumerate() {
        let w = importance.map_or(&EQUAL[..B::LEN], |w| &w[i * B::LEN..][..B::LEN]);
        *y = B::quantize(l, x, w, effort);
    }
}

pub(super) fn dequantize<B: Block>(x: &[u8], y: &mut [f32]) {
    let x = blocks::<B>(x);
    assert_eq!(y.len(), x.len() * B::LEN, "dequantize: values and blocks differ in number");
    for (x, y) in x.iter().zip(y.chunks_exact_mut(B::LEN)) {
        x.dequantize(y);
    }
}

pub(super) fn dot<B: Block>(w: &[u8], a: &[u8]) -> f32 {
    let (w, a) = (blocks::<B>(w), blocks::<B::Activation>(a));
    assert_eq!(
        w.len() * B::LEN,
        a.len() * <B::Activation as Block>::LEN,
        "dot: rows differ in length"
    );
    B::dot_row(w, a)
}
