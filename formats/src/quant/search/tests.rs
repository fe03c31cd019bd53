//! The search beside a plain one, of one sub-block and one trial after the other, that skips nothing.

use super::*;
use crate::quant::affine::{self, Affine};
use crate::quant::effort::ByEffort;
use crate::quant::lanes::Plain;
use crate::quant::symmetric::{self, Symmetric};
use crate::quant::{iq4_xs, q3_k, q6_k};

/// A block's real or integer scales and minimums.
type PerSub = Vec<(f32, f32)>;

/// What the plain search has of a sub-block.
struct Sub<'a> {
    x: &'a [f32],
    w: &'a [f32],
    total: f32,
    mean: f32,
    spread: f32,
}

/// The one with the smaller error; the first one if they are equal.
fn better<T>(a: (f32, T), b: (f32, T)) -> (f32, T) {
    if b.0 < a.0 {
        b
    } else {
        a
    }
}

/// In the order that the lanes add in.
fn sum(terms: impl Iterator<Item = f32>) -> f32 {
    let mut sums = [0.0; 16];
    terms.enumerate().for_each(|(i, term)| sums[i % 16] += term);
    for n in [8, 4, 2, 1] {
        (0..n).for_each(|i| sums[i] += sums[i + n]);
    }
    sums[0]
}

/// The sum of the errors of all lanes.
fn total<const SUBS: usize>(errors: &[f32]) -> f32 {
    sum((0..16).map(|lane| errors[lane % SUBS]))
}

impl<'a> Sub<'a> {
    fn new(x: &'a [f32], w: &'a [f32]) -> Self {
        let both = || x.iter().zip(w);
        let total = sum(w.iter().copied());
        let mean = sum(both().map(|(x, w)| x * w)) / total;
        let spread = sum(both().map(|(x, w)| w * ((x - mean) * (x - mean))));
        Self { x, w, total, mean, spread }
    }

    /// Σwq, Σwq² and Σw(x - from)q of the codes nearest to `code(x)`.
    fn sums(&self, codes: Range, from: f32, code: impl Fn(f32) -> f32) -> [f32; 3] {
        self.x.iter().zip(self.w).fold([0.0; 3], |[q1, qq, xq], (x, w)| {
            let q = codes.nearest(code(*x));
            let wq = w * q;
            [q1 + wq, qq + q * wq, xq + (x - from) * wq]
        })
    }

    /// The best real scale, and the best offset that is not positive.
    fn ideal(&self, codes: Range, ends: &Ends) -> (f32, f32) {
        let min = self.x.iter().fold(0.0, |min, x| if *x < min { *x } else { min });
        let max = self.x.iter().fold(f32::MIN, |max, x| if *x > max { *x } else { max });
        let per_range = inverse(max - min);
        let mut best = (f32::INFINITY, (0.0, 0.0));
        for (below, above) in ends.below.iter().zip(ends.above) {
            for more in ends.more_above.as_flattened() {
                let inverse = ((codes.high + (below + above)) + more) * per_range;
                let [q1, qq, xq] = self.sums(codes, min, |x| (x - min) * inverse - below);
                let (mean_code, mean_rest) = (q1 * (1.0 / self.total), self.mean - min);
                let covariance = xq - mean_rest * q1;
                let variance = (qq - q1 * mean_code).max((qq * 1e-6).max(TINY));
                let (error, d, m) = if covariance * mean_code < self.mean * variance {
                    let product = xq + min * q1;
                    let d = product / qq.max(TINY);
                    (self.mean * self.mean * self.total - product * d, d, 0.0)
                } else {
                    let d = covariance / variance;
                    (-(covariance * d), d, min + (mean_rest - d * mean_code))
                };
                if error < best.0 {
                    best = (error, (d, m));
                }
            }
        }
        best.1
    }

    /// The error of the scale `d` with the best minimum, with codes as for `ideal`.
    fn error(&self, codes: Range, mins: Range, dmin: f32, d: f32, ideal: (f32, f32)) -> (f32, f32) {
        let mean_code = codes.clamp((self.mean - ideal.1) * inverse(ideal.0));
        let guess = (self.mean - d * mean_code).min(0.0);
        let per_d = 1.0 / d;
        let [q1, qq, xq] = self.sums(codes, self.mean, |x| (x - guess) * per_d);
        let offset = self.mean - d * (q1 * (1.0 / self.total));
        let min = mins.nearest(offset * (-1.0 / dmin));
        let offset = min * -dmin - self.mean;
        let cross = offset * ((d * q1 + d * q1) + offset * self.total);
        (self.spread + (d * (d * qq - (xq + xq)) + cross), min)
    }
}

/// Every factor of `d` with every factor of `dmin`, and every refit.
fn plain_affine<const SUBS: usize>(
    x: &[f32; 256],
    w: &[f32; 256],
    (codes, range): (Range, Range),
    trials: &affine::Trials,
) -> Affine<SUBS> {
    let len = 256 / SUBS;
    let (x, w) = (&finite::<256>(x), &importance::<256>(w));
    let subs = x.chunks(len).zip(w.chunks(len)).map(|(x, w)| Sub::new(x, w));
    let subs: Vec<Sub<'_>> = subs.collect();
    let round = |d: f32, dmin: f32, ideal: &PerSub, count: usize| {
        let (d, dmin) = (f16_scale(d), f16_scale(dmin));
        let (mut errors, mut integers) = (Vec::new(), PerSub::new());
        for (sub, ideal) in subs.iter().zip(ideal) {
            let first = range.nearest(ideal.0 / d) - ((count / 2) as f32 - 1.0);
            let near = (0..count).map(|i| range.clamp(first + i as f32).max(1.0));
            let try_all = |ideal, mut best: (f32, (f32, f32))| {
                for scale in near.clone() {
                    let (error, min) = sub.error(codes, range, dmin, d * scale, ideal);
                    if error < best.0 {
                        best = (error, (scale, min));
                    }
                }
                best
            };
            let mut best = try_all(*ideal, (f32::INFINITY, (0.0, 0.0)));
            for shift in trials.offset_shifts {
                let (scale, min) = best.1;
                best = try_all((d * scale, shift * d * scale - dmin * min), best);
            }
            errors.push(best.0);
            integers.push(best.1);
        }
        (total::<SUBS>(&errors), (d, dmin, integers))
    };
    let block = |d: f32, dmin: f32, integers: &PerSub| {
        let mut y = Affine::<SUBS> { d, dmin, scales: [0; SUBS], mins: [0; SUBS], q: [0; 256] };
        for (j, (scale, min)) in integers.iter().enumerate() {
            (y.scales[j], y.mins[j]) = (*scale as u8, *min as u8);
            encode(subs[j].x, d * scale, -(dmin * min), codes, &mut y.q[j * len..][..len]);
        }
        y
    };
    let ideal: PerSub = subs.iter().map(|sub| sub.ideal(codes, &trials.ends)).collect();
    let d = ideal.iter().fold(0f32, |max, ideal| max.max(ideal.0)) / range.high;
    let dmin = ideal.iter().fold(0f32, |max, ideal| max.max(0.0 - ideal.1)) / range.high;
    if d == 0.0 && dmin == 0.0 {
        return block(0.0, 0.0, &vec![(0.0, 0.0); SUBS]);
    }
    let mut best = (f32::MAX, (0.0, 0.0, vec![(0.0, 0.0); SUBS]));
    for a in trials.d_factors {
        for b in trials.dmin_factors {
            best = better(best, round(a * d, b * dmin, &ideal, trials.scales));
        }
    }
    for _ in 0..trials.refits {
        let (d, dmin, integers) = &best.1;
        let real = integers.iter().map(|(scale, min)| (d * scale, -(dmin * min))).collect();
        let (d, dmin) = block(*d, *dmin, integers).refit(Plain, x, w);
        best = better(best, round(d, dmin, &real, trials.refit_scales));
    }
    let (d, dmin, integers) = &best.1;
    block(*d, *dmin, integers)
}

/// Every factor of `d`, and every refit.
fn plain_symmetric<C: Integers, const SUBS: usize>(
    x: &[f32; 256],
    w: &[f32; 256],
    (codes, range): (C, Range),
    trials: &symmetric::Trials,
) -> Symmetric {
    let len = 256 / SUBS;
    let (x, w) = (&finite::<256>(x), &importance::<256>(w));
    let subs = || x.chunks(len).zip(w.chunks(len));
    // The nearest code, which a byte of one lane is rounded to.
    let nearest = |code: f32| f32::from(codes.code(code) as i8);
    let (first, span) = codes.trials();
    let distance = span / (trials.real_scales - 1) as f32;
    let ideal = |x: &[f32], w: &[f32]| {
        let per_code = inverse(x.iter().fold(0.0, |max, x| x.abs().max(max)));
        let mut best = (0.0, 0.0);
        for i in 0..trials.real_scales {
            let multiple = (first - distance * i as f32) * per_code;
            for inverse in [multiple, -multiple] {
                let (mut xq, mut qq) = (0.0, 0.0);
                for (x, w) in x.iter().zip(w) {
                    let q = nearest(x * inverse);
                    xq += x * (w * q);
                    qq += q * (w * q);
                }
                let d = xq / TINY.max(qq);
                if -(xq * d) < best.0 {
                    best = (-(xq * d), d);
                }
            }
        }
        best.1
    };
    let error = |x: &[f32], w: &[f32], d: f32| {
        let inverse = 1.0 / d;
        let squares = x.iter().zip(w).fold(0.0, |sum, (x, w)| {
            let rest = x * inverse - nearest(x * inverse);
            sum + w * (rest * rest)
        });
        squares * (d * d)
    };
    let round = |d: f32, ideal: &[f32], count: usize| {
        let d = f16_scale(d);
        let (mut errors, mut integers) = (Vec::new(), Vec::new());
        for ((x, w), ideal) in subs().zip(ideal) {
            let near = range.nearest(ideal / d) - (count / 2) as f32;
            let mut best = (f32::INFINITY, 0.0);
            for i in 0..count {
                let scale = range.clamp(near + i as f32);
                let scale = if scale == 0.0 { 1.0 } else { scale };
                let error = error(x, w, d * scale);
                if error < best.0 {
                    best = (error, scale);
                }
            }
            errors.push(best.0);
            integers.push(best.1);
        }
        (total::<SUBS>(&errors), (d, integers))
    };
    let block = |d: f32, integers: &[f32]| {
        let mut y = Symmetric { d, scales: [0; 16], q: [0; 256] };
        for j in 0..16 {
            y.scales[j] = integers[j * SUBS / 16] as i8;
            let q = bytemuck::cast_slice_mut(&mut y.q[16 * j..][..16]);
            encode(&x[16 * j..][..16], d * f32::from(y.scales[j]), 0.0, codes, q);
        }
        y
    };
    let ideal: Vec<f32> = subs().map(|(x, w)| ideal(x, w)).collect();
    let d = ideal.iter().fold(0f32, |a, b| if b.abs() > a.abs() { *b } else { a }) / range.low;
    let mut best = (f32::MAX, (0.0, vec![0.0; SUBS]));
    if d == 0.0 {
        return Symmetric { d: 0.0, scales: [0; 16], q: [0; 256] };
    }
    for factor in trials.d_factors {
        best = better(best, round(factor * d, &ideal, trials.scales));
    }
    for _ in 0..trials.refits {
        let (d, integers) = &best.1;
        let real: Vec<f32> = integers.iter().map(|scale| d * scale).collect();
        let d = block(*d, integers).refit(x, w);
        best = better(best, round(d, &real, trials.refit_scales));
    }
    block(best.1 .0, &best.1 .1)
}

/// Numbers that are roughly normally distributed, the same on every call.
fn random() -> impl FnMut() -> f32 {
    let mut state = 3u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    move || (0..12).map(|_| uniform()).sum::<f32>() - 6.0
}

/// Blocks of all kinds: random ones, and some where trials are equally good, or none is any good.
fn blocks() -> Vec<[f32; 256]> {
    let mut next = random();
    let mut blocks: Vec<[f32; 256]> = (0..20).map(|_| std::array::from_fn(|_| next())).collect();
    // Heavy tails, and only one sign.
    blocks.push(std::array::from_fn(|_| next().powi(3)));
    blocks.push(std::array::from_fn(|_| next().abs()));
    blocks.push(std::array::from_fn(|_| -1.0 - next().abs()));
    for value in [0.0, -0.0, 1.0, -1.0, 0.1, 3e38, -3e38, 1e-40, f32::NAN] {
        blocks.push([value; 256]);
        // One outlier, in a block of small values or of zeros.
        blocks.push(std::array::from_fn(|i| if i == 100 { value } else { 0.0 }));
        blocks.push(std::array::from_fn(|i| if i == 100 { value } else { 1e-3 * next() }));
    }
    // Two values, three values, a ramp, and sub-blocks of very different sizes.
    blocks.push(std::array::from_fn(|i| (i % 2) as f32));
    blocks.push(std::array::from_fn(|i| (i % 3) as f32 - 1.0));
    blocks.push(std::array::from_fn(|i| i as f32));
    blocks.push(std::array::from_fn(|i| next() * 10f32.powi(i as i32 / 16 - 8)));
    blocks
}

/// Equal importances, and some that differ.
fn importances() -> [[f32; 256]; 3] {
    let mut next = random();
    let extreme = |i: usize| [0.0, 1e-20, 1.0, 1e20][i * 7 % 4];
    [[1.0; 256], std::array::from_fn(|_| next().exp()), std::array::from_fn(extreme)]
}

fn assert_same_affine<const SUBS: usize, const ROWS: usize>(ranges: (Range, Range)) {
    for (i, x) in blocks().iter().enumerate() {
        for (k, w) in importances().iter().enumerate() {
            let ByEffort { fast, default, best } = &affine::TRIALS;
            for trials in [fast, default, best] {
                let found = Affine::<SUBS>::fit::<_, ROWS>(Plain, x, w, ranges, trials);
                let plain = plain_affine::<SUBS>(x, w, ranges, trials);
                let all =
                    |y: &Affine<SUBS>| (y.d.to_bits(), y.dmin.to_bits(), y.scales, y.mins, y.q);
                assert!(all(&found) == all(&plain), "block {i}, importances {k}, {trials:?}");
            }
        }
    }
}

fn assert_same_symmetric<C: Integers, const SUBS: usize, const ROWS: usize>(
    ranges: (C, Range),
    trials: &ByEffort<symmetric::Trials>,
) {
    for (i, x) in blocks().iter().enumerate() {
        for (k, w) in importances().iter().enumerate() {
            for trials in [&trials.fast, &trials.default, &trials.best] {
                let found = Symmetric::fit::<_, C, SUBS, ROWS>(Plain, x, w, ranges, trials);
                let plain = plain_symmetric::<C, SUBS>(x, w, ranges, trials);
                let all = |y: &Symmetric| (y.d.to_bits(), y.scales, y.q);
                assert!(all(&found) == all(&plain), "block {i}, importances {k}, {trials:?}");
            }
        }
    }
}

#[test]
fn with_minimums_it_finds_what_a_plain_search_finds() {
    assert_same_affine::<16, 16>((Range::unsigned(2), Range::unsigned(4)));
    assert_same_affine::<8, 32>((Range::unsigned(4), Range::unsigned(6)));
    assert_same_affine::<8, 32>((Range::unsigned(5), Range::unsigned(6)));
}

#[test]
fn without_minimums_it_finds_what_a_plain_search_finds() {
    assert_same_symmetric::<_, 16, 16>((Range::signed(3), Range::signed(6)), &q3_k::TRIALS);
    assert_same_symmetric::<_, 16, 16>((Range::signed(6), Range::signed(8)), &q6_k::TRIALS);
    let values = crate::quant::iq4::Values;
    assert_same_symmetric::<_, 8, 32>((values, Range::signed(6)), &iq4_xs::TRIALS);
}
