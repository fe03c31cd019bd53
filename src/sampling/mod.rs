//! Picks the next token from logits.
//!
//! The chain, its order and its defaults are llama.cpp's
//! (<https://github.com/ggml-org/llama.cpp/tree/master/tools/main#sampling-parameters>):
//! bias → penalties → top-k → top-p → min-p → temperature → draw.

mod candidates;
mod constraint;
pub(crate) mod rng;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use candidates::Candidates;
pub use constraint::{Constraint, ConstraintError};
use rng::SplitMix64;

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerConfig {
    /// The logits are divided by it; 0 always picks the likeliest token.
    pub temperature: f32,
    /// Keeps this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the likeliest tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens that are at least this many times as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Makes recent tokens less likely: positive logits are divided by it, negative ones multiplied;
    /// 1 does nothing.
    pub repeat_penalty: f32,
    /// How many of the last tokens count as recent.
    pub repeat_last_n: usize,
    /// Subtracted once from the logits of tokens that were picked before; 0 does nothing.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a token for each time it was picked before; 0 does nothing.
    pub frequency_penalty: f32,
    /// Added to the logits of these ids before everything else. Each id is given once.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the random numbers; `None` uses a random one.
    pub seed: Option<u64>,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// A setting is out of range.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{name} is {value}, but must be {range}")]
pub struct SamplerError {
    /// The field of [`SamplerConfig`].
    pub name: &'static str,
    /// Its value.
    pub value: f32,
    /// The allowed values.
    pub range: &'static str,
}

/// Picks tokens, one after another, with its own stream of random numbers.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SamplerConfig,
    seed: u64,
    rng: SplitMix64,
    /// How often each token was picked; counted only if a penalty needs it.
    picked: BTreeMap<u32, u32>,
}

impl Sampler {
    /// Bytes that picking a token takes besides the logits of `n` pieces: a copy of them, and the
    /// candidates that are sorted.
    pub fn predicted_heap_bytes(n: usize) -> usize {
        n * 12
    }

    /// A sampler at the start of its stream.
    ///
    /// # Errors
    /// If a setting is out of range or NaN.
    pub fn new(config: SamplerConfig) -> Result<Self, SamplerError> {
        let SamplerConfig { temperature, top_p, min_p, repeat_penalty, .. } = config;
        let (presence, frequency) = (config.presence_penalty, config.frequency_penalty);
        let finite = f32::MAX;
        let rules = [
            ("temperature", temperature, (0.0..=finite).contains(&temperature), "0 or more"),
            ("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0 and at most 1"),
            ("min_p", min_p, (0.0..=1.0).contains(&min_p), "from 0 to 1"),
            (
                "repeat_penalty",
                repeat_penalty,
                repeat_penalty > 0.0 && repeat_penalty <= finite,
                "above 0",
            ),
            ("presence_penalty", presence, presence.is_finite(), "a finite number"),
            ("frequency_penalty", frequency, frequency.is_finite(), "a finite number"),
        ];
        for (name, value, holds, range) in rules {
            if !holds {
                return Err(SamplerError { name, value, range });
            }
        }
        if let Some((_, bias)) = config.logit_bias.iter().find(|(_, bias)| bias.is_nan()) {
            let (name, range) = ("logit_bias", "a number");
            return Err(SamplerError { name, value: *bias, range });
        }
        let seed = config.seed.unwrap_or_else(rng::random_seed);
        Ok(Self { config, seed, rng: SplitMix64::new(seed), picked: BTreeMap::new() })
    }

    /// The seed of the stream. With it the same choices can be repeated.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Picks the next token, given the logits of all ids and the tokens so far.
    ///
    /// Changes the logits where a bias or a penalty applies. NaN counts as impossible, and infinite
    /// logits as the largest finite ones of their sign.
    ///
    /// # Panics
    /// If there are no logits.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> u32 {
        assert!(!logits.is_empty(), "a vocabulary has at least one token");
        for (id, bias) in &self.config.logit_bias {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit += bias;
            }
        }
        let recent = &history[history.len().saturating_sub(self.config.repeat_last_n)..];
        penalize(logits, recent, self.config.repeat_penalty);
        let (presence, frequency) = (self.config.presence_penalty, self.config.frequency_penalty);
        for (id, count) in &self.picked {
            // In bounds: only ids with a logit have been picked.
            logits[*id as usize] -= presence + *count as f32 * frequency;
        }
        for logit in logits.iter_mut() {
            *logit = if logit.is_nan() { f32::MIN } else { logit.clamp(f32::MIN, f32::MAX) };
        }
        let id = self.pick(logits);
        if presence != 0.0 || frequency != 0.0 {
            *self.picked.entry(id).or_default() += 1;
        }
        id
    }

    /// Picks from finite logits.
    fn pick(&mut self, logits: &[f32]) -> u32 {
        if self.config.temperature == 0.0 {
            return argmax(logits);
        }
        let mut candidates = Candidates::new(logits);
        candidates.top_k(self.config.top_k);
        candidates.top_p(self.config.top_p);
        candidates.min_p(self.config.min_p);
        candidates.draw(self.config.temperature, self.rng.unit())
    }
}

/// Penalizes each distinct token once, however often it occurs (<https://arxiv.org/abs/1909.05858>,
/// 4.1).
fn penalize(logits: &mut [f32], recent: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut recent = recent.to_vec();
    recent.sort_unstable();
    recent.dedup();
    for id in recent {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

/// The id of the largest logit; among equals, the lowest id.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}
