//! Exponentials, sixteen at a time.
//!
//! exp(x) = 2^n · exp(r) with |r| ≤ ln 2 / 2, and the Taylor series of exp(r) - 1 to single precision.
//! With r and the rest of the series kept apart, tanh and exp(x) - 1 - x follow without cancellation.

use super::isa::Simd;

/// `(2^n, r, exp(r) - 1 - r)` for `x` within ±87.
#[inline(always)]
fn split<S: Simd>(s: S, x: S::F) -> (S::F, S::F, S::F) {
    // ln 2 in two parts; products of the first with integers below 2^15 are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Floats from 2^23 on are integers, so the addition rounds.
    let round = s.splat(1.5 * (1 << 23) as f32);
    let t = s.add(s.mul(x, s.splat(std::f32::consts::LOG2_E)), round);
    let n = s.sub(t, round);
    let r = s.sub(x, s.mul(n, s.splat(LN_2_HIGH)));
    let r = s.sub(r, s.mul(n, s.splat(LN_2_LOW)));
    let mut series = s.splat(1.0 / 5040.0);
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        series = s.add(s.mul(series, r), s.splat(factor));
    }
    (s.exp2_of_rounded(t), r, s.mul(s.mul(r, r), series))
}

/// Limited to ± `limit`. NaN stays NaN, since `min` and `max` give their second operand then.
#[inline(always)]
fn clamp<S: Simd>(s: S, x: S::F, limit: f32) -> S::F {
    s.min(s.splat(limit), s.max(s.splat(-limit), x))
}

/// e^x, with x limited to ±87.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let (power, r, rest) = split(s, clamp(s, x, 87.0));
    s.add(power, s.mul(power, s.add(r, rest)))
}

/// e^x - 1 - x, which is about x² / 2 where x is small, with x limited to ±87.
#[inline(always)]
pub fn exp_rest<S: Simd>(s: S, x: S::F) -> S::F {
    let x = clamp(s, x, 87.0);
    let (power, r, rest) = split(s, x);
    // (2^n - 1) · (1 + r) - n · ln 2 + 2^n · rest, of which all but the last are 0 if n = 0.
    let far = s.mul(s.sub(power, s.splat(1.0)), s.add(s.splat(1.0), r));
    s.add(s.sub(far, s.sub(x, r)), s.mul(power, rest))
}

/// tanh(x).
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    // From 9 on it is 1 in single precision.
    let x = clamp(s, x, 10.0);
    let (power, r, rest) = split(s, s.add(x, x));
    // e^2x - 1
    let u = s.add(s.mul(power, s.add(r, rest)), s.sub(power, s.splat(1.0)));
    s.div(u, s.add(u, s.splat(2.0)))
}

/// `x` squashed to ± `cap`: cap · tanh(x / cap).
#[inline(always)]
pub fn softcap<S: Simd>(s: S, x: S::F, cap: f32) -> S::F {
    s.mul(s.splat(cap), tanh(s, s.div(x, s.splat(cap))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::isa::{Isa, Op};

    /// exp, tanh, softcap and exp_rest of sixteen values.
    struct All([f32; 16]);

    impl Op for All {
        type Out = [[f32; 16]; 4];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Out {
            let (x, mut y) = (s.load(&self.0), [[0.0; 16]; 4]);
            s.store(exp(s, x), &mut y[0]);
            s.store(tanh(s, x), &mut y[1]);
            s.store(softcap(s, x, 50.0), &mut y[2]);
            s.store(exp_rest(s, x), &mut y[3]);
            y
        }
    }

    /// From -100 to 100, dense near 0.
    fn values() -> Vec<[f32; 16]> {
        let value = |i: usize| {
            let x = (i as f32 / 4000.0 - 1.0) * 100f32.cbrt();
            x * x * x
        };
        (0..500).map(|i| std::array::from_fn(|l| value(16 * i + l))).collect()
    }

    #[test]
    fn close_to_double_precision() {
        for x in values() {
            let [exps, tanhs, caps, rests] = Isa::SCALAR.run(All(x));
            for l in 0..16 {
                let wide = f64::from(x[l]);
                // Two or three roundings of a number as large as the result.
                let near = |y: f32, exact: f64| {
                    (f64::from(y) - exact).abs() <= 4.0 * f64::from(f32::EPSILON) * exact.abs()
                };
                assert!(near(exps[l], wide.clamp(-87.0, 87.0).exp()), "exp {wide}: {}", exps[l]);
                assert!(near(tanhs[l], wide.tanh()), "tanh {wide}: {}", tanhs[l]);
                assert!(near(caps[l], 50.0 * (wide / 50.0).tanh()), "softcap {wide}: {}", caps[l]);
                // Larger terms cancel, the most where n is 1 or -1.
                let x = wide.clamp(-87.0, 87.0);
                let (exact, eps) = (x.exp_m1() - x, f64::from(f32::EPSILON));
                let error = (f64::from(rests[l]) - exact).abs();
                assert!(error <= 16.0 * eps * exact, "exp_rest {wide}: {}", rests[l]);
            }
        }
    }

    #[test]
    fn nan_gives_nan() {
        for isa in Isa::available() {
            assert!(isa.run(All([f32::NAN; 16])).as_flattened().iter().all(|y| y.is_nan()));
        }
    }

    #[test]
    fn the_same_bits_everywhere() {
        for isa in Isa::available() {
            for x in values() {
                let (found, expected) = (isa.run(All(x)), Isa::SCALAR.run(All(x)));
                assert_eq!(
                    found.map(|y| y.map(f32::to_bits)),
                    expected.map(|y| y.map(f32::to_bits))
                );
            }
        }
    }
}
