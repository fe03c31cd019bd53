//! Why generation fails.

use std::error::Error;

use thiserror::Error;

use crate::model::ModelError;
use crate::sampling::ConstraintError;

/// A prompt that does not fit the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the prompt has {tokens} tokens, but the context holds {n_ctx}")]
pub struct PromptTooLong {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Length of the context.
    pub n_ctx: usize,
}

/// Why generation fails.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// The prompt does not fit the context.
    #[error(transparent)]
    PromptTooLong(#[from] PromptTooLong),
    /// The model cannot evaluate the tokens.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// No token conforms to the constraint.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// [`Shift::shift`](super::Shift::shift) failed when the context was full.
    #[error(transparent)]
    Shift(Box<dyn Error + Send + Sync>),
}
