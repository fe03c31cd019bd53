//! Perplexity of a text, by llama.cpp's protocol, so that figures can be compared.
//!
//! The text is cut into disjoint chunks of `n_ctx` tokens, the first token of each replaced by
//! BOS; the second half of each chunk is scored, so that every score has at least `n_ctx / 2`
//! tokens before it.

use std::time::Instant;

use thiserror::Error;

use crate::kernels::{log_sum_exp, Isa, KvType};
use crate::model::{Model, ModelError, Rows, State};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Tokens per chunk, at least 4.
    pub n_ctx: usize,
    /// The first so many chunks; all that the text has if `None`.
    pub chunks: Option<usize>,
    /// What the cache holds.
    pub kv: KvType,
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
    let n_ctx = options.n_ctx;
    if n_ctx < 4 {
        return Err(PerplexityError::ContextTooShort(n_ctx));
    }
    if tokens.len() < n_ctx {
        return Err(PerplexityError::TextTooShort { tokens: tokens.len(), n_ctx });
    }
    let available = tokens.len() / n_ctx;
    let chunks = options.chunks.map_or(available, |n| n.clamp(1, available));
    let start = Instant::now();
    let mut scores = Scores::default();
    let mut state = State::new(model.config(), n_ctx, options.kv);
    let mut result = scores.result(0, start);
    for (i, chunk) in tokens.chunks_exact(n_ctx).take(chunks).enumerate() {
        let mut chunk = chunk.to_vec();
        if let Some(bos) = options.bos {
            chunk[0] = bos;
        }
        state.truncate(0);
        // The last token is predicted and never evaluated: nothing after it is scored.
        let (inputs, first) = (&chunk[..n_ctx - 1], n_ctx / 2);
        model.forward(&mut state, inputs, Rows::From(first), |row, logits| {
            scores.add(negative_log_likelihood(model.isa(), logits, chunk[row + 1]));
        })?;
        result = scores.result(i + 1, start);
        if !progress(&result, chunks) {
            break;
        }
    }
    Ok(result)
}

/// −log softmax(logits)[token].
fn negative_log_likelihood(isa: Isa, logits: &[f32], token: u32) -> f64 {
    log_sum_exp(isa, logits) - f64::from(logits[token as usize])
}

/// Running sums over the scored tokens.
#[derive(Default)]
struct Scores {
    n: usize,
    sum: f64,
    sum_of_squares: f64,
}

impl Scores {
    fn add(&mut self, score: f64) {
        self.n += 1;
        self.sum += score;
        self.sum_of_squares += score * score;
    }

    fn result(&self, chunks: usize, start: Instant) -> Perplexity {
        let n = self.n as f64;
        let mean = self.sum / n;
        let variance = (self.sum_of_squares / n - mean * mean).max(0.0);
        let perplexity = mean.exp();
        Perplexity {
            perplexity,
            // The error of the mean, carried through exp.
            standard_error: perplexity * (variance / (n - 1.0)).sqrt(),
            tokens: self.n,
            chunks,
            seconds: start.elapsed().as_secs_f64(),
        }
    }
}
