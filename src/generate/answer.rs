//! What was generated, with statistics.

use std::time::{Duration, Instant};

use super::Finish;

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model ended it, or it has as many tokens as `max_tokens` allows.
    Finished(Finish),
    /// The context is full.
    ContextFull,
    /// It was cancelled.
    Cancelled,
}

/// What was generated, with statistics.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Number of tokens in its text. A stop token at the end is not counted.
    pub tokens: usize,
    /// The latest of these tokens; all of them, unless they are more than the context holds.
    pub ids: Vec<u32>,
    /// Why it ended; `None` while it continues.
    pub end: Option<End>,
    /// Number of tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of these had to be evaluated because the session did not hold them.
    pub prompt_evaluated: usize,
    /// How often the context was full and was shifted.
    pub shifts: usize,
    /// Time from the prompt's arrival until it had been evaluated.
    pub prompt_time: Duration,
    /// Number of tokens after the prompt that were evaluated to sample the next one.
    pub decoded: usize,
    /// The time for them, including sampling.
    pub decode_time: Duration,
    /// When the first token was sampled.
    pub first_token: Option<Instant>,
    /// What drafts did, if the session has a drafter.
    pub draft: Option<DraftStats>,
}

/// What drafts did for a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DraftStats {
    /// Tokens that were drafted.
    pub drafted: usize,
    /// How many of these were accepted: each saved a pass.
    pub accepted: usize,
    /// Passes over the model's weights after the prompt, without those after a shift.
    pub passes: usize,
    /// Their time and that of the drafter.
    pub time: Duration,
    /// The seconds that a pass without drafts takes, if there was one.
    pub plain_pass: Option<f64>,
}

impl DraftStats {
    /// Tokens for each pass, at least one.
    pub fn tokens_per_pass(&self) -> Option<f64> {
        (self.passes > 0).then(|| (self.passes + self.accepted) as f64 / self.passes as f64)
    }

    /// The tokens per second in terms of those that passes without drafts would have given.
    pub fn speedup(&self) -> Option<f64> {
        let plain = (self.passes + self.accepted) as f64 * self.plain_pass?;
        (self.passes > 0 && !self.time.is_zero()).then(|| plain / self.time.as_secs_f64())
    }
}

impl Answer {
    pub(super) fn new(prompt_tokens: usize, draft: Option<DraftStats>) -> Self {
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
            draft,
        }
    }

    /// Evaluated tokens of the prompt per second.
    pub fn prompt_speed(&self) -> Option<f64> {
        tokens_per_second(self.prompt_evaluated, self.prompt_time)
    }

    /// Decoded tokens per second.
    pub fn decode_speed(&self) -> Option<f64> {
        tokens_per_second(self.decoded, self.decode_time)
    }

    /// Adds a token. A text may be endless, so only as many ids are kept as a context of `n_ctx`
    /// may need.
    pub(super) fn push(&mut self, id: u32, n_ctx: usize) {
        self.tokens += 1;
        self.ids.push(id);
        if self.ids.len() > 2 * n_ctx {
            self.ids.drain(..n_ctx);
        }
    }
}

/// Tokens per second; `None` if there are no tokens or no time has passed.
pub fn tokens_per_second(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}
