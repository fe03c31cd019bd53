//! Speculative decoding: a cheap [`Drafter`] guesses the next tokens, and the model evaluates them
//! together with the last token, in one pass over its weights.
//!
//! A pass gives every row the bits that it would have alone, and each token is sampled from its row
//! as it would be without drafts. A drafted token saves a pass if it equals the one that is
//! sampled; at the first one that does not, the rest of the draft is dropped. So a text is the same
//! with drafts and without (<https://arxiv.org/abs/2211.17192> keeps only the distribution).
//!
//! - [`Drafter`]: what drafts. [`DraftModel`] is a smaller model, [`Lookup`] repeats what the text
//!   says already. Another one is a file with this trait.
//! - [`Speculation`]: a drafter, and how many tokens to ask it for. [`Session`](super::Session)
//!   and the [engine](crate::engine) both use it.

mod costs;
mod lookup;
mod model;
mod policy;
mod speculation;
mod vocab;

use std::fmt::Debug;
use std::str::FromStr;

pub use lookup::Lookup;
pub use model::DraftModel;
pub use speculation::Speculation;
pub use vocab::{compare_vocabularies, VocabularyDifference};

use crate::model::ModelError;

/// Most tokens that are drafted at a time where their number is chosen.
pub const MAX_DRAFT: usize = 16;

/// Kinds of offers: acceptance is counted separately for each.
pub const KINDS: usize = 3;

/// Guesses how texts go on. A wrong guess costs time and changes nothing else.
pub trait Drafter: Debug + Send {
    /// What could be drafted after the text of `request`. It is cheap to ask.
    fn offer(&mut self, request: &DraftRequest<'_>) -> Offer;

    /// Drafts at most `most` tokens after each text; fewer, or none, where it cannot. There is a
    /// draft for each request. Requests are in the order of their sequences, each of which has one
    /// at most.
    ///
    /// # Errors
    /// If the drafter has a model that computes values that are NaN or infinite.
    fn draft(&mut self, requests: &[DraftRequest<'_>]) -> Result<Vec<Vec<u32>>, ModelError>;

    /// Reads at most `budget` tokens of the texts of some sequences ahead, so that the next drafts
    /// come sooner. `texts` has the number of each sequence and its tokens, in the order of the
    /// sequences. Returns how many tokens were read.
    ///
    /// # Errors
    /// Those of [`draft`](Self::draft).
    fn read(&mut self, _texts: &[(usize, &[u32])], _budget: usize) -> Result<usize, ModelError> {
        Ok(0)
    }
}

/// A text to draft tokens for.
#[derive(Clone, Copy, Debug)]
pub struct DraftRequest<'t> {
    /// The number of the sequence, below the number that the drafter was made for.
    pub sequence: usize,
    /// All tokens of the text, at least one. The last one may not have been evaluated yet.
    pub ids: &'t [u32],
    /// Most tokens to draft.
    pub most: usize,
}

/// What a drafter could draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Most tokens.
    pub most: usize,
    /// How sure it is, as one of [`KINDS`] that have nothing in common.
    pub kind: usize,
    /// How many tokens of the text it has to read before.
    pub behind: usize,
}

/// How many tokens are drafted at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DraftTokens {
    /// As many as promise the most tokens per second; none where drafting does not pay.
    #[default]
    Auto,
    /// This many, as far as text and context have room for them.
    Fixed(usize),
}

impl DraftTokens {
    /// Most tokens of a draft.
    pub fn most(self) -> usize {
        match self {
            Self::Auto => MAX_DRAFT,
            Self::Fixed(n) => n,
        }
    }
}

impl FromStr for DraftTokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const MAX: usize = 64;
        match text.parse() {
            _ if text == "auto" => Ok(Self::Auto),
            Ok(n) if (1..=MAX).contains(&n) => Ok(Self::Fixed(n)),
            _ => Err(format!("expected auto or a number from 1 to {MAX}")),
        }
    }
}
