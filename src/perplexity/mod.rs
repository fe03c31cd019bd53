//! Perplexity of a text, computed as llama.cpp does, so that results can be compared; and how far a
//! quantized model is from its original on that text.
//!
//! The text is split into disjoint chunks of `n_ctx` tokens, and the first token of each chunk is
//! replaced by BOS. The second half of each chunk is scored, so that every score has at least
//! `n_ctx / 2` tokens before it.
//!
//! - [`measure`]: perplexity of one model.
//! - [`compare`]: KL divergence of one model's predictions from another's.

mod chunks;
mod divergence;
mod statistics;

use std::time::Instant;

use thiserror::Error;

pub(crate) use chunks::chunk;
pub use divergence::{check_vocabularies, compare, Divergence, KlDivergence, VocabularyMismatch};
pub use statistics::Estimate;

use crate::kernels::{log_sum_exp, Isa, KvType};
use crate::model::{Model, ModelError};
use chunks::ChunkEvaluator;
use statistics::Mean;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Tokens per chunk, at least 4.
    pub n_ctx: usize,
    /// How many chunks to evaluate, from the first; all if `None`.
    pub chunks: Option<usize>,
    /// Type of the KV cache.
    pub kv: KvType,
    /// Type of the reference's KV cache, if there is a reference.
    pub reference_kv: KvType,
    /// Replaces the first token of each chunk, if the model needs it.
    pub bos: Option<u32>,
}

/// A result; final, or after some of the chunks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// exp of the mean negative log likelihood.
    pub perplexity: f64,
    /// Standard error of `perplexity`, from the variance of the tokens' scores.
    pub standard_error: f64,
    /// Number of tokens that were scored.
    pub tokens: usize,
    /// Number of chunks that were evaluated.
    pub chunks: usize,
    /// Wall time.
    pub seconds: f64,
}

/// Why nothing was measured.
#[derive(Debug, Error)]
pub enum PerplexityError {
    /// The text does not fill a chunk.
    #[error("the text has {tokens} tokens, but one chunk needs {n_ctx}")]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a chunk.
        n_ctx: usize,
    },
    /// The chunks are so short that no token would be scored.
    #[error("a context of {0} tokens is too short to score anything; at least 4 are needed")]
    ContextTooShort(usize),
    /// The two models do not have the same vocabulary.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyMismatch),
    /// The evaluation failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Measures the perplexity of `model` on `tokens`, the whole text with BOS first. Calls `progress`
/// after each chunk with the result so far and the total number of chunks; it returns whether to
/// continue.
pub fn measure(
    model: &Model<'_>,
    tokens: &[u32],
    options: Options,
    mut progress: impl FnMut(&Perplexity, usize) -> bool,
) -> Result<Perplexity, PerplexityError> {
    let (cpu, n_vocab) = (model.cpu(), model.config().n_vocab);
    let start = Instant::now();
    let mut chunks = ChunkEvaluator::new([(model, options.kv)], tokens, options)?;
    let mut scores = Mean::default();
    loop {
        let more = chunks.evaluate_next(|[logits], next| {
            let mut block = vec![0.0; next.len()];
            let rows = block.iter_mut().zip(logits.chunks_exact(n_vocab)).zip(next);
            cpu.for_each(rows, |((score, logits), token)| {
                *score = negative_log_likelihood(cpu.isa(), logits, *token);
            });
            block.into_iter().for_each(|score| scores.add(score));
        })?;
        let Estimate { value: perplexity, standard_error } = scores.exp();
        let (tokens, seconds) = (scores.n(), start.elapsed().as_secs_f64());
        let result =
            Perplexity { perplexity, standard_error, tokens, chunks: chunks.done, seconds };
        if !progress(&result, chunks.count) || !more {
            return Ok(result);
        }
    }
}

/// `−log softmax(logits)[token]`.
fn negative_log_likelihood(isa: Isa, logits: &[f32], token: u32) -> f64 {
    log_sum_exp(isa, logits) - f64::from(logits[token as usize])
}
