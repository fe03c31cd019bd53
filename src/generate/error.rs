//! Why a text does not go on.

use std::error::Error;

use thiserror::Error;

use crate::model::ModelError;
use crate::sampling::ConstraintError;

/// A prompt that does not fit the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the prompt has {tokens} tokens, the context takes {n_ctx}")]
pub struct PromptTooLong {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Positions of the context.
    pub n_ctx: usize,
}

/// Why a text does not go on.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// The prompt does not fit the context.
    #[error(transparent)]
    PromptTooLong(#[from] PromptTooLong),
    /// The model cannot evaluate the tokens.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// No token fits the constraint.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// What to go on with when the context is full could not be found.
    #[error(transparent)]
    Shift(Box<dyn Error + Send + Sync>),
}
