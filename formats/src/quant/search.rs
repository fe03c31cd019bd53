//! The search for scales: what the quantizers share.
//!
//! The error of a block is no smooth function of its scale, since codes jump, so many scales are
//! tried, eight side by side, one in each lane of a [`Lanes`]. A lane adds in the order of the
//! weights, so the outcome is the same on every machine, and yet vector instructions do the work.
//! The codes of a trial give the best real scale in closed form (least squares), and how far it
//! lowers the error needs no second pass over the weights.
//!
//! Every weight counts the same: what is minimized is the plain squared error. The grids end where
//! more trials stopped to pay: twice as many of one kind lower the error by less than 0.5 %.

use super::float::F16;

/// Trials evaluated side by side.
pub(super) const LANES: usize = 8;

/// A number for each trial.
pub(super) type Lanes = [f32; LANES];

/// The integers `low..=high`, of codes or of scales, as floats.
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub(super) low: f32,
    pub(super) high: f32,
}

impl Range {
    /// What `bits` hold without a sign.
    pub(super) const fn unsigned(bits: u32) -> Self {
        Self { low: 0.0, high: ((1 << bits) - 1) as f32 }
    }

    /// What `bits` hold in two's complement.
    pub(super) const fn signed(bits: u32) -> Self {
        let half = (1 << (bits - 1)) as f32;
        Self { low: -half, high: half - 1.0 }
    }

    /// The value of the range nearest to `x`, which need not be whole. NaN gives `low`.
    #[inline(always)]
    pub(super) fn clamp(self, x: f32) -> f32 {
        // Comparisons compile to one instruction each, `f32::clamp` to more.
        let x = if x > self.low { x } else { self.low };
        if x < self.high {
            x
        } else {
            self.high
        }
    }

    /// The integer of the range nearest to `x`, ties to even.
    #[inline(always)]
    pub(super) fn nearest(self, x: f32) -> f32 {
        // From 2^23 up, floats are integers, so the addition rounds. (`round_ties_even` is a
        // library call on processors before SSE4.1.)
        const ROUND: f32 = 1.5 * (1 << 23) as f32;
        (self.clamp(x) + ROUND) - ROUND
    }
}

/// The block's values with NaN as 0 and magnitudes cut to 2^28. That is the most that any type with
/// a half as its scale can hold (65504 * 128 * 32 in Q6_K), and no sum of squares of it overflows.
pub(super) fn finite<const N: usize>(x: &[f32]) -> [f32; N] {
    const LIMIT: f32 = (1 << 28) as f32;
    let x: &[f32; N] = x.try_into().expect("callers pass whole blocks");
    x.map(|x| if x.is_nan() { 0.0 } else { x.clamp(-LIMIT, LIMIT) })
}

/// The largest magnitude.
pub(super) fn magnitude(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |max, x| if x.abs() > max { x.abs() } else { max })
}

/// `1 / d`, or 0 where that would be infinite: then all codes are 0.
pub(super) fn inverse(d: f32) -> f32 {
    if d.abs() < f32::MIN_POSITIVE {
        0.0
    } else {
        1.0 / d
    }
}

/// `d` rounded to a half, but finite and not 0, so that it has an inverse.
pub(super) fn storable(d: f32) -> f32 {
    const SMALLEST: f32 = 1.0 / (1 << 24) as f32;
    F16::from_f32(d.abs().max(SMALLEST).copysign(d)).to_f32()
}

/// The place and the value of the least error, the first of equals.
pub(super) fn least(errors: &Lanes) -> (usize, f32) {
    let first = (0, errors[0]);
    errors.iter().enumerate().fold(first, |a, (l, b)| if *b < a.1 { (l, *b) } else { a })
}

/// Of two candidates with their errors the better, the first of equals.
pub(super) fn better<T>(a: (f32, T), b: (f32, T)) -> (f32, T) {
    if b.0 < a.0 {
        b
    } else {
        a
    }
}

/// The codes nearest to `x = d * q + m`.
pub(super) fn encode<const N: usize>(x: &[f32; N], d: f32, m: f32, codes: Range) -> [f32; N] {
    let inverse = inverse(d);
    x.map(|x| codes.nearest((x - m) * inverse))
}

/// The squared error of `x = d * q + m` with the nearest codes, for each trial `(d, m)`. A trial
/// where `d` is 0 counts as without error: callers have none.
pub(super) fn errors(x: &[f32], d: &Lanes, m: &Lanes, codes: Range) -> Lanes {
    let inverse = d.map(inverse);
    let mut errors = [0.0; LANES];
    for x in x {
        for l in 0..LANES {
            let code = (x - m[l]) * inverse[l];
            let rest = code - codes.nearest(code);
            errors[l] += rest * rest;
        }
    }
    std::array::from_fn(|l| errors[l] * d[l] * d[l])
}

/// The best real `d` for `x = d * q`.
pub(super) fn scale(x: &[f32], codes: Range) -> f32 {
    let half = -codes.low;
    let per_code = inverse(magnitude(x));
    let (mut best_gain, mut best) = (-1.0, 0.0);
    for trial in 0..4 {
        // Both signs, since there is one more negative code than positive ones.
        let sign = [1.0, -1.0][trial % 2];
        // The largest magnitude gets codes from just outside of the range, which cuts it a little
        // for the good of the many small ones, down to where the coarser steps cost more than the
        // luck of another rounding wins. Found by trying, for all types.
        let inverse: Lanes = std::array::from_fn(|l| {
            let step = (l + LANES * (trial / 2)) as f32 / 15.0;
            sign * (half + 0.5 - (1.0 + half / 4.0) * step) * per_code
        });
        let (xq, qq) = scale_sums(x, &inverse, codes);
        let d: Lanes = std::array::from_fn(|l| xq[l] * self::inverse(qq[l]));
        for l in 0..LANES {
            if xq[l] * d[l] > best_gain {
                (best_gain, best) = (xq[l] * d[l], d[l]);
            }
        }
    }
    best
}

/// `(Σxq, Σqq)` of the codes nearest to `x * inverse`.
fn scale_sums(x: &[f32], inverse: &Lanes, codes: Range) -> (Lanes, Lanes) {
    let (mut xq, mut qq) = ([0.0; LANES], [0.0; LANES]);
    for x in x {
        for l in 0..LANES {
            let q = codes.nearest(x * inverse[l]);
            xq[l] += x * q;
            qq[l] += q * q;
        }
    }
    (xq, qq)
}

/// What offsets a type has.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Offset {
    /// Any.
    Any,
    /// Only negative ones and 0.
    NotPositive,
}

/// The best real `(d, m)` for `x = d * q + m`.
pub(super) fn scale_offset(x: &[f32], codes: Range, offset: Offset) -> (f32, f32) {
    let limit = if offset == Offset::Any { f32::MAX } else { 0.0 };
    let min = x.iter().fold(limit, |min, x| if *x < min { *x } else { min });
    let range = x.iter().fold(0.0, |max, x| if x - min > max { x - min } else { max });
    let per_range = inverse(range);
    let n = x.len() as f32;
    // Sums are of what exceeds `min`, so that they lose no precision to it.
    let sum = x.iter().fold(0.0, |sum, x| sum + (x - min));
    // Gains are measured from the best constant. A block without any, all zeros, is worse by this.
    let from_zero = (sum + n * min) * (sum + n * min) / n;
    let (mut best_gain, mut best) = (f32::MIN, (0.0, 0.0));
    for trial in 0..4 {
        // The codes of the smallest and of the largest value: how far they lie outside.
        let above = -0.4 + 0.3 * trial as f32;
        let below: Lanes = std::array::from_fn(|l| -0.4 + 0.15 * l as f32);
        let inverse = below.map(|below| (codes.high + below + above) * per_range);
        let (q1, qq, xq) = scale_offset_sums(x, min, &inverse, &below, codes);
        let (mut gains, mut ds, mut ms) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for l in 0..LANES {
            let covariance = xq[l] - sum * q1[l] / n;
            let free = covariance * self::inverse(qq[l] - q1[l] * q1[l] / n);
            let m = min + (sum - free * q1[l]) / n;
            let bound = (xq[l] + min * q1[l]) * self::inverse(qq[l]);
            let fits = m <= limit;
            ms[l] = if fits { m } else { limit };
            ds[l] = if fits { free } else { bound };
            gains[l] = if fits { covariance * free } else { bound * bound * qq[l] - from_zero };
        }
        for l in 0..LANES {
            if gains[l] > best_gain {
                (best_gain, best) = (gains[l], (ds[l], ms[l]));
            }
        }
    }
    best
}

/// `(Σq, Σqq, Σ(x - min)q)` of the codes nearest to `(x - min) * inverse - below`.
fn scale_offset_sums(
    x: &[f32],
    min: f32,
    inverse: &Lanes,
    below: &Lanes,
    codes: Range,
) -> (Lanes, Lanes, Lanes) {
    let (mut q1, mut qq, mut xq) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for x in x {
        let x = x - min;
        for l in 0..LANES {
            let q = codes.nearest(x * inverse[l] - below[l]);
            q1[l] += q;
            qq[l] += q * q;
            xq[l] += x * q;
        }
    }
    (q1, qq, xq)
}
