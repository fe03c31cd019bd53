//! Perplexity of a text, by llama.cpp's protocol, so that figures can be compared, and how far a
//! cut model is from its original on that text.
//!
//! The text is cut into disjoint chunks of `n_ctx` tokens, the first token of each replaced by
//! BOS; the second half of each chunk is scored, so that every score has at least `n_ctx / 2`
//! tokens before it.
//!
//! - [`measure`]: perplexity of one model.
//! - [`compare`]: two models side by side, the divergence of their predictions.

mod divergence;
mod statistics;
mod walk;

use std::time::Instant;

use thiserror::Error;

pub use divergence::{check_vocabularies, compare, Divergence, KlDivergence, VocabularyMismatch};
pub use statistics::Estimate;
pub(crate) use walk::chunk;

use crate::kernels::{log_sum_exp, Isa, KvType};
use crate::model::{Model, ModelError};
use statistics::Mean;
use walk::Walk;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Tokens per chunk, at least 4.
    pub n_ctx: usize,
    /// The first so many chunks; all that the text has if `None`.
    pub chunks: Option<usize>,
    /// What the cache holds.
    pub kv: KvType,
    /// What the original's cache holds, where there is one.
    pub reference_kv: KvType,
    /// Put in place of the first token of each chunk, if the model wants it.
    pub bos: Option<u32>,
}

/// A result, final or on the way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// exp of the mean negative log likelihood.
    pub perplexity: f64,
    /// Of `perplexity`, from the scatter of the scored tokens.
    pub standard_error: f64,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Chunks that were evaluated.
    pub chunks: usize,
    /// Wall time.
    pub seconds: f64,
}

/// Why nothing was measured.
#[derive(Debug, Error)]
pub enum PerplexityError {
    /// The text does not fill a chunk.
    #[error("the text has {tokens} tokens, one chunk needs {n_ctx}")]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a chunk.
        n_ctx: usize,
    },
    /// Chunks so short that their second half scores nothing, or none of them.
    #[error("a context of {0} tokens is too short to score anything, it takes at least 4")]
    ContextTooShort(usize),
    /// The two models do not predict the same pieces.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyMismatch),
    /// The evaluation failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Measures `model` on `tokens`, the whole text with BOS in front. `progress` is called after each
/// chunk with the estimate so far and the number of chunks there will be; it returns whether to
/// go on.
pub fn measure(
    model: &Model<'_>,
    tokens: &[u32],
    options: Options,
    mut progress: impl FnMut(&Perplexity, usize) -> bool,
) -> Result<Perplexity, PerplexityError> {
    let (cpu, n_vocab) = (model.cpu(), model.config().n_vocab);
    let start = Instant::now();
    let mut walk = Walk::new([(model, options.kv)], tokens, options)?;
    let mut scores = Mean::default();
    loop {
        let more = walk.chunk(|[logits], next| {
            let mut block = vec![0.0; next.len()];
            let rows = block.iter_mut().zip(logits.chunks_exact(n_vocab)).zip(next);
            cpu.for_each(rows, |((score, logits), token)| {
                *score = negative_log_likelihood(cpu.isa(), logits, *token);
            });
            block.into_iter().for_each(|score| scores.add(score));
        })?;
        let Estimate { value: perplexity, standard_error } = scores.exp();
        let (tokens, seconds) = (scores.n(), start.elapsed().as_secs_f64());
        let result = Perplexity { perplexity, standard_error, tokens, chunks: walk.done, seconds };
        if !progress(&result, walk.chunks) || !more {
            return Ok(result);
        }
    }
}

/// −log softmax(logits)[token].
fn negative_log_likelihood(isa: Isa, logits: &[f32], token: u32) -> f64 {
    log_sum_exp(isa, logits) - f64::from(logits[token as usize])
}
