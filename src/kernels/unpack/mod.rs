//! What a block type tells the vector kernels: how one block becomes plain codes and scales. The
//! loops over blocks, rows and columns are written once, in `matmul`.

mod k_quants;
mod legacy;

use lapidary_formats::quant::Block;

use super::isa::SimdInt;

/// A type with 256 weights a block, which meets activations in Q8_K.
///
/// With `p` = Σ scale · code · activation and `m` = Σ min · activation, both integers, a block's
/// product is made of them and the activations' scale `a` by [`RULE`](KBlock::RULE).
pub trait KBlock: Block {
    /// Weights that share a scale: 16 or 32.
    const GROUP: usize;
    /// The largest code.
    const MAX_CODE: u32;
    /// How scales and minimums combine.
    const RULE: Rule;

    /// The codes in the weights' order, at most 127.
    fn codes<S: SimdInt>(&self, s: S) -> [S::B; 4];
    /// Scales and minimums of four blocks.
    fn heads<S: SimdInt>(s: S, w: [&Self; 4]) -> Heads<S>;
    /// The scale and the minimum of every 16 weights; what the minimums of [`Rule::Symmetric`] are,
    /// nobody asks.
    fn scales_and_mins(&self) -> ([i8; 16], [u8; 16]);
    /// The bits of `d` and of `dmin` (0 if there is none), halves.
    fn d(&self) -> [u16; 2];
}

/// See [`KBlock`]. The order of operations is the reference's, so that the bits are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `a · (d · p - dmin · m)`
    Affine,
    /// `(a · d) · (p - m)`: codes are stored with this offset, so that a minimum is as much times
    /// the scale.
    Symmetric(i8),
}

/// What four blocks say of their codes.
#[derive(Clone, Copy)]
pub struct Heads<S: SimdInt> {
    /// For `scale_16` or `scale_32`, by [`KBlock::GROUP`].
    pub scales: S::H,
    /// For `products_16` or `products_32`; of [`Rule::Symmetric`], the scales.
    pub mins: S::H,
    /// `d`.
    pub d: [f32; 4],
    /// `dmin`, if there is one.
    pub dmin: [f32; 4],
}

/// A type with 32 weights a block, which meets activations in Q8_0.
///
/// A block's product is `d · (a · Σ (code - offset) · activation)`, plus `m · (a · Σ activation)`
/// for the types that have `m`.
pub trait Block32: Block {
    /// What the codes are.
    const CODES: Codes;
    /// The largest code, if they are unsigned.
    const MAX_CODE: u32;

    /// The codes of two blocks in the weights' order.
    fn codes<S: SimdInt>(s: S, a: &Self, b: &Self) -> S::B;
    /// The bits of the scale.
    fn d(&self) -> u16;
    /// Whether the type has `m`.
    const HAS_M: bool = false;
    /// The bits of `m`, if the type has it.
    fn m(&self) -> u16 {
        0
    }
}

/// The codes of a [`Block32`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Codes {
    /// Bytes up to 127, from which this is to be subtracted.
    Offset(u8),
    /// Signed bytes.
    Signed,
}
