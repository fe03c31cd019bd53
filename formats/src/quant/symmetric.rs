//! The k-quants without minimums (Q3_K, Q6_K), unpacked.

use super::float::F16;
use super::q8_k::BlockQ8K;
use super::search::{self, LANES};

/// Weights per sub-block.
const SUB_LEN: usize = 16;

/// 256 weights in 16 sub-blocks, each with an integer scale: `x = d * scales[j] * q[i]`.
#[derive(Clone, Debug)]
pub struct Symmetric {
    /// The scale of the scales, representable as a half.
    pub d: f32,
    /// One for every 16 weights.
    pub scales: [i8; 16],
    /// The codes, in the weights' order.
    pub q: [i8; 256],
}

impl Symmetric {
    /// Writes the 256 values to `y`.
    pub(super) fn dequantize(&self, y: &mut [f32]) {
        let (y, q) = (y.chunks_exact_mut(SUB_LEN), self.q.chunks_exact(SUB_LEN));
        for (j, (y, q)) in y.zip(q).enumerate() {
            let scale = self.d * f32::from(self.scales[j]);
            for (y, q) in y.iter_mut().zip(q) {
                *y = scale * f32::from(*q);
            }
        }
    }

    /// The dot product; its sums are of integers, so exact.
    pub(super) fn dot(&self, a: &BlockQ8K) -> f32 {
        let mut products = 0;
        let (q, qs) = (self.q.chunks_exact(SUB_LEN), a.qs.chunks_exact(SUB_LEN));
        for (scale, (q, qs)) in self.scales.iter().zip(q.zip(qs)) {
            let sum: i32 = q.iter().zip(qs).map(|(q, a)| i32::from(*q) * i32::from(*a)).sum();
            products += i32::from(*scale) * sum;
        }
        a.d.to_f32() * self.d * products as f32
    }
}

impl Symmetric {
    /// Quantizes 256 values to codes `-half..half` and scales `-scale_half..scale_half`.
    pub(super) fn fit(x: &[f32], half: f32, scale_half: f32) -> Self {
        let x = search::finite::<256>(x);
        let (low, high) = (-half, half - 1.0);
        let subs = x.as_chunks::<SUB_LEN>().0;
        let mut wanted = [0.0; 16];
        for (s, x) in wanted.iter_mut().zip(subs) {
            *s = search::scale(x, low, high);
        }
        let largest = wanted.iter().fold(0f32, |a, b| if b.abs() > a.abs() { *b } else { a });
        let mut best = (f32::MAX, 0.0, [0.0; 16]);
        for trial in 0..4 {
            let d =
                F16::from_f32(-largest / (scale_half - trial as f32 * scale_half / 16.0)).to_f32();
            let (error, scales) = choose(subs, d, &wanted, low, high, scale_half);
            if error < best.0 {
                best = (error, d, scales);
            }
        }
        for _ in 0..2 {
            let d = F16::from_f32(refit(subs, best.1, &best.2, low, high)).to_f32();
            let w = best.2.map(|s| s * best.1);
            let (error, scales) = choose(subs, d, &w, low, high, scale_half);
            if error < best.0 {
                best = (error, d, scales);
            }
        }
        let (_, d, scales) = best;
        let mut q = [0; 256];
        for ((q, x), s) in q.as_chunks_mut::<SUB_LEN>().0.iter_mut().zip(subs).zip(scales) {
            *q = search::codes(x, d * s, 0.0, low, high);
        }
        Self { d, scales: scales.map(|s| s as i8), q }
    }
}

fn refit(x: &[[f32; SUB_LEN]], d: f32, scales: &[f32; 16], low: f32, high: f32) -> f32 {
    let (mut xq, mut qq) = (0.0, 0.0);
    for (x, s) in x.iter().zip(scales) {
        let q = search::codes(x, d * s, 0.0, low, high);
        for (x, q) in x.iter().zip(q) {
            let q = f32::from(q) * s;
            xq += x * q;
            qq += q * q;
        }
    }
    xq * search::inverse(qq)
}

fn choose(
    x: &[[f32; SUB_LEN]],
    d: f32,
    wanted: &[f32; 16],
    low: f32,
    high: f32,
    scale_half: f32,
) -> (f32, [f32; 16]) {
    let inverse = search::inverse(d);
    let mut total = 0.0;
    let mut scales = [0.0; 16];
    for ((x, wanted), scale) in x.iter().zip(wanted).zip(&mut scales) {
        let center = search::nearest(wanted * inverse, -scale_half, scale_half - 1.0);
        let tried: [f32; LANES] =
            std::array::from_fn(|l| (center + l as f32 - 4.0).clamp(-scale_half, scale_half - 1.0));
        let errors = search::errors(x, &tried.map(|s| s * d), &[0.0; LANES], low, high);
        let mut best = f32::MAX;
        for l in 0..LANES {
            if errors[l] < best {
                (best, *scale) = (errors[l], tried[l]);
            }
        }
        total += best;
    }
    (total, scales)
}
