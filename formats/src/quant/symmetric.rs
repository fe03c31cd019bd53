//! The types with 256 weights and no minimums, unpacked.

use bytemuck::{Pod, Zeroable};

use super::block::Block;
use super::effort::Effort;
use super::lanes::Lanes;
use super::q8_k::BlockQ8K;
use super::range::{Integers, Range};
use super::search;
use super::second_order::Parts;

/// Weights that a scale is stored for.
const SUB_LEN: usize = 16;

/// A block that is unpacked to be computed with.
pub trait Unpack: Pod {
    /// The block's numbers.
    fn unpack(&self) -> Symmetric;
}

impl<T: Unpack> Block for T {
    const LEN: usize = 256;
    type Activation = BlockQ8K;

    fn dequantize(&self, y: &mut [f32]) {
        self.unpack().dequantize(y);
    }

    fn dot_row(w: &[Self], a: &[BlockQ8K]) -> f32 {
        w.iter().zip(a).fold(0.0, |sum, (w, a)| sum + w.unpack().dot(a))
    }
}

/// 256 weights in 16 sub-blocks, each with an integer scale: `x = d * scales[j] * q[i]`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Symmetric {
    /// The scale of the scales.
    pub d: f32,
    /// One scale for every 16 weights.
    pub scales: [i8; 16],
    /// The codes, in the order of the weights.
    pub q: [i8; 256],
}

/// What all types are multiplied as, so that a kernel can treat them alike.
impl Unpack for Symmetric {
    fn unpack(&self) -> Symmetric {
        *self
    }
}

impl Symmetric {
    const ZERO: Self = Self { d: 0.0, scales: [0; 16], q: [0; 256] };

    /// The block with these scales, by sub-block, and these codes, by eight.
    #[inline(always)]
    pub(super) fn new(
        d: f32,
        scale: impl Fn(usize) -> i8,
        codes: impl Fn(usize) -> [i8; 8],
    ) -> Self {
        let mut y = Self { d, scales: std::array::from_fn(scale), ..Self::ZERO };
        for (i, q) in y.q.as_chunks_mut().0.iter_mut().enumerate() {
            *q = codes(i);
        }
        y
    }

    /// The scales of every `SUB` weights.
    pub(super) fn parts<const SUB: usize>(&self) -> Parts {
        let mut parts = Parts::scale(self.d);
        for j in 0..256 / SUB {
            parts.scales[j] = f32::from(self.scales[j * SUB / SUB_LEN]);
        }
        parts
    }

    /// The block with these scales of every `SUB` weights and these codes.
    pub(super) fn from_parts<const SUB: usize>(parts: &Parts, q: &[i8]) -> Self {
        let mut block = Self { d: parts.d, ..Self::ZERO };
        for j in 0..16 {
            block.scales[j] = parts.scales[j * SUB_LEN / SUB] as i8;
        }
        block.q.copy_from_slice(q);
        block
    }

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

    /// The dot product. Its sums are sums of integers and therefore exact.
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
    /// The best block found for 256 values with these codes and this range of scales, if every `SUB`
    /// weights share a scale.
    #[inline(always)]
    pub(super) fn fit<L: Lanes, C: Integers, const SUB: usize>(
        l: L,
        x: &[f32],
        w: &[f32],
        (codes, scales): (C, Range),
        effort: Effort,
    ) -> Self {
        let (x, w) = (search::finite::<256>(x), search::importance::<256>(w));
        let mut ideal = [0.0; 16];
        for (ideal, (x, w)) in ideal.chunks_exact_mut(SUB / SUB_LEN).zip(subs::<SUB>(&x, &w)) {
            ideal.fill(search::scale(l, x, w, codes));
        }
        let largest = ideal.iter().fold(0f32, |a, b| if b.abs() > a.abs() { *b } else { a });
        // There is one more negative integer than positive ones: the largest scale uses it.
        let d = largest / scales.low;
        let mut best = (f32::MAX, Self::ZERO);
        if d == 0.0 {
            return best.1;
        }
        for factor in effort.d_factors() {
            let trial = Self::round::<L, C, SUB>(l, &x, &w, factor * d, &ideal, codes, scales);
            best = search::better(best, trial);
        }
        // Half as many suffice here, where no minimums compete with the scales.
        for _ in 0..effort.refits() / 2 {
            best.1.encode(&x, codes);
            let d = best.1.refit(&x, &w);
            let real = best.1.real();
            let trial = Self::round::<L, C, SUB>(l, &x, &w, d, &real, codes, scales);
            best = search::better(best, trial);
        }
        best.1.encode(&x, codes);
        best.1
    }

    /// For the given `d`, the best integer scales near the real scales in `ideal`, and their squared
    /// error. The codes are not set yet.
    #[inline(always)]
    fn round<L: Lanes, C: Integers, const SUB: usize>(
        l: L,
        x: &[f32; 256],
        w: &[f32; 256],
        d: f32,
        ideal: &[f32; 16],
        codes: C,
        range: Range,
    ) -> (f32, Self) {
        let mut y = Self { d: search::f16_scale(d), ..Self::ZERO };
        let mut total = 0.0;
        let shared = SUB / SUB_LEN;
        for (j, (x, w)) in subs::<SUB>(x, w).enumerate() {
            let nearest = range.nearest(ideal[shared * j] / y.d);
            let scales = range.clamp_lanes(l, search::consecutive(l, nearest - 8.0));
            // Scale 0 need not be tried: with scale 1 all codes can still be 0.
            let zero = l.splat(0.0);
            let size = l.max(scales, l.sub(zero, scales));
            let scales = l.select_less(zero, size, scales, l.splat(1.0));
            let d = l.mul(l.splat(y.d), scales);
            let errors = search::errors(l, x, w, d, codes);
            let (error, [scale]) = search::least(l, errors, [scales]);
            y.scales[shared * j..][..shared].fill(scale as i8);
            total += error;
        }
        (total, y)
    }

    /// The real scale of each sub-block.
    #[inline(always)]
    fn real(&self) -> [f32; 16] {
        self.scales.map(|scale| self.d * f32::from(scale))
    }

    /// Sets every code to the nearest one.
    #[inline(always)]
    fn encode<C: Integers>(&mut self, x: &[f32; 256], codes: C) {
        let real = self.real();
        let subs = x.chunks_exact(SUB_LEN).zip(self.q.chunks_exact_mut(SUB_LEN));
        for (d, (x, q)) in real.into_iter().zip(subs) {
            search::encode(x, d, 0.0, codes, bytemuck::cast_slice_mut(q));
        }
    }

    /// The best `d` for the given integers: a least-squares fit.
    #[inline(always)]
    fn refit(&self, x: &[f32; 256], w: &[f32; 256]) -> f32 {
        let (mut xq, mut qq) = ([0.0; SUB_LEN], [0.0; SUB_LEN]);
        let blocks = subs::<SUB_LEN>(x, w).zip(self.q.chunks_exact(SUB_LEN));
        for (scale, ((x, w), q)) in self.scales.iter().zip(blocks) {
            let scale = f32::from(*scale);
            for l in 0..SUB_LEN {
                let q = scale * f32::from(q[l]);
                let wq = w[l] * q;
                xq[l] += x[l] * wq;
                qq[l] += q * wq;
            }
        }
        let sum = |lanes: [f32; SUB_LEN]| lanes.iter().fold(0.0, |sum, x| sum + x);
        sum(xq) * search::inverse(sum(qq))
    }
}

/// Every `SUB` values, with their importances.
#[inline(always)]
fn subs<'a, const SUB: usize>(
    x: &'a [f32; 256],
    w: &'a [f32; 256],
) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
    x.chunks_exact(SUB).zip(w.chunks_exact(SUB))
}
