//! What an answer has to be like, whatever the model would say.

use std::fmt::Debug;

/// A constraint that cannot be kept: no token may come next, or it took too much work to find out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConstraintError(pub String);

/// The texts that an answer may be, token by token.
pub trait Constraint: Debug + Send {
    /// Makes the logits of tokens that may not come next `-inf`: the model's own end stays only where
    /// the answer may end.
    ///
    /// # Errors
    /// If none may come next.
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError>;

    /// Goes on with what was picked.
    ///
    /// # Errors
    /// If it may not come here.
    fn accept(&mut self, id: u32) -> Result<(), ConstraintError>;

    /// Whether the answer is whole, and nothing may follow.
    fn is_complete(&self) -> bool;

    /// The same, for another answer that stands where this one does.
    fn another(&self) -> Box<dyn Constraint>;
}

impl Clone for Box<dyn Constraint> {
    fn clone(&self) -> Self {
        self.another()
    }
}
