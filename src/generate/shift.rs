//! Chooses the tokens with which a sequence continues when its context is full.
//!
//! Keys are stored with RoPE already applied for their positions, and in all layers but the first
//! keys and values depend on the tokens before them. Therefore tokens are removed from the text,
//! not from the cache: the remaining ids are evaluated again from position 0, and the result is the
//! same as in a fresh run over them. Moving the old keys to new positions by another rotation, as
//! llama.cpp does, would be cheaper but not exact: rounding errors add up, and the removed tokens
//! would still influence the others. Half of the context is removed at a time, so each token is
//! evaluated about twice.

use std::error::Error;

/// The ids to continue from, `None` if nothing can be removed, or an error.
type Shifted = Result<Option<Vec<u32>>, Box<dyn Error + Send + Sync>>;

/// Chooses the tokens with which a sequence continues when its context is full.
pub trait Shift {
    /// Returns the ids to continue from when the ids `held` fill the context. They must fit in the
    /// context and end with the last of `generated`, which is not yet in `held`. Returns `None` if
    /// nothing can be removed.
    ///
    /// # Errors
    /// If the ids cannot be determined. Generation then fails.
    fn shift(&mut self, held: &[u32], generated: &[u32]) -> Shifted;
}

/// Removes nothing, so that a full context ends the text.
impl Shift for () {
    fn shift(&mut self, _: &[u32], _: &[u32]) -> Shifted {
        Ok(None)
    }
}

/// Keeps the first tokens and removes the older half of those after them.
pub struct OldestHalf {
    /// Number of tokens at the beginning that are kept.
    pub keep: usize,
}

impl Shift for OldestHalf {
    fn shift(&mut self, held: &[u32], generated: &[u32]) -> Shifted {
        let after = held.len().saturating_sub(self.keep);
        if after == 0 {
            return Ok(None);
        }
        let (first, rest) = held.split_at(self.keep);
        let rest = &rest[after.div_ceil(2)..];
        Ok(Some([first, rest, &generated[generated.len() - 1..]].concat()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_tokens_and_the_newer_half_are_kept() {
        let shift = |keep, held: &[u32]| OldestHalf { keep }.shift(held, &[8, 9]).unwrap();
        assert_eq!(shift(1, &[2, 3, 4, 5, 6, 7, 8]), Some(vec![2, 6, 7, 8, 9]));
        assert_eq!(shift(0, &[3, 4, 5, 6, 7, 8]), Some(vec![6, 7, 8, 9]));
        assert_eq!(shift(1, &[2, 8]), Some(vec![2, 9]));
        assert_eq!(shift(0, &[8]), Some(vec![9]));
        assert_eq!(shift(3, &[2, 3, 8]), None);
    }
}
