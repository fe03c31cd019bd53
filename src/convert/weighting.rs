//! How much each column of each matrix counts.

/// The importance of every matrix's columns, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Weighting {
    /// By tensor, in the order of the source's.
    by_tensor: Vec<Option<Vec<f32>>>,
}

impl Weighting {
    /// The importance of tensor `i`'s columns, `[cols]`.
    pub(super) fn of(&self, i: usize) -> Option<&[f32]> {
        self.by_tensor.get(i)?.as_deref()
    }
}
