//! A constraint that checks an answer against a grammar, token by token.

use std::fmt;

use llguidance::toktrie::{SimpleVob, TokEnv};
use llguidance::Matcher;

use super::constraint_error;
use crate::sampling::{Constraint, ConstraintError};

/// A grammar, and how far an answer has got in it.
pub(super) struct GrammarConstraint {
    matcher: Matcher,
    tokens: TokEnv,
    /// Whether a stop token has ended the answer.
    ended: bool,
}

impl GrammarConstraint {
    /// A constraint at the beginning of an answer.
    pub(super) fn new(matcher: Matcher) -> Result<Self, ConstraintError> {
        let tokens = matcher.tok_env().map_err(|error| constraint_error(&error))?;
        Ok(Self { matcher, tokens, ended: false })
    }

    fn is_stop(&self, id: u32) -> bool {
        self.tokens.tok_trie().eos_tokens().contains(&id)
    }

    /// Consumes a token if it has text and the grammar allows it next; otherwise returns `false`.
    fn try_consume(&mut self, id: u32) -> Result<bool, ConstraintError> {
        // For a token without text the matcher would use the token's number as text.
        if self.tokens.tok_trie().token(id).is_empty() {
            return Ok(false);
        }
        let taken =
            self.matcher.try_consume_tokens(&[id]).map_err(|error| constraint_error(&error))?;
        Ok(taken == 1)
    }
}

impl Constraint for GrammarConstraint {
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError> {
        let allowed = match self.ended {
            true => self.tokens.tok_trie().eos_token_set(),
            false => {
                self.matcher.compute_mask_or_eos().map_err(|error| constraint_error(&error))?
            }
        };
        keep(&allowed, logits);
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<(), ConstraintError> {
        let fits = match self.is_stop(id) {
            true => {
                let may_end = self.is_complete() || self.matcher.is_accepting().unwrap_or(false);
                self.ended |= may_end;
                may_end
            }
            false => !self.is_complete() && self.try_consume(id)?,
        };
        match fits {
            true => Ok(()),
            false => Err(ConstraintError(format!("token {id} is not allowed here"))),
        }
    }

    fn is_complete(&self) -> bool {
        self.ended || (self.matcher.is_stopped() && !self.matcher.is_error())
    }

    fn boxed_clone(&self) -> Box<dyn Constraint> {
        let (matcher, tokens) = (self.matcher.deep_clone(), self.tokens.clone());
        Box::new(Self { matcher, tokens, ended: self.ended })
    }
}

impl fmt::Debug for GrammarConstraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarConstraint")
            .field("complete", &self.is_complete())
            .finish_non_exhaustive()
    }
}

/// Sets all logits to `-inf` except those of the tokens in `allowed`.
fn keep(allowed: &SimpleVob, logits: &mut [f32]) {
    let words = allowed.as_slice().iter().copied().chain(std::iter::repeat(0));
    for (logits, word) in logits.chunks_mut(u32::BITS as usize).zip(words) {
        match word {
            0 => logits.fill(f32::NEG_INFINITY),
            u32::MAX => {}
            _ => {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}
