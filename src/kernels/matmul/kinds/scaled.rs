//! Blocks whose codes are multiplied with their scales when they are unpacked.

use crate::kernels::isa::SimdInt;
use crate::kernels::unpack::{product_range, KBlock, Rule};

/// What is added to the products of codes and scales so that they are unsigned bytes, if they all are
/// then and `step` sums them in 32 bits. Blocks are unpacked to these bytes, and no scale is left to
/// multiply with.
pub const fn scaled_bias<S: SimdInt, T: KBlock, const WIDTH: usize>() -> Option<i16> {
    let [least, most] = product_range::<T>();
    let fit = most - least <= u8::MAX as i32;
    match T::RULE {
        // With a bias they take longer to unpack, which pays for many columns only.
        Rule::Symmetric(_) if WIDTH > 4 => None,
        Rule::Affine | Rule::Symmetric(_) if S::WIDE && fit => Some(-least as i16),
        _ => None,
    }
}

/// For types with a [`scaled_bias`]: what the products of a code and each of the scales have too much.
#[inline(always)]
pub fn surplus<S: SimdInt, T: KBlock, const WIDTH: usize>(s: S, scales: S::Bytes) -> S::Bytes {
    let Rule::Symmetric(offset) = T::RULE else { return s.splat_byte(0) };
    let bias = const { scaled_bias::<S, T, WIDTH>() }.unwrap_or(0);
    let mut deficit = s.splat_byte(bias as u8);
    for _ in 0..offset {
        deficit = s.sub_bytes(deficit, scales);
    }
    s.sub_bytes(s.splat_byte(0), deficit)
}

/// Codes of register `U` of a block times their scales, without their `surplus`. Both are bytes, the same
/// in every quarter.
#[inline(always)]
pub fn scaled<S: SimdInt, T: KBlock, const U: usize>(
    s: S,
    codes: S::Bytes,
    scales: S::Bytes,
    surplus: S::Bytes,
) -> S::Bytes {
    let even = s.shuffle(scales, const { &groups(T::GROUP, U, Some(0)) });
    let odd = s.shuffle(scales, const { &groups(T::GROUP, U, Some(1)) });
    let products = s.merge_words(s.pairs(codes, even), s.pairs(codes, odd));
    match T::RULE {
        Rule::Affine => products,
        _ => s.sub_bytes(products, s.shuffle(surplus, const { &groups(T::GROUP, U, None) })),
    }
}

/// For `shuffle`: the group of each code of register `u`; only of every second one, the first or the
/// second of two, if `only` is 0 or 1.
const fn groups(group: usize, u: usize, only: Option<usize>) -> [u8; 64] {
    let (mut places, mut i) = ([255; 64], 0);
    while i < 64 {
        let counts = match only {
            None => true,
            Some(only) => i % 2 == only,
        };
        if counts {
            places[i] = ((64 * u + i) / group) as u8;
        }
        i += 1;
    }
    places
}
