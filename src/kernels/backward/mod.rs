//! The backward pass: what a gradient with respect to the result of an operation is with respect to
//! its inputs. Each operation has its own file, and [`Cpu`] the methods.
//!
//! Sums are added in a fixed order, in lanes of single precision or one after the other in double
//! precision, so that no bit depends on the instruction set or the threads.

mod attention;
mod geglu;
mod likelihood;
mod norm;
mod panels;
mod transposed;

use super::cpu::CHUNK;
use super::elementwise::geglu;
use super::{Cpu, Rope};
use likelihood::Likelihood;
pub use likelihood::Prediction;

impl Cpu {
    /// The gradient with respect to `x` of `norm(x)`: `gradient` is that with respect to the result, and
    /// is replaced. Both are `[n, cols]`, where `weight` is `[cols]`; heads are rows too.
    pub fn rms_norm_back(&self, x: &[f32], weight: &[f32], eps: f32, gradient: &mut [f32]) {
        assert_eq!(x.len(), gradient.len(), "rms_norm_back: shapes differ");
        let rows = x.chunks_exact(weight.len()).zip(gradient.chunks_exact_mut(weight.len()));
        self.pool.for_each(rows, |(x, gradient)| norm::rms_norm_back(x, weight, eps, gradient));
    }

    /// `out = gelu(gate) * up`, element by element.
    pub fn geglu(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        let chunks = gate.chunks(CHUNK).zip(up.chunks(CHUNK)).zip(out.chunks_mut(CHUNK));
        self.pool.for_each(chunks, |((gate, up), out)| geglu(self.isa, gate, up, out));
    }

    /// The gradients with respect to `gate` and `up` of `gelu(gate) * up`, in place of them. `gradient`
    /// is that with respect to the result.
    pub fn geglu_back(&self, gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
        assert_eq!([gate.len(), up.len()], [gradient.len(); 2], "geglu_back: shapes differ");
        let chunks = gate.chunks_mut(CHUNK).zip(up.chunks_mut(CHUNK)).zip(gradient.chunks(CHUNK));
        self.pool.for_each_with(chunks, Vec::new, |buffer, ((gate, up), gradient)| {
            buffer.resize(gate.len(), 0.0);
            geglu::gate_back(self.isa, gate, up, gradient, buffer);
            // The gradient with respect to `up` is gelu(gate) times that of the result.
            geglu(self.isa, gate, gradient, up);
            gate.copy_from_slice(buffer);
        });
    }

    /// The opposite of [`rope`](Self::rope), which is also its backward pass: turns every head back by
    /// the angles that `rope` was prepared for.
    pub fn rope_back(&self, rope: &Rope, n: usize, q: &mut [f32], k: &mut [f32]) {
        let (q_row, k_row) = (q.len() / n, k.len() / n);
        let rows = q.chunks_mut(q_row).zip(k.chunks_mut(k_row));
        self.pool.for_each(rows.enumerate(), |(row, (q, k))| {
            rope.apply_back(row, q);
            rope.apply_back(row, k);
        });
    }

    /// The gradient with respect to logits of the log-likelihood of one label for each row. `logits`,
    /// `[rows, n_vocab]`, are those after the softcap `cap`, if there is one. They are replaced by the
    /// gradient with respect to the logits before it. `label` is given the index of a row and what the
    /// row predicts.
    ///
    /// # Panics
    /// If a label is outside the vocabulary.
    pub fn log_likelihood_back(
        &self,
        logits: &mut [f32],
        n_vocab: usize,
        cap: Option<f32>,
        label: impl Fn(usize, &Prediction<'_>) -> usize + Sync,
    ) {
        let rows = logits.chunks_exact_mut(n_vocab).enumerate();
        self.pool.for_each_with(rows, Likelihood::default, |likelihood, (row, logits)| {
            likelihood.back(self.isa, logits, cap, |prediction| label(row, prediction));
        });
    }
}

#[cfg(test)]
mod tests;
