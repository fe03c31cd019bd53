//! What an importance matrix and second-order statistics have in common: how a text is split, and why
//! nothing comes of it.

use std::num::NonZeroUsize;

use lapidary_formats::gguf::GgufError;
use thiserror::Error;

use crate::model::ModelError;

/// Why nothing was collected.
#[derive(Debug, Error)]
pub enum CollectError {
    /// The text does not fill a chunk.
    #[error("the text has {tokens} tokens, but one chunk needs {n_ctx}")]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a chunk.
        n_ctx: usize,
    },
    /// The evaluation failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The user asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// What was collected could not be stored.
    #[error(transparent)]
    Store(#[from] GgufError),
}

/// How many chunks of `n_ctx` tokens are evaluated of a text of so many `tokens`: at most `most`, if that is
/// given.
///
/// # Errors
/// If the text does not fill a chunk.
pub fn chunk_count(
    tokens: usize,
    n_ctx: NonZeroUsize,
    most: Option<NonZeroUsize>,
) -> Result<usize, CollectError> {
    let available = tokens / n_ctx;
    match available {
        0 => Err(CollectError::TextTooShort { tokens, n_ctx: n_ctx.get() }),
        _ => Ok(most.map_or(available, |most| most.get().min(available))),
    }
}
