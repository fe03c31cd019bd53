//! A slot: holds one sequence, and the answer that is being generated in it, if any. After an
//! answer, its sequence stays for later prompts.

use std::time::{Duration, Instant};

use super::handle::QueuedRequest;
use super::{Done, EngineError, Event, Totals};
use crate::generate::{Finish, Generation, GenerationOptions, Shown, Token, TokenLogprobs};
use crate::kernels::Isa;
use crate::model::{Config, Sequence, StateOptions};
use crate::sampling::ConstraintError;
use crate::tokenizer::Tokenizer;

/// Fewest tokens for which copying keys and values pays: evaluating fewer is as fast as copying all
/// those before them.
const MIN_COPY: usize = 16;

/// A place for one sequence, as in llama.cpp's server.
#[derive(Debug)]
pub(super) struct Slot<'t> {
    pub sequence: Sequence,
    /// The tokens of the sequence, followed by those that are still to be evaluated.
    pub ids: Vec<u32>,
    pub draft: Draft,
    pub running: Option<Running<'t>>,
    /// The pass in which the slot was last used.
    pub used: u64,
}

/// The last of a slot's tokens that are drafted, and were not compared with sampled ones yet; and
/// what became of those before, in this pass.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Draft {
    /// Tokens that are left.
    left: usize,
    /// Tokens that were compared, and how many of them were the sampled ones.
    pub compared: usize,
    pub accepted: usize,
}

/// An answer that is being generated.
#[derive(Debug)]
pub(super) struct Running<'t> {
    queued: QueuedRequest,
    generation: Generation<'t>,
    /// Tokens of the prompt that did not have to be evaluated.
    pub cached: usize,
    /// Log-probabilities of the prompt's tokens so far.
    pub logprobs: Vec<TokenLogprobs>,
    started: Instant,
    /// When the prompt had been evaluated.
    read: Option<Instant>,
    /// Tokens that were drafted, and how many of them were accepted.
    drafted: usize,
    accepted: usize,
}

impl Draft {
    /// The tokens of `ids`, which end with the draft, without it.
    pub fn known(self, ids: &[u32]) -> &[u32] {
        &ids[..ids.len() - self.left]
    }
}

impl<'t> Slot<'t> {
    pub fn new(config: &Config, options: StateOptions) -> Self {
        let sequence = Sequence::new(config, options);
        Self { sequence, ids: Vec::new(), draft: Draft::default(), running: None, used: 0 }
    }

    /// The tokens whose keys and values are in the cache.
    pub fn evaluated(&self) -> &[u32] {
        &self.ids[..self.sequence.len()]
    }

    /// How many tokens are still to be evaluated.
    pub fn missing(&self) -> usize {
        self.ids.len() - self.sequence.len()
    }

    /// How many of the first tokens of `ids` need not be evaluated because the sequence holds them.
    /// The last token is never counted, because its logits are needed.
    pub fn common_prefix(&self, ids: &[u32]) -> usize {
        let common = self.evaluated().iter().zip(ids).take_while(|(a, b)| a == b).count();
        self.sequence.keeps(common.min(ids.len().saturating_sub(1)))
    }

    /// Whether the slot has a prompt that is still being evaluated.
    pub fn is_reading(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.answering())
    }

    /// Whether the slot is evaluating a prompt of which a part may be copied from another slot.
    /// That is not so if log-probabilities of the prompt are wanted.
    pub fn can_copy_prefix(&self) -> bool {
        let copies = |running: &Running<'_>| running.prompt_logprobs().is_none();
        self.is_reading() && self.running.as_ref().is_some_and(copies)
    }

    /// Starts a request.
    pub fn begin(&mut self, mut queued: QueuedRequest, tokenizer: &'t Tokenizer) {
        let request = &mut queued.request;
        let cached = if request.prompt_logprobs { 0 } else { self.common_prefix(&request.prompt) };
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
        self.running = Some(Running {
            queued,
            generation,
            cached,
            logprobs: Vec::new(),
            started: Instant::now(),
            read: None,
            drafted: 0,
            accepted: 0,
        });
    }

    /// Copies what `other` holds of the prompt, if that is so much more than this slot holds that
    /// copying is faster than evaluating.
    pub fn copy_prefix(&mut self, other: &Self) {
        let shared = other.common_prefix(&self.ids);
        if shared >= self.sequence.len() + MIN_COPY {
            let before = self.sequence.len();
            let now = self.sequence.copy_from(&other.sequence, shared);
            if let Some(running) = &mut self.running {
                running.cached += now - before;
            }
        }
    }

    /// The tokens without the draft.
    pub fn known(&self) -> &[u32] {
        self.draft.known(&self.ids)
    }

    /// Most tokens that may be drafted: a draft of all tokens that the answer may still have would
    /// leave none to be sampled.
    pub fn most_drafted(&self) -> usize {
        let StateOptions { n_ctx, n_ubatch, .. } = *self.sequence.options();
        let remaining = self.running.as_ref().and_then(|running| running.generation.remaining());
        let remaining = remaining.unwrap_or(usize::MAX).min(n_ubatch);
        remaining.saturating_sub(1).min(n_ctx.saturating_sub(self.ids.len()))
    }

    /// Adds drafted tokens, to be evaluated in the next pass.
    pub fn add_draft(&mut self, draft: &[u32]) {
        self.ids.extend_from_slice(draft);
        self.draft = Draft { left: draft.len(), ..Draft::default() };
        if let Some(running) = &mut self.running {
            running.drafted += draft.len();
        }
    }

    /// Drops what is left of the draft, evaluated or not. Returns the number of its tokens.
    pub fn drop_draft(&mut self) -> usize {
        let left = std::mem::take(&mut self.draft.left);
        if left > 0 {
            self.ids.truncate(self.ids.len() - left);
            self.sequence.truncate(self.ids.len());
        }
        left
    }

    /// Whether the next token is sampled from the row of position `pos`: the row is evaluated, and
    /// no token is known to follow it.
    pub fn samples_from(&self, pos: usize) -> bool {
        let is_evaluated = pos < self.sequence.len();
        self.running.is_some() && is_evaluated && pos + 1 == self.known().len()
    }

    /// Adds the sampled token `id`, which is to be evaluated unless it is the next one of the
    /// draft. If it is not, the draft is dropped. Returns whether it is.
    fn add_sampled(&mut self, id: u32) -> bool {
        let drafted = self.ids.get(self.ids.len() - self.draft.left).copied();
        self.draft.compared += usize::from(drafted.is_some());
        let is_accepted = drafted == Some(id);
        if is_accepted {
            self.draft.left -= 1;
            self.draft.accepted += 1;
            self.running.iter_mut().for_each(|running| running.accepted += 1);
        } else {
            self.drop_draft();
            self.ids.push(id);
        }
        is_accepted
    }

    /// Stores the log-probabilities of a prompt token.
    pub fn add_prompt_token(&mut self, token: Token) {
        if let Some(running) = &mut self.running {
            running.logprobs.extend(token.logprobs);
        }
    }

    /// Adds the token that was sampled, and ends the answer if it is complete.
    pub fn add_token(
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
            // The request asked only for the evaluation of its prompt.
            Ok(_) if running.generation.is_full() => Ok(Some(Finish::Length)),
            Ok(token) => {
                totals.generated_tokens += 1;
                let id = token.id;
                let finish = running.push(token, stop_ids);
                if finish.is_none() {
                    totals.accepted_tokens += u64::from(self.add_sampled(id));
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

    /// Ends the answer, complete or not, and returns it. The tokens that were not evaluated are
    /// dropped.
    pub fn end(&mut self) -> Option<Running<'t>> {
        self.drop_draft();
        self.ids.truncate(self.sequence.len());
        self.running.take()
    }
}

impl Running<'_> {
    /// Whether the prompt has been evaluated.
    fn answering(&self) -> bool {
        self.read.is_some()
    }

    /// Whether the client still waits for the answer.
    pub fn has_client(&self) -> bool {
        !self.queued.events.is_closed()
    }

    /// Reports that the prompt has been evaluated.
    fn prompt_read(&mut self) {
        self.read = Some(Instant::now());
        let logprobs = std::mem::take(&mut self.logprobs);
        self.send(Event::Prompt { cached: self.cached, logprobs });
    }

    /// How many of the likeliest tokens to report at each position of the prompt; `None` if no
    /// log-probabilities of the prompt were asked for.
    pub fn prompt_logprobs(&self) -> Option<usize> {
        let request = &self.queued.request;
        request.prompt_logprobs.then(|| request.logprobs.unwrap_or(0))
    }

    /// Samples the token that follows `ids`.
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

    /// Adds a token. Returns why the answer ends, if it does.
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

    /// Reports that the answer is complete.
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
            drafted: self.drafted,
            accepted: self.accepted,
        };
        self.send(Event::Done(done));
    }

    /// Reports that the answer has failed.
    pub fn failed(self, error: EngineError) {
        self.send(Event::Failed(error));
    }

    fn send(&self, event: Event) {
        // If the client has gone away, that is noticed before the next pass.
        let _ = self.queued.events.send(event);
    }
}
