//! The search for scales, which the quantizers share.
//!
//! The error of a block is not a smooth function of its scale, because codes jump. So many scales are
//! tried. The sub-blocks of a block lie side by side, one in each of the [`Lanes`] (`sub_blocks`), and a
//! trial is made of all of them at once. Each lane adds in the order of the weights, so the result is the
//! same on every machine although vector instructions compute it.
//! The codes of a trial give the best real scale in closed form (least squares). How much that scale
//! lowers the error follows from the same sums, without a second pass over the weights.
//! `scale` is for types without offsets, `offset` for those with them.
//!
//! The squared error is minimized, with each weight's error weighted by its importance `w`.

#[cfg(test)]
mod fewer_trials;
mod offset;
mod scale;
mod sub_blocks;
#[cfg(test)]
mod tests;

use super::float::F16;
use super::lanes::{Lanes, LANES};
use super::range::{Integers, Range};

pub(super) use offset::{scale_offset, Codes, Ends, Mins, Moments, Offset, MANY_ENDS};
pub(super) use scale::{errors, scale};
pub(super) use sub_blocks::{Best, SubBlocks};

/// The block's values, with NaN replaced by 0 and magnitudes limited to 2^28. That is the largest
/// value that any type with an f16 scale can hold (65504 * 128 * 32 in Q6_K), and no sum of its
/// squares overflows.
#[inline(always)]
pub(super) fn finite<const N: usize>(x: &[f32]) -> [f32; N] {
    const LIMIT: Range = Range { low: -((1 << 28) as f32), high: (1 << 28) as f32 };
    let x: &[f32; N] = x.try_into().expect("callers pass whole blocks");
    let mut y = [0.0; N];
    for (y, x) in y.iter_mut().zip(x) {
        *y = LIMIT.clamp(if x.is_nan() { 0.0 } else { *x });
    }
    y
}

/// The block's importances. Those that are not positive numbers become a very small number.
#[inline(always)]
pub(super) fn importance<const N: usize>(w: &[f32]) -> [f32; N] {
    // In this range, no sum of products with the output of `finite` overflows or vanishes.
    const RANGE: Range = Range { low: 1.0 / (1u64 << 40) as f32, high: (1u64 << 40) as f32 };
    let w: &[f32; N] = w.try_into().expect("callers pass whole blocks");
    let mut y = [0.0; N];
    for (y, w) in y.iter_mut().zip(w) {
        *y = RANGE.clamp(*w);
    }
    y
}

/// The largest magnitude of whole lanes of values.
#[inline(always)]
pub(super) fn magnitude(x: &[f32]) -> f32 {
    let (x, rest) = x.as_chunks::<LANES>();
    assert!(rest.is_empty(), "blocks are whole lanes");
    // Lane by lane: one chain through all values would take the latency of as many instructions.
    let mut largest = [0.0; LANES];
    for x in x {
        for (largest, x) in largest.iter_mut().zip(x) {
            *largest = if x.abs() > *largest { x.abs() } else { *largest };
        }
    }
    sub_blocks::halves(&largest, |a, b| if b > a { b } else { a })
}

/// `1 / d`, or 0 if that would be infinite; all codes are then 0.
#[inline(always)]
pub(super) fn inverse(d: f32) -> f32 {
    if d.abs() < f32::MIN_POSITIVE {
        0.0
    } else {
        1.0 / d
    }
}

/// [`inverse`] of each lane.
#[inline(always)]
fn inverse_lanes<L: Lanes>(l: L, d: L::F) -> L::F {
    let zero = l.splat(0.0);
    let size = l.max(d, l.sub(zero, d));
    l.select_less(size, l.splat(f32::MIN_POSITIVE), zero, l.div(l.splat(1.0), d))
}

/// `d` rounded to f16, but finite and not 0, so that it has an inverse.
#[inline(always)]
pub(super) fn f16_scale(d: f32) -> f32 {
    const SMALLEST: f32 = 1.0 / (1 << 24) as f32;
    F16::from_f32(d.abs().max(SMALLEST).copysign(d)).to_f32()
}

/// The codes that make `d * q + m` nearest to `x`, in two's complement.
#[inline(always)]
pub(super) fn encode<C: Integers>(x: &[f32], d: f32, m: f32, codes: C, q: &mut [u8]) {
    let inverse = inverse(d);
    for (q, x) in q.iter_mut().zip(x) {
        *q = codes.code((x - m) * inverse);
    }
}

/// Smaller than any sum of importances, so that a divisor of at least this only changes 0/0.
const TINY: f32 = 1e-30;

/// The best real `d` for a block of 32 weights.
#[inline(always)]
pub(super) fn scale_of_block<L: Lanes, C: Integers>(
    l: L,
    x: &[f32; 32],
    w: &[f32; 32],
    codes: C,
    shifts: &[f32],
) -> f32 {
    l.to_array(scale(l, &SubBlocks::<1, 2>::new(x, w), codes, LANES, shifts))[0]
}

/// The best real `(d, m)` for a block of 32 weights.
#[inline(always)]
pub(super) fn scale_offset_of_block<L: Lanes>(
    l: L,
    x: &[f32; 32],
    w: &[f32; 32],
    codes: Range,
) -> (f32, f32) {
    let weights = SubBlocks::<1, 2>::new(x, w);
    let moments = Moments::new(l, &weights);
    let (d, m) = scale_offset(l, &weights, &moments, codes, Offset::Any, &MANY_ENDS);
    (l.to_array(d)[0], l.to_array(m)[0])
}
