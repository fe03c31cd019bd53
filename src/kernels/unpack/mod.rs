//! What the vector kernels need to know of a block type: how one block becomes plain codes and
//! scales, and which types they can do that for. The loops over blocks, rows and columns are written
//! once, in `matmul`.

/// An f16 value of each of four blocks.
macro_rules! widen_each {
    ($s:expr, $w:expr, $field:ident) => {
        $s.widen_f16s([
            $w[0].$field.to_bits(),
            $w[1].$field.to_bits(),
            $w[2].$field.to_bits(),
            $w[3].$field.to_bits(),
        ])
    };
}
mod floats;
mod iq4;
mod k_quants;
mod legacy;
mod tables;

pub use lapidary_formats::quant::blocks::Unpack;
use lapidary_formats::quant::blocks::*;
use lapidary_formats::quant::{Block, QuantType};

use super::isa::{Simd, SimdInt};
pub use tables::{unpack_blocks, UnpackBlocks};

/// Something that is done with the block type of a [`QuantType`], in one way for each kind of block.
pub trait ByBlock {
    /// The result.
    type Out;

    /// For types of one value a block.
    fn float<T: Float>(self) -> Self::Out;
    /// For k-quants.
    fn k<T: KBlock>(self) -> Self::Out;
    /// For types with 32 weights a block.
    fn block_32<T: Block32>(self) -> Self::Out;
    /// For types whose blocks are unpacked by tables, to [`Symmetric`] ones in memory.
    fn by_table<T: Unpack>(self) -> Self::Out;
    /// For types that are not unpacked here.
    fn other(self) -> Self::Out;
}

/// Does `what` with the block type of `ty`. This is the only list of the types that the vector kernels
/// know.
pub fn by_block<B: ByBlock>(ty: QuantType, what: B) -> B::Out {
    match ty {
        QuantType::F32 => what.float::<F32>(),
        QuantType::F16 => what.float::<F16>(),
        QuantType::BF16 => what.float::<Bf16>(),
        QuantType::Q2_K => what.k::<BlockQ2K>(),
        QuantType::Q3_K => what.k::<BlockQ3K>(),
        QuantType::Q4_K => what.k::<BlockQ4K>(),
        QuantType::Q5_K => what.k::<BlockQ5K>(),
        QuantType::Q6_K => what.k::<BlockQ6K>(),
        QuantType::Q4_0 => what.block_32::<BlockQ4_0>(),
        QuantType::Q4_1 => what.block_32::<BlockQ4_1>(),
        QuantType::Q5_0 => what.block_32::<BlockQ5_0>(),
        QuantType::Q5_1 => what.block_32::<BlockQ5_1>(),
        QuantType::Q8_0 => what.block_32::<BlockQ8_0>(),
        QuantType::IQ4_NL => what.block_32::<BlockIQ4NL>(),
        QuantType::IQ4_XS => what.k::<BlockIQ4XS>(),
        QuantType::MXFP4 => what.block_32::<BlockMXFP4>(),
        QuantType::IQ1_S => what.by_table::<BlockIQ1S>(),
        QuantType::IQ1_M => what.by_table::<BlockIQ1M>(),
        QuantType::IQ2_XXS => what.by_table::<BlockIQ2XXS>(),
        QuantType::IQ2_XS => what.by_table::<BlockIQ2XS>(),
        QuantType::IQ2_S => what.by_table::<BlockIQ2S>(),
        QuantType::IQ3_XXS => what.by_table::<BlockIQ3XXS>(),
        QuantType::IQ3_S => what.by_table::<BlockIQ3S>(),
        QuantType::TQ1_0 => what.by_table::<BlockTQ1_0>(),
        QuantType::TQ2_0 => what.by_table::<BlockTQ2_0>(),
        QuantType::Q8_K => what.other(),
    }
}

/// A type of one value a block, which is multiplied with activations in f32.
pub trait Float: Block {
    /// Sixteen values, widened.
    fn load<S: Simd>(s: S, x: &[Self; 16]) -> S::F;
}

/// A type with 256 weights a block, which is multiplied with activations in Q8_K.
///
/// With `p` = Σ scale · code · activation and `m` = Σ min · activation, both integers, a block's
/// product follows from them and the activations' scale `a` by [`RULE`](KBlock::RULE).
pub trait KBlock: Block {
    /// Weights that share a scale: 16 or 32.
    const GROUP: usize;
    /// The largest code, if they are unsigned.
    const MAX_CODE: u32;
    /// The least and the largest scale.
    const SCALES: [i16; 2];
    /// How scales and minimums combine.
    const RULE: Rule;

    /// The codes in the order of the weights: at most 127, or [`biased`] if the rule is
    /// [`Rule::Signed`].
    fn codes<S: SimdInt>(&self, s: S) -> [S::Bytes; 4];
    /// The headers of four blocks.
    fn headers<S: SimdInt>(s: S, w: [&Self; 4]) -> Headers<S>;
}

/// The least and the largest product of a scale and a code, from which its offset was subtracted; 0 if
/// all are above or below it.
pub const fn product_range<T: KBlock>() -> [i32; 2] {
    let max = T::MAX_CODE as i32;
    let codes = match T::RULE {
        Rule::Affine => [0, max],
        Rule::Symmetric(offset) => [-(offset as i32), max - offset as i32],
        Rule::Signed => [-max, max],
    };
    let (mut range, mut i) = ([0, 0], 0);
    while i < 4 {
        let product = codes[i / 2] * T::SCALES[i % 2] as i32;
        range = [
            if product < range[0] { product } else { range[0] },
            if product > range[1] { product } else { range[1] },
        ];
        i += 1;
    }
    range
}

/// See [`KBlock`]. The order of operations is the reference's, so that the bits are too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `a · (d · p - dmin · m)`
    Affine,
    /// `(a · d) · (p - offset · m)`, where the scales take the place of the minimums in `m`: this
    /// offset was added to the codes.
    Symmetric(i8),
    /// `(a · d) · p`
    Signed,
}

/// The headers of four blocks: all that a block has besides its codes. A quarter of a register
/// belongs to a block.
#[derive(Clone, Copy)]
pub struct Headers<S: SimdInt> {
    /// Sixteen scales if [`KBlock::GROUP`] is 16, and eight in the first eight bytes if it is 32:
    /// unsigned if the rule is [`Rule::Affine`], and signed if not.
    pub scales: S::Bytes,
    /// Sixteen minimums, at most 127, if [`KBlock::GROUP`] is 16, and eight in the last eight bytes if
    /// it is 32. The scales once more if the rule is not [`Rule::Affine`].
    pub mins: S::Bytes,
    /// `d`.
    pub d: [f32; 4],
    /// `dmin`, if there is one.
    pub dmin: [f32; 4],
}

/// A type with 32 weights a block, which is multiplied with activations in Q8_0.
///
/// A block's product is `d · (a · Σ (code - offset) · activation)`, plus `m · (a · Σ activation)`
/// for the types that have `m`.
pub trait Block32: Block {
    /// What the codes are.
    const CODES: Codes;
    /// The largest code, if they are unsigned.
    const MAX_CODE: u32;

    /// The codes of two blocks in the order of the weights.
    fn codes<S: SimdInt>(s: S, a: &Self, b: &Self) -> S::Bytes;
    /// The scales of four blocks.
    fn d<S: Simd>(s: S, w: [&Self; 4]) -> [f32; 4];
    /// Whether the type has `m`.
    const HAS_M: bool = false;
    /// `m` of four blocks, if the type has it.
    fn m<S: Simd>(_: S, _: [&Self; 4]) -> [f32; 4] {
        [0.0; 4]
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

/// Signed codes, as the operations for signed bytes take them.
#[inline(always)]
pub fn biased<S: SimdInt>(s: S, codes: S::Bytes) -> S::Bytes {
    match S::BIAS {
        0 => codes,
        // It is 128, so subtracting it from a byte is the same as adding it.
        bias => s.sub_bytes(codes, s.splat_byte(bias)),
    }
}
