//! The log-likelihood of a label, through the softmax and the softcap of the logits.

use crate::kernels::elementwise::{map_rows, Lanes};
use crate::kernels::isa::{Isa, Simd};
use crate::kernels::{math, refit};

/// What a row of logits predicts.
#[derive(Debug)]
pub struct Prediction<'a> {
    /// Proportional to the probabilities, `[n_vocab]`.
    weights: &'a [f32],
    /// Their sum.
    total: f64,
}

impl Prediction<'_> {
    /// The label that a number from 0 to below 1 stands for, if each label has a part of that range as
    /// large as its probability, in their order.
    pub fn label_at(&self, unit: f64) -> usize {
        let target = unit * self.total;
        let sums = self.weights.iter().scan(0.0, |sum, weight| {
            *sum += f64::from(*weight);
            Some(*sum)
        });
        // The sums end with the total, which is above the target.
        sums.take_while(|sum| *sum <= target).count()
    }
}

/// The weights of a row, which are kept for the next one.
#[derive(Default)]
pub struct Likelihood {
    weights: Vec<f32>,
}

impl Likelihood {
    /// See [`Cpu::log_likelihood_back`](crate::kernels::Cpu::log_likelihood_back); of one row.
    pub fn back(
        &mut self,
        isa: Isa,
        logits: &mut [f32],
        cap: Option<f32>,
        label: impl FnOnce(&Prediction<'_>) -> usize,
    ) {
        let weights = &mut self.weights;
        refit(weights, logits.len(), 0.0);
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        map_rows(isa, ExpFrom(largest), [logits], weights);
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let label = label(&Prediction { weights, total });
        let slope = |x: f32| cap.map_or(1.0, |cap| 1.0 - x / cap * (x / cap));
        let of_label = slope(logits[label]);
        let factor = (-1.0 / total) as f32;
        for (x, weight) in logits.iter_mut().zip(weights) {
            *x = factor * *weight * slope(*x);
        }
        logits[label] += of_label;
    }
}

/// exp(x - origin)
struct ExpFrom(f32);

impl Lanes<1> for ExpFrom {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, [x]: [S::F; 1]) -> S::F {
        math::exp(s, s.sub(x, s.splat(self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_parts_as_large_as_their_probabilities() {
        let prediction = Prediction { weights: &[0.0, 2.0, 1.0, 0.0, 1.0], total: 4.0 };
        let labels = [0.0, 0.49, 0.5, 0.74, 0.75, 1.0 - f64::EPSILON];
        assert_eq!(labels.map(|unit| prediction.label_at(unit)), [1, 1, 2, 2, 4, 4]);
    }
}
