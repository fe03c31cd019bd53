//! Constraints on what an answer may contain.

use std::fmt::Debug;

/// A constraint cannot be kept: no token is allowed next, or finding out took too much work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConstraintError(pub String);

/// Restricts which tokens may come next in an answer.
pub trait Constraint: Debug + Send {
    /// Sets the logits of tokens that are not allowed next to `-inf`. The model's stop tokens are
    /// allowed only where the answer may end.
    ///
    /// # Errors
    /// If no token is allowed.
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError>;

    /// Advances past the token that was picked.
    ///
    /// # Errors
    /// If the token is not allowed here.
    fn accept(&mut self, id: u32) -> Result<(), ConstraintError>;

    /// Whether the answer is complete and nothing may follow.
    fn is_complete(&self) -> bool;

    /// A copy in the same state, for another answer that continues from here.
    fn boxed_clone(&self) -> Box<dyn Constraint>;
}

impl Clone for Box<dyn Constraint> {
    fn clone(&self) -> Self {
        self.boxed_clone()
    }
}
