//! Blocks of 256 weights as signed bytes.
//!
//! Scales are multiplied into the codes, so that a whole block is one sum: Σ scale · (code - offset) ·
//! activation. A product of scale and code that does not fit a signed byte is split in two that do,
//! `128 · high + low`, and so is the sum.
#![allow(clippy::needless_range_loop, reason = "arrays are walked side by side")]

use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};

use super::super::kinds::UPPER_FIRST;
use crate::kernels::activations::Line;
use crate::kernels::isa::{SimdInt, TILE};
use crate::kernels::unpack::{product_range, KBlock, Rule};

/// Bits of the low one of two planes.
pub const LOW_BITS: i32 = 7;

/// Tiles that the codes of a block are cut into, and parts that finishing a step is cut into, so that
/// both go on side by side.
pub const PARTS: usize = 4;

/// A block of sixteen rows.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Rows {
    /// Signed bytes: `[plane][part][row]`, where the planes are high and low if there are two.
    pub planes: [[[Line; TILE]; PARTS]; 2],
    /// Two minimums each, of groups that follow each other.
    pub mins: [[u32; 8]; TILE],
    /// Bits of f32.
    pub d: [u32; TILE],
    /// Bits of f32.
    pub dmin: [u32; TILE],
}

/// What follows from the range of a type's products of scale and code.
pub struct Planes<B>(PhantomData<B>);

impl<B: KBlock> Planes<B> {
    /// The least and the largest product.
    const RANGE: [i32; 2] = product_range::<B>();

    /// Whether negated products fit a signed byte. They are taken negated because the products of Q3_K
    /// are up to 128, but not as low as -128.
    pub const ONE: bool = Self::RANGE[0] >= -127 && Self::RANGE[1] <= 128;

    /// Whether products fit two planes.
    const FIT: bool = Self::RANGE[0] >= -128 << LOW_BITS && Self::RANGE[1] < 128 << LOW_BITS;

    /// Tiles of rows of a step.
    pub const TILES: usize = if Self::ONE { 2 } else { 1 };
}

/// Rows of a matrix that are unpacked together.
pub const UNPACKED: usize = 4;

/// The rows from `r` on of `to`, from the blocks `w` of four rows.
#[inline(always)]
pub fn unpack<S: SimdInt, B: KBlock>(s: S, w: [&B; UNPACKED], to: &mut Rows, r: usize) {
    const { assert!(Planes::<B>::FIT) };
    let headers = B::headers(s, w);
    let mins = match B::GROUP {
        32 => s.shuffle(headers.mins, &UPPER_FIRST),
        _ => headers.mins,
    };
    let sign = if Planes::<B>::ONE { -1 } else { 1 };
    macro_rules! row {
        ($i:literal) => {
            let mut scales = [0; 16];
            s.store_words::<$i>(headers.scales, sign, &mut scales);
            unpack_codes(s, w[$i], &scales, to, r + $i);
            if B::RULE == Rule::Affine {
                s.store_words::<$i>(mins, 1, bytemuck::cast_mut(&mut to.mins[r + $i]));
            }
            to.d[r + $i] = (f32::from(sign) * headers.d[$i]).to_bits();
            to.dmin[r + $i] = headers.dmin[$i].to_bits();
        };
    }
    row!(0);
    row!(1);
    row!(2);
    row!(3);
}

/// Row `r` of the planes of `to`, from the block `w` with these scales.
#[inline(always)]
fn unpack_codes<S: SimdInt, B: KBlock>(s: S, w: &B, scales: &[i16; 16], to: &mut Rows, r: usize) {
    let q = w.codes(s);
    let offset = s.splat_byte(match B::RULE {
        Rule::Affine => 0,
        Rule::Symmetric(offset) => offset as u8,
        Rule::Signed => S::BIAS,
    });
    for part in 0..PARTS {
        let mut codes = [0; 64];
        s.store_bytes(s.sub_bytes(q[part], offset), &mut codes);
        // Two signed codes each.
        let codes: [i16; 32] = bytemuck::cast(codes);
        let mut factors = [0; 32];
        for i in 0..32 {
            factors[i] = scales[(64 * part + 2 * i) / B::GROUP];
        }
        let (mut high, mut low) = ([0u16; 32], [0u16; 32]);
        for i in 0..32 {
            let first = (codes[i] << 8 >> 8).wrapping_mul(factors[i]) as u16;
            let second = (codes[i] >> 8).wrapping_mul(factors[i]) as u16;
            if Planes::<B>::ONE {
                high[i] = first & 255 | second << 8;
            } else {
                low[i] = first & 127 | second << 8 & 0x7f00;
                high[i] = first >> LOW_BITS & 255 | second >> LOW_BITS << 8;
            }
        }
        to.planes[0][part][r] = bytemuck::cast(high);
        if !Planes::<B>::ONE {
            to.planes[1][part][r] = bytemuck::cast(low);
        }
    }
}
