//! What a block type implements, and the loops over rows of blocks, which all types share.

use bytemuck::Pod;

use super::effort::Effort;
use super::lanes::Lanes;

/// One block of a quantized row: `LEN` weights in `size_of::<Self>()` bytes.
///
/// Blocks consist of bytes only (alignment 1), so that on every machine a slice of a mapped file is
/// a slice of blocks if it has the right length.
pub trait Block: Pod {
    /// Weights per block.
    const LEN: usize;
    /// The type that the activations, the other factor of [`dot_row`](Block::dot_row), have.
    type Activation: Block;

    /// Writes the block's `LEN` values to `y`.
    fn dequantize(&self, y: &mut [f32]);

    /// The dot product of two rows with the same number of values.
    fn dot_row(w: &[Self], a: &[Self::Activation]) -> f32;
}

/// A block type that is also written: files of the others are only read.
pub(super) trait Quantize: Block {
    /// Quantizes `x` (`LEN` values). Chooses the scales with the smallest squared error, in which
    /// each value is weighted by its importance in `w` (`LEN` values). Types that have nothing to
    /// choose ignore `w`.
    ///
    /// Implementations and everything that they call are `#[inline(always)]`, so that they become
    /// part of the function in which the instructions of `l` are enabled.
    fn quantize<L: Lanes>(l: L, x: &[f32], w: &[f32], effort: Effort) -> Self;
}

/// A row's bytes as typed blocks, without a copy.
///
/// # Panics
/// If `bytes` is not a whole number of blocks; callers take rows from checked shapes.
pub(super) fn blocks<B: Block>(bytes: &[u8]) -> &[B] {
    const { assert!(align_of::<B>() == 1) };
    bytemuck::cast_slice(bytes)
}

#[inline(always)]
pub(super) fn quantize<L: Lanes, B: Quantize>(
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
    assert!(importance.is_none_or(|w| w.len() == x.len()), "quantize: one importance per value");
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
