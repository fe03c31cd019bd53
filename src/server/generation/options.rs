//! What a request asks for besides its prompts.

use serde_json::Value;

use crate::engine::Request;
use crate::sampling::{Constraint, ConstraintError, Sampler, SamplerConfig};
use crate::server::http::app::App;
use crate::server::http::error::{ApiError, ErrorKind};

/// How answers are to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Answers to each prompt.
    pub n: usize,
    /// The most tokens of an answer; `None` for as many as the context takes.
    pub max_tokens: Option<usize>,
    /// How tokens are picked.
    pub sampling: SamplerConfig,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Whether an answer goes on where the model would end it.
    pub ignore_eos: bool,
    /// What an answer has to be.
    pub format: AnswerFormat,
    /// The field of the request that says so.
    pub format_field: Option<&'static str>,
    /// The log-probabilities that come with each token: its own, and those of so many of the likeliest.
    pub logprobs: Option<usize>,
    /// Whether they also come with each token of the prompts.
    pub prompt_logprobs: bool,
}

/// What an answer has to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AnswerFormat {
    /// Any text.
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that fits a schema.
    JsonSchema(Value),
    /// A text that a regular expression matches.
    Regex(String),
    /// One of some texts.
    Choice(Vec<String>),
    /// A text of a grammar.
    Grammar(String),
}

impl Default for Options {
    /// One answer that `lapidary run` could have made.
    fn default() -> Self {
        Self {
            n: 1,
            max_tokens: None,
            sampling: SamplerConfig::default(),
            stop: Vec::new(),
            ignore_eos: false,
            format: AnswerFormat::Text,
            format_field: None,
            logprobs: None,
            prompt_logprobs: false,
        }
    }
}

impl Options {
    /// What the engine is asked for, in the order of the answers' indexes. Making the constraint may take
    /// seconds.
    pub(super) fn requests(
        &self,
        app: &App,
        prompts: &[Vec<u32>],
    ) -> Result<Vec<Request>, ApiError> {
        let constraint = self.format.constraint(app).map_err(|error| ApiError {
            field: self.format_field.map(str::to_owned),
            ..ApiError::new(ErrorKind::InvalidFormat, error.0)
        })?;
        let mut requests = Vec::with_capacity(prompts.len() * self.n);
        for prompt in prompts {
            for choice in 0..self.n {
                requests.push(Request {
                    prompt: prompt.clone(),
                    max_tokens: self.max_tokens,
                    sampler: self.sampler(choice)?,
                    constraint: constraint.clone(),
                    stop: self.stop.clone(),
                    ignore_eos: self.ignore_eos,
                    logprobs: self.logprobs,
                    prompt_logprobs: self.prompt_logprobs,
                });
            }
        }
        Ok(requests)
    }

    /// The sampler of the `choice`th answer to a prompt. If there is a seed, each answer has its own.
    fn sampler(&self, choice: usize) -> Result<Sampler, ApiError> {
        let seed = self.sampling.seed.map(|seed| seed.wrapping_add(choice as u64));
        let config = SamplerConfig { seed, ..self.sampling.clone() };
        Sampler::new(config).map_err(|error| ApiError::field(error.name, error.to_string()))
    }
}

impl AnswerFormat {
    /// What holds an answer to it.
    fn constraint(&self, app: &App) -> Result<Option<Box<dyn Constraint>>, ConstraintError> {
        match self {
            Self::Text => Ok(None),
            Self::JsonObject => app.grammars()?.json_object().map(Some),
            Self::JsonSchema(schema) => app.grammars()?.json_schema(schema).map(Some),
            Self::Regex(pattern) => app.grammars()?.regex(pattern).map(Some),
            Self::Choice(texts) => app.grammars()?.choice(texts).map(Some),
            Self::Grammar(grammar) => app.grammars()?.grammar(grammar).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_one_seed_differ_and_repeat() {
        let sampling = SamplerConfig { seed: Some(u64::MAX), ..SamplerConfig::default() };
        let options = Options { n: 2, sampling, ..Options::default() };
        let seeds = [0, 1, 0].map(|choice| options.sampler(choice).unwrap().seed());
        assert_eq!(seeds, [u64::MAX, 0, u64::MAX]);
    }
}
