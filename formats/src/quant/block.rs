//! What a block type supplies, and the loops over rows of blocks, written once.

use bytemuck::Pod;

/// One block of a quantized row: `LEN` weights in `size_of::<Self>()` bytes.
///
/// Blocks are made of bytes only (alignment 1), so that any slice of a mapped file of the right
/// length is a slice of blocks, on any machine.
pub trait Block: Pod {
    /// Weights per block.
    const LEN: usize;
    /// The type that the other factor of [`dot_row`](Block::dot_row) is quantized to.
    type Activation: Block;

    /// Quantizes `x` (`LEN` values), choosing scales for the least squared error.
    fn quantize(x: &[f32]) -> Self;

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

pub(super) fn quantize<B: Block>(x: &[f32], y: &mut [u8]) {
    let y: &mut [B] = bytemuck::cast_slice_mut(y);
    assert_eq!(x.len(), y.len() * B::LEN, "quantize: values and blocks differ in number");
    for (x, y) in x.chunks_exact(B::LEN).zip(y) {
        *y = B::quantize(x);
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
