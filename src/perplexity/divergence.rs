//! How far a model's predictions are from those of another: the cut from its original.
//!
//! Both models read the same chunks at the same time, so that only the logits of a few positions
//! are ever held.

use std::time::Instant;

use lapidary_formats::vocab::Vocab;
use thiserror::Error;

use super::statistics::{quantile, Estimate, Mean};
use super::walk::Walk;
use super::{Options, PerplexityError};
use crate::kernels::{argmax, kl_divergence, log_sum_exp, Isa};
use crate::model::Model;

/// How a cut model compares with its reference, final or on the way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// Perplexity of the cut model, the same as [`measure`](super::measure) finds.
    pub cut: Estimate,
    /// Perplexity of the reference.
    pub reference: Estimate,
    /// The first over the second. Its error comes from the differences of the two models at each
    /// token: most of the scatter is the text's, and both share it.
    pub ratio: Estimate,
    /// Of the reference's predictions from the cut's.
    pub kl: KlDivergence,
    /// Share of positions at which the reference's likeliest token is the cut's too.
    pub same_top: Estimate,
    /// What the cut added to the probability of the right token, on average; from -1 to 1.
    pub probability_change: Estimate,
    /// The root of the mean square of that change.
    pub probability_change_rms: f64,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Chunks that were evaluated.
    pub chunks: usize,
    /// Wall time, of both models together.
    pub seconds: f64,
}

/// Kullback-Leibler divergence D(reference ‖ cut) in nats, over the scored positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KlDivergence {
    /// The mean.
    pub mean: Estimate,
    /// Half of the positions are below.
    pub median: f64,
    /// 99 % of the positions are below.
    pub percentile_99: f64,
    /// Of the worst position.
    pub maximum: f64,
}

/// Two models that do not predict the same pieces.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum VocabularyMismatch {
    /// One has more pieces.
    #[error("the vocabularies differ: {cut} pieces, and {reference} in the reference")]
    Size {
        /// Pieces of the cut model.
        cut: usize,
        /// Pieces of the reference.
        reference: usize,
    },
    /// One id stands for two texts.
    #[error("the vocabularies differ: piece {id} is {cut:?}, and {reference:?} in the reference")]
    Piece {
        /// The first id that differs.
        id: usize,
        /// Its text in the cut model.
        cut: String,
        /// Its text in the reference.
        reference: String,
    },
}

/// Makes sure that every token id stands for the same text in both models. [`compare`] sees no
/// texts and checks the sizes alone, so that this is for whoever opens two files.
pub fn check_vocabularies(cut: &Vocab, reference: &Vocab) -> Result<(), VocabularyMismatch> {
    check_sizes(cut.pieces.len(), reference.pieces.len())?;
    // Some files spell spaces plainly.
    let spelling = |c| if c == ' ' { '\u{2581}' } else { c };
    let pairs = cut.pieces.iter().zip(reference.pieces.iter());
    for (id, (cut, reference)) in pairs.enumerate() {
        let (cut, reference) = (&cut.text, &reference.text);
        if !cut.chars().map(spelling).eq(reference.chars().map(spelling)) {
            let (cut, reference) = (cut.to_string(), reference.to_string());
            return Err(VocabularyMismatch::Piece { id, cut, reference });
        }
    }
    Ok(())
}

fn check_sizes(cut: usize, reference: usize) -> Result<(), VocabularyMismatch> {
    if cut != reference {
        return Err(VocabularyMismatch::Size { cut, reference });
    }
    Ok(())
}

/// Measures how far `cut` is from `reference` on `tokens`, the whole text with BOS in front.
/// `progress` is called after each chunk with the figures so far and the number of chunks there
/// will be; it returns whether to go on.
///
/// # Errors
/// Those of [`measure`](super::measure), and if the models have not the same number of pieces;
/// [`check_vocabularies`] looks at the pieces themselves.
pub fn compare(
    cut: &Model<'_>,
    reference: &Model<'_>,
    tokens: &[u32],
    options: Options,
    mut progress: impl FnMut(&Divergence, usize) -> bool,
) -> Result<Divergence, PerplexityError> {
    let (cpu, n_vocab) = (cut.cpu(), cut.config().n_vocab);
    check_sizes(n_vocab, reference.config().n_vocab)?;
    let start = Instant::now();
    let mut walk =
        Walk::new([(cut, options.kv), (reference, options.reference_kv)], tokens, options)?;
    let mut sums = Sums::default();
    loop {
        let more = walk.chunk(|[cut, reference], next| {
            let mut block = vec![Position::default(); next.len()];
            let logits = cut.chunks_exact(n_vocab).zip(reference.chunks_exact(n_vocab));
            cpu.for_each(block.iter_mut().zip(logits).zip(next), |((position, x), token)| {
                *position = Position::new(cpu.isa(), x, *token);
            });
            block.iter().for_each(|position| sums.add(position));
        })?;
        let result = sums.result(walk.done, start);
        if !progress(&result, walk.chunks) || !more {
            return Ok(result);
        }
    }
}

/// What two models make of one position.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    /// Negative log likelihood of the right token, by the cut model.
    cut: f64,
    /// The same by the reference.
    reference: f64,
    /// The divergence.
    kl: f64,
    /// Whether the likeliest token is the same.
    same_top: bool,
}

impl Position {
    /// Of logits of the cut model and of the reference.
    fn new(isa: Isa, (cut, reference): (&[f32], &[f32]), token: u32) -> Self {
        let (log_sum_cut, log_sum_reference) = (log_sum_exp(isa, cut), log_sum_exp(isa, reference));
        let likelihood = |logits: &[f32]| f64::from(logits[token as usize]);
        Self {
            cut: log_sum_cut - likelihood(cut),
            reference: log_sum_reference - likelihood(reference),
            kl: kl_divergence(isa, (reference, log_sum_reference), (cut, log_sum_cut)),
            same_top: argmax(isa, cut) == argmax(isa, reference),
        }
    }
}

/// Sums over the scored positions.
#[derive(Debug, Default)]
struct Sums {
    cut: Mean,
    reference: Mean,
    /// Of the negative log likelihoods.
    difference: Mean,
    kl: Mean,
    same_top: Mean,
    probability_change: Mean,
    /// The divergence of every position, in any order.
    all_kl: Vec<f64>,
}

impl Sums {
    fn add(&mut self, position: &Position) {
        let Position { cut, reference, kl, same_top } = *position;
        self.cut.add(cut);
        self.reference.add(reference);
        self.difference.add(cut - reference);
        self.kl.add(kl);
        self.same_top.add(f64::from(u8::from(same_top)));
        self.probability_change.add((-cut).exp() - (-reference).exp());
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
            cut: self.cut.exp(),
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
