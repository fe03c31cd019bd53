//! The search for scales: what all quantizers share.
//!
//! The error of a block is no smooth function of its scale, since codes jump, so many scales are
//! tried. Trials are evaluated eight at a time, one in each lane of a [`Lanes`]: every lane adds in
//! the order of the weights, so the outcome is the same on every machine, and still vectors do the
//! work. From the codes of a trial the best real scale follows in closed form (least squares), and
//! by how much it lowers the error needs no second pass.

/// Trials evaluated side by side.
pub(super) const LANES: usize = 8;

/// A number for each trial.
pub(super) type Lanes = [f32; LANES];

/// The block's values with NaN as 0 and magnitudes cut to 2^50, so that no sum of squares below
/// overflows. No type with a half as its scale reaches that far.
pub(super) fn finite<const N: usize>(x: &[f32]) -> [f32; N] {
    const LIMIT: f32 = (1u64 << 50) as f32;
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

/// The integer within `low..=high` nearest to `x`, ties to even. Bounds are well below 2^22.
#[inline(always)]
pub(super) fn nearest(x: f32, low: f32, high: f32) -> f32 {
    // From 1.5 * 2^23 up, floats are integers: the addition rounds. (`round_ties_even` is a
    // library call on processors before SSE4.1.) Comparisons in place of `clamp` compile to one
    // instruction each.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > low { x } else { low };
    let x = if x < high { x } else { high };
    (x + ROUND) - ROUND
}

/// The codes nearest to `x = d * q + m`.
pub(super) fn codes<const N: usize>(x: &[f32; N], d: f32, m: f32, low: f32, high: f32) -> [i8; N] {
    let inverse = inverse(d);
    x.map(|x| nearest((x - m) * inverse, low, high) as i8)
}

/// The squared error of `x = d * q + m` for every trial `(d, m)`, with the nearest codes.
pub(super) fn errors(x: &[f32], d: &Lanes, m: &Lanes, low: f32, high: f32) -> Lanes {
    let inverse = d.map(inverse);
    let mut errors = [0.0; LANES];
    for x in x {
        for l in 0..LANES {
            let q = nearest((x - m[l]) * inverse[l], low, high);
            let rest = x - (d[l] * q + m[l]);
            errors[l] += rest * rest;
        }
    }
    errors
}

/// The best real `d` for `x = d * q`, `q` in `low..=high`.
pub(super) fn scale(x: &[f32], low: f32, high: f32) -> f32 {
    let amax = magnitude(x);
    let per_code = inverse(amax);
    let (mut best_gain, mut best) = (-1.0, 0.0);
    // The largest magnitude is given these codes, in both signs, since -low is no code. Down to
    // what pays off for few bits: outer weights are cut, for the good of the many small ones.
    let span = 2.0 - low / 12.0;
    for trials in 0..4 {
        let sign = [1.0, -1.0][trials % 2];
        let inverse: Lanes = std::array::from_fn(|l| {
            let step = (l + LANES * (trials / 2)) as f32 / 15.0;
            sign * (0.5 - low - span * step) * per_code
        });
        let (xq, qq) = products(x, &inverse, low, high);
        for l in 0..LANES {
            let d = xq[l] * self::inverse(qq[l]);
            if xq[l] * d > best_gain {
                (best_gain, best) = (xq[l] * d, d);
            }
        }
    }
    best
}

/// `(Σxq, Σqq)` of the codes nearest to `x * inverse`.
fn products(x: &[f32], inverse: &Lanes, low: f32, high: f32) -> (Lanes, Lanes) {
    let (mut xq, mut qq) = ([0.0; LANES], [0.0; LANES]);
    for x in x {
        for l in 0..LANES {
            let q = nearest(x * inverse[l], low, high);
            xq[l] += x * q;
            qq[l] += q * q;
        }
    }
    (xq, qq)
}

/// What [`scale_offset`] may choose.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Offset {
    /// Any offset.
    Any,
    /// Minimums are subtracted, and not negative.
    NotPositive,
}

/// The best real `(d, m)` for `x = d * q + m`, `q` in `0..=high`.
pub(super) fn scale_offset(x: &[f32], high: f32, offset: Offset) -> (f32, f32) {
    let mut min = x.iter().fold(f32::MAX, |min, x| if *x < min { *x } else { min });
    let max = x.iter().fold(f32::MIN, |max, x| if *x > max { *x } else { max });
    if offset == Offset::NotPositive && min > 0.0 {
        min = 0.0;
    }
    let n = x.len() as f32;
    let sum = x.iter().sum::<f32>();
    let per_range = inverse(max - min);
    let (mut best_gain, mut best) =
        (-1.0, (0.0, if offset == Offset::Any { sum / n } else { 0f32.min(sum / n) }));
    // How far, in codes, the ends lie outside of 0..=high
    for trial in 0..8 {
        let above = -0.4 + 0.15 * trial as f32;
        let below: Lanes = std::array::from_fn(|l| -0.4 + 0.15 * l as f32);
        let inverse = below.map(|below| (high + below + above) * per_range);
        let first: Lanes = std::array::from_fn(|l| -below[l] - min * inverse[l]);
        let (q1, qq, xq) = sums(x, &inverse, &first, high);
        for l in 0..LANES {
            let c = xq[l] - sum * q1[l] / n;
            let v = qq[l] - q1[l] * q1[l] / n;
            let mut d = c * self::inverse(v);
            let mut gain = c * d;
            let mut m = (sum - d * q1[l]) / n;
            if offset == Offset::NotPositive && m > 0.0 {
                d = xq[l] * self::inverse(qq[l]);
                gain = xq[l] * d - sum * sum / n;
                m = 0.0;
            }
            if gain > best_gain {
                (best_gain, best) = (gain, (d, m));
            }
        }
    }
    best
}

/// `(Σq, Σqq, Σxq)` of the codes nearest to `x * inverse + first`.
fn sums(x: &[f32], inverse: &Lanes, first: &Lanes, high: f32) -> (Lanes, Lanes, Lanes) {
    let (mut q1, mut qq, mut xq) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for x in x {
        for l in 0..LANES {
            let q = nearest(x * inverse[l] + first[l], 0.0, high);
            q1[l] += q;
            qq[l] += q * q;
            xq[l] += x * q;
        }
    }
    (q1, qq, xq)
}
