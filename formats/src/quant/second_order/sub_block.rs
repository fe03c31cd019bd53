//! Weights that share a scale, rounded one after the other.

use super::chains::Chain;
use super::hessian::Row;
use crate::quant::lanes::Lanes;
use crate::quant::range::{Integers, Range};

/// A sub-block of each row.
pub struct SubBlock<'a, L: Lanes> {
    /// What values are rounded to come near to, `[sub]`.
    pub x: &'a [Row],
    /// The same with the feedback of the columns before the sub-block.
    pub base: &'a [Row],
    /// The feedback within the sub-block.
    pub chain: Chain<'a>,
    /// The scale of the scales.
    pub d: L::F,
    /// The scale of the minimums.
    pub dmin: L::F,
}

impl<L: Lanes> SubBlock<'_, L> {
    /// The smallest loss of integer scales and minimums in `range` that differ from `near` by at most
    /// one, and these integers. Without a range they stay as they are.
    #[inline(always)]
    pub fn least<C: Integers>(
        &self,
        l: L,
        codes: C,
        range: Option<Range>,
        near: [L::F; 2],
    ) -> (L::F, [L::F; 2]) {
        let [scale, min] = near;
        let Some(range) = range else {
            let [loss] = self.losses(l, codes, [scale], min);
            return (loss, near);
        };
        let (zero, one) = (l.splat(0.0), l.splat(1.0));
        let mut scales = [scale; 3];
        for (to, x) in scales[1..].iter_mut().zip([l.sub(scale, one), l.add(scale, one)]) {
            let x = range.clamp_lanes(l, x);
            // With scale 0 all values would be the same.
            *to = l.select_less(zero, l.mul(x, x), x, scale);
        }
        let mut best = (l.splat(f32::MAX), near);
        let has_mins = l.to_array(self.dmin).iter().any(|dmin| *dmin != 0.0);
        let steps: &[f32] = if has_mins { &[0.0, -1.0, 1.0] } else { &[0.0] };
        for step in steps {
            let min = range.clamp_lanes(l, l.add(min, l.splat(*step)));
            let losses = self.losses(l, codes, scales, min);
            for c in 0..3 {
                let (loss, [best_scale, best_min]) = best;
                best = (
                    l.select_less(losses[c], loss, losses[c], loss),
                    [
                        l.select_less(losses[c], loss, scales[c], best_scale),
                        l.select_less(losses[c], loss, min, best_min),
                    ],
                );
            }
        }
        best
    }

    /// The losses with each of these scales.
    #[inline(always)]
    fn losses<C: Integers, const N: usize>(
        &self,
        l: L,
        codes: C,
        scales: [L::F; N],
        min: L::F,
    ) -> [L::F; N] {
        let mut left = [[l.splat(0.0); 32]; N];
        let mut losses = [l.splat(0.0); N];
        let (mut a, mut inverse) = ([l.splat(0.0); N], [l.splat(0.0); N]);
        for c in 0..N {
            (a[c], inverse[c]) = step(l, self.d, scales[c]);
        }
        let b = l.mul(self.dmin, min);
        let sub = self.x.len();
        for i in 0..sub {
            let mut t = [l.load(&self.base[i].0); N];
            for (k, m) in self.chain.m[i * sub..][..i].iter().enumerate() {
                let m = l.splat(*m);
                for c in 0..N {
                    t[c] = l.add(t[c], l.mul(left[c][k], m));
                }
            }
            let (x, d) = (l.load(&self.x[i].0), l.splat(self.chain.d[i]));
            for c in 0..N {
                let code = codes.nearest_lanes(l, l.mul(l.add(t[c], b), inverse[c]));
                let value = l.sub(l.mul(a[c], code), b);
                let e = l.sub(t[c], value);
                losses[c] = l.add(losses[c], l.mul(d, l.mul(e, e)));
                left[c][i] = l.sub(x, value);
            }
        }
        losses
    }

    /// Rounds to these integers. Writes the codes, what is left of `x`, and what should have been
    /// rounded to. Returns the loss.
    #[inline(always)]
    pub fn round<C: Integers>(
        &self,
        l: L,
        codes: C,
        [scale, min]: [L::F; 2],
        q: &mut [Row],
        left: &mut [Row],
        target: &mut [Row],
    ) -> L::F {
        let (a, inverse) = step(l, self.d, scale);
        let b = l.mul(self.dmin, min);
        let mut loss = l.splat(0.0);
        let sub = self.x.len();
        for i in 0..sub {
            let mut t = l.load(&self.base[i].0);
            for (m, left) in self.chain.m[i * sub..][..i].iter().zip(&*left) {
                t = l.add(t, l.mul(l.load(&left.0), l.splat(*m)));
            }
            let code = codes.nearest_lanes(l, l.mul(l.add(t, b), inverse));
            let value = l.sub(l.mul(a, code), b);
            let e = l.sub(t, value);
            loss = l.add(loss, l.mul(l.splat(self.chain.d[i]), l.mul(e, e)));
            l.store(code, &mut q[i].0);
            l.store(l.sub(l.load(&self.x[i].0), value), &mut left[i].0);
            l.store(t, &mut target[i].0);
        }
        loss
    }
}

/// The distance of values whose codes differ by one, and its inverse, or 0 if that would be infinite.
#[inline(always)]
pub fn step<L: Lanes>(l: L, d: L::F, scale: L::F) -> (L::F, L::F) {
    let a = l.mul(d, scale);
    let size = l.max(a, l.sub(l.splat(0.0), a));
    let inverse = l.div(l.splat(1.0), a);
    (a, l.select_less(size, l.splat(f32::MIN_POSITIVE), l.splat(0.0), inverse))
}
