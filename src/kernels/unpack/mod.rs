//! What a block type tells the vector kernels: how one block becomes plain codes and scales. The
//! loops over blocks, rows and columns are written once, in `matmul`.

mod k_quants;
mod legacy;

use lapidary_formats::quant::Block;

use super::isa::SimdInt;

/// A type with 256 weights a block, which meets activations in Q8_K.
///
/// With `p` = Σ scale · code · activation and `m` = Σ min · activation, both integers, a block's
/// product is `d · p - dmin · m` or `d · (p + m)` times the activations' scale `a`, by [`RULE`].
///
/// [`RULE`]: KBlock::RULE
pub trait KBlock: Block {
    /// Weights that share a scale: 16 or 32.
    const GROUP: usize;
    /// The largest code.
    const MAX_CODE: u32;
    /// How scales and minimums combine.
    const RULE: Rule;

    /// The block's numbers.
    fn unpack<S: SimdInt>(&self, s: S) -> Unpacked<S>;
    /// The bits of `d` and of `dmin` (0 if there is none), halves.
    fn scales_of_scales(&self) -> (u16, u16);
}

/// See [`KBlock`]. The order of operations is the reference's, so that the bits are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `a · (d · p - dmin · m)`
    Affine,
    /// `(a · d) · (p + m)`: codes are stored with an offset, which the minimums take away.
    Symmetric,
}

/// A block of 256 weights.
#[derive(Clone, Copy)]
pub struct Unpacked<S: SimdInt> {
    /// The codes in the weights' order, at most 127.
    pub q: [S::B; 4],
    /// For [`SimdInt::scale`].
    pub scales: S::W,
    /// The minimum of every 16 weights, in order.
    pub mins: S::M,
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
