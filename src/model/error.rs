//! Why a model does not evaluate tokens.

use std::path::PathBuf;

use thiserror::Error;

use super::SourceError;
use crate::kernels::ThreadPoolError;

/// Why tokens cannot be evaluated.
#[derive(Debug, Error)]
pub enum ModelError {
    /// No threads.
    #[error(transparent)]
    ThreadPool(#[from] ThreadPoolError),
    /// The norms cannot be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Nothing to evaluate.
    #[error("there are no tokens to evaluate")]
    NoTokens,
    /// More positions than the context has.
    #[error("{wanted} tokens do not fit the context of {n_ctx}")]
    ContextFull {
        /// Positions that there would be.
        wanted: usize,
        /// Positions that there may be.
        n_ctx: usize,
    },
    /// A token id without a row in the embedding.
    #[error("token id {id} is outside the vocabulary of {n_vocab}")]
    Token {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        n_vocab: usize,
    },
    /// What the model makes of the tokens is no number: so is one of its weights, or they are too
    /// large.
    #[error("{}: the model computes values that are NaN or infinite (`lapidary verify` looks at its weights)", path.display())]
    NotFinite {
        /// The model.
        path: PathBuf,
    },
}
