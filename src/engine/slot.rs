//! A place for one sequence: an answer in the making, or what is left of the last one.

use std::time::{Duration, Instant};

use super::handle::QueuedRequest;
use super::{Done, EngineError, Event, Totals};
use crate::generate::{Finish, Generation, GenerationOptions, Shown, Token, TokenLogprobs};
use crate::kernels::Isa;
use crate::model::{Config, Sequence, StateOptions};
use crate::sampling::ConstraintError;
use crate::tokenizer::Tokenizer;

/// Fewer tokens are evaluated as fast as all before them are copied.
const WORTH_COPYING: usize = 16;

/// A place for one sequence.
#[derive(Debug)]
pub(super) struct Slot<'t> {
    pub sequence: Sequence,
    /// The tokens of the sequence, and then those that it has yet to evaluate.
    pub ids: Vec<u32>,
    pub running: Option<Running<'t>>,
    /// The pass in which it was last used.
    pub used: u64,
}

/// An answer in the making.
#[derive(Debug)]
pub(super) struct Running<'t> {
    queued: QueuedRequest,
    generation: Generation<'t>,
    /// Tokens of the prompt that were in a cache.
    pub cached: usize,
    /// Of the prompt.
    pub logprobs: Vec<TokenLogprobs>,
    started: Instant,
    /// When the prompt was read.
    read: Option<Instant>,
}

impl<'t> Slot<'t> {
    pub fn new(config: &Config, options: StateOptions) -> Self {
        let sequence = Sequence::new(config, options);
        Self { sequence, ids: Vec::new(), running: None, used: 0 }
    }

    /// The tokens whose keys and values are there.
    pub fn evaluated(&self) -> &[u32] {
        &self.ids[..self.sequence.len()]
    }

    /// How many tokens it has yet to evaluate.
    pub fn missing(&self) -> usize {
        self.ids.len() - self.sequence.len()
    }

    /// How many of the first tokens of `ids` it has and could go on from, less the last of them, whose
    /// logits are wanted.
    pub fn shares(&self, ids: &[u32]) -> usize {
        let common = self.evaluated().iter().zip(ids).take_while(|(a, b)| a == b).count();
        self.sequence.keeps(common.min(ids.len().saturating_sub(1)))
    }

    /// Whether it has a prompt to read.
    pub fn is_reading(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.answering())
    }

    /// Whether it has a prompt to read that need not be evaluated as a whole.
    pub fn can_borrow(&self) -> bool {
        let borrows = |running: &Running<'_>| running.prompt_logprobs().is_none();
        self.is_reading() && self.running.as_ref().is_some_and(borrows)
    }

    /// Begins with a request.
    pub fn begin(&mut self, mut queued: QueuedRequest, tokenizer: &'t Tokenizer) {
        let request = &mut queued.request;
        let cached = if request.prompt_logprobs { 0 } else { self.shares(&request.prompt) };
        let cached = self.sequence.truncate(cached);
        self.ids.clone_from(&request.prompt);
        let room = self.sequence.options().n_ctx - self.ids.len();
        let options = GenerationOptions {
            max_tokens: Some(request.max_tokens.map_or(room, |max| max.min(room))),
            constraint: request.constraint.take(),
            stop: std::mem::take(&mut request.stop),
            ignore_eos: request.ignore_eos,
            logprobs: request.logprobs,
        };
        let generation = Generation::new(tokenizer, options);
        let (logprobs, started) = (Vec::new(), Instant::now());
        self.running = Some(Running { queued, generation, cached, logprobs, started, read: None });
    }

    /// Takes over what `other` has of the prompt, if that is so much more that it is faster.
    pub fn borrow_from(&mut self, other: &Self) {
        let shared = other.shares(&self.ids);
        if shared >= self.sequence.len() + WORTH_COPYING {
            let before = self.sequence.len();
            let now = self.sequence.copy_from(&other.sequence, shared);
            if let Some(running) = &mut self.running {
                running.cached += now - before;
            }
        }
    }

    /// Goes on with what was found of a token of the prompt.
    pub fn take_given(&mut self, token: Token) {
        if let Some(running) = &mut self.running {
            running.logprobs.extend(token.logprobs);
        }
    }

    /// Goes on with what was picked to come next.
    pub fn take(
        &mut self,
        picked: Result<Token, EngineError>,
        stop_ids: &[u32],
        totals: &mut Totals,
    ) {
        let Some(running) = &mut self.running else { return };
        if !running.answering() {
            totals.prompt_tokens += running.queued.request.prompt.len() as u64;
            totals.cached_tokens += running.cached as u64;
            running.prompt_read();
        }
        let finish = match picked {
            // The prompt was all that was asked for.
            Ok(_) if running.generation.is_full() => Ok(Some(Finish::Length)),
            Ok(token) => {
                totals.generated_tokens += 1;
                let id = token.id;
                let finish = running.push(token, stop_ids);
                if finish.is_none() {
                    self.ids.push(id);
                }
                Ok(finish)
            }
            Err(error) => Err(error),
        };
        match finish {
            Ok(None) => return,
            Ok(Some(Finish::Stop)) => totals.finished_stop += 1,
            Ok(Some(Finish::Length)) => totals.finished_length += 1,
            Err(_) => totals.failed += 1,
        }
        match (self.end(), finish) {
            (Some(running), Ok(Some(finish))) => running.done(finish),
            (Some(running), Err(error)) => running.failed(error),
            _ => {}
        }
    }

    /// Ends the work, whatever came of it.
    pub fn end(&mut self) -> Option<Running<'t>> {
        self.ids.truncate(self.sequence.len());
        self.running.take()
    }
}

impl Running<'_> {
    /// Whether the prompt was read.
    fn answering(&self) -> bool {
        self.read.is_some()
    }

    /// Whether somebody waits for the answer.
    pub fn is_wanted(&self) -> bool {
        !self.queued.events.is_closed()
    }

    /// Tells that the prompt was read.
    fn prompt_read(&mut self) {
        self.read = Some(Instant::now());
        let logprobs = std::mem::take(&mut self.logprobs);
        self.send(Event::Prompt { cached: self.cached, logprobs });
    }

    /// How many of the likeliest tokens are to be told at each place of the prompt, if that was asked
    /// for.
    pub fn prompt_logprobs(&self) -> Option<usize> {
        let request = &self.queued.request;
        request.prompt_logprobs.then(|| request.logprobs.unwrap_or(0))
    }

    /// Samples the token that comes after `ids`.
    pub fn sample(
        &mut self,
        isa: Isa,
        logits: &mut [f32],
        ids: &[u32],
        stop_ids: &[u32],
    ) -> Result<Token, ConstraintError> {
        let sampler = &mut self.queued.request.sampler;
        self.generation.sample(sampler, isa, logits, ids, stop_ids)
    }

    /// Goes on with a token; gives how the answer ends if it does.
    fn push(&mut self, token: Token, stop_ids: &[u32]) -> Option<Finish> {
        let (shown, finish) = self.generation.push(token, stop_ids);
        self.show(shown);
        finish
    }

    fn show(&self, Shown { text, tokens }: Shown) {
        if !text.is_empty() || !tokens.is_empty() {
            self.send(Event::Text { text, tokens });
        }
    }

    /// Tells that the answer is whole.
    pub fn done(mut self, finish: Finish) {
        let rest = self.generation.finish();
        self.show(rest);
        let read = self.read.unwrap_or(self.started);
        let done = Done {
            finish,
            tokens: self.generation.tokens(),
            queued: self.started - self.queued.arrived,
            prompt_time: read - self.started,
            decode_time: self.read.map_or(Duration::ZERO, |read| read.elapsed()),
        };
        self.send(Event::Done(done));
    }

    /// Tells that there will be no answer.
    pub fn failed(self, error: EngineError) {
        self.send(Event::Failed(error));
    }

    fn send(&self, event: Event) {
        // Whoever does not wait any more is found before the next pass.
        let _ = self.queued.events.send(event);
    }
}
