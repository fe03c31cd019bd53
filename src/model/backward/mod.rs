//! The backward pass, one layer at a time: gradients of a log-likelihood with respect to the residual
//! stream and to the outputs of the matrices. Their squares on average are the Fisher information.
//!
//! [`sampled_gradient`](Model::sampled_gradient) begins after the last layer, and
//! [`take_back`](Model::take_back) goes on from layer to layer, to the first. What the forward pass
//! computed in a layer is computed again, from the stream before it: so memory holds the values of one
//! layer. That products take quantized activations, and that the cache may hold keys and values in f16,
//! counts in these values, but is not differentiated. Scores are computed again with keys and values in
//! f32.

mod layer;
mod output;
#[cfg(test)]
mod tests;

use super::batch::BatchEntry;
use super::{Model, ModelError, State, Stream, TensorKind};
use crate::kernels::{all_finite, refit};

/// Observes a backward pass. `()` observes nothing.
pub trait GradientObserver {
    /// Called with the gradient with respect to the output of the matrix `kind` of a layer,
    /// `[n, rows]`. The output is what the matrix itself gives: before RoPE, head norms, the activation
    /// and the norms that follow attention and feed-forward.
    fn output(&mut self, _kind: TensorKind, _layer: usize, _gradient: &[f32]) {}

    /// Called with the gradient with respect to the output of the output matrix, before the softcap, of some
    /// positions at a time, `[n, n_vocab]`.
    fn logits(&mut self, _gradient: &[f32]) {}
}

impl GradientObserver for () {}

impl Model<'_> {
    /// Takes `gradient`, `[n, n_embd]`, back through layer `index`: it is that with respect to the
    /// stream after the layer, and becomes that with respect to `before`, the stream before it. Shows
    /// `observer` the gradients with respect to the outputs of the layer's matrices, from the last to
    /// the first: `ffn_down`, `ffn_gate`, `ffn_up`, `attn_output`, `attn_q`, `attn_k`, `attn_v`. No bit
    /// depends on the number of threads or the instruction set.
    ///
    /// # Errors
    /// If values are NaN or infinite. What was shown before the error is of no use.
    ///
    /// # Panics
    /// If `gradient` is not as long as the stream, or the stream is longer than a ubatch of `state`.
    pub fn take_back(
        &self,
        state: &mut State,
        index: usize,
        before: &Stream,
        gradient: &mut [f32],
        observer: &mut dyn GradientObserver,
    ) -> Result<(), ModelError> {
        assert_eq!(gradient.len(), before.x.len(), "one gradient for each value of the stream");
        state.truncate(0);
        let State { sequence, work } = state;
        refit(&mut work.buffers.x, before.x.len(), 0.0);
        work.buffers.x.copy_from_slice(&before.x);
        work.ropes.prepare(0..before.tokens.len());
        let mut batch = [BatchEntry { sequence, tokens: &before.tokens }];
        let layer = &self.weights.layers[index];
        let finite = self.attention(index, layer, &mut batch, work, &mut ());
        let added = std::mem::take(&mut work.buffers.delta);
        self.feed_forward_back(index, work, gradient, observer);
        self.attention_back(index, (before, &added), work, gradient, observer);
        match finite && all_finite(gradient) {
            true => Ok(()),
            false => Err(self.not_finite()),
        }
    }
}
