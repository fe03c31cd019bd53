//! The k-quants that have minimums (Q2_K, Q4_K, Q5_K), unpacked.

use super::q8_k::BlockQ8K;
use super::search::{self, Lanes, Offset, Range};

/// 256 weights in `SUBS` sub-blocks, each with an integer scale and minimum:
/// `x = d * scales[j] * q[i] - dmin * mins[j]`.
#[derive(Clone, Debug)]
pub struct Affine<const SUBS: usize> {
    /// The scale of the scales, representable as a half.
    pub d: f32,
    /// The scale of the minimums, representable as a half.
    pub dmin: f32,
    /// One for every `256 / SUBS` weights.
    pub scales: [u8; SUBS],
    /// One for every `256 / SUBS` weights.
    pub mins: [u8; SUBS],
    /// The codes, in the weights' order.
    pub q: [u8; 256],
}

/// See [`Affine::fit`].
const LARGER: f32 = 16.0 / 15.0;
const REFITS: usize = 2;

impl<const SUBS: usize> Affine<SUBS> {
    /// Weights per sub-block.
    const SUB_LEN: usize = 256 / SUBS;

    const ZERO: Self = Self { d: 0.0, dmin: 0.0, scales: [0; SUBS], mins: [0; SUBS], q: [0; 256] };

    /// Writes the 256 values to `y`.
    pub(super) fn dequantize(&self, y: &mut [f32]) {
        let (y, q) = (y.chunks_exact_mut(Self::SUB_LEN), self.q.chunks_exact(Self::SUB_LEN));
        for (j, (y, q)) in y.zip(q).enumerate() {
            let scale = self.d * f32::from(self.scales[j]);
            let min = self.dmin * f32::from(self.mins[j]);
            for (y, q) in y.iter_mut().zip(q) {
                *y = scale * f32::from(*q) - min;
            }
        }
    }

    /// The dot product; its sums are of integers, so exact.
    pub(super) fn dot(&self, a: &BlockQ8K) -> f32 {
        let (mut products, mut mins) = (0, 0);
        let sums = 16 / SUBS;
        let (q, qs) = (self.q.chunks_exact(Self::SUB_LEN), a.qs.chunks_exact(Self::SUB_LEN));
        for (j, (q, qs)) in q.zip(qs).enumerate() {
            let sum: i32 = q.iter().zip(qs).map(|(q, a)| i32::from(*q) * i32::from(*a)).sum();
            products += i32::from(self.scales[j]) * sum;
            let sum: i32 = (j * sums..(j + 1) * sums).map(|i| a.bsum(i)).sum();
            mins += i32::from(self.mins[j]) * sum;
        }
        a.d.to_f32() * (self.d * products as f32 - self.dmin * mins as f32)
    }
}

/// The quantizer.
impl<const SUBS: usize> Affine<SUBS> {
    /// The best found for 256 values with such codes, scales and minimums.
    pub(super) fn fit(x: &[f32], codes: Range, scales: Range) -> Self {
        let x = search::finite::<256>(x);
        let mut wanted = [(0.0, 0.0); SUBS];
        for (wanted, x) in wanted.iter_mut().zip(x.chunks_exact(Self::SUB_LEN)) {
            *wanted = search::scale_offset(x, codes, Offset::NotPositive);
        }
        let d = wanted.iter().fold(0f32, |max, (d, _)| max.max(*d)) / scales.high;
        let dmin = wanted.iter().fold(0f32, |max, (_, m)| max.max(-m)) / scales.high;
        let mut best = (f32::MAX, Self::ZERO);
        if d == 0.0 && dmin == 0.0 {
            return best.1;
        }
        // Scales of scales that are a little larger round all integers anew: another chance.
        for (a, b) in [(1.0, 1.0), (LARGER, 1.0), (1.0, LARGER), (LARGER, LARGER)] {
            let trial = Self::round(&x, a * d, b * dmin, &wanted, codes, scales);
            best = search::better(best, trial);
        }
        for _ in 0..REFITS {
            best.1.encode(&x, codes);
            let (d, dmin) = best.1.refit(&x);
            let trial = Self::round(&x, d, dmin, &best.1.real(), codes, scales);
            best = search::better(best, trial);
        }
        best.1.encode(&x, codes);
        best.1
    }

    /// The integers for such `d` and `dmin` that are best among those next to the real scales and
    /// offsets `wanted`, and their squared error. Codes are left for later.
    fn round(
        x: &[f32; 256],
        d: f32,
        dmin: f32,
        wanted: &[(f32, f32); SUBS],
        codes: Range,
        range: Range,
    ) -> (f32, Self) {
        let mut y = Self { d: search::storable(d), dmin: search::storable(dmin), ..Self::ZERO };
        let mut total = 0.0;
        for (j, x) in x.chunks_exact(Self::SUB_LEN).enumerate() {
            let scale = f32::from((wanted[j].0 / y.d) as u8);
            let min = f32::from((-wanted[j].1 / y.dmin) as u8);
            // Not 0: with scale 1 every code may still be 0.
            let scales: Lanes =
                std::array::from_fn(|l| range.clamp(scale + (l % 4) as f32 - 1.0).max(1.0));
            let mins: Lanes = std::array::from_fn(|l| range.clamp(min + (l / 4) as f32));
            let (ds, ms) = (scales.map(|s| y.d * s), mins.map(|m| -(y.dmin * m)));
            let (best, error) = search::least(&search::errors(x, &ds, &ms, codes));
            (y.scales[j], y.mins[j]) = (scales[best] as u8, mins[best] as u8);
            total += error;
        }
        (total, y)
    }

    /// The real scale and offset of each sub-block.
    fn real(&self) -> [(f32, f32); SUBS] {
        let scale = |j: usize| self.d * f32::from(self.scales[j]);
        let min = |j: usize| self.dmin * f32::from(self.mins[j]);
        std::array::from_fn(|j| (scale(j), -min(j)))
    }

    /// Sets the codes to the nearest.
    fn encode(&mut self, x: &[f32; 256], codes: Range) {
        let real = self.real();
        let subs = x.chunks_exact(Self::SUB_LEN).zip(self.q.chunks_exact_mut(Self::SUB_LEN));
        for ((d, m), (x, q)) in real.into_iter().zip(subs) {
            let inverse = search::inverse(d);
            for (q, x) in q.iter_mut().zip(x) {
                *q = codes.nearest((x - m) * inverse) as u8;
            }
        }
    }

    /// The `d` and `dmin` that are best with the integers as they are: least squares in two
    /// unknowns.
    fn refit(&self, x: &[f32; 256]) -> (f32, f32) {
        let (mut qq, mut qm, mut mm, mut xq, mut xm) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let subs = x.chunks_exact(Self::SUB_LEN).zip(self.q.chunks_exact(Self::SUB_LEN));
        for (j, (x, q)) in subs.enumerate() {
            let (scale, min) = (f64::from(self.scales[j]), f64::from(self.mins[j]));
            for (x, q) in x.iter().zip(q) {
                let (x, q) = (f64::from(*x), scale * f64::from(*q));
                qq += q * q;
                qm += q * min;
                mm += min * min;
                xq += x * q;
                xm += x * min;
            }
        }
        let determinant = qq * mm - qm * qm;
        if determinant == 0.0 {
            return (self.d, self.dmin);
        }
        let d = (xq * mm - xm * qm) / determinant;
        let dmin = (xq * qm - xm * qq) / determinant;
        (d as f32, dmin as f32)
    }
}
