//! The k-quants that have minimums (Q2_K, Q4_K, Q5_K), unpacked.

use super::float::F16;
use super::q8_k::BlockQ8K;
use super::search::{self, LANES};

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

impl<const SUBS: usize> Affine<SUBS> {
    /// Weights per sub-block.
    const SUB_LEN: usize = 256 / SUBS;

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

impl<const SUBS: usize> Affine<SUBS> {
    /// Quantizes 256 values to codes `0..=high`, scales and minimums `0..=scale_high`.
    pub(super) fn fit(x: &[f32], high: f32, scale_high: f32) -> Self {
        let x = search::finite::<256>(x);
        let (mut wanted, mut wanted_min) = ([0.0; SUBS], [0.0; SUBS]);
        for (j, x) in x.chunks_exact(Self::SUB_LEN).enumerate() {
            let (d, m) = search::scale_offset(x, high, search::Offset::NotPositive);
            (wanted[j], wanted_min[j]) = (d, -m);
        }
        let largest = search::magnitude(&wanted);
        let largest_min = search::magnitude(&wanted_min);
        let mut best = (f32::MAX, [0.0; 2], [[0.0; SUBS]; 2]);
        let half = |x: f32| F16::from_f32(x).to_f32();
        let n = if scale_high < 16.0 { 4 } else { 2 };
        for trial in 0..n * n {
            let by = |t: usize| scale_high - t as f32 * scale_high / 16.0;
            let d = [half(largest / by(trial % n)), half(largest_min / by(trial / n))];
            let (error, scales) = Self::choose(&x, d, [&wanted, &wanted_min], high, scale_high);
            if error < best.0 {
                best = (error, d, scales);
            }
        }
        for _ in 0..2 {
            let d = Self::refit(&x, best.1, &best.2, high).map(half);
            let w = [best.2[0].map(|s| s * best.1[0]), best.2[1].map(|s| s * best.1[1])];
            let (error, scales) = Self::choose(&x, d, [&w[0], &w[1]], high, scale_high);
            if error < best.0 {
                best = (error, d, scales);
            }
        }
        let (_, d, scales) = best;
        let mut q = [0; 256];
        for (j, (q, x)) in
            q.chunks_exact_mut(Self::SUB_LEN).zip(x.chunks_exact(Self::SUB_LEN)).enumerate()
        {
            let (d, m) = (d[0] * scales[0][j], d[1] * scales[1][j]);
            for (q, x) in q.iter_mut().zip(x) {
                *q = search::codes(&[*x], d, -m, 0.0, high)[0] as u8;
            }
        }
        Self {
            d: d[0],
            dmin: d[1],
            scales: scales[0].map(|s| s as u8),
            mins: scales[1].map(|s| s as u8),
            q,
        }
    }

    fn choose(
        x: &[f32; 256],
        d: [f32; 2],
        wanted: [&[f32; SUBS]; 2],
        high: f32,
        scale_high: f32,
    ) -> (f32, [[f32; SUBS]; 2]) {
        let inverse = d.map(search::inverse);
        let mut total = 0.0;
        let mut scales = [[0.0; SUBS]; 2];
        for (j, x) in x.chunks_exact(Self::SUB_LEN).enumerate() {
            let s = (wanted[0][j] * inverse[0]).floor() - 1.0;
            let m = (wanted[1][j] * inverse[1]).floor() - 1.0;
            let mut best = f32::MAX;
            for t in 0..2 {
                let s: [f32; LANES] =
                    std::array::from_fn(|l| (s + (l % 4) as f32).clamp(0.0, scale_high));
                let m: [f32; LANES] =
                    std::array::from_fn(|l| (m + (l / 4 + 2 * t) as f32).clamp(0.0, scale_high));
                let errors =
                    search::errors(x, &s.map(|s| s * d[0]), &m.map(|m| -m * d[1]), 0.0, high);
                for l in 0..LANES {
                    if errors[l] < best {
                        best = errors[l];
                        scales[0][j] = s[l];
                        scales[1][j] = m[l];
                    }
                }
            }
            total += best;
        }
        (total, scales)
    }

    fn refit(x: &[f32; 256], d: [f32; 2], scales: &[[f32; SUBS]; 2], high: f32) -> [f32; 2] {
        let (mut a, mut b, mut c, mut u, mut w) = (0.0f64, 0.0, 0.0, 0.0, 0.0);
        for (j, x) in x.chunks_exact(Self::SUB_LEN).enumerate() {
            let (s, m) = (scales[0][j], scales[1][j]);
            for x in x {
                let q = f64::from(search::codes(&[*x], s * d[0], -m * d[1], 0.0, high)[0])
                    * f64::from(s);
                let m = f64::from(m);
                let x = f64::from(*x);
                a += q * q;
                b += q * m;
                c += m * m;
                u += x * q;
                w += x * m;
            }
        }
        let det = a * c - b * b;
        if det <= 0.0 {
            return d;
        }
        [((u * c - w * b) / det) as f32, ((u * b - w * a) / det) as f32]
    }
}
