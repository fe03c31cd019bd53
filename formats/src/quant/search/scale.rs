//! Scales of types without offsets: `x = d * q`.

use super::sub_blocks::{Best, SubBlocks};
use super::{inverse_lanes, TINY};
use crate::quant::lanes::Lanes;
use crate::quant::range::Integers;

/// The best real `d` of each sub-block, of `count` trials with either sign for each of `shifts`, which says
/// where they begin, in units of their distance.
#[inline(always)]
pub(in crate::quant) fn scale<L: Lanes, C: Integers, const SUBS: usize, const ROWS: usize>(
    l: L,
    weights: &SubBlocks<SUBS, ROWS>,
    codes: C,
    count: usize,
    shifts: &[f32],
) -> L::F {
    let zero = l.splat(0.0);
    let mut sizes = [zero; ROWS];
    for (size, x) in sizes.iter_mut().zip(weights.x()) {
        let x = l.load(x);
        *size = l.max(x, l.sub(zero, x));
    }
    let larger = |a, b| if a > b { a } else { b };
    let magnitude = SubBlocks::<SUBS, ROWS>::fold(l, &sizes, |a, b| l.max(a, b), larger);
    let per_code = inverse_lanes(l, magnitude);
    let (first, span) = codes.trials();
    let distance = span / (count - 1) as f32;
    let steps = count / SubBlocks::<SUBS, ROWS>::SIDES;
    // A trial that gains nothing is no better than `d = 0`.
    let mut best = Best::below(l, 0.0);
    for shift in shifts {
        let mut found = Best::below(l, 0.0);
        let first = first - shift * distance;
        for step in 0..steps {
            let numbers = SubBlocks::<SUBS, ROWS>::numbers(l, step, steps);
            let multiple = l.sub(l.splat(first), l.mul(l.splat(distance), numbers));
            let inverse = l.mul(multiple, per_code);
            // Codes reach further to the negative side, so that both signs are tried. Where they need not be
            // clamped, the other sign gains as much. The first side has the largest multiples.
            if first - distance * (step as f32) < codes.mirrored() {
                let [sums] = sums::<L, C, SUBS, ROWS, 1>(l, weights, [inverse], codes);
                keep_gain(l, sums, &mut found);
            } else {
                let both = [inverse, l.sub(zero, inverse)];
                let [up, down] = sums::<L, C, SUBS, ROWS, 2>(l, weights, both, codes);
                keep_gain(l, up, &mut found);
                keep_gain(l, down, &mut found);
            }
        }
        let found = found.of_sides::<L, SUBS>(l);
        best.keep(l, found.error, found.values);
    }
    best.values[0]
}

/// Keeps the best `d` for codes with these sums, Σwxq and Σwq², by how much they lower the error.
#[inline(always)]
fn keep_gain<L: Lanes>(l: L, [xq, qq]: [L::F; 2], found: &mut Best<L::F, 1>) {
    let d = l.div(xq, l.max(qq, l.splat(TINY)));
    found.keep(l, l.sub(l.splat(0.0), l.mul(xq, d)), [d]);
}

/// Σwxq and Σwq² of the codes `q` nearest to `x * inverse`, for each of `inverse`. A single one gives codes that
/// need not be clamped.
#[inline(always)]
fn sums<L: Lanes, C: Integers, const SUBS: usize, const ROWS: usize, const N: usize>(
    l: L,
    weights: &SubBlocks<SUBS, ROWS>,
    inverse: [L::F; N],
    codes: C,
) -> [[L::F; 2]; N] {
    if weights.equal() {
        add_up::<L, C, SUBS, ROWS, N, true>(l, weights, inverse, codes)
    } else {
        add_up::<L, C, SUBS, ROWS, N, false>(l, weights, inverse, codes)
    }
}

#[inline(always)]
fn add_up<
    L: Lanes,
    C: Integers,
    const SUBS: usize,
    const ROWS: usize,
    const N: usize,
    const EQUAL: bool,
>(
    l: L,
    weights: &SubBlocks<SUBS, ROWS>,
    inverse: [L::F; N],
    codes: C,
) -> [[L::F; 2]; N] {
    let mut sums = [[l.splat(0.0); 2]; N];
    for i in 0..SubBlocks::<SUBS, ROWS>::LEN {
        let x = SubBlocks::<SUBS, ROWS>::at(l, weights.x(), i);
        let w = SubBlocks::<SUBS, ROWS>::at(l, weights.w(), i);
        for k in 0..N {
            let code = l.mul(x, inverse[k]);
            let q =
                if N == 1 { codes.nearest_mirrored(l, code) } else { codes.nearest_lanes(l, code) };
            let [xq, qq] = &mut sums[k];
            let wq = if EQUAL { q } else { l.mul(w, q) };
            *xq = l.add(*xq, l.mul(x, wq));
            *qq = if EQUAL { l.add_exact_product(*qq, q, q) } else { l.add(*qq, l.mul(q, wq)) };
        }
    }
    sums
}

/// The squared errors with the nearest codes, for two trial scales of each lane, none of them 0.
#[inline(always)]
pub(in crate::quant) fn errors<L: Lanes, C: Integers, const SUBS: usize, const ROWS: usize>(
    l: L,
    weights: &SubBlocks<SUBS, ROWS>,
    d: [L::F; 2],
    codes: C,
) -> [L::F; 2] {
    let one = l.splat(1.0);
    let inverse = [l.div(one, d[0]), l.div(one, d[1])];
    let squares = if weights.equal() {
        squares::<L, C, SUBS, ROWS, true>(l, weights, inverse, codes)
    } else {
        squares::<L, C, SUBS, ROWS, false>(l, weights, inverse, codes)
    };
    [l.mul(squares[0], l.mul(d[0], d[0])), l.mul(squares[1], l.mul(d[1], d[1]))]
}

/// Σw(x * inverse - q)² of the nearest codes `q`. Two sums at once, since one chain of additions would take the
/// latency of as many.
#[inline(always)]
fn squares<L: Lanes, C: Integers, const SUBS: usize, const ROWS: usize, const EQUAL: bool>(
    l: L,
    weights: &SubBlocks<SUBS, ROWS>,
    inverse: [L::F; 2],
    codes: C,
) -> [L::F; 2] {
    let mut squares = [l.splat(0.0); 2];
    for i in 0..SubBlocks::<SUBS, ROWS>::LEN {
        let x = SubBlocks::<SUBS, ROWS>::at(l, weights.x(), i);
        let w = SubBlocks::<SUBS, ROWS>::at(l, weights.w(), i);
        for k in 0..2 {
            let code = l.mul(x, inverse[k]);
            let rest = l.sub(code, codes.nearest_lanes(l, code));
            let square = l.mul(rest, rest);
            squares[k] = l.add(squares[k], if EQUAL { square } else { l.mul(w, square) });
        }
    }
    squares
}
