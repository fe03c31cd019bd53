//! One sequence on its own, and the iterator over the tokens that it goes on with.

use std::time::{Duration, Instant};

use super::{Finish, GenerateError, Generation, GenerationOptions, PromptTooLong, Shift, Shown};
use crate::model::{Model, ModelError, State, StateOptions};
use crate::sampling::Sampler;
use crate::tokenizer::Tokenizer;

/// A model, the tokens that it has read so far, and how they go on.
pub struct Session<'m> {
    model: &'m Model<'m>,
    tokenizer: &'m Tokenizer,
    stop_ids: Vec<u32>,
    sampler: Sampler,
    state: State,
    /// The tokens that `state` holds.
    pub(super) ids: Vec<u32>,
    /// What comes after them, `[n_vocab]`.
    pub(super) logits: Vec<f32>,
}

/// When to stop, apart from where the model ends a text.
#[derive(Clone, Copy)]
pub struct Limits<'c> {
    /// The most tokens; `None` for no limit.
    pub max_tokens: Option<usize>,
    /// Asked before every evaluation.
    pub cancelled: &'c dyn Fn() -> bool,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model ended it, or it has as many tokens as were asked for.
    Finished(Finish),
    /// The context is full.
    ContextFull,
    /// It was cancelled.
    Cancelled,
}

/// What was generated, and how long it took.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The tokens of its text, the one that ended it not counted.
    pub tokens: usize,
    /// The latest of them: all as long as the context might hold them.
    pub ids: Vec<u32>,
    /// Why it ended; `None` while it goes on.
    pub end: Option<End>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that the session did not hold yet, and that were evaluated.
    pub prompt_evaluated: usize,
    /// How often the context was full and a part of it forgotten.
    pub shifts: usize,
    /// From the prompt's arrival to its last token.
    pub prompt_time: Duration,
    /// Evaluations after the prompt, one token each.
    pub decoded: usize,
    /// What they took, with the sampling of the tokens.
    pub decode_time: Duration,
    /// When the first token was there.
    pub first_token: Option<Instant>,
}

impl<'m> Session<'m> {
    /// An empty sequence, which may take what `options` say.
    pub fn new(
        model: &'m Model<'m>,
        tokenizer: &'m Tokenizer,
        stop_ids: Vec<u32>,
        sampler: Sampler,
        options: StateOptions,
    ) -> Self {
        let state = State::new(model.config(), options);
        Self { model, tokenizer, stop_ids, sampler, state, ids: Vec::new(), logits: Vec::new() }
    }

    /// Goes on with a sequence that was saved, in place of this one. `ids` are its tokens.
    pub fn resume(&mut self, state: State, ids: Vec<u32>) {
        (self.state, self.ids) = (state, ids);
    }

    /// The model.
    pub fn model(&self) -> &'m Model<'m> {
        self.model
    }

    /// What it holds.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The tokens that it holds.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The most tokens that it takes.
    pub fn n_ctx(&self) -> usize {
        self.state.options().n_ctx
    }

    /// Whether a prompt fits the context.
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

    /// Goes on from `prompt`: each item of the iterator is what one more token adds to the text. The
    /// first reads the prompt. Only the tokens of the prompt that the sequence does not begin with yet
    /// are evaluated; what else the sequence holds is forgotten. When the context is full, it goes on
    /// from what `shift` says.
    ///
    /// # Errors
    /// If the prompt has no tokens, or more than the context. Errors of the model and of `shift` are
    /// items, after which there are no more.
    pub fn generate<'s>(
        &'s mut self,
        prompt: &[u32],
        limits: Limits<'s>,
        shift: &'s mut dyn Shift,
    ) -> Result<Tokens<'s, 'm>, GenerateError> {
        self.check_length(prompt)?;
        // A stranger's chat template may render to nothing.
        if prompt.is_empty() {
            return Err(ModelError::NoTokens.into());
        }
        let start = Instant::now();
        let held = self.keep_common(prompt);
        let options =
            GenerationOptions { max_tokens: limits.max_tokens, ..GenerationOptions::default() };
        let generation = Generation::new(self.tokenizer, options);
        let answer = Answer::new(prompt.len());
        let prompt = prompt[held..].to_vec();
        let cancelled = limits.cancelled;
        Ok(Tokens { session: self, generation, shift, cancelled, prompt, start, answer })
    }

    /// Forgets everything after what the sequence and `prompt` begin with alike, and that as well
    /// where a ring no longer holds what the next position attends to; gives the length of what is
    /// left.
    fn keep_common(&mut self, prompt: &[u32]) -> usize {
        let common = self.ids.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last token is evaluated in any case: its logits are where the answer begins.
        let kept = self.state.truncate(common.min(prompt.len().saturating_sub(1)));
        self.ids.truncate(kept);
        kept
    }

    /// Evaluates the tokens of a prompt; the result is whether it got through before it was cancelled.
    fn read(&mut self, tokens: &[u32], cancelled: &dyn Fn() -> bool) -> Result<bool, ModelError> {
        for ubatch in tokens.chunks(self.state.options().n_ubatch) {
            if cancelled() {
                return Ok(false);
            }
            self.evaluate(ubatch)?;
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

/// The text of a session as it goes on, token by token.
pub struct Tokens<'s, 'm> {
    session: &'s mut Session<'m>,
    generation: Generation<'m>,
    shift: &'s mut dyn Shift,
    cancelled: &'s dyn Fn() -> bool,
    /// What of the prompt has yet to be read.
    prompt: Vec<u32>,
    start: Instant,
    answer: Answer,
}

impl Tokens<'_, '_> {
    /// What was generated so far.
    pub fn answer(&self) -> &Answer {
        &self.answer
    }

    /// What was generated.
    pub fn into_answer(self) -> Answer {
        self.answer
    }

    /// One token: evaluate, sample, stop.
    fn step(&mut self) -> Result<Shown, GenerateError> {
        let going_on = match self.answer.first_token {
            None => self.read_prompt()?,
            Some(_) => self.evaluate_last()?,
        };
        if let Some(end) = going_on {
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

    /// Reads the prompt; gives why there is nothing to sample, if so.
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

    /// Evaluates the last token; gives why there is nothing to sample, if so.
    fn evaluate_last(&mut self) -> Result<Option<End>, GenerateError> {
        if (self.cancelled)() {
            return Ok(Some(End::Cancelled));
        }
        let session = &mut *self.session;
        let last = &self.answer.ids[self.answer.ids.len() - 1..];
        if session.ids.len() < session.n_ctx() {
            session.evaluate(last)?;
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

    /// Ends the text; gives what is left to be shown.
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

impl Answer {
    fn new(prompt_tokens: usize) -> Self {
        Self {
            tokens: 0,
            ids: Vec::new(),
            end: None,
            prompt_tokens,
            prompt_evaluated: 0,
            shifts: 0,
            prompt_time: Duration::ZERO,
            decoded: 0,
            decode_time: Duration::ZERO,
            first_token: None,
        }
    }

    /// Tokens of the prompt that were evaluated in a second.
    pub fn prompt_speed(&self) -> Option<f64> {
        tokens_per_second(self.prompt_evaluated, self.prompt_time)
    }

    /// Tokens that were evaluated in a second after the prompt.
    pub fn decode_speed(&self) -> Option<f64> {
        tokens_per_second(self.decoded, self.decode_time)
    }

    /// Adds a token. A text may go on for ever: what no context of `n_ctx` holds is not kept.
    fn push(&mut self, id: u32, n_ctx: usize) {
        self.tokens += 1;
        self.ids.push(id);
        if self.ids.len() > 2 * n_ctx {
            self.ids.drain(..n_ctx);
        }
    }
}

/// Tokens in a second; `None` where there are none.
pub fn tokens_per_second(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}
