//! A grammar that follows an answer, token by token.

use std::fmt;

use llguidance::toktrie::{SimpleVob, TokEnv};
use llguidance::Matcher;

use super::plainly;
use crate::sampling::{Constraint, ConstraintError};

/// Where an answer stands in its grammar.
pub(super) struct Following {
    matcher: Matcher,
    tokens: TokEnv,
    /// The model ended it.
    ended: bool,
}

impl Following {
    /// At the beginning.
    pub(super) fn new(matcher: Matcher) -> Result<Self, ConstraintError> {
        let tokens = matcher.tok_env().map_err(|error| plainly(&error))?;
        Ok(Self { matcher, tokens, ended: false })
    }

    fn is_stop(&self, id: u32) -> bool {
        self.tokens.tok_trie().eos_tokens().contains(&id)
    }

    /// Whether a token has a text that may come here.
    fn takes(&mut self, id: u32) -> Result<bool, ConstraintError> {
        // Asked of a token that it has no text of, the matcher would go on with its number.
        if self.tokens.tok_trie().token(id).is_empty() {
            return Ok(false);
        }
        let taken = self.matcher.try_consume_tokens(&[id]).map_err(|error| plainly(&error))?;
        Ok(taken == 1)
    }
}

impl Constraint for Following {
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError> {
        let allowed = match self.ended {
            true => self.tokens.tok_trie().eos_token_set(),
            false => self.matcher.compute_mask_or_eos().map_err(|error| plainly(&error))?,
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
            false => !self.is_complete() && self.takes(id)?,
        };
        match fits {
            true => Ok(()),
            false => Err(ConstraintError(format!("token {id} may not come here"))),
        }
    }

    fn is_complete(&self) -> bool {
        self.ended || (self.matcher.is_stopped() && !self.matcher.is_error())
    }

    fn another(&self) -> Box<dyn Constraint> {
        let (matcher, tokens) = (self.matcher.deep_clone(), self.tokens.clone());
        Box::new(Self { matcher, tokens, ended: self.ended })
    }
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Following").field("complete", &self.is_complete()).finish_non_exhaustive()
    }
}

/// Makes all logits `-inf` but those of `allowed`.
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
