//! The k-quants with minimums (Q2_K, Q4_K, Q5_K), unpacked.

use super::effort::Effort;
use super::lanes::{Lanes, LANES};
use super::q8_k::BlockQ8K;
use super::range::Range;
use super::search::{self, Moments, Offset};
use super::second_order::Parts;

/// 256 weights in `SUBS` sub-blocks, each with an integer scale and minimum:
/// `x = d * scales[j] * q[i] - dmin * mins[j]`.
#[derive(Clone, Debug)]
pub struct Affine<const SUBS: usize> {
    /// The scale of the scales, representable as f16.
    pub d: f32,
    /// The scale of the minimums, representable as f16.
    pub dmin: f32,
    /// One scale for every `256 / SUBS` weights.
    pub scales: [u8; SUBS],
    /// One minimum for every `256 / SUBS` weights.
    pub mins: [u8; SUBS],
    /// The codes, in the order of the weights.
    pub q: [u8; 256],
}

impl<const SUBS: usize> Affine<SUBS> {
    /// Weights per sub-block.
    const SUB_LEN: usize = 256 / SUBS;

    const ZERO: Self = Self { d: 0.0, dmin: 0.0, scales: [0; SUBS], mins: [0; SUBS], q: [0; 256] };

    /// The scales.
    pub(super) fn parts(&self) -> Parts {
        let mut parts = Parts { d: self.d, dmin: self.dmin, ..Parts::default() };
        for j in 0..SUBS {
            parts.scales[j] = f32::from(self.scales[j]);
            parts.mins[j] = f32::from(self.mins[j]);
        }
        parts
    }

    /// The block with these scales and codes.
    pub(super) fn from_parts(parts: &Parts, q: &[i8]) -> Self {
        let mut block = Self { d: parts.d, dmin: parts.dmin, ..Self::ZERO };
        for j in 0..SUBS {
            (block.scales[j], block.mins[j]) = (parts.scales[j] as u8, parts.mins[j] as u8);
        }
        block.q.copy_from_slice(bytemuck::cast_slice(q));
        block
    }

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

    /// The dot product. Its sums are sums of integers and therefore exact.
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

/// The values to be quantized, and what is known about them.
struct Values<const SUBS: usize> {
    x: [f32; 256],
    /// The values' importances.
    w: [f32; 256],
    moments: [Moments; SUBS],
    /// The range of the codes.
    codes: Range,
    /// The range of the scales and minimums.
    scales: Range,
    effort: Effort,
}

/// The quantizer.
impl<const SUBS: usize> Affine<SUBS> {
    /// The best block found for 256 values with these ranges of codes and of scales and minimums.
    #[inline(always)]
    pub(super) fn fit<L: Lanes>(
        l: L,
        x: &[f32],
        w: &[f32],
        (codes, scales): (Range, Range),
        effort: Effort,
    ) -> Self {
        let (x, w) = (search::finite::<256>(x), search::importance::<256>(w));
        let mut values =
            Values { x, w, moments: [Moments::default(); SUBS], codes, scales, effort };
        let mut ideal = [(0.0, 0.0); SUBS];
        for (j, ideal) in ideal.iter_mut().enumerate() {
            let (x, w) = values.sub(j);
            let moments = Moments::new(l, x, w);
            *ideal = search::scale_offset(l, x, w, &moments, codes, Offset::NotPositive);
            values.moments[j] = moments;
        }
        let d = ideal.iter().fold(0f32, |max, (d, _)| max.max(*d)) / scales.high;
        let dmin = ideal.iter().fold(0f32, |max, (_, m)| max.max(-m)) / scales.high;
        let mut best = (f32::MAX, Self::ZERO);
        if d == 0.0 && dmin == 0.0 {
            return best.1;
        }
        for a in effort.d_factors() {
            for b in effort.d_factors() {
                let trial = Self::round(l, &values, a * d, b * dmin, &ideal);
                best = search::better(best, trial);
            }
        }
        for _ in 0..effort.refits() {
            best.1.encode(&values);
            let (d, dmin) = best.1.refit(l, &values);
            let trial = Self::round(l, &values, d, dmin, &best.1.real());
            best = search::better(best, trial);
        }
        best.1.encode(&values);
        best.1
    }

    /// For the given `d` and `dmin`, the best integer scales and minimums near the real scales and
    /// offsets in `ideal`, and their squared error. The codes are not set yet.
    #[inline(always)]
    fn round<L: Lanes>(
        l: L,
        values: &Values<SUBS>,
        d: f32,
        dmin: f32,
        ideal: &[(f32, f32); SUBS],
    ) -> (f32, Self) {
        let mut y = Self { d: search::f16_scale(d), dmin: search::f16_scale(dmin), ..Self::ZERO };
        let range = values.scales;
        let mut total = 0.0;
        for (j, ideal) in ideal.iter().enumerate() {
            let nearest = range.nearest(ideal.0 / y.d);
            // Scale 0 need not be tried: with scale 1 all codes can still be 0.
            let scales = range.clamp_lanes(l, search::consecutive(l, nearest - 7.0));
            let scales = l.max(scales, l.splat(1.0));
            let d = l.mul(l.splat(y.d), scales);
            let trials = search::MinTrials {
                moments: &values.moments[j],
                codes: values.codes,
                mins: range,
                dmin: y.dmin,
            };
            let sub = values.sub(j);
            let mut best = trials.least(l, sub, scales, d, *ideal);
            for shift in values.effort.offset_shifts() {
                let [scale, min] = best.1;
                let ideal = (y.d * scale, shift * y.d * scale - y.dmin * min);
                best = search::better(best, trials.least(l, sub, scales, d, ideal));
            }
            let (error, [scale, min]) = best;
            (y.scales[j], y.mins[j]) = (scale as u8, min as u8);
            total += error;
        }
        (total, y)
    }

    /// The real scale and offset of each sub-block.
    #[inline(always)]
    fn real(&self) -> [(f32, f32); SUBS] {
        let scale = |j: usize| self.d * f32::from(self.scales[j]);
        let min = |j: usize| self.dmin * f32::from(self.mins[j]);
        std::array::from_fn(|j| (scale(j), -min(j)))
    }

    /// Sets every code to the nearest one.
    #[inline(always)]
    fn encode(&mut self, values: &Values<SUBS>) {
        for (j, (d, m)) in self.real().into_iter().enumerate() {
            let q = &mut self.q[j * Self::SUB_LEN..][..Self::SUB_LEN];
            search::encode(values.sub(j).0, d, m, values.codes, q);
        }
    }

    /// The best `d` and `dmin` for the given integers: a least-squares fit with two unknowns.
    #[inline(always)]
    fn refit<L: Lanes>(&self, l: L, values: &Values<SUBS>) -> (f32, f32) {
        // With q = scale * code and m = the minimum: the weighted sums of q², q·m, x·q, m² and x·m.
        let [mut qq, mut qm, mut xq, mut mm, mut xm] = [l.splat(0.0); 5];
        for (j, q) in self.q.chunks_exact(Self::SUB_LEN).enumerate() {
            let (x, w) = values.sub(j);
            let (scale, min) =
                (l.splat(f32::from(self.scales[j])), l.splat(f32::from(self.mins[j])));
            let (x, w, q) =
                (x.as_chunks::<LANES>().0, w.as_chunks::<LANES>().0, q.as_chunks::<LANES>().0);
            for ((x, w), q) in x.iter().zip(w).zip(q) {
                let (x, w) = (l.load(x), l.load(w));
                let q = l.mul(scale, l.load(&std::array::from_fn(|i| f32::from(q[i]))));
                let (wq, wm) = (l.mul(w, q), l.mul(w, min));
                qq = l.add(qq, l.mul(wq, q));
                qm = l.add(qm, l.mul(wq, min));
                xq = l.add(xq, l.mul(wq, x));
                mm = l.add(mm, l.mul(wm, min));
                xm = l.add(xm, l.mul(wm, x));
            }
        }
        let sum = |v: L::F| l.to_array(v).iter().fold(0.0, |sum, x| sum + f64::from(*x));
        let [qq, qm, xq, mm, xm] = [qq, qm, xq, mm, xm].map(sum);
        let determinant = qq * mm - qm * qm;
        if determinant == 0.0 {
            return (self.d, self.dmin);
        }
        let d = (xq * mm - xm * qm) / determinant;
        let dmin = (xq * qm - xm * qq) / determinant;
        (d as f32, dmin as f32)
    }
}

impl<const SUBS: usize> Values<SUBS> {
    /// The values of sub-block `j`, and their importances.
    #[inline(always)]
    fn sub(&self, j: usize) -> (&[f32], &[f32]) {
        let len = 256 / SUBS;
        (&self.x[j * len..][..len], &self.w[j * len..][..len])
    }
}
