//! Why a model cannot evaluate tokens.

use std::path::PathBuf;

use thiserror::Error;

use super::SourceError;
use crate::kernels::ThreadPoolError;

/// Why tokens cannot be evaluated.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The threads cannot be started.
    #[error(transparent)]
    ThreadPool(#[from] ThreadPoolError),
    /// A norm cannot be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There are no tokens.
    #[error("there are no tokens to evaluate")]
    NoTokens,
    /// The tokens do not fit the context.
    #[error("{needed} tokens do not fit in the context of {n_ctx}")]
    ContextFull {
        /// Positions that would be needed.
        needed: usize,
        /// Positions of the context.
        n_ctx: usize,
    },
    /// A token id without a row in the embedding.
    #[error("token id {id} is outside the vocabulary of {n_vocab}")]
    Token {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// The model computes values that are NaN or infinite. The cause is a weight that is not
    /// finite, or weights that are too large.
    #[error("{}: the model computes values that are NaN or infinite (`lapidary verify` checks its weights)", path.display())]
    NotFinite {
        /// The model's file.
        path: PathBuf,
    },
}
