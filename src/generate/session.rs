//! Generates text with a single sequence, as an iterator over its tokens.

use std::time::Instant;

use super::ahead::Ahead;
use super::draft::Speculation;
use super::{
    Answer, DraftStats, End, Finish, GenerateError, Generation, GenerationOptions, PromptTooLong,
    Shift, Shown,
};
use crate::model::{Model, ModelError, State, StateOptions};
use crate::sampling::Sampler;
use crate::tokenizer::Tokenizer;

/// A model and one sequence: the tokens that it has evaluated so far, and a sampler for the next
/// ones.
pub struct Session<'m> {
    pub(super) model: &'m Model<'m>,
    tokenizer: &'m Tokenizer,
    stop_ids: Vec<u32>,
    sampler: Sampler,
    pub(super) state: State,
    /// The tokens whose keys and values are in `state`. Drafted tokens may follow there.
    pub(super) ids: Vec<u32>,
    /// The logits of the last of them, `[n_vocab]`.
    pub(super) logits: Vec<f32>,
    pub(super) speculation: Option<Speculation<'m>>,
    pub(super) ahead: Ahead,
}

/// When to stop, in addition to where the model ends the text.
#[derive(Clone, Copy)]
pub struct Limits<'c> {
    /// Most tokens; `None` for no limit.
    pub max_tokens: Option<usize>,
    /// Called before every evaluation; generation stops when it returns true.
    pub cancelled: &'c dyn Fn() -> bool,
}

impl<'m> Session<'m> {
    /// Starts an empty sequence with these options.
    pub fn new(
        model: &'m Model<'m>,
        tokenizer: &'m Tokenizer,
        stop_ids: Vec<u32>,
        sampler: Sampler,
        options: StateOptions,
    ) -> Self {
        let state = State::new(model.config(), options);
        Self {
            model,
            tokenizer,
            stop_ids,
            sampler,
            state,
            ids: Vec::new(),
            logits: Vec::new(),
            speculation: None,
            ahead: Ahead::default(),
        }
    }

    /// Replaces the sequence with a saved one, whose tokens are `ids`.
    pub fn resume(&mut self, state: State, ids: Vec<u32>) {
        (self.state, self.ids) = (state, ids);
    }

    /// The model.
    pub fn model(&self) -> &'m Model<'m> {
        self.model
    }

    /// The state of the sequence.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The tokens of the sequence.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Most tokens of the sequence.
    pub fn n_ctx(&self) -> usize {
        self.state.options().n_ctx
    }

    /// Checks that a prompt fits the context.
    ///
    /// # Errors
    /// If it does not.
    pub fn check_length(&self, prompt: &[u32]) -> Result<(), PromptTooLong> {
        let (tokens, n_ctx) = (prompt.len(), self.n_ctx());
        match tokens <= n_ctx {
            true => Ok(()),
            false => Err(PromptTooLong { tokens, n_ctx }),
        }
    }

    /// Continues `prompt`. Each item of the iterator is the text that one more token adds; the
    /// first item also takes the evaluation of the prompt. Tokens with which the sequence already
    /// begins are not evaluated again; what follows them in the sequence is dropped. When the
    /// context is full, `shift` chooses the tokens to continue from.
    ///
    /// # Errors
    /// If the prompt has no tokens, or more than the context. Errors of the model and of `shift`
    /// are items of the iterator, and the last ones.
    pub fn generate<'s>(
        &'s mut self,
        prompt: &[u32],
        limits: Limits<'s>,
        shift: &'s mut dyn Shift,
    ) -> Result<Tokens<'s, 'm>, GenerateError> {
        self.check_length(prompt)?;
        // An untrusted chat template may render nothing.
        if prompt.is_empty() {
            return Err(ModelError::NoTokens.into());
        }
        let start = Instant::now();
        let held = self.keep_common(prompt);
        let options =
            GenerationOptions { max_tokens: limits.max_tokens, ..GenerationOptions::default() };
        let generation = Generation::new(self.tokenizer, options);
        if let Some(speculation) = &mut self.speculation {
            speculation.begin(0);
        }
        let draft = self.speculation.as_ref().map(|_| DraftStats::default());
        let answer = Answer::new(prompt.len(), draft);
        let prompt = prompt[held..].to_vec();
        let cancelled = limits.cancelled;
        Ok(Tokens { session: self, generation, shift, cancelled, prompt, start, answer })
    }

    /// Keeps the tokens that the sequence and `prompt` have in common at the beginning, and drops
    /// the others. Keeps none if a ring no longer holds what the next position attends to. Returns
    /// the number of tokens kept.
    fn keep_common(&mut self, prompt: &[u32]) -> usize {
        let common = self.ids.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last token is always evaluated, because its logits are needed.
        let kept = self.state.truncate(common.min(prompt.len().saturating_sub(1)));
        self.ids.truncate(kept);
        kept
    }

    /// Evaluates the tokens of a prompt. Returns `false` if it was cancelled before the end.
    fn read(&mut self, tokens: &[u32], cancelled: &dyn Fn() -> bool) -> Result<bool, ModelError> {
        for ubatch in tokens.chunks(self.state.options().n_ubatch) {
            if cancelled() {
                return Ok(false);
            }
            self.evaluate(ubatch)?;
            if !self.read_ahead(cancelled)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn evaluate(&mut self, tokens: &[u32]) -> Result<(), ModelError> {
        let logits = self.model.forward_last(&mut self.state, tokens)?;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.ids.extend(tokens);
        Ok(())
    }
}

/// An iterator that generates the text of a session, token by token.
pub struct Tokens<'s, 'm> {
    session: &'s mut Session<'m>,
    generation: Generation<'m>,
    shift: &'s mut dyn Shift,
    cancelled: &'s dyn Fn() -> bool,
    /// The part of the prompt that is still to be evaluated.
    prompt: Vec<u32>,
    start: Instant,
    answer: Answer,
}

impl Tokens<'_, '_> {
    /// What was generated so far.
    pub fn answer(&self) -> &Answer {
        &self.answer
    }

    /// What was generated in the end.
    pub fn into_answer(self) -> Answer {
        self.answer.clone()
    }

    /// Generates one token: evaluates, samples and checks for the end.
    fn step(&mut self) -> Result<Shown, GenerateError> {
        let end = match self.answer.first_token {
            None => self.read_prompt()?,
            Some(_) => self.evaluate_last()?,
        };
        if let Some(end) = end {
            return Ok(self.end(end));
        }
        let Session { sampler, logits, ids, stop_ids, model, .. } = &mut *self.session;
        let token = self.generation.sample(sampler, model.isa(), logits, ids, stop_ids)?;
        let id = token.id;
        self.answer.first_token.get_or_insert_with(Instant::now);
        let (mut shown, finish) = self.generation.push(token, stop_ids);
        if finish != Some(Finish::Stop) {
            self.answer.push(id, self.session.n_ctx());
        }
        if let Some(finish) = finish {
            shown.append(self.end(End::Finished(finish)));
        }
        self.answer.decode_time = self.start.elapsed() - self.answer.prompt_time;
        Ok(shown)
    }

    /// Evaluates the prompt. Returns why the text ends here, if it does.
    fn read_prompt(&mut self) -> Result<Option<End>, GenerateError> {
        let prompt = std::mem::take(&mut self.prompt);
        let held = self.session.ids.len();
        let read = self.session.read(&prompt, self.cancelled);
        self.answer.prompt_evaluated = self.session.ids.len() - held;
        if !read? {
            return Ok(Some(End::Cancelled));
        }
        self.answer.prompt_time = self.start.elapsed();
        let full = self.generation.is_full().then_some(End::Finished(Finish::Length));
        Ok(if (self.cancelled)() { Some(End::Cancelled) } else { full })
    }

    /// Evaluates the last token, unless it was drafted and evaluated already. Returns why the text
    /// ends here, if it does.
    fn evaluate_last(&mut self) -> Result<Option<End>, GenerateError> {
        if (self.cancelled)() {
            return Ok(Some(End::Cancelled));
        }
        let session = &mut *self.session;
        let last = self.answer.ids[self.answer.ids.len() - 1];
        let (held, n_ctx) = (session.ids.len(), session.n_ctx());
        if session.take_drafted(last) {
            self.answer.draft.iter_mut().for_each(|draft| draft.accepted += 1);
        } else if held < n_ctx {
            // A draft of all remaining tokens would leave none to be sampled.
            let remaining = self.generation.remaining().unwrap_or(usize::MAX);
            let most = (n_ctx - held).min(remaining).min(session.state.options().n_ubatch) - 1;
            session.evaluate_ahead(last, most, self.answer.draft.as_mut())?;
        } else {
            let shifted = self.shift.shift(&session.ids, &self.answer.ids);
            let Some(ids) = shifted.map_err(GenerateError::Shift)? else {
                return Ok(Some(End::ContextFull));
            };
            let held = session.keep_common(&ids);
            if !session.read(&ids[held..], self.cancelled)? {
                return Ok(Some(End::Cancelled));
            }
            self.answer.shifts += 1;
        }
        self.answer.decoded += 1;
        Ok(None)
    }

    /// Ends the text and returns what is still to be shown.
    fn end(&mut self, end: End) -> Shown {
        self.answer.end = Some(end);
        self.generation.finish()
    }
}

impl Iterator for Tokens<'_, '_> {
    type Item = Result<Shown, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.answer.end.is_some() {
            return None;
        }
        let shown = self.step();
        if shown.is_err() {
            self.answer.end = Some(End::Cancelled);
        }
        Some(shown)
    }
}

impl Drop for Tokens<'_, '_> {
    /// Leaves the session with the tokens of the text only.
    fn drop(&mut self) {
        self.session.end_draft();
    }
}
