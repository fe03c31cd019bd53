//! How much two predictions for the same position differ.

use super::isa::{Isa, Op, Simd};
use super::math;

/// Elements whose sum is formed in single precision.
const PART: usize = 1024;

/// Probabilities below e to the minus this are raised to that: `exp` goes no further.
const FLOOR: f64 = 87.0;

/// See [`kl_divergence`].
struct KlDivergence<'a> {
    p: &'a [f32],
    q: &'a [f32],
    log_sum_p: f64,
    log_sum_q: f64,
}

/// Values that are the same for all elements of a row, in every lane.
struct Row<F> {
    log_sum_p: F,
    lowest_p: F,
    lowest_q: F,
    /// How much larger `q` is than `p` for the same probability.
    shift: F,
}

impl<F: Copy> Row<F> {
    /// P · (Q / P - 1 - ln(Q / P)) of sixteen elements.
    #[inline(always)]
    fn terms<S: Simd<F = F>>(&self, s: S, p: &[f32; 16], q: &[f32; 16]) -> F {
        let p = s.max(self.lowest_p, s.load(p));
        let q = s.max(self.lowest_q, s.load(q));
        let ratio = s.sub(s.sub(q, p), self.shift);
        s.mul(math::exp(s, s.sub(p, self.log_sum_p)), math::exp_rest(s, ratio))
    }
}

impl Op for KlDivergence<'_> {
    type Out = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let row = Row {
            log_sum_p: s.splat(self.log_sum_p as f32),
            lowest_p: s.splat((self.log_sum_p - FLOOR) as f32),
            lowest_q: s.splat((self.log_sum_q - FLOOR) as f32),
            shift: s.splat((self.log_sum_q - self.log_sum_p) as f32),
        };
        let ((p, rest_p), (q, rest_q)) = (self.p.as_chunks::<16>(), self.q.as_chunks::<16>());
        let padded = |rest: &[f32]| {
            let mut padded = [f32::NEG_INFINITY; 16];
            padded[..rest.len()].copy_from_slice(rest);
            padded
        };
        let mut sum = f64::from(s.sum(row.terms(s, &padded(rest_p), &padded(rest_q))));
        for (p, q) in p.chunks(PART / 16).zip(q.chunks(PART / 16)) {
            let mut partial = s.splat(0.0);
            for (p, q) in p.iter().zip(q) {
                partial = s.add(partial, row.terms(s, p, q));
            }
            sum += f64::from(s.sum(partial));
        }
        sum
    }
}

/// The Kullback-Leibler divergence D(P ‖ Q) = Σ P · ln(P / Q) in nats of P = softmax(p) and
/// Q = softmax(q). Both are given with their [`log_sum_exp`](super::log_sum_exp).
///
/// It is summed as Σ P · (Q / P - 1 - ln(Q / P)), which is the same since P and Q both add up to 1.
/// No term is negative, nothing cancels where P and Q are close, an error of a log_sum_exp counts
/// squared, and the result is 0 if P and Q are equal. A probability below e^-87 counts as e^-87, so
/// the result is finite even if a logit is -∞. NaN gives NaN.
pub fn kl_divergence(
    isa: Isa,
    (p, log_sum_p): (&[f32], f64),
    (q, log_sum_q): (&[f32], f64),
) -> f64 {
    assert_eq!(p.len(), q.len(), "both predict the same vocabulary");
    isa.run(KlDivergence { p, q, log_sum_p, log_sum_q })
}

/// The largest element.
struct Largest<'a>(&'a [f32]);

impl Op for Largest<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (chunks, rest) = self.0.as_chunks::<16>();
        let mut padded = [f32::NEG_INFINITY; 16];
        padded[..rest.len()].copy_from_slice(rest);
        let mut largest = s.load(&padded);
        for x in chunks {
            largest = s.max(s.load(x), largest);
        }
        s.largest(largest)
    }
}

/// The index of the largest element, the first of several; 0 if there is none.
pub fn argmax(isa: Isa, x: &[f32]) -> usize {
    let largest = isa.run(Largest(x));
    x.iter().position(|x| *x == largest).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::log_sum_exp;

    /// `n` pseudo-random logits within ± `size`, different for each seed.
    fn logits(n: usize, size: f32, seed: u32) -> Vec<f32> {
        let hash = |i: usize| (i as u32 ^ (seed << 20)).wrapping_mul(0x9e37_79b9).rotate_left(15);
        let uniform = |i: usize| hash(i).wrapping_mul(0x85eb_ca6b) as f32 / u32::MAX as f32;
        (0..n).map(|i| (2.0 * uniform(i) - 1.0) * size).collect()
    }

    /// `x` with each element changed by at most `size`.
    fn near(x: &[f32], size: f32) -> Vec<f32> {
        x.iter().zip(logits(x.len(), size, 9)).map(|(x, by)| x + by).collect()
    }

    fn kl(isa: Isa, p: &[f32], q: &[f32]) -> f64 {
        kl_divergence(isa, (p, log_sum_exp(isa, p)), (q, log_sum_exp(isa, q)))
    }

    /// From the definition, in double precision.
    fn plain(p: &[f32], q: &[f32]) -> f64 {
        let log_softmax = |x: &[f32]| {
            let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let sum: f64 = x.iter().map(|x| (f64::from(*x) - max).exp()).sum();
            let log_sum = max + sum.ln();
            x.iter().map(|x| f64::from(*x) - log_sum).collect::<Vec<_>>()
        };
        let (p, q) = (log_softmax(p), log_softmax(q));
        p.iter().zip(&q).filter(|(p, _)| p.is_finite()).map(|(p, q)| p.exp() * (p - q)).sum()
    }

    /// Pairs of logits of several lengths, close to each other and far apart, up to the softcap.
    fn pairs() -> Vec<(Vec<f32>, Vec<f32>)> {
        let mut pairs = Vec::new();
        for n in [1, 15, 16, 17, 1000, 1024, 2048, 5003] {
            for size in [0.1, 5.0, 30.0] {
                let p = logits(n, size, 1);
                pairs.extend([1e-3, 0.03, 1.0].map(|by| (p.clone(), near(&p, by))));
                pairs.push((p, logits(n, size, 2)));
            }
            // What is certain to one is impossible to the other.
            let mut sure = [vec![-30.0; n], vec![-30.0; n]];
            sure[0][0] = 30.0;
            sure[1][n - 1] = 30.0;
            let [p, q] = sure;
            pairs.push((p, q));
        }
        pairs
    }

    #[test]
    fn divergence_is_that_of_double_precision() {
        for (p, q) in pairs() {
            let (found, expected) = (kl(Isa::SCALAR, &p, &q), plain(&p, &q));
            // The probability in a term is off by some roundings of the logits, 2e-6 at 30. The
            // logarithm of the ratio is off by the same, which counts squared. The plain sum
            // cancels, and is itself off by some 1e-14.
            let error = (found - expected).abs();
            assert!(error <= 2e-5 * expected + 1e-12, "{found} for {expected}, {} pieces", p.len());
        }
    }

    #[test]
    fn divergence_from_itself_is_nothing() {
        for isa in Isa::available() {
            for (p, _) in pairs() {
                assert_eq!(kl(isa, &p, &p), 0.0);
            }
        }
    }

    #[test]
    fn divergence_of_close_predictions_keeps_its_digits() {
        // If all of P is equal, half of Q's logits are larger by d and half are smaller by d, the
        // divergence is ln cosh d, about d² / 2.
        let n = 4096;
        let p = vec![3.0; n];
        for d in [1e-2f32, 1e-3, 1e-4] {
            let q: Vec<f32> = (0..n).map(|i| 3.0 + if i % 2 == 0 { d } else { -d }).collect();
            let exact = f64::from(q[0] - 3.0).cosh().ln();
            let found = kl(Isa::SCALAR, &p, &q);
            // Each log_sum_exp is off by 1e-7 at most, and that counts squared.
            assert!((found - exact).abs() <= 1e-5 * exact + 1e-14, "{found} for {exact}");
        }
    }

    #[test]
    fn what_is_impossible_counts_as_very_unlikely() {
        let with = |n: usize, x: f32| {
            let mut logits = logits(n, 30.0, 3);
            logits[5] = x;
            logits
        };
        for isa in Isa::available() {
            for n in [17, 1000] {
                let (p, q) = (with(n, f32::NEG_INFINITY), with(n, 30.0));
                // P is 0 where Q is large. The logarithm of the ratio is about 80, with an ulp of
                // 8e-6, which is the relative error of its exponential.
                let (found, expected) = (kl(isa, &p, &q), plain(&p, &q));
                assert!((found - expected).abs() <= 5e-5 * expected, "{found} for {expected}");
                assert_eq!(kl(isa, &p, &p), 0.0);
                // With P and Q exchanged it is infinite by definition.
                let (p, q) = (vec![1.0; n], p);
                assert!(kl(isa, &p, &q).is_finite() && kl(isa, &p, &q) > 1.0 / n as f64);
            }
            assert!(kl(isa, &[1.0, f32::NAN], &[1.0, 2.0]).is_nan());
            assert!(kl(isa, &[1.0, 2.0], &[f32::NAN, 1.0]).is_nan());
        }
    }

    #[test]
    fn the_same_bits_everywhere() {
        for isa in Isa::available() {
            for (p, q) in pairs() {
                assert_eq!(kl(isa, &p, &q).to_bits(), kl(Isa::SCALAR, &p, &q).to_bits());
                assert_eq!(argmax(isa, &p), argmax(Isa::SCALAR, &p));
            }
        }
    }

    #[test]
    fn argmax_is_the_first_of_the_largest() {
        for isa in Isa::available() {
            for n in [1, 16, 37, 1000] {
                let mut x = logits(n, 5.0, 4);
                x[n / 2] = 6.0;
                x[n - 1] = 6.0;
                assert_eq!(argmax(isa, &x), n / 2);
            }
            assert_eq!(argmax(isa, &[f32::NEG_INFINITY; 3]), 0);
            assert_eq!(argmax(isa, &[]), 0);
        }
    }
}
