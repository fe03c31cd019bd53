//! Scales and offsets: `x = d * q + m`.

use super::sub_blocks::{Best, Rows, SubBlocks};
use super::{f16_scale, inverse_lanes, TINY};
use crate::quant::lanes::{Lanes, LANES};
use crate::quant::range::{Integers, Range};

/// Statistics of each sub-block that do not depend on its codes.
pub(in crate::quant) struct Moments<F, const ROWS: usize> {
    /// Σw
    total: F,
    /// 1 / Σw
    per_total: F,
    /// Σwx / Σw
    mean: F,
    /// Σw(x - mean)²
    spread: F,
    /// x - mean
    rest: Rows<ROWS>,
}

impl<F: Copy, const ROWS: usize> Moments<F, ROWS> {
    #[inline(always)]
    pub(in crate::quant) fn new<L: Lanes<F = F>, const SUBS: usize>(
        l: L,
        weights: &SubBlocks<SUBS, ROWS>,
    ) -> Self {
        let zero = l.splat(0.0);
        // Filled in place, since it is large.
        let mut y = Self {
            total: zero,
            per_total: zero,
            mean: zero,
            spread: zero,
            rest: [[0.0; LANES]; ROWS],
        };
        let mut terms = [zero; ROWS];
        for (term, w) in terms.iter_mut().zip(weights.w()) {
            *term = l.load(w);
        }
        y.total = SubBlocks::<SUBS, ROWS>::sum(l, &terms);
        y.per_total = l.div(l.splat(1.0), y.total);
        for ((term, x), w) in terms.iter_mut().zip(weights.x()).zip(weights.w()) {
            *term = l.mul(l.load(x), l.load(w));
        }
        y.mean = l.div(SubBlocks::<SUBS, ROWS>::sum(l, &terms), y.total);
        let places = terms.iter_mut().zip(&mut y.rest).zip(weights.x()).zip(weights.w());
        for (((term, rest), x), w) in places {
            let far = l.sub(l.load(x), y.mean);
            l.store(far, rest);
            *term = l.mul(l.load(w), l.mul(far, far));
        }
        y.spread = SubBlocks::<SUBS, ROWS>::sum(l, &terms);
        y
    }

    /// The mean code that the scales `d` and the offsets `m` give.
    #[inline(always)]
    pub(in crate::quant) fn mean_code<L: Lanes<F = F>>(
        &self,
        l: L,
        (d, m): (F, F),
        codes: Range,
    ) -> F {
        codes.clamp_lanes(l, l.mul(l.sub(self.mean, m), inverse_lanes(l, d)))
    }
}

/// The offsets that a type can store.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::quant) enum Offset {
    /// Any offset.
    Any,
    /// Only negative offsets and 0.
    NotPositive,
}

/// Trials of a real scale and offset.
#[derive(Clone, Copy, Debug)]
pub(in crate::quant) struct Ends {
    /// For each trial, how far the code of the smallest value lies outside the range.
    pub(in crate::quant) below: &'static [f32],
    /// The same of the largest value.
    pub(in crate::quant) above: &'static [f32],
    /// All trials are made with each of these added to `above`.
    pub(in crate::quant) more_above: &'static [[f32; 2]],
}

/// Thirty-two trials.
pub(in crate::quant) const MANY_ENDS: Ends = Ends {
    below: &[
        -0.4, -0.25, -0.1, 0.05, 0.2, 0.35, 0.5, 0.65, -0.4, -0.25, -0.1, 0.05, 0.2, 0.35, 0.5,
        0.65,
    ],
    above: &[
        -0.4, -0.4, -0.4, -0.4, -0.4, -0.4, -0.4, -0.4, -0.1, -0.1, -0.1, -0.1, -0.1, -0.1, -0.1,
        -0.1,
    ],
    more_above: &[[0.0, 0.6]],
};

/// The best real `(d, m)` of each sub-block.
#[inline(always)]
pub(in crate::quant) fn scale_offset<L: Lanes, const SUBS: usize, const ROWS: usize>(
    l: L,
    weights: &SubBlocks<SUBS, ROWS>,
    moments: &Moments<L::F, ROWS>,
    codes: Range,
    offset: Offset,
    ends: &Ends,
) -> (L::F, L::F) {
    let limit = if offset == Offset::Any { f32::MAX } else { 0.0 };
    let mut x = [l.splat(0.0); ROWS];
    for (x, row) in x.iter_mut().zip(weights.x()) {
        *x = l.load(row);
    }
    let (less, more) = (|a, b| if a < b { a } else { b }, |a, b| if a > b { a } else { b });
    let min = SubBlocks::<SUBS, ROWS>::fold(l, &x, |a, b| l.min(a, b), less);
    let max = SubBlocks::<SUBS, ROWS>::fold(l, &x, |a, b| l.max(a, b), more);
    let min = l.min(min, l.splat(limit));
    // Sums use `x - min`, so that a large `min` costs no precision.
    let mut above_min = [[0.0; LANES]; ROWS];
    for (y, x) in above_min.iter_mut().zip(x) {
        l.store(l.sub(x, min), y);
    }
    let trials = Trials { weights, above_min: &above_min, min, limit, moments, codes };
    let per_range = inverse_lanes(l, l.sub(max, min));
    let mut best = Best::below(l, f32::INFINITY);
    for step in 0..ends.below.len() / SubBlocks::<SUBS, ROWS>::SIDES {
        let below = SubBlocks::<SUBS, ROWS>::of_step(l, ends.below, step);
        let above = SubBlocks::<SUBS, ROWS>::of_step(l, ends.above, step);
        let outside = l.add(l.splat(codes.high), l.add(below, above));
        for more in ends.more_above {
            let first = l.mul(l.add(outside, l.splat(more[0])), per_range);
            let second = l.mul(l.add(outside, l.splat(more[1])), per_range);
            for sums in trials.sums(l, [first, second], below) {
                let (gain, d, m) = trials.gain(l, sums);
                best.keep(l, l.sub(l.splat(0.0), gain), [d, m]);
            }
        }
    }
    let [d, m] = best.of_sides::<L, SUBS>(l).values;
    (d, m)
}

/// What the trials of real scales and offsets share.
struct Trials<'a, F, const SUBS: usize, const ROWS: usize> {
    weights: &'a SubBlocks<SUBS, ROWS>,
    /// How far the weights lie above `min`.
    above_min: &'a Rows<ROWS>,
    /// The smallest value, but at most `limit`.
    min: F,
    /// The largest offset that the type can store.
    limit: f32,
    moments: &'a Moments<F, ROWS>,
    codes: Range,
}

impl<F: Copy, const SUBS: usize, const ROWS: usize> Trials<'_, F, SUBS, ROWS> {
    /// How much codes with these sums lower the error compared with the best constant, and the best `d` and
    /// `m` for them.
    #[inline(always)]
    fn gain<L: Lanes<F = F>>(&self, l: L, [q1, qq, xq]: [F; 3]) -> (F, F, F) {
        let Moments { total, per_total, mean, .. } = *self.moments;
        let (min, limit, tiny) = (self.min, l.splat(self.limit), l.splat(TINY));
        let mean_code = l.mul(q1, per_total);
        let mean_rest = l.sub(mean, min);
        let covariance = l.sub(xq, l.mul(mean_rest, q1));
        // If all codes are the same, the variance is only rounding error and must not be a divisor.
        let least = l.max(l.mul(qq, l.splat(1e-6)), tiny);
        let variance = l.max(l.sub(qq, l.mul(q1, mean_code)), least);
        // If the offset would be too large, the best `d` with the largest offset is used. That the offset
        // `mean - d * mean_code` is larger is asked before the division, so that one division does.
        let (left, right) = (l.mul(covariance, mean_code), l.mul(l.sub(mean, limit), variance));
        let product = l.select_less(left, right, l.add(xq, l.mul(min, q1)), covariance);
        let square = l.select_less(left, right, l.max(qq, tiny), variance);
        let d = l.div(product, square);
        let m = l.add(min, l.sub(mean_rest, l.mul(d, mean_code)));
        // Its gain is measured from zero, so the best constant's gain over zero is subtracted.
        let from_zero = l.mul(l.mul(mean, mean), total);
        let gain = l.mul(product, d);
        (
            l.select_less(left, right, l.sub(gain, from_zero), gain),
            d,
            l.select_less(left, right, limit, m),
        )
    }

    /// Σwq, Σwq² and Σw(x - min)q of the codes `q` nearest to `(x - min) * inverse - below`, for each of
    /// `inverse`.
    #[inline(always)]
    fn sums<L: Lanes<F = F>>(&self, l: L, inverse: [F; 2], below: F) -> [[F; 3]; 2] {
        if self.weights.equal() {
            self.add_up::<L, true>(l, inverse, below)
        } else {
            self.add_up::<L, false>(l, inverse, below)
        }
    }

    #[inline(always)]
    fn add_up<L: Lanes<F = F>, const EQUAL: bool>(
        &self,
        l: L,
        inverse: [F; 2],
        below: F,
    ) -> [[F; 3]; 2] {
        let mut sums = [[l.splat(0.0); 3]; 2];
        for i in 0..SubBlocks::<SUBS, ROWS>::LEN {
            let x = SubBlocks::<SUBS, ROWS>::at(l, self.above_min, i);
            let w = SubBlocks::<SUBS, ROWS>::at(l, self.weights.w(), i);
            for k in 0..2 {
                let q = self.codes.nearest_lanes(l, l.sub(l.mul(x, inverse[k]), below));
                let [q1, qq, xq] = &mut sums[k];
                let wq = if EQUAL { q } else { l.mul(w, q) };
                *q1 = l.add(*q1, wq);
                *qq = if EQUAL { l.add_exact_product(*qq, q, q) } else { l.add(*qq, l.mul(q, wq)) };
                *xq = l.add(*xq, l.mul(x, wq));
            }
        }
        sums
    }
}

/// The codes of a trial scale of each sub-block, as sums.
pub(in crate::quant) struct Codes<F> {
    /// The scale.
    d: F,
    /// Σwq
    q1: F,
    /// Σwq²
    qq: F,
    /// Σw(x - mean)q
    xq: F,
}

impl<F: Copy> Codes<F> {
    /// The codes for two trial scales `d` of each lane, chosen as if the offset gave this mean code.
    #[inline(always)]
    pub(in crate::quant) fn of<L: Lanes<F = F>, const SUBS: usize, const ROWS: usize>(
        l: L,
        weights: &SubBlocks<SUBS, ROWS>,
        moments: &Moments<F, ROWS>,
        codes: Range,
        d: [F; 2],
        mean_code: F,
    ) -> [Self; 2] {
        if weights.equal() {
            Self::add_up::<L, SUBS, ROWS, true>(l, weights, moments, codes, d, mean_code)
        } else {
            Self::add_up::<L, SUBS, ROWS, false>(l, weights, moments, codes, d, mean_code)
        }
    }

    #[inline(always)]
    fn add_up<L: Lanes<F = F>, const SUBS: usize, const ROWS: usize, const EQUAL: bool>(
        l: L,
        weights: &SubBlocks<SUBS, ROWS>,
        moments: &Moments<F, ROWS>,
        codes: Range,
        d: [F; 2],
        mean_code: F,
    ) -> [Self; 2] {
        let (zero, one) = (l.splat(0.0), l.splat(1.0));
        let inverse = [l.div(one, d[0]), l.div(one, d[1])];
        let mut guess = [zero; 2];
        for k in 0..2 {
            guess[k] = l.min(l.sub(moments.mean, l.mul(d[k], mean_code)), zero);
        }
        let mut sums = [[zero; 3]; 2];
        for ((x, w), rest) in weights.x().iter().zip(weights.w()).zip(&moments.rest) {
            let (x, w, rest) = (l.load(x), l.load(w), l.load(rest));
            for k in 0..2 {
                let q = codes.nearest_lanes(l, l.mul(l.sub(x, guess[k]), inverse[k]));
                let [q1, qq, xq] = &mut sums[k];
                let wq = if EQUAL { q } else { l.mul(w, q) };
                *q1 = l.add(*q1, wq);
                *qq = if EQUAL { l.add_exact_product(*qq, q, q) } else { l.add(*qq, l.mul(q, wq)) };
                *xq = l.add(*xq, l.mul(rest, wq));
            }
        }
        let [[q1, qq, xq], other] = sums;
        let first = Self { d: d[0], q1, qq, xq };
        let [q1, qq, xq] = other;
        [first, Self { d: d[1], q1, qq, xq }]
    }

    /// The smallest error with a minimum, `x = d * q - dmin * min`, and the minimum that gives it.
    #[inline(always)]
    pub(in crate::quant) fn least_error<L: Lanes<F = F>, const ROWS: usize>(
        &self,
        l: L,
        moments: &Moments<F, ROWS>,
        mins: &Mins,
    ) -> (F, F) {
        let Moments { total, per_total, mean, spread, .. } = *moments;
        let Self { d, q1, qq, xq } = *self;
        // The best offset is the mean of what the scale leaves: `mean - d * mean code`.
        let offset = l.sub(mean, l.mul(d, l.mul(q1, per_total)));
        let min = mins.range.nearest_lanes(l, l.mul(offset, l.splat(mins.per_offset)));
        // The error from sums. They are relative to the mean, and so is the offset here.
        let offset = l.sub(l.mul(min, l.splat(-mins.dmin)), mean);
        let square = l.mul(d, l.sub(l.mul(d, qq), l.add(xq, xq)));
        let dq = l.mul(d, q1);
        let cross = l.mul(offset, l.add(l.add(dq, dq), l.mul(offset, total)));
        (l.add(spread, l.add(square, cross)), min)
    }
}

/// The minimums that can be stored, and their scale.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Mins {
    range: Range,
    /// The scale: an f16, not 0.
    pub(in crate::quant) dmin: f32,
    /// -1 / `dmin`
    per_offset: f32,
}

impl Mins {
    #[inline(always)]
    pub(in crate::quant) fn new(range: Range, dmin: f32) -> Self {
        let dmin = f16_scale(dmin);
        Self { range, dmin, per_offset: -1.0 / dmin }
    }
}
