//! Several sequences in one pass over the weights.
//!
//! Every sequence gets the bits that it would get by itself: each product of a row and a column is
//! computed alone (see `kernels`), and attention looks at one sequence at a time.

use std::ops::Range;

use super::state::Cache;
use super::{Model, ModelError, Sequence, Workspace};
use crate::kernels::CausalRange;

/// A sequence and its next tokens.
#[derive(Debug)]
pub struct BatchEntry<'s> {
    /// What was read so far.
    pub sequence: &'s mut Sequence,
    /// What comes next: at least one token, and no more than a ubatch.
    pub tokens: &'s [u32],
}

impl BatchEntry<'_> {
    /// Where the tokens stand.
    pub(super) fn positions(&self) -> Range<usize> {
        self.sequence.len..self.sequence.len + self.tokens.len()
    }

    /// What they attend to in a layer.
    pub(super) fn causal_range(&self, layer: usize) -> CausalRange<'_> {
        let Cache { k, v, .. } = &self.sequence.cache[layer];
        CausalRange { pos: self.sequence.len, n: self.tokens.len(), k, v }
    }
}

impl Model<'_> {
    /// Evaluates the tokens of all entries, after which [`logits_of`](Self::logits_of) gives the logits
    /// of any of their rows. Rows are counted through all entries, in order. If tokens are refused,
    /// nothing has been evaluated; if values are NaN or infinite, the sequences hold the tokens and are
    /// of no use.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    ///
    /// # Panics
    /// If there are no entries, or one has more tokens than a ubatch.
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

    /// The logits of `rows` of the batch that was evaluated last, `[rows, n_vocab]`; the caller may
    /// change them.
    ///
    /// # Errors
    /// If one of them is NaN or infinite.
    ///
    /// # Panics
    /// If there are none, or no such rows.
    pub fn logits_of<'w>(
        &self,
        work: &'w mut Workspace,
        rows: &[usize],
    ) -> Result<&'w mut [f32], ModelError> {
        self.output(work, rows.iter().copied())
    }
}

/// Rows of all entries together.
pub(super) fn n_rows(batch: &[BatchEntry<'_>]) -> usize {
    batch.iter().map(|entry| entry.tokens.len()).sum()
}

/// Of `x`, which has a row for each token, the last row of each entry.
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
