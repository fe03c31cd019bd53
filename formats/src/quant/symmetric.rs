//! The k-quants without minimums (Q3_K, Q6_K), unpacked.

use super::q8_k::BlockQ8K;
use super::search::{self, Lanes, Range, LANES};

/// Weights per sub-block.
const SUB_LEN: usize = 16;

/// See [`Symmetric::fit`].
const LARGER: f32 = 16.0 / 15.0;

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
    const ZERO: Self = Self { d: 0.0, scales: [0; 16], q: [0; 256] };

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

/// The quantizer.
impl Symmetric {
    /// The best found for 256 values with such codes and scales.
    pub(super) fn fit(x: &[f32], codes: Range, scales: Range) -> Self {
        let x = search::finite::<256>(x);
        let mut wanted = [0.0; 16];
        for (wanted, x) in wanted.iter_mut().zip(x.chunks_exact(SUB_LEN)) {
            *wanted = search::scale(x, codes);
        }
        let largest = wanted.iter().fold(0f32, |a, b| if b.abs() > a.abs() { *b } else { a });
        // There is one more negative integer than positive ones: the largest scale gets it.
        let d = largest / scales.low;
        let mut best = (f32::MAX, Self::ZERO);
        if d == 0.0 {
            return best.1;
        }
        // A scale of scales that is a little larger rounds all integers anew: another chance.
        for d in [d, d * LARGER] {
            best = search::better(best, Self::round(&x, d, &wanted, codes, scales));
        }
        best.1.encode(&x, codes);
        let refitted = Self::round(&x, best.1.refit(&x), &best.1.real(), codes, scales);
        best = search::better(best, refitted);
        best.1.encode(&x, codes);
        best.1
    }

    /// The integers for such a `d` that are best among those next to the real scales `wanted`, and
    /// their squared error. Codes are left for later.
    fn round(
        x: &[f32; 256],
        d: f32,
        wanted: &[f32; 16],
        codes: Range,
        range: Range,
    ) -> (f32, Self) {
        let mut y = Self { d: search::storable(d), ..Self::ZERO };
        let mut total = 0.0;
        for (j, x) in x.chunks_exact(SUB_LEN).enumerate() {
            let nearest = range.nearest(wanted[j] / y.d);
            let scales: Lanes = std::array::from_fn(|l| {
                let scale = range.clamp(nearest + l as f32 - 4.0);
                // Not 0: with scale 1 every code may still be 0.
                if scale == 0.0 {
                    1.0
                } else {
                    scale
                }
            });
            let ds = scales.map(|s| y.d * s);
            let (best, error) = search::least(&search::errors(x, &ds, &[0.0; LANES], codes));
            y.scales[j] = scales[best] as i8;
            total += error;
        }
        (total, y)
    }

    /// The real scale of each sub-block.
    fn real(&self) -> [f32; 16] {
        self.scales.map(|scale| self.d * f32::from(scale))
    }

    /// Sets the codes to the nearest.
    fn encode(&mut self, x: &[f32; 256], codes: Range) {
        let real = self.real();
        let subs = x.chunks_exact(SUB_LEN).zip(self.q.chunks_exact_mut(SUB_LEN));
        for (d, (x, q)) in real.into_iter().zip(subs) {
            let inverse = search::inverse(d);
            for (q, x) in q.iter_mut().zip(x) {
                *q = codes.nearest(x * inverse) as i8;
            }
        }
    }

    /// The `d` that is best with the integers as they are: least squares.
    fn refit(&self, x: &[f32; 256]) -> f32 {
        let (mut xq, mut qq) = (0.0, 0.0);
        let subs = x.chunks_exact(SUB_LEN).zip(self.q.chunks_exact(SUB_LEN));
        for (scale, (x, q)) in self.scales.iter().zip(subs) {
            for (x, q) in x.iter().zip(q) {
                let q = f32::from(*scale) * f32::from(*q);
                xq += x * q;
                qq += q * q;
            }
        }
        xq * search::inverse(qq)
    }
}
