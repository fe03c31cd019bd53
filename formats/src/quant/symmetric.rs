//! The types with 256 weights and no minimums, unpacked.

use bytemuck::{Pod, Zeroable};

use super::block::Block;
use super::lanes::Lanes;
use super::q8_k::BlockQ8K;
use super::range::{Integers, Range};
use super::search::{self, Best, SubBlocks};
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

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trials {
    /// How many real scales of a sub-block are tried, an even number.
    pub(super) real_scales: usize,
    /// Factors for `d`, by which the integers are rounded differently, which may lower the error.
    pub(super) d_factors: &'static [f32],
    /// How many integer scales near the real one are tried for every sub-block, a multiple of four.
    pub(super) scales: usize,
    /// How often `d` is fitted to the integers, and the integers to it.
    pub(super) refits: usize,
    /// How many integer scales are tried then, a multiple of four.
    pub(super) refit_scales: usize,
}

/// Those of [`Effort::Best`](super::Effort::Best).
pub(super) const BEST: Trials = Trials {
    real_scales: 16,
    d_factors: &[0.95, 1.0, 1.033, 1.067, 1.1, 1.15, 1.2],
    scales: 16,
    refits: 3,
    refit_scales: 16,
};

/// Scales, before the codes are chosen. Lane `i` has that of sub-block `i % SUBS`.
#[derive(Clone, Copy)]
struct Scales<F> {
    d: f32,
    scales: F,
}

/// The quantizer.
impl Symmetric {
    /// The best block found for 256 values with these codes and this range of scales, if there are `SUBS`
    /// scales.
    #[inline(always)]
    pub(super) fn fit<L: Lanes, C: Integers, const SUBS: usize, const ROWS: usize>(
        l: L,
        x: &[f32],
        w: &[f32],
        (codes, scales): (C, Range),
        trials: &Trials,
    ) -> Self {
        let (x, w) = (search::finite::<256>(x), search::importance::<256>(w));
        let weights = SubBlocks::<SUBS, ROWS>::new(&x, &w);
        let ideal = search::scale(l, &weights, codes, trials.real_scales, &[0.0]);
        let larger = |a: f32, b: &f32| if b.abs() > a.abs() { *b } else { a };
        let largest = l.to_array(ideal).iter().fold(0.0, larger);
        // There is one more negative integer than positive ones: the largest scale uses it.
        let d = largest / scales.low;
        if d == 0.0 {
            return Self::ZERO;
        }
        let mut best = None;
        for factor in trials.d_factors {
            let near = (ideal, trials.scales);
            Self::round(l, &weights, factor * d, near, codes, scales, &mut best);
        }
        let mut y = Self::ZERO;
        for _ in 0..trials.refits {
            let Some((error, rounded)) = best else { break };
            y = Self::encoded::<L, C, SUBS>(l, &x, &rounded, codes);
            let near = (l.mul(l.splat(rounded.d), rounded.scales), trials.refit_scales);
            Self::round(l, &weights, y.refit(&x, &w), near, codes, scales, &mut best);
            // Another fit to the same integers would give the same again.
            if best.is_some_and(|(least, _)| least == error) {
                return y;
            }
        }
        match best {
            Some((_, scales)) => Self::encoded::<L, C, SUBS>(l, &x, &scales, codes),
            None => y,
        }
    }

    /// For the given `d`, the best integer scales, of `count` near the real scales in `ideal`. They take the
    /// place of `best` if their squared error is smaller.
    #[inline(always)]
    fn round<L: Lanes, C: Integers, const SUBS: usize, const ROWS: usize>(
        l: L,
        weights: &SubBlocks<SUBS, ROWS>,
        d: f32,
        (ideal, count): (L::F, usize),
        codes: C,
        range: Range,
        best: &mut Option<(f32, Scales<L::F>)>,
    ) {
        let d = search::f16_scale(d);
        let near = range.nearest_lanes(l, l.div(ideal, l.splat(d)));
        let first = l.sub(near, l.splat((count / 2) as f32));
        let steps = count / SubBlocks::<SUBS, ROWS>::SIDES;
        let mut found = Best::below(l, f32::INFINITY);
        let zero = l.splat(0.0);
        for step in (0..steps).step_by(2) {
            let mut scales = [zero; 2];
            for (i, scale) in scales.iter_mut().enumerate() {
                let numbers = SubBlocks::<SUBS, ROWS>::numbers(l, step + i, steps);
                let near = range.clamp_lanes(l, l.add(first, numbers));
                // Scale 0 need not be tried: with scale 1 all codes can still be 0.
                let size = l.max(near, l.sub(zero, near));
                *scale = l.select_less(zero, size, near, l.splat(1.0));
            }
            let d = l.splat(d);
            let trials = [l.mul(d, scales[0]), l.mul(d, scales[1])];
            let errors = search::errors(l, weights, trials, codes);
            found.keep(l, errors[0], [scales[0]]);
            found.keep(l, errors[1], [scales[1]]);
        }
        let found = found.of_sides::<L, SUBS>(l);
        let (error, [scales]) = (found.total(l), found.values);
        if error < best.map_or(f32::MAX, |(least, _)| least) {
            *best = Some((error, Scales { d, scales }));
        }
    }

    /// The block with these scales and the nearest codes.
    #[inline(always)]
    fn encoded<L: Lanes, C: Integers, const SUBS: usize>(
        l: L,
        x: &[f32; 256],
        scales: &Scales<L::F>,
        codes: C,
    ) -> Self {
        let mut y = Self { d: scales.d, ..Self::ZERO };
        let integers = l.to_array(scales.scales);
        for (j, scale) in y.scales.iter_mut().enumerate() {
            *scale = integers[j * SUBS / 16] as i8;
        }
        let subs = x.chunks_exact(SUB_LEN).zip(y.q.chunks_exact_mut(SUB_LEN));
        for (scale, (x, q)) in y.scales.iter().zip(subs) {
            let d = y.d * f32::from(*scale);
            search::encode(x, d, 0.0, codes, bytemuck::cast_slice_mut(q));
        }
        y
    }

    /// The best `d` for the given integers: a least-squares fit.
    #[inline(always)]
    pub(super) fn refit(&self, x: &[f32; 256], w: &[f32; 256]) -> f32 {
        let (mut xq, mut qq) = ([0.0; SUB_LEN], [0.0; SUB_LEN]);
        let places = x.chunks_exact(SUB_LEN).zip(w.chunks_exact(SUB_LEN));
        let blocks = places.zip(self.q.chunks_exact(SUB_LEN));
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
