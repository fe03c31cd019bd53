//! The search for scales, which the quantizers share.
//!
//! The error of a block is not a smooth function of its scale, because codes jump. So many scales
//! are tried, sixteen at a time, one in each of the [`Lanes`]. Each lane adds in the order of the
//! weights, so the result is the same on every machine although vector instructions compute it.
//! The codes of a trial give the best real scale in closed form (least squares). How much that scale
//! lowers the error follows from the same sums, without a second pass over the weights.
//!
//! The squared error is minimized, with each weight's error weighted by its importance `w`.

use super::float::F16;
use super::lanes::{Lanes, LANES};
use super::range::{Integers, Range};

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

/// The largest magnitude.
#[inline(always)]
pub(super) fn magnitude(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |max, x| if x.abs() > max { x.abs() } else { max })
}

/// Folds values, whose number is a multiple of the lanes: first lane by lane, then across the
/// lanes. One chain through all values would take the latency of as many additions.
#[inline(always)]
fn fold<L: Lanes>(
    l: L,
    x: &[f32],
    mut each: impl FnMut(usize, L::F) -> L::F,
    pair: impl Fn(L::F, L::F) -> L::F,
    pair_one: impl Fn(f32, f32) -> f32,
) -> f32 {
    let (x, rest) = x.as_chunks::<LANES>();
    assert!(rest.is_empty(), "sub-blocks are whole lanes");
    let mut sum = each(0, l.load(&x[0]));
    for (i, x) in x.iter().enumerate().skip(1) {
        sum = pair(sum, each(i, l.load(x)));
    }
    let mut sum = l.to_array(sum);
    for n in [8, 4, 2, 1] {
        for i in 0..n {
            sum[i] = pair_one(sum[i], sum[i + n]);
        }
    }
    sum[0]
}

/// The vector of `w` that starts at `16 * i`.
#[inline(always)]
fn lanes_of<L: Lanes>(l: L, w: &[f32], i: usize) -> L::F {
    l.load(&w.as_chunks::<LANES>().0[i])
}

/// Statistics of a sub-block that do not depend on its codes.
#[derive(Clone, Copy, Default)]
pub(super) struct Moments {
    /// Σw
    total: f32,
    /// Σwx / Σw
    mean: f32,
    /// Σw(x - mean)²
    spread: f32,
}

impl Moments {
    #[inline(always)]
    pub(super) fn new<L: Lanes>(l: L, x: &[f32], w: &[f32]) -> Self {
        let add = |a, b| l.add(a, b);
        let total = fold(l, w, |_, w| w, add, |a, b| a + b);
        let product = |i, x| l.mul(x, lanes_of(l, w, i));
        let mean = fold(l, x, product, add, |a, b| a + b) / total;
        let square = |i, x| {
            let rest = l.sub(x, l.splat(mean));
            l.mul(lanes_of(l, w, i), l.mul(rest, rest))
        };
        Self { total, mean, spread: fold(l, x, square, add, |a, b| a + b) }
    }
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

/// `d` rounded to f16, but finite and not 0, so that it has an inverse.
#[inline(always)]
pub(super) fn f16_scale(d: f32) -> f32 {
    const SMALLEST: f32 = 1.0 / (1 << 24) as f32;
    F16::from_f32(d.abs().max(SMALLEST).copysign(d)).to_f32()
}

/// The candidate with the smaller error; the first one if they are equal.
#[inline(always)]
pub(super) fn better<T>(a: (f32, T), b: (f32, T)) -> (f32, T) {
    if b.0 < a.0 {
        b
    } else {
        a
    }
}

/// Finds the lane with the smallest error. Returns that error and the lane's entry of each of
/// `values`.
#[inline(always)]
pub(super) fn least<L: Lanes, const N: usize>(
    l: L,
    error: L::F,
    values: [L::F; N],
) -> (f32, [f32; N]) {
    let at = l.least(error);
    (l.to_array(error)[at], values.map(|v| l.to_array(v)[at]))
}

/// The codes that make `d * q + m` nearest to `x`, in two's complement.
#[inline(always)]
pub(super) fn encode<C: Integers>(x: &[f32], d: f32, m: f32, codes: C, q: &mut [u8]) {
    let inverse = inverse(d);
    for (q, x) in q.iter_mut().zip(x) {
        *q = codes.code((x - m) * inverse);
    }
}

/// The squared error of `x = d * q` with the nearest codes, for each trial scale `d`, none of them 0.
#[inline(always)]
pub(super) fn errors<L: Lanes, C: Integers>(l: L, x: &[f32], w: &[f32], d: L::F, codes: C) -> L::F {
    let inverse = l.div(l.splat(1.0), d);
    let mut errors = l.splat(0.0);
    for (x, w) in x.iter().zip(w) {
        let code = l.mul(l.splat(*x), inverse);
        let rest = l.sub(code, codes.nearest_lanes(l, code));
        errors = l.add(errors, l.mul(l.splat(*w), l.mul(rest, rest)));
    }
    l.mul(errors, l.mul(d, d))
}

/// Smaller than any sum of importances, so that a divisor of at least this only changes 0/0.
const TINY: f32 = 1e-30;

/// 0, 1, 2 …
const NUMBERS: [f32; LANES] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

/// `first` and the integers that follow it, one per lane.
#[inline(always)]
pub(super) fn consecutive<L: Lanes>(l: L, first: f32) -> L::F {
    l.add(l.splat(first), l.load(&NUMBERS))
}

/// The best real `d` for `x = d * q`.
#[inline(always)]
pub(super) fn scale<L: Lanes, C: Integers>(l: L, x: &[f32], w: &[f32], codes: C) -> f32 {
    scale_of_trials(l, x, w, codes, &[0.0])
}

/// The same, by as many trials for each of `shifts`, which says where they begin, in units of their
/// distance.
#[inline(always)]
pub(super) fn scale_of_trials<L: Lanes, C: Integers>(
    l: L,
    x: &[f32],
    w: &[f32],
    codes: C,
    shifts: &[f32],
) -> f32 {
    let magnitude = fold(
        l,
        x,
        |_, x| l.max(x, l.sub(l.splat(0.0), x)),
        |a, b| l.max(a, b),
        |a, b| if a > b { a } else { b },
    );
    let per_code = l.splat(inverse(magnitude));
    let (first, span) = codes.trials();
    let step = span / (LANES - 1) as f32;
    let mut best = (0.0, 0.0);
    for shift in shifts {
        let first = l.splat(first - shift * step);
        let up = l.mul(l.sub(first, l.mul(l.splat(step), l.load(&NUMBERS))), per_code);
        // Both signs, because the codes reach further to the negative side.
        let down = l.sub(l.splat(0.0), up);
        let (gain_up, d_up) = scale_gain(l, x, w, up, codes);
        let (gain_down, d_down) = scale_gain(l, x, w, down, codes);
        let loss = l.sub(l.splat(0.0), l.max(gain_down, gain_up));
        let d = l.select_less(gain_up, gain_down, d_down, d_up);
        let (loss, [d]) = least(l, loss, [d]);
        best = better(best, (loss, d));
    }
    best.1
}

/// How much the codes nearest to `x * inverse` lower the error, and the best `d` for them.
#[inline(always)]
fn scale_gain<L: Lanes, C: Integers>(
    l: L,
    x: &[f32],
    w: &[f32],
    inverse: L::F,
    codes: C,
) -> (L::F, L::F) {
    let (mut xq, mut qq) = (l.splat(0.0), l.splat(0.0));
    for (x, w) in x.iter().zip(w) {
        let x = l.splat(*x);
        let q = codes.nearest_lanes(l, l.mul(x, inverse));
        let wq = l.mul(l.splat(*w), q);
        xq = l.add(xq, l.mul(x, wq));
        qq = l.add(qq, l.mul(q, wq));
    }
    let d = l.div(xq, l.max(qq, l.splat(TINY)));
    (l.mul(xq, d), d)
}

/// The offsets that a type can store.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Offset {
    /// Any offset.
    Any,
    /// Only negative offsets and 0.
    NotPositive,
}

/// In the trials of [`scale_offset`], how far the codes of the smallest and of the largest value lie
/// outside the range, by lane. The second sixteen trials have 0.6 more for the largest value.
const BELOW: [f32; LANES] =
    [-0.4, -0.25, -0.1, 0.05, 0.2, 0.35, 0.5, 0.65, -0.4, -0.25, -0.1, 0.05, 0.2, 0.35, 0.5, 0.65];
const ABOVE: [f32; LANES] = [
    -0.4, -0.4, -0.4, -0.4, -0.4, -0.4, -0.4, -0.4, -0.1, -0.1, -0.1, -0.1, -0.1, -0.1, -0.1, -0.1,
];

/// The best real `(d, m)` for `x = d * q + m`.
#[inline(always)]
pub(super) fn scale_offset<L: Lanes>(
    l: L,
    x: &[f32],
    w: &[f32],
    moments: &Moments,
    codes: Range,
    offset: Offset,
) -> (f32, f32) {
    let limit = if offset == Offset::Any { f32::MAX } else { 0.0 };
    let min = fold(l, x, |_, x| x, |a, b| l.min(a, b), |a, b| if a < b { a } else { b });
    let max = fold(l, x, |_, x| x, |a, b| l.max(a, b), |a, b| if a > b { a } else { b });
    let min = if min < limit { min } else { limit };
    let trials = Trials { min, limit, moments, codes };
    let below = l.load(&BELOW);
    let outside = l.add(l.splat(codes.high), l.add(below, l.load(&ABOVE)));
    let per_range = l.splat(inverse(max - min));
    let first = l.mul(outside, per_range);
    let second = l.mul(l.add(outside, l.splat(0.6)), per_range);
    let (gain_a, d_a, m_a) = trials.gain(l, x, w, first, below);
    let (gain_b, d_b, m_b) = trials.gain(l, x, w, second, below);
    let loss = l.sub(l.splat(0.0), l.max(gain_b, gain_a));
    let d = l.select_less(gain_a, gain_b, d_b, d_a);
    let m = l.select_less(gain_a, gain_b, m_b, m_a);
    let (_, [d, m]) = least(l, loss, [d, m]);
    (d, m)
}

/// What the trials of a sub-block's real scale and offset share.
struct Trials<'a> {
    /// The smallest value, but at most `limit`.
    min: f32,
    /// The largest offset that the type can store.
    limit: f32,
    moments: &'a Moments,
    codes: Range,
}

impl Trials<'_> {
    /// How much the codes nearest to `(x - min) * inverse - below` lower the error compared with the
    /// best constant, and the best `d` and `m` for these codes.
    #[inline(always)]
    fn gain<L: Lanes>(
        &self,
        l: L,
        x: &[f32],
        w: &[f32],
        inverse: L::F,
        below: L::F,
    ) -> (L::F, L::F, L::F) {
        // Sums use `x - min`, so that a large `min` costs no precision.
        let (mut q1, mut qq, mut xq) = (l.splat(0.0), l.splat(0.0), l.splat(0.0));
        for (x, w) in x.iter().zip(w) {
            let x = l.splat(x - self.min);
            let q = self.codes.nearest_lanes(l, l.sub(l.mul(x, inverse), below));
            let wq = l.mul(l.splat(*w), q);
            q1 = l.add(q1, wq);
            qq = l.add(qq, l.mul(q, wq));
            xq = l.add(xq, l.mul(x, wq));
        }
        let Moments { total, mean, .. } = *self.moments;
        let (min, limit, tiny) = (l.splat(self.min), l.splat(self.limit), l.splat(TINY));
        let mean_code = l.div(q1, l.splat(total));
        let mean_rest = l.splat(mean - self.min);
        let covariance = l.sub(xq, l.mul(mean_rest, q1));
        // If all codes are the same, the variance is only rounding error and must not be a divisor.
        let least = l.max(l.mul(qq, l.splat(1e-6)), tiny);
        let free = l.div(covariance, l.max(l.sub(qq, l.mul(q1, mean_code)), least));
        let m = l.add(min, l.sub(mean_rest, l.mul(free, mean_code)));
        // If the offset would be too large, the best `d` with the largest offset is used. Its gain is
        // measured from zero, so the best constant's gain over zero is subtracted.
        let bound = l.div(l.add(xq, l.mul(min, q1)), l.max(qq, tiny));
        let from_zero = l.splat(mean * mean * total);
        let bound_gain = l.sub(l.mul(l.mul(bound, bound), qq), from_zero);
        let free_gain = l.mul(covariance, free);
        (
            l.select_less(limit, m, bound_gain, free_gain),
            l.select_less(limit, m, bound, free),
            l.select_less(limit, m, limit, m),
        )
    }
}

/// What the trials of a sub-block's integer minimum share: `x = d * q - dmin * min`.
pub(super) struct MinTrials<'a> {
    /// Statistics of the sub-block.
    pub(super) moments: &'a Moments,
    /// The range of the codes.
    pub(super) codes: Range,
    /// The range of `min`.
    pub(super) mins: Range,
    /// The scale of the minimums, not 0.
    pub(super) dmin: f32,
}

impl MinTrials<'_> {
    /// Tries the scales `d`, whose integers are `scales`. Returns the smallest error, and the
    /// integer scale and `min` that give it.
    #[inline(always)]
    pub(super) fn least<L: Lanes>(
        &self,
        l: L,
        (x, w): (&[f32], &[f32]),
        scales: L::F,
        d: L::F,
        ideal: (f32, f32),
    ) -> (f32, [f32; 2]) {
        let (errors, mins) = self.best(l, x, w, d, ideal);
        least(l, errors, [scales, mins])
    }

    /// For each trial scale `d`, the error and the best `min` for its codes. The codes are chosen as
    /// if the offset kept the mean code that the real scale and offset in `ideal` give.
    #[inline(always)]
    fn best<L: Lanes>(
        &self,
        l: L,
        x: &[f32],
        w: &[f32],
        d: L::F,
        ideal: (f32, f32),
    ) -> (L::F, L::F) {
        let Moments { total, mean, spread } = *self.moments;
        let mean_code = self.codes.clamp((mean - ideal.1) * inverse(ideal.0));
        let inverse = l.div(l.splat(1.0), d);
        let guess = l.min(l.sub(l.splat(mean), l.mul(d, l.splat(mean_code))), l.splat(0.0));
        let (mut q1, mut qq, mut xq) = (l.splat(0.0), l.splat(0.0), l.splat(0.0));
        for (x, w) in x.iter().zip(w) {
            let code = l.mul(l.sub(l.splat(*x), guess), inverse);
            let q = self.codes.nearest_lanes(l, code);
            let wq = l.mul(l.splat(*w), q);
            q1 = l.add(q1, wq);
            qq = l.add(qq, l.mul(q, wq));
            xq = l.add(xq, l.mul(l.splat(x - mean), wq));
        }
        let (total, mean) = (l.splat(total), l.splat(mean));
        // The best offset is the mean of what the scale leaves: `mean - d * mean code`.
        let offset = l.sub(mean, l.mul(d, l.div(q1, total)));
        let min = self.mins.nearest_lanes(l, l.mul(offset, l.splat(-1.0 / self.dmin)));
        // The error from sums. They are relative to the mean, and so is the offset here.
        let offset = l.sub(l.mul(min, l.splat(-self.dmin)), mean);
        let square = l.mul(d, l.sub(l.mul(d, qq), l.add(xq, xq)));
        let dq = l.mul(d, q1);
        let cross = l.mul(offset, l.add(l.add(dq, dq), l.mul(offset, total)));
        (l.add(l.splat(spread), l.add(square, cross)), min)
    }
}
