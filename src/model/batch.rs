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
    /// What comes next: at least one token, and no more than its ubatch.
    pub tokens: &'s [u32],
}

impl BatchEntry<'_> {
    /// Where the tokens stand.
    pub(super) fn positions(&self) -> Range<usize> {
        self.sequence.len..self.sequence.len + self.tokens.len()
    }

    /// What they see in a layer.
    pub(super) fn seen(&self, layer: usize) -> CausalRange<'_> {
        let Cache { k, v } = &self.sequence.cache[layer];
        CausalRange { pos: self.sequence.len, n: self.tokens.len(), k, v }
    }
}

impl Model<'_> {
    /// Evaluates the tokens of all parts, so that [`logits_of`](Self::logits_of) gives what is wanted
    /// of them: their rows lie one after another, part by part. If tokens are refused, nothing has been
    /// evaluated; if numbers are NaN or infinite, sequences hold the tokens and are of no use.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    ///
    /// # Panics
    /// If there are no parts, or one has more tokens than its ubatch.
    pub fn evaluate_batch(
        &self,
        work: &mut Workspace,
        batch: &mut [BatchEntry<'_>],
    ) -> Result<(), ModelError> {
        assert!(!batch.is_empty(), "there is nothing to evaluate");
        for BatchEntry { sequence, tokens } in &*batch {
            assert!(tokens.len() <= sequence.options.n_ubatch, "a part is at most a n_ubatch");
            self.check(sequence, tokens)?;
        }
        self.layers(work, batch, &mut ())
    }

    /// The logits of `rows` of the parts that were evaluated last, `[rows, n_vocab]`; the caller may
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
        self.head(work, rows.iter().copied())
    }
}

/// Rows of all parts together.
pub(super) fn n_rows(batch: &[BatchEntry<'_>]) -> usize {
    batch.iter().map(|part| part.tokens.len()).sum()
}

/// Of `x`, which has a row for each token, the last row of each part.
pub(super) fn last_rows<'x>(
    batch: &'x [BatchEntry<'_>],
    x: &'x [f32],
) -> impl Iterator<Item = &'x [f32]> {
    let width = x.len() / n_rows(batch);
    let ends = batch.iter().scan(0, |end, part| {
        *end += part.tokens.len();
        Some(*end)
    });
    ends.map(move |end| &x[(end - 1) * width..end * width])
}
