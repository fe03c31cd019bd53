//! Evaluates the chunks of a text with one or more models.

use super::{Options, PerplexityError};
use crate::kernels::KvType;
use crate::model::{logit_blocks, Model, State, StateOptions, N_UBATCH};

/// One or more models that evaluate the same chunks side by side, to be scored at the same tokens.
pub(super) struct ChunkEvaluator<'a, 'm, const N: usize> {
    models: [(&'a Model<'m>, State); N],
    tokens: &'a [u32],
    options: Options,
    /// Number of chunks to evaluate, at least one.
    pub count: usize,
    /// Number of chunks that have been evaluated.
    pub done: usize,
}

impl<'a, 'm, const N: usize> ChunkEvaluator<'a, 'm, N> {
    /// Starts before the first chunk of `tokens`. Each model comes with the type of its KV cache.
    pub fn new(
        models: [(&'a Model<'m>, KvType); N],
        tokens: &'a [u32],
        options: Options,
    ) -> Result<Self, PerplexityError> {
        let n_ctx = options.n_ctx;
        if n_ctx < 4 {
            return Err(PerplexityError::ContextTooShort(n_ctx));
        }
        if tokens.len() < n_ctx {
            return Err(PerplexityError::TextTooShort { tokens: tokens.len(), n_ctx });
        }
        let available = tokens.len() / n_ctx;
        let count = options.chunks.map_or(available, |n| n.clamp(1, available));
        let models =
            models.map(|(m, kv)| (m, State::new(m.config(), StateOptions::new(n_ctx, kv))));
        Ok(Self { models, tokens, options, count, done: 0 })
    }

    /// Evaluates the next chunk. Calls `score` with the logits of a few positions at a time,
    /// `[positions, n_vocab]` for each model, and with the tokens that follow these positions.
    /// Returns whether there is another chunk.
    pub fn evaluate_next(
        &mut self,
        mut score: impl FnMut([&[f32]; N], &[u32]),
    ) -> Result<bool, PerplexityError> {
        let n_ctx = self.options.n_ctx;
        let chunk = chunk(self.tokens, n_ctx, self.done, self.options.bos);
        self.models.iter_mut().for_each(|(_, state)| state.clear());
        // The last token is predicted but not evaluated: nothing after it is scored.
        let (inputs, first) = (&chunk[..n_ctx - 1], n_ctx / 2);
        for (i, ubatch) in inputs.chunks(N_UBATCH).enumerate() {
            for (model, state) in &mut self.models {
                model.evaluate(state, ubatch)?;
            }
            let at = i * N_UBATCH;
            let scored = first.saturating_sub(at).min(ubatch.len());
            for rows in logit_blocks(scored..ubatch.len()) {
                let next = &chunk[at + rows.start + 1..][..rows.len()];
                let mut logits = [&[][..]; N];
                for (logits, (model, state)) in logits.iter_mut().zip(&mut self.models) {
                    *logits = model.logits(state, rows.clone())?;
                }
                score(logits, next);
            }
        }
        self.done += 1;
        Ok(self.done < self.count)
    }
}

/// Chunk `i` of a text: `n_ctx` tokens, with the first one replaced by `bos` if there is one.
pub(crate) fn chunk(tokens: &[u32], n_ctx: usize, i: usize, bos: Option<u32>) -> Vec<u32> {
    let mut chunk = tokens[i * n_ctx..][..n_ctx].to_vec();
    if let Some(bos) = bos {
        chunk[0] = bos;
    }
    chunk
}
