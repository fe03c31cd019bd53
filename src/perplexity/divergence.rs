//! Measures how far a quantized model's predictions are from those of its original.
//!
//! Both models evaluate the same chunks at the same time, so that the logits of only a few positions
//! are in memory.

use std::time::Instant;

use lapidary_formats::vocab::Vocab;
use thiserror::Error;

use super::chunks::ChunkEvaluator;
use super::statistics::{quantile, Estimate, Mean};
use super::{Options, PerplexityError};
use crate::kernels::{argmax, kl_divergence, log_sum_exp, Isa};
use crate::model::Model;

/// How a quantized model compares with its reference; final, or after some of the chunks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// Perplexity of the quantized model, as [`measure`](super::measure) gives it.
    pub quantized: Estimate,
    /// Perplexity of the reference.
    pub reference: Estimate,
    /// `quantized` divided by `reference`. Its standard error comes from the differences between the two
    /// models at each token, because most of the variance is the text's and common to both.
    pub ratio: Estimate,
    /// Divergence of the quantized model's predictions from the reference's.
    pub kl: KlDivergence,
    /// Share of the positions at which both models have the same likeliest token.
    pub same_top: Estimate,
    /// Mean change of the probability of the right token by quantization, from -1 to 1.
    pub probability_change: Estimate,
    /// Root mean square of that change.
    pub probability_change_rms: f64,
    /// Number of tokens that were scored.
    pub tokens: usize,
    /// Number of chunks that were evaluated.
    pub chunks: usize,
    /// Wall time for both models together.
    pub seconds: f64,
}

/// Kullback-Leibler divergence D(reference ‖ quantized) in nats, over the scored positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KlDivergence {
    /// The mean.
    pub mean: Estimate,
    /// The median position's divergence.
    pub median: f64,
    /// 99 % of the positions are below this.
    pub percentile_99: f64,
    /// The worst position's divergence.
    pub maximum: f64,
}

/// The two models do not have the same vocabulary.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum VocabularyMismatch {
    /// They have different numbers of pieces.
    #[error(
        "the vocabularies differ: the model has {quantized} pieces, the reference has {reference}"
    )]
    Size {
        /// Pieces of the quantized model.
        quantized: usize,
        /// Pieces of the reference.
        reference: usize,
    },
    /// An id has different texts.
    #[error("the vocabularies differ: piece {id} is {quantized:?} in the model, but {reference:?} in the reference")]
    Piece {
        /// The first id that differs.
        id: usize,
        /// Its text in the quantized model.
        quantized: String,
        /// Its text in the reference.
        reference: String,
    },
}

/// Checks that every token id has the same text in both models. [`compare`] has no texts and checks
/// only the sizes, so whoever opens the two files should call this.
pub fn check_vocabularies(quantized: &Vocab, reference: &Vocab) -> Result<(), VocabularyMismatch> {
    check_sizes(quantized.pieces.len(), reference.pieces.len())?;
    // Some files have plain spaces instead of `▁`.
    let spelling = |c| if c == ' ' { '\u{2581}' } else { c };
    let pairs = quantized.pieces.iter().zip(reference.pieces.iter());
    for (id, (quantized, reference)) in pairs.enumerate() {
        let (quantized, reference) = (&quantized.text, &reference.text);
        if !quantized.chars().map(spelling).eq(reference.chars().map(spelling)) {
            let (quantized, reference) = (quantized.to_string(), reference.to_string());
            return Err(VocabularyMismatch::Piece { id, quantized, reference });
        }
    }
    Ok(())
}

fn check_sizes(quantized: usize, reference: usize) -> Result<(), VocabularyMismatch> {
    if quantized != reference {
        return Err(VocabularyMismatch::Size { quantized, reference });
    }
    Ok(())
}

/// Measures how far `quantized`, a quantized model, is from `reference` on `tokens`, the whole text with
/// BOS first. Calls `progress` after each chunk with the results so far and the total number of
/// chunks; it returns whether to continue.
///
/// # Errors
/// Those of [`measure`](super::measure), and if the models do not have the same number of pieces.
/// [`check_vocabularies`] compares the pieces themselves.
pub fn compare(
    quantized: &Model<'_>,
    reference: &Model<'_>,
    tokens: &[u32],
    options: Options,
    mut progress: impl FnMut(&Divergence, usize) -> bool,
) -> Result<Divergence, PerplexityError> {
    let (cpu, n_vocab) = (quantized.cpu(), quantized.config().n_vocab);
    check_sizes(n_vocab, reference.config().n_vocab)?;
    let start = Instant::now();
    let mut chunks = ChunkEvaluator::new(
        [(quantized, options.kv), (reference, options.reference_kv)],
        tokens,
        options,
    )?;
    let mut sums = Sums::default();
    loop {
        let more = chunks.evaluate_next(|[quantized, reference], next| {
            let mut block = vec![Position::default(); next.len()];
            let logits = quantized.chunks_exact(n_vocab).zip(reference.chunks_exact(n_vocab));
            cpu.for_each(block.iter_mut().zip(logits).zip(next), |((position, x), token)| {
                *position = Position::new(cpu.isa(), x, *token);
            });
            block.iter().for_each(|position| sums.add(position));
        })?;
        let result = sums.result(chunks.done, start);
        if !progress(&result, chunks.count) || !more {
            return Ok(result);
        }
    }
}

/// The scores of two models at one position.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    /// Negative log likelihood of the right token in the quantized model.
    quantized: f64,
    /// The same in the reference.
    reference: f64,
    /// The divergence.
    kl: f64,
    /// Whether the likeliest token is the same.
    same_top: bool,
}

impl Position {
    /// Computes the scores from the logits of the quantized model and of the reference.
    fn new(isa: Isa, (quantized, reference): (&[f32], &[f32]), token: u32) -> Self {
        let (log_sum_quantized, log_sum_reference) =
            (log_sum_exp(isa, quantized), log_sum_exp(isa, reference));
        let likelihood = |logits: &[f32]| f64::from(logits[token as usize]);
        Self {
            quantized: log_sum_quantized - likelihood(quantized),
            reference: log_sum_reference - likelihood(reference),
            kl: kl_divergence(isa, (reference, log_sum_reference), (quantized, log_sum_quantized)),
            same_top: argmax(isa, quantized) == argmax(isa, reference),
        }
    }
}

/// Sums over the scored positions.
#[derive(Debug, Default)]
struct Sums {
    quantized: Mean,
    reference: Mean,
    /// Differences of the negative log likelihoods.
    difference: Mean,
    kl: Mean,
    same_top: Mean,
    probability_change: Mean,
    /// The divergence of every position, in any order.
    all_kl: Vec<f64>,
}

impl Sums {
    fn add(&mut self, position: &Position) {
        let Position { quantized, reference, kl, same_top } = *position;
        self.quantized.add(quantized);
        self.reference.add(reference);
        self.difference.add(quantized - reference);
        self.kl.add(kl);
        self.same_top.add(f64::from(u8::from(same_top)));
        self.probability_change.add((-quantized).exp() - (-reference).exp());
        self.all_kl.push(kl);
    }

    fn result(&mut self, chunks: usize, start: Instant) -> Divergence {
        let kl = KlDivergence {
            mean: self.kl.estimate(),
            median: quantile(&mut self.all_kl, 0.5),
            percentile_99: quantile(&mut self.all_kl, 0.99),
            maximum: quantile(&mut self.all_kl, 1.0),
        };
        Divergence {
            quantized: self.quantized.exp(),
            reference: self.reference.exp(),
            ratio: self.difference.exp(),
            kl,
            same_top: self.same_top.estimate(),
            probability_change: self.probability_change.estimate(),
            probability_change_rms: self.probability_change.root_mean_square(),
            tokens: self.all_kl.len(),
            chunks,
            seconds: start.elapsed().as_secs_f64(),
        }
    }
}
