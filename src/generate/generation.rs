//! Generates one text: samples the next token from the logits, decides which text may be shown, and
//! detects the end.

use super::text::{Shown, Text};
use super::{Token, TokenLogprobs};
use crate::kernels::Isa;
use crate::sampling::{Constraint, ConstraintError, Sampler};
use crate::tokenizer::{ControlPieces, Tokenizer};

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The model, a stop text or the constraint ended it.
    Stop,
    /// It has reached its largest number of tokens.
    Length,
}

/// How a text is generated and what ends it.
#[derive(Debug, Default)]
pub struct GenerationOptions {
    /// Most tokens; `None` for no limit.
    pub max_tokens: Option<usize>,
    /// What the text must conform to.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Stop texts: they end the text and are not part of it. None of them is empty.
    pub stop: Vec<String>,
    /// Whether the text continues after the model has ended it.
    pub ignore_eos: bool,
    /// Requests log-probabilities for each token: its own, and those of this many of the likeliest
    /// tokens. They are the model's, before the sampler changes the logits.
    pub logprobs: Option<usize>,
}

/// A text that is being generated.
#[derive(Debug)]
pub struct Generation<'t> {
    options: GenerationOptions,
    text: Text<'t>,
    /// Number of tokens so far.
    tokens: usize,
}

impl<'t> Generation<'t> {
    /// Starts a text without tokens.
    pub fn new(tokenizer: &'t Tokenizer, mut options: GenerationOptions) -> Self {
        let decoder = tokenizer.stream(ControlPieces::Omit);
        let text = Text::new(decoder, std::mem::take(&mut options.stop));
        Self { options, text, tokens: 0 }
    }

    /// Number of tokens so far, including the one that ended the text.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Whether the text has reached its largest number of tokens.
    pub fn is_full(&self) -> bool {
        self.options.max_tokens == Some(self.tokens)
    }

    /// How many tokens may still follow; `None` for no limit.
    pub fn remaining(&self) -> Option<usize> {
        self.options.max_tokens.map(|max| max.saturating_sub(self.tokens))
    }

    /// Samples the token that follows `ids` from its logits, `[n_vocab]`, which are changed.
    ///
    /// # Errors
    /// If no token conforms to the constraint.
    pub fn sample(
        &mut self,
        sampler: &mut Sampler,
        isa: Isa,
        logits: &mut [f32],
        ids: &[u32],
        stop_ids: &[u32],
    ) -> Result<Token, ConstraintError> {
        let GenerationOptions { constraint, logprobs, .. } = &mut self.options;
        // A copy, because the constraint and the sampler change the logits.
        let before = logprobs.map(|n| (n, logits.to_vec()));
        if let Some(constraint) = constraint {
            constraint.mask(logits)?;
        }
        let id = sampler.sample(logits, ids);
        match constraint {
            // A stop token is not part of the text; the mask allows it only where the text may end.
            Some(constraint) if !stop_ids.contains(&id) => constraint.accept(id)?,
            _ => {}
        }
        let logprobs = before.map(|(n, logits)| TokenLogprobs::new(isa, &logits, id, n));
        Ok(Token { id, logprobs })
    }

    /// Adds the token that was sampled. Returns what may be shown now, and why the text ends, if it
    /// does. A token that ends the text is not part of it.
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

    /// Ends the text and returns what is still to be shown.
    pub fn finish(&mut self) -> Shown {
        self.text.finish()
    }
}
