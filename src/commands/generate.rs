//! Generation: reads a prompt, picks tokens one by one, writes their text as it comes.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use lapidary::model::{Model, ModelError, State, StateOptions};
use lapidary::sampling::Sampler;
use lapidary::tokenizer::{ControlPieces, Tokenizer};
use thiserror::Error;

use super::interrupt;
use super::shift::Shift;

/// A sequence in the making: a model, what it has read so far, and how it goes on.
pub struct Session<'a> {
    model: &'a Model<'a>,
    tokenizer: &'a Tokenizer,
    stop_ids: Vec<u32>,
    sampler: Sampler,
    state: State,
    /// The tokens that `state` holds.
    ids: Vec<u32>,
    /// What comes after them, `[n_vocab]`.
    logits: Vec<f32>,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended it.
    Model,
    /// It has as many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
    /// Ctrl-C was pressed.
    Interrupted,
}

/// A prompt that leaves no room for an answer.
#[derive(Debug, Error)]
#[error("the prompt has {tokens} tokens, the context takes {n_ctx} (--ctx)")]
pub struct PromptTooLong {
    tokens: usize,
    n_ctx: usize,
}

/// What was generated, and how long it took.
#[derive(Debug)]
pub struct Answer {
    /// The tokens of its text, the one that ended it not counted.
    pub tokens: usize,
    /// The latest of them: all as long as the context might hold them.
    pub ids: Vec<u32>,
    /// What its text ends with, if there is any.
    last: Option<char>,
    pub stop: Stop,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that the state did not hold yet.
    pub prompt_evaluated: usize,
    /// How often the context was full and a part of it forgotten.
    pub shifts: usize,
    /// From the prompt's arrival to its last token.
    pub prompt_time: Duration,
    /// Evaluations after the prompt, one token each.
    pub decoded: usize,
    /// What they took, with the picking of the tokens.
    pub decode_time: Duration,
    /// When the first token was there.
    pub first_token: Option<Instant>,
}

impl<'a> Session<'a> {
    /// An empty sequence, which may take what `options` say.
    pub fn new(
        model: &'a Model<'a>,
        tokenizer: &'a Tokenizer,
        stop_ids: Vec<u32>,
        sampler: Sampler,
        options: StateOptions,
    ) -> Self {
        let state = State::new(model.config(), options);
        Self { model, tokenizer, stop_ids, sampler, state, ids: Vec::new(), logits: Vec::new() }
    }

    /// Goes on with a sequence that was saved, in place of this one.
    pub fn resume(&mut self, state: State, ids: Vec<u32>) {
        (self.state, self.ids) = (state, ids);
    }

    /// The model, what it holds, and the tokens of that.
    pub fn parts(&self) -> (&'a Model<'a>, &State, &[u32]) {
        (self.model, &self.state, &self.ids)
    }

    /// The most tokens that it takes.
    pub fn n_ctx(&self) -> usize {
        self.state.options().n_ctx
    }

    /// Whether a prompt can be answered.
    pub fn check_length(&self, prompt: &[u32]) -> Result<(), PromptTooLong> {
        let (tokens, n_ctx) = (prompt.len(), self.n_ctx());
        if tokens > n_ctx {
            return Err(PromptTooLong { tokens, n_ctx });
        }
        Ok(())
    }

    /// Goes on from `prompt` for at most `limit` tokens and writes their text to `out` as it
    /// comes. Only the tokens of the prompt that the sequence does not begin with yet are
    /// evaluated; what else the sequence holds is forgotten. When the context is full, it goes on
    /// from what `shift` says.
    pub fn answer(
        &mut self,
        prompt: &[u32],
        limit: Option<usize>,
        shift: &mut dyn Shift,
        out: &mut dyn Write,
    ) -> anyhow::Result<Answer> {
        self.check_length(prompt)?;
        // A stranger's chat template may render to nothing.
        if prompt.is_empty() {
            return Err(ModelError::NoTokens.into());
        }
        let start = Instant::now();
        let known = self.keep_common(prompt);
        let mut answer = Answer::new(prompt.len(), prompt.len() - known);
        if !self.read(&prompt[known..])? {
            answer.prompt_evaluated = self.ids.len() - known;
            return Ok(answer);
        }
        answer.prompt_time = start.elapsed();
        let mut decoder = self.tokenizer.stream(ControlPieces::Omit);
        answer.stop = loop {
            if interrupt::requested() {
                break Stop::Interrupted;
            }
            if limit == Some(answer.tokens) {
                break Stop::Length;
            }
            if let Some(id) = answer.ids.last() {
                if self.state.len() < self.n_ctx() {
                    self.evaluate(&[*id])?;
                } else {
                    let Some(ids) = shift.shift(&self.ids, &answer.ids)? else {
                        break Stop::Context;
                    };
                    let known = self.keep_common(&ids);
                    if !self.read(&ids[known..])? {
                        break Stop::Interrupted;
                    }
                    answer.shifts += 1;
                }
                answer.decoded += 1;
            }
            let id = self.sampler.sample(&mut self.logits, &self.ids);
            answer.first_token.get_or_insert_with(Instant::now);
            if self.stop_ids.contains(&id) {
                break Stop::Model;
            }
            answer.push(id, self.n_ctx());
            answer.write(&decoder.push(id), out)?;
        };
        answer.write(&decoder.finish(), out)?;
        answer.decode_time = start.elapsed() - answer.prompt_time;
        Ok(answer)
    }

    /// Forgets everything after what the sequence and `prompt` begin with alike, and that as well
    /// where a ring has written over what comes next would see; gives the length of what is left.
    fn keep_common(&mut self, prompt: &[u32]) -> usize {
        let common = self.ids.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last token is evaluated in any case: its logits are where the answer begins.
        let kept = self.state.truncate(common.min(prompt.len().saturating_sub(1)));
        self.ids.truncate(kept);
        kept
    }

    /// Evaluates the tokens of a prompt; returns whether it got through before Ctrl-C.
    fn read(&mut self, tokens: &[u32]) -> Result<bool, ModelError> {
        for ubatch in tokens.chunks(self.state.options().n_ubatch) {
            if interrupt::requested() {
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

impl Answer {
    fn new(prompt_tokens: usize, prompt_evaluated: usize) -> Self {
        Self {
            tokens: 0,
            ids: Vec::new(),
            last: None,
            stop: Stop::Interrupted,
            prompt_tokens,
            prompt_evaluated,
            shifts: 0,
            prompt_time: Duration::ZERO,
            decoded: 0,
            decode_time: Duration::ZERO,
            first_token: None,
        }
    }

    /// Tokens of the prompt that were evaluated in a second.
    pub fn prompt_speed(&self) -> Option<f64> {
        speed(self.prompt_evaluated, self.prompt_time)
    }

    /// Tokens that were evaluated in a second after the prompt.
    pub fn decode_speed(&self) -> Option<f64> {
        speed(self.decoded, self.decode_time)
    }

    /// Writes a newline unless the text ended with one, or there is none.
    pub fn end_line(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.last {
            None | Some('\n') => Ok(()),
            Some(_) => writeln!(out),
        }
    }

    /// Adds a token. A text may go on for ever: what no context of `n_ctx` holds is not kept.
    fn push(&mut self, id: u32, n_ctx: usize) {
        self.tokens += 1;
        self.ids.push(id);
        if self.ids.len() > 2 * n_ctx {
            self.ids.drain(..n_ctx);
        }
    }

    fn write(&mut self, text: &str, out: &mut dyn Write) -> anyhow::Result<()> {
        if let Some(last) = text.chars().next_back() {
            self.last = Some(last);
            out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("standard output")?;
        }
        Ok(())
    }
}

/// Tokens in a second; `None` where there are none.
pub fn speed(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

#[cfg(test)]
mod tests;
