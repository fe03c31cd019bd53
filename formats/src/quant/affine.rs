//! The k-quants with minimums (Q2_K, Q4_K, Q5_K), unpacked.

use super::effort::ByEffort;
use super::lanes::{Lanes, LANES};
use super::q8_k::BlockQ8K;
use super::range::{Integers, Range};
use super::search::{self, Best, Codes, Ends, Mins, Moments, Offset, SubBlocks, MANY_ENDS};
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

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trials {
    /// Trials of the real scale and offset of a sub-block, of which there are as many as a whole number of steps
    /// makes; see [`SubBlocks::SIDES`].
    pub(super) ends: Ends,
    /// Factors for `d`, by which the integers are rounded differently, which may lower the error.
    pub(super) d_factors: &'static [f32],
    /// The same for `dmin`, at most [`MOST_FACTORS`]. They take less time, since the codes stay the same.
    pub(super) dmin_factors: &'static [f32],
    /// How many integer scales near the real one are tried for every sub-block, a multiple of four.
    pub(super) scales: usize,
    /// How often `d` and `dmin` are fitted to the integers, and the integers to them.
    pub(super) refits: usize,
    /// How many integer scales are tried then, a multiple of four.
    pub(super) refit_scales: usize,
    /// Further offsets to choose codes for, beside the likeliest one. They are relative to the last
    /// offset and in units of the step between codes.
    pub(super) offset_shifts: &'static [f32],
}

/// The most of [`Trials::dmin_factors`].
const MOST_FACTORS: usize = 7;

/// Those of `fast` and `default` were found by trying, with normally distributed weights, ones with heavy tails and
/// those of the bundled model, each with and without importance.
pub(super) const TRIALS: ByEffort<Trials> = ByEffort {
    fast: Trials {
        ends: Ends {
            below: &[-0.4, -0.1, 0.2, 0.5, -0.25, 0.05, 0.35, 0.65],
            above: &[0.0, 0.0, 0.0, 0.0, 0.3, 0.3, 0.3, 0.3],
            more_above: &[[-0.4, 0.2]],
        },
        d_factors: &[1.0],
        dmin_factors: &[0.95, 1.0, 1.033, 1.067, 1.1, 1.15],
        scales: 8,
        refits: 1,
        refit_scales: 4,
        offset_shifts: &[],
    },
    default: Trials {
        ends: Ends {
            below: &[-0.4, -0.19, 0.02, 0.23, 0.44, 0.65],
            above: &[0.0; 6],
            more_above: &[[-0.4, -0.1], [0.2, 0.5]],
        },
        d_factors: &[1.0, 1.033, 1.067],
        dmin_factors: &[0.95, 1.0, 1.033, 1.067, 1.1, 1.15],
        scales: 8,
        refits: 2,
        refit_scales: 4,
        offset_shifts: &[],
    },
    best: Trials {
        ends: MANY_ENDS,
        d_factors: &[0.95, 1.0, 1.033, 1.067, 1.1, 1.15, 1.2],
        dmin_factors: &[0.95, 1.0, 1.033, 1.067, 1.1, 1.15, 1.2],
        scales: 16,
        refits: 6,
        refit_scales: 16,
        offset_shifts: &[-0.4, -0.2, 0.0, 0.2, 0.4],
    },
};

/// The values to be quantized, and what is known about them.
struct Values<'a, F, const SUBS: usize, const ROWS: usize> {
    x: &'a [f32; 256],
    /// The values and their importances, by sub-block.
    weights: &'a SubBlocks<SUBS, ROWS>,
    moments: &'a Moments<F, ROWS>,
    /// The range of the codes.
    codes: Range,
    /// The range of the scales and minimums.
    scales: Range,
    trials: &'a Trials,
}

/// Scales and minimums, before the codes are chosen. Lane `i` has those of sub-block `i % SUBS`.
#[derive(Clone, Copy)]
struct Scales<F> {
    d: f32,
    dmin: f32,
    scales: F,
    mins: F,
}

impl<F: Copy> Scales<F> {
    /// The real scale and offset of each sub-block.
    #[inline(always)]
    fn real<L: Lanes<F = F>>(&self, l: L) -> (F, F) {
        (l.mul(l.splat(self.d), self.scales), l.mul(l.splat(-self.dmin), self.mins))
    }
}

/// The quantizer.
impl<const SUBS: usize> Affine<SUBS> {
    /// The best block found for 256 values with these ranges of codes and of scales and minimums.
    #[inline(always)]
    pub(super) fn fit<L: Lanes, const ROWS: usize>(
        l: L,
        x: &[f32],
        w: &[f32],
        (codes, scales): (Range, Range),
        trials: &Trials,
    ) -> Self {
        let (x, w) = (&search::finite::<256>(x), &search::importance::<256>(w));
        let weights = &SubBlocks::<SUBS, ROWS>::new(x, w);
        let moments = &Moments::new(l, weights);
        let values = Values { x, weights, moments, codes, scales, trials };
        let offset = Offset::NotPositive;
        let ideal = search::scale_offset(l, weights, moments, codes, offset, &trials.ends);
        let largest = |x: [f32; LANES]| x.iter().fold(0f32, |max, x| max.max(*x));
        let d = largest(l.to_array(ideal.0)) / scales.high;
        let dmin = largest(l.to_array(l.sub(l.splat(0.0), ideal.1))) / scales.high;
        if d == 0.0 && dmin == 0.0 {
            return Self::ZERO;
        }
        let mut best = None;
        let mut mins = [Mins::new(scales, dmin); MOST_FACTORS];
        for (mins, factor) in mins.iter_mut().zip(trials.dmin_factors) {
            *mins = Mins::new(scales, factor * dmin);
        }
        let mins = &mins[..trials.dmin_factors.len()];
        for factor in trials.d_factors {
            values.round(l, factor * d, mins, ideal, trials.scales, &mut best);
        }
        let mut y = Self::ZERO;
        for _ in 0..trials.refits {
            let Some((error, scales)) = best else { break };
            y = Self::encoded(l, &values, &scales);
            let (d, dmin) = y.refit(l, x, w);
            let mins = Mins::new(values.scales, dmin);
            values.round(l, d, &[mins], scales.real(l), trials.refit_scales, &mut best);
            // Another fit to the same integers would give the same again.
            if best.is_some_and(|(least, _)| least == error) {
                return y;
            }
        }
        match best {
            Some((_, scales)) => Self::encoded(l, &values, &scales),
            None => y,
        }
    }

    /// The block with these scales and the nearest codes.
    #[inline(always)]
    fn encoded<L: Lanes, const ROWS: usize>(
        l: L,
        values: &Values<'_, L::F, SUBS, ROWS>,
        scales: &Scales<L::F>,
    ) -> Self {
        let mut y = Self { d: scales.d, dmin: scales.dmin, ..Self::ZERO };
        let (integers, mins) = (l.to_array(scales.scales), l.to_array(scales.mins));
        for j in 0..SUBS {
            (y.scales[j], y.mins[j]) = (integers[j] as u8, mins[j] as u8);
        }
        let (d, m) = scales.real(l);
        let (d, m) = (l.to_array(d), l.to_array(m));
        let places = values.x.chunks_exact(Self::SUB_LEN).zip(y.q.chunks_exact_mut(Self::SUB_LEN));
        for (j, (x, q)) in places.enumerate() {
            search::encode(x, d[j], m[j], values.codes, q);
        }
        y
    }

    /// The best `d` and `dmin` for the given integers: a least-squares fit with two unknowns.
    #[inline(always)]
    pub(super) fn refit<L: Lanes>(&self, l: L, x: &[f32; 256], w: &[f32; 256]) -> (f32, f32) {
        // With q = scale * code and m = the minimum: the weighted sums of q², q·m, x·q, m² and x·m.
        let [mut qq, mut qm, mut xq, mut mm, mut xm] = [l.splat(0.0); 5];
        let places = x.as_chunks::<LANES>().0.iter().zip(w.as_chunks::<LANES>().0);
        for (i, ((x, w), q)) in places.zip(self.q.as_chunks::<LANES>().0).enumerate() {
            let j = i * LANES / Self::SUB_LEN;
            let scale = l.splat(f32::from(self.scales[j]));
            let min = l.splat(f32::from(self.mins[j]));
            let (x, w) = (l.load(x), l.load(w));
            let mut codes = [0.0; LANES];
            for (code, q) in codes.iter_mut().zip(q) {
                *code = f32::from(*q);
            }
            let q = l.mul(scale, l.load(&codes));
            let (wq, wm) = (l.mul(w, q), l.mul(w, min));
            qq = l.add(qq, l.mul(wq, q));
            qm = l.add(qm, l.mul(wq, min));
            xq = l.add(xq, l.mul(wq, x));
            mm = l.add(mm, l.mul(wm, min));
            xm = l.add(xm, l.mul(wm, x));
        }
        let mut sums = [0.0; 5];
        for (sum, lanes) in sums.iter_mut().zip([qq, qm, xq, mm, xm]) {
            *sum = l.to_array(lanes).iter().fold(0.0, |sum, x| sum + f64::from(*x));
        }
        let [qq, qm, xq, mm, xm] = sums;
        let determinant = qq * mm - qm * qm;
        if determinant == 0.0 {
            return (self.d, self.dmin);
        }
        let d = (xq * mm - xm * qm) / determinant;
        let dmin = (xq * qm - xm * qq) / determinant;
        (d as f32, dmin as f32)
    }
}

impl<F: Copy, const SUBS: usize, const ROWS: usize> Values<'_, F, SUBS, ROWS> {
    /// For the given `d` and the scales of minimums in `mins`, the best integer scales and minimums: of
    /// `count` scales near the real ones, whose offsets are near the real ones, both in `ideal`. They take
    /// the place of `best` if their squared error is smaller.
    #[inline(always)]
    fn round<L: Lanes<F = F>>(
        &self,
        l: L,
        d: f32,
        mins: &[Mins],
        ideal: (F, F),
        count: usize,
        best: &mut Option<(f32, Scales<F>)>,
    ) {
        let d = search::f16_scale(d);
        let near = self.scales.nearest_lanes(l, l.div(ideal.0, l.splat(d)));
        let mut found = [Best::below(l, f32::INFINITY); MOST_FACTORS];
        self.search(l, d, mins, ideal, (near, count), &mut found);
        for (found, mins) in found.iter_mut().zip(mins) {
            *found = found.of_sides::<L, SUBS>(l);
            for shift in self.trials.offset_shifts {
                let [scales, m] = found.values;
                let scale = l.mul(l.splat(d), scales);
                let shift = l.mul(l.splat(shift * d), scales);
                let ideal = (scale, l.sub(shift, l.mul(l.splat(mins.dmin), m)));
                let mut other = [Best::below(l, f32::INFINITY)];
                self.search(l, d, &[*mins], ideal, (near, count), &mut other);
                let other = other[0].of_sides::<L, SUBS>(l);
                found.keep(l, other.error, other.values);
            }
            let error = found.total(l);
            if error < best.map_or(f32::MAX, |(least, _)| least) {
                let [scales, m] = found.values;
                *best = Some((error, Scales { d, dmin: mins.dmin, scales, mins: m }));
            }
        }
    }

    /// Tries `count` integer scales next to those in `near`, with codes as for the real scales and offsets
    /// in `ideal`. Keeps in `found` the best scales and their minimums, for each of `mins`.
    #[inline(always)]
    fn search<L: Lanes<F = F>>(
        &self,
        l: L,
        d: f32,
        mins: &[Mins],
        ideal: (F, F),
        (near, count): (F, usize),
        found: &mut [Best<F, 2>],
    ) {
        let Self { weights, moments, codes, scales: range, .. } = self;
        let mean_code = moments.mean_code(l, ideal, *codes);
        let first = l.sub(near, l.splat((count / 2) as f32 - 1.0));
        let steps = count / SubBlocks::<SUBS, ROWS>::SIDES;
        for step in (0..steps).step_by(2) {
            let (mut scales, mut trials) = ([near; 2], [near; 2]);
            for i in 0..2 {
                let numbers = SubBlocks::<SUBS, ROWS>::numbers(l, step + i, steps);
                // Scale 0 need not be tried: with scale 1 all codes can still be 0.
                let scale = range.clamp_lanes(l, l.add(first, numbers));
                scales[i] = l.max(scale, l.splat(1.0));
                trials[i] = l.mul(l.splat(d), scales[i]);
            }
            let trials = Codes::of(l, weights, moments, *codes, trials, mean_code);
            for (found, mins) in found.iter_mut().zip(mins) {
                for (trial, scales) in trials.iter().zip(scales) {
                    let (error, m) = trial.least_error(l, moments, mins);
                    found.keep(l, error, [scales, m]);
                }
            }
        }
    }
}
