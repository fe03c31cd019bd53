//! Evaluates several sequences in one pass over the weights.
//!
//! Every sequence gets the same bits as if it were evaluated alone: each product of a row and a
//! column is computed independently (see `kernels`), and attention handles one sequence at a time.

use std::ops::Range;

use super::state::Cache;
use super::{Model, ModelError, Sequence, Workspace};
use crate::kernels::CausalRange;

/// A sequence and its next tokens.
#[derive(Debug)]
pub struct BatchEntry<'s> {
    /// The sequence, with the tokens that it has evaluated so far.
    pub sequence: &'s mut Sequence,
    /// Its next tokens: at least one, and at most a ubatch.
    pub tokens: &'s [u32],
}

impl BatchEntry<'_> {
    /// The positions of the tokens.
    pub(super) fn positions(&self) -> Range<usize> {
        self.sequence.len..self.sequence.len + self.tokens.len()
    }

    /// The causal range of the tokens in a layer.
    pub(super) fn causal_range(&self, layer: usize) -> CausalRange<'_> {
        let Cache { k, v, .. } = &self.sequence.cache[layer];
        CausalRange { pos: self.sequence.len, n: self.tokens.len(), k, v }
    }
}

impl Model<'_> {
    /// Evaluates the tokens of all entries. After that, [`logits_of`](Self::logits_of) gives the
    /// logits of any row. Rows are numbered through all entries, in order. If tokens are refused,
    /// nothing has been evaluated. If values are NaN or infinite, the sequences hold the tokens but
    /// are of no use.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    ///
    /// # Panics
    /// If there are no entries, or an entry has more tokens than a ubatch.
    pub fn evaluate_batch(
        &self,
        work: &mut Workspace,
        batch: &mut [BatchEntry<'_>],
    ) -> Result<(), ModelError> {
        assert!(!batch.is_empty(), "there is nothing to evaluate");
        for BatchEntry { sequence, tokens } in &*batch {
            assert!(
                tokens.len() <= sequence.options.n_ubatch,
                "an entry has at most a ubatch of tokens"
            );
            self.check(sequence, tokens)?;
        }
        self.layers(work, batch, &mut ())
    }

    /// The logits of `rows` of the last batch, `[rows, n_vocab]`. The caller may change them.
    ///
    /// # Errors
    /// If one of them is NaN or infinite.
    ///
    /// # Panics
    /// If `rows` is empty, or a row does not exist.
    pub fn logits_of<'w>(
        &self,
        work: &'w mut Workspace,
        rows: &[usize],
    ) -> Result<&'w mut [f32], ModelError> {
        self.output(work, rows.iter().copied())
    }
}

/// Number of rows of all entries together.
pub(super) fn n_rows(batch: &[BatchEntry<'_>]) -> usize {
    batch.iter().map(|entry| entry.tokens.len()).sum()
}

/// The last row of each entry in `x`, which has one row per token.
pub(super) fn last_rows<'x>(
    batch: &'x [BatchEntry<'_>],
    x: &'x [f32],
) -> impl Iterator<Item = &'x [f32]> {
    let width = x.len() / n_rows(batch);
    let ends = batch.iter().scan(0, |end, entry| {
        *end += entry.tokens.len();
        Some(*end)
    });
    ends.map(move |end| &x[(end - 1) * width..end * width])
}
