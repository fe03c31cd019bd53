//! The importance of each column of each matrix, from an importance matrix.

use lapidary_formats::gguf::Checksum;
use lapidary_formats::imatrix::{Flaw, Imatrix};

use crate::model::{Role, Source};

/// The importance of the columns of all matrices for which it is known.
#[derive(Clone, Debug, Default)]
pub struct Weighting {
    /// By tensor, in the order of [`Source::tensors`].
    by_tensor: Vec<Option<Vec<f32>>>,
    /// Matrices without usable importance, by tensor name, and why. They are quantized without it.
    pub flaws: Vec<(String, Flaw)>,
    /// Number of columns whose value was not usable and was replaced, by tensor name.
    pub repaired: Vec<(String, usize)>,
}

impl Weighting {
    /// Reads the importance of the matrices of `source` from `imatrix`.
    pub fn new(source: &Source, imatrix: &Imatrix) -> Self {
        let mut all = Self::default();
        for spec in source.tensors() {
            let known = match spec.role() {
                Role::Norm => None,
                Role::Matrix => match imatrix.importance(&spec.name, spec.cols()) {
                    Ok(importance) => {
                        if importance.repaired > 0 {
                            all.repaired.push((spec.name.clone(), importance.repaired));
                        }
                        Some(importance.weights)
                    }
                    Err(flaw) => {
                        all.flaws.push((spec.name.clone(), flaw));
                        None
                    }
                },
            };
            all.by_tensor.push(known);
        }
        all
    }

    /// The importance of tensor `i`'s columns, `[cols]`.
    pub(super) fn of(&self, i: usize) -> Option<&[f32]> {
        self.by_tensor.get(i)?.as_deref()
    }

    /// A checksum of all importance values.
    pub(super) fn checksum(&self) -> u64 {
        let mut checksum = Checksum::new();
        for weights in &self.by_tensor {
            let weights = weights.as_deref().unwrap_or_default();
            checksum.update(&(weights.len() as u64).to_le_bytes());
            weights.iter().for_each(|w| checksum.update(&w.to_le_bytes()));
        }
        checksum.value()
    }

    /// Number of matrices with known importance.
    pub fn len(&self) -> usize {
        self.by_tensor.iter().flatten().count()
    }

    /// Whether no matrix has known importance.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
