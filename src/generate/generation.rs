//! One text in the making: from logits to the next token, and from tokens to the text that may be shown
//! and to its end.

use super::text::{Shown, Text};
use super::{Token, TokenLogprobs};
use crate::kernels::Isa;
use crate::sampling::{Constraint, ConstraintError, Sampler};
use crate::tokenizer::{ControlPieces, Tokenizer};

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The model ended it, or a stop text, or its constraint.
    Stop,
    /// It has as many tokens as it may have.
    Length,
}

/// What a text has to be like.
#[derive(Debug, Default)]
pub struct GenerationOptions {
    /// The most tokens; `None` for no limit.
    pub max_tokens: Option<usize>,
    /// What the text has to fit.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Texts that end it, and are no part of it. None is empty.
    pub stop: Vec<String>,
    /// Whether it goes on where the model would end it.
    pub ignore_eos: bool,
    /// The log-probabilities that come with each token: its own, and those of so many of the likeliest.
    /// They are the model's, before anything that the sampler does.
    pub logprobs: Option<usize>,
}

/// One text in the making.
#[derive(Debug)]
pub struct Generation<'t> {
    options: GenerationOptions,
    text: Text<'t>,
    /// Tokens so far.
    tokens: usize,
}

impl<'t> Generation<'t> {
    /// A text without tokens.
    pub fn new(tokenizer: &'t Tokenizer, mut options: GenerationOptions) -> Self {
        let decoder = tokenizer.stream(ControlPieces::Omit);
        let text = Text::new(decoder, std::mem::take(&mut options.stop));
        Self { options, text, tokens: 0 }
    }

    /// Tokens so far, the one that ended the text included.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Whether it has as many tokens as it may have.
    pub fn is_full(&self) -> bool {
        self.options.max_tokens == Some(self.tokens)
    }

    /// Samples the token that comes after `ids`, given its logits, `[n_vocab]`, which are changed.
    ///
    /// # Errors
    /// If no token fits the constraint.
    pub fn sample(
        &mut self,
        sampler: &mut Sampler,
        isa: Isa,
        logits: &mut [f32],
        ids: &[u32],
        stop_ids: &[u32],
    ) -> Result<Token, ConstraintError> {
        let GenerationOptions { constraint, logprobs, .. } = &mut self.options;
        // The constraint and the sampler change them.
        let before = logprobs.map(|n| (n, logits.to_vec()));
        if let Some(constraint) = constraint {
            constraint.mask(logits)?;
        }
        let id = sampler.sample(logits, ids);
        match constraint {
            // The end comes where the text may end.
            Some(constraint) if !stop_ids.contains(&id) => constraint.accept(id)?,
            _ => {}
        }
        let logprobs = before.map(|(n, logits)| TokenLogprobs::new(isa, &logits, id, n));
        Ok(Token { id, logprobs })
    }

    /// Adds the token that was sampled; gives what may be shown now, and how the text ends if it does.
    /// The token that ends it is no part of it.
    pub fn push(&mut self, token: Token, stop_ids: &[u32]) -> (Shown, Option<Finish>) {
        self.tokens += 1;
        let GenerationOptions { constraint, ignore_eos, .. } = &self.options;
        if stop_ids.contains(&token.id) && (!ignore_eos || constraint.is_some()) {
            return (Shown::default(), Some(Finish::Stop));
        }
        let whole = constraint.as_ref().is_some_and(|constraint| constraint.is_complete());
        let (shown, stopped) = self.text.push(token);
        let finish = match (stopped || whole, self.is_full()) {
            (true, _) => Some(Finish::Stop),
            (false, true) => Some(Finish::Length),
            (false, false) => None,
        };
        (shown, finish)
    }

    /// What is left to be shown at the end.
    pub fn finish(&mut self) -> Shown {
        self.text.finish()
    }
}
