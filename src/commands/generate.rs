//! Generation: reads a prompt, picks tokens one by one, writes their text as it comes.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use lapidary::model::{Model, ModelError, State, StateOptions};
use lapidary::sampling::Sampler;
use lapidary::tokenizer::{ControlPieces, Tokenizer};
use thiserror::Error;

use super::interrupt;

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
    pub text: String,
    pub stop: Stop,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that the state did not hold yet.
    pub prompt_evaluated: usize,
    /// Tokens that were generated, the one that ended the text not counted.
    pub generated: usize,
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
    /// evaluated; what else the sequence holds is forgotten.
    pub fn answer(
        &mut self,
        prompt: &[u32],
        limit: Option<usize>,
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
            return Ok(answer);
        }
        answer.prompt_time = start.elapsed();
        let mut decoder = self.tokenizer.stream(ControlPieces::Omit);
        let mut last = None;
        answer.stop = loop {
            if interrupt::requested() {
                break Stop::Interrupted;
            }
            if limit == Some(answer.generated) {
                break Stop::Length;
            }
            if let Some(id) = last {
                if self.state.len() == self.n_ctx() {
                    break Stop::Context;
                }
                self.evaluate(&[id])?;
                answer.decoded += 1;
            }
            let id = self.sampler.sample(&mut self.logits, &self.ids);
            answer.first_token.get_or_insert_with(Instant::now);
            if self.stop_ids.contains(&id) {
                break Stop::Model;
            }
            last = Some(id);
            answer.generated += 1;
            answer.write(&decoder.push(id), out)?;
        };
        answer.write(&decoder.finish(), out)?;
        answer.decode_time = start.elapsed() - answer.prompt_time;
        Ok(answer)
    }

    /// Forgets everything after what the sequence and `prompt` begin with alike; gives its length.
    fn keep_common(&mut self, prompt: &[u32]) -> usize {
        let common = self.ids.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last token is evaluated in any case: its logits are where the answer begins.
        let kept = common.min(prompt.len().saturating_sub(1));
        self.ids.truncate(kept);
        self.state.truncate(kept);
        kept
    }

    /// Evaluates the tokens of a prompt; returns whether it got through before Ctrl-C.
    fn read(&mut self, tokens: &[u32]) -> Result<bool, ModelError> {
        for slice in tokens.chunks(self.state.options().slice) {
            if interrupt::requested() {
                return Ok(false);
            }
            self.evaluate(slice)?;
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
            text: String::new(),
            stop: Stop::Interrupted,
            prompt_tokens,
            prompt_evaluated,
            generated: 0,
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
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            writeln!(out)?;
        }
        Ok(())
    }

    fn write(&mut self, text: &str, out: &mut dyn Write) -> anyhow::Result<()> {
        if !text.is_empty() {
            self.text.push_str(text);
            out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("standard output")?;
        }
        Ok(())
    }
}

fn speed(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::path::Path;

    use lapidary::kernels::KvType;
    use lapidary::model::Source;
    use lapidary::sampling::SamplerConfig;
    use lapidary::tokenizer::Special;

    #[test]
    fn what_the_sequence_begins_with_is_not_evaluated_again() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-gemma2");
        let source = Source::open(&path).unwrap();
        let tokenizer = Tokenizer::new(source.vocab().unwrap()).unwrap();
        let model = Model::load(&source, None).unwrap();
        let session = || {
            let config = SamplerConfig { temperature: 0.0, ..SamplerConfig::default() };
            let sampler = Sampler::new(config).unwrap();
            let options = StateOptions::new(128, KvType::F32);
            Session::new(&model, &tokenizer, Vec::new(), sampler, options)
        };
        let encode = |text: &str| tokenizer.encode_with_bos(text, Special::Plain);
        let (david, saul) = (encode("And David went up to"), encode("And David said unto Saul"));
        let common = david.iter().zip(&saul).take_while(|(a, b)| a == b).count();

        let mut going_on = session();
        for (prompt, known) in [(&david, 0), (&saul, common), (&saul, saul.len() - 1)] {
            let answer = going_on.answer(prompt, Some(12), &mut io::sink()).unwrap();
            assert_eq!(answer.prompt_evaluated, prompt.len() - known);
            let fresh = session().answer(prompt, Some(12), &mut io::sink()).unwrap();
            assert_eq!(answer.text, fresh.text);
        }
        let mut longer = saul.clone();
        longer.extend(&going_on.ids[saul.len()..]);
        longer.extend(&david[1..]);
        let answer = going_on.answer(&longer, Some(12), &mut io::sink()).unwrap();
        assert_eq!(answer.prompt_evaluated, david.len() - 1);
        let fresh = session().answer(&longer, Some(12), &mut io::sink()).unwrap();
        assert_eq!(answer.text, fresh.text);
    }
}
