//! What a sequence goes on with when its context is full.
//!
//! Keys are stored as RoPE turned them for their positions, and keys and values of all layers but
//! the first come of what was there before them. So what is forgotten is forgotten as text: the ids
//! that are left are evaluated again from position 0, and what follows is what a fresh run over
//! them gives. Rotating the old keys to new positions would be cheaper and never exact: rounding
//! adds up, and what was forgotten would speak on through the others. Half a context goes at a
//! time, so that each token is evaluated about twice.

use std::error::Error;

/// The ids to go on from, if anything can be forgotten, or why they could not be found.
type Shifted = Result<Option<Vec<u32>>, Box<dyn Error + Send + Sync>>;

/// Chooses what a full sequence goes on with.
pub trait Shift {
    /// The ids to go on from, when the ids `held` fill the context; they fit it, and end with the
    /// last of `generated`, which is not held yet. `None` if nothing can be forgotten.
    ///
    /// # Errors
    /// If they cannot be found; the text ends there.
    fn shift(&mut self, held: &[u32], generated: &[u32]) -> Shifted;
}

/// Forgets nothing: a full context ends the text.
impl Shift for () {
    fn shift(&mut self, _: &[u32], _: &[u32]) -> Shifted {
        Ok(None)
    }
}

/// Forgets the oldest half of what follows the first tokens.
pub struct OldestHalf {
    /// Tokens at the beginning that stay.
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
    fn the_first_tokens_and_the_latest_half_stay() {
        let shift = |keep, held: &[u32]| OldestHalf { keep }.shift(held, &[8, 9]).unwrap();
        assert_eq!(shift(1, &[2, 3, 4, 5, 6, 7, 8]), Some(vec![2, 6, 7, 8, 9]));
        assert_eq!(shift(0, &[3, 4, 5, 6, 7, 8]), Some(vec![6, 7, 8, 9]));
        assert_eq!(shift(1, &[2, 8]), Some(vec![2, 9]));
        assert_eq!(shift(0, &[8]), Some(vec![9]));
        assert_eq!(shift(3, &[2, 3, 8]), None);
    }
}
