//! One layer at a time, for what has to see all of a text in a layer before it comes to the next.

use super::batch::BatchEntry;
use super::observer::Observer;
use super::weights::Layer;
use super::{Model, ModelError, State};
use crate::kernels::{all_finite, refit, Matrix};

/// The residual stream of the tokens of one chunk, between two layers.
#[derive(Clone, Debug)]
pub struct Stream {
    pub(super) tokens: Vec<u32>,
    /// `[tokens, n_embd]`
    pub(super) x: Vec<f32>,
}

impl Stream {
    /// Bytes of the stream of so many tokens.
    pub fn bytes(tokens: usize, n_embd: usize) -> usize {
        tokens * (n_embd * size_of::<f32>() + size_of::<u32>())
    }

    /// Its values, `[tokens, n_embd]`.
    pub fn x(&self) -> &[f32] {
        &self.x
    }

    /// The tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

impl Model<'_> {
    /// The stream of `tokens` before the first layer.
    ///
    /// # Errors
    /// If there are no tokens, if one is outside the vocabulary, or if they are more than a ubatch of
    /// `state`.
    pub fn embedded(&self, state: &mut State, tokens: &[u32]) -> Result<Stream, ModelError> {
        state.truncate(0);
        self.check(&state.sequence, tokens)?;
        let (needed, n_ctx) = (tokens.len(), state.options().n_ubatch);
        if needed > n_ctx {
            return Err(ModelError::ContextFull { needed, n_ctx });
        }
        Ok(self.embedded_by(&self.weights.token_embd, tokens))
    }

    /// The stream of `tokens`, which have been checked, by another embedding.
    pub fn embedded_by(&self, token_embd: &Matrix<'_>, tokens: &[u32]) -> Stream {
        let mut x = vec![0.0; tokens.len() * self.config.n_embd];
        self.cpu.embed(token_embd, tokens, self.config.embd_scale, &mut x);
        Stream { tokens: tokens.to_vec(), x }
    }

    /// Takes `stream` through layer `index`, and shows `observer` what the matrices there are multiplied
    /// with. The bits are those of a pass through all layers.
    ///
    /// # Errors
    /// If values are NaN or infinite.
    pub fn take_through(
        &self,
        state: &mut State,
        index: usize,
        stream: &mut Stream,
        observer: &mut dyn Observer,
    ) -> Result<(), ModelError> {
        self.take_through_other(state, index, &self.weights.layers[index], stream, observer)
    }

    /// The same with other weights in place of those of layer `index`.
    ///
    /// # Errors
    /// If values are NaN or infinite.
    pub fn take_through_other(
        &self,
        state: &mut State,
        index: usize,
        layer: &Layer<'_>,
        stream: &mut Stream,
        observer: &mut dyn Observer,
    ) -> Result<(), ModelError> {
        state.truncate(0);
        let State { sequence, work } = state;
        refit(&mut work.buffers.x, stream.x.len(), 0.0);
        work.buffers.x.copy_from_slice(&stream.x);
        work.ropes.prepare(0..stream.tokens.len());
        let mut batch = [BatchEntry { sequence, tokens: &stream.tokens }];
        let finite = self.layer(index, layer, &mut batch, work, observer);
        stream.x.copy_from_slice(&work.buffers.x);
        match finite && all_finite(&stream.x) {
            true => Ok(()),
            false => Err(self.not_finite()),
        }
    }

    /// Shows `observer` what the output matrix is multiplied with, for a stream after the last layer.
    pub fn show_output(&self, state: &mut State, stream: &Stream, observer: &mut dyn Observer) {
        let work = &mut state.work;
        refit(&mut work.buffers.x, stream.x.len(), 0.0);
        work.buffers.x.copy_from_slice(&stream.x);
        self.observe_output(work, stream.tokens.len(), observer);
    }
}
