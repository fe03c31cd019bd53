//! `POST /v1/completions`, OpenAI's older endpoint: texts to go on with, and how likely they are.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{json, Value};

use super::answer::{finish_reason, Job, Shape, Whole};
use super::app::App;
use super::body::JsonBody;
use super::error::ApiError;
use super::fields::{wrong, Fields};
use super::logprobs::Legacy;
use super::params::{refuse, Params, MAX_TOP_LOGPROBS};
use super::tally::Tally;
use crate::engine::{Finish, Request, Token, TokenLogprobs};
use crate::tokenizer::{ControlPieces, Special, Tokenizer};

/// The most answers to one request.
const MAX_ANSWERS: usize = 256;

/// Tokens of an answer where a request says nothing of it, as OpenAI has it.
const DEFAULT_LENGTH: usize = 16;

/// Fields that would change the answer, and are not known here.
const UNSUPPORTED: [&str; 2] = ["suffix", "grammar"];

/// What is to be gone on with.
#[derive(Clone, Debug, PartialEq)]
enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

/// Goes on with texts.
pub async fn complete(State(app): State<Arc<App>>, body: JsonBody) -> Result<Response, ApiError> {
    app.prepare(body, prepare).await?.respond().await
}

fn prepare(app: &App, fields: &Fields) -> Result<Job<TextShape>, ApiError> {
    refuse(fields, &UNSUPPORTED)?;
    let prompts = prompts(fields)?;
    let echo = fields.flag("echo")?;
    let top = fields.integer("logprobs", 0..=MAX_TOP_LOGPROBS)?.map(|top| top as usize);
    let lengths = ["max_tokens", "max_completion_tokens", "n_predict"];
    let params = Params::read(fields, &lengths, Some(DEFAULT_LENGTH), app.handle.n_vocab())?;
    check(fields, &params, echo, prompts.len())?;
    let special = special(fields)?;
    let prompts = prompts.into_iter().map(|prompt| Spelt::new(prompt, &app.tokenizer, special));
    let prompts: Vec<Spelt> = prompts.collect();
    prompts.iter().try_for_each(|prompt| app.check_length(&prompt.ids))?;
    app.check_answers(prompts.len() * params.n)?;
    let constraint = app.constraint(&params.format)?;
    let mut requests = Vec::new();
    for prompt in &prompts {
        for choice in 0..params.n {
            requests.push(Request {
                prompt: prompt.ids.clone(),
                max_tokens: params.max_tokens,
                sampler: params.sampler(choice)?,
                constraint: constraint.clone(),
                stop: params.stop.clone(),
                ignore_eos: params.ignore_eos,
                logprobs: top,
                prompt_logprobs: echo && top.is_some(),
            });
        }
    }
    let answers = app.handle.submit(requests)?;
    Ok(Job {
        tally: Tally::new(prompts.iter().map(|prompt| prompt.ids.len()).collect(), params.n),
        shape: TextShape {
            tokenizer: Arc::clone(&app.tokenizer),
            logprobs: top.is_some(),
            echo: echo.then_some(prompts),
            n: params.n,
            offsets: vec![0; answers.len()],
        },
        answers,
        model: app.model.name.clone(),
        stream: params.stream,
        include_usage: params.include_usage,
    })
}

/// What control tokens in a prompt's text are taken for: text, unless `parse_special` asks otherwise.
pub fn special(fields: &Fields) -> Result<Special, ApiError> {
    Ok(match fields.flag("parse_special")? {
        true => Special::Trusted,
        false => Special::Plain,
    })
}

/// What is odd about a request as a whole.
fn check(fields: &Fields, params: &Params, echo: bool, prompts: usize) -> Result<(), ApiError> {
    let best_of = fields.integer("best_of", 1..=i64::MAX)?;
    if best_of.is_some_and(|best_of| best_of != params.n as i64) {
        return Err(ApiError::unsupported("best_of", "best_of is supported where it equals n"));
    }
    if params.max_tokens == Some(0) && !echo {
        let message = "max_tokens has to be at least 1 without echo";
        return Err(ApiError::field("max_tokens", message));
    }
    if prompts * params.n > MAX_ANSWERS {
        let message = format!("a request is given at most {MAX_ANSWERS} answers");
        return Err(ApiError::field("prompt", message));
    }
    Ok(())
}

/// A text, a list of texts, the ids of a text, or a list of such.
fn prompts(fields: &Fields) -> Result<Vec<Prompt>, ApiError> {
    let what = "a string, a list of strings, a list of token ids or a list of such lists";
    let error = || wrong("prompt", what);
    let list = match fields.get("prompt").ok_or_else(error)? {
        Value::String(text) => return Ok(vec![Prompt::Text(text.clone())]),
        Value::Array(list) => list,
        _ => return Err(error()),
    };
    if list.first().ok_or_else(error)?.is_u64() {
        return Ok(vec![Prompt::Ids(ids(list).ok_or_else(error)?)]);
    }
    if list.len() > MAX_ANSWERS {
        let message = format!("a request is given at most {MAX_ANSWERS} answers");
        return Err(ApiError::field("prompt", message));
    }
    let prompt = |value: &Value| match value {
        Value::String(text) => Some(Prompt::Text(text.clone())),
        Value::Array(list) => ids(list).map(Prompt::Ids),
        _ => None,
    };
    list.iter().map(|value| prompt(value).ok_or_else(error)).collect()
}

/// Token ids.
pub fn ids(list: &[Value]) -> Option<Vec<u32>> {
    list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}

/// A prompt in both forms. That of a text begins with BOS, those of ids are as they are.
struct Spelt {
    ids: Vec<u32>,
    text: String,
}

impl Spelt {
    fn new(prompt: Prompt, tokenizer: &Tokenizer, special: Special) -> Self {
        match prompt {
            Prompt::Text(text) => {
                let ids = tokenizer.encode_with_bos(&text, special);
                // What was taken for control tokens leaves no text, as in answers.
                let text = match special {
                    Special::Plain => text,
                    Special::Trusted => tokenizer.decode(&ids, ControlPieces::Omit),
                };
                Self { ids, text }
            }
            Prompt::Ids(ids) => Self { text: tokenizer.decode(&ids, ControlPieces::Omit), ids },
        }
    }
}

/// How completions are worded.
struct TextShape {
    tokenizer: Arc<Tokenizer>,
    logprobs: bool,
    /// The prompts, if they are repeated.
    echo: Option<Vec<Spelt>>,
    /// Answers to each.
    n: usize,
    /// Characters of each answer so far.
    offsets: Vec<usize>,
}

impl TextShape {
    fn prompt(&self, index: usize) -> Option<&Spelt> {
        self.echo.as_ref().map(|prompts| &prompts[index / self.n])
    }

    /// Of tokens, and before them of a prompt that is repeated: its first token, and the rest, which
    /// are known.
    fn logprobs(
        &mut self,
        index: usize,
        prompt: Option<&[TokenLogprobs]>,
        tokens: &[Token],
    ) -> Value {
        if !self.logprobs {
            return Value::Null;
        }
        let mut legacy = Legacy::default();
        let first = self.prompt(index).and_then(|prompt| prompt.ids.first().copied());
        let (tokenizer, offset) = (&self.tokenizer, &mut self.offsets[index]);
        if let Some((first, rest)) = first.zip(prompt) {
            legacy.push_first(tokenizer, first, offset);
            rest.iter().for_each(|token| legacy.push(tokenizer, token, offset));
        }
        let known = tokens.iter().filter_map(|token| token.logprobs.as_ref());
        known.for_each(|token| legacy.push(tokenizer, token, offset));
        legacy.json()
    }

    fn choice(&self, index: usize, text: &str, logprobs: Value, finish: Option<Finish>) -> Value {
        json!({
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish.map(finish_reason),
        })
    }
}

impl Shape for TextShape {
    const ID: &'static str = "cmpl-";
    const WHOLE: &'static str = "text_completion";
    const CHUNK: &'static str = "text_completion";

    fn whole(&mut self, index: usize, choice: &Whole) -> Value {
        let echoed = self.prompt(index).map_or("", |prompt| &prompt.text);
        let text = format!("{echoed}{}", choice.text);
        let logprobs = self.logprobs(index, Some(&choice.prompt), &choice.tokens);
        self.choice(index, &text, logprobs, choice.finish)
    }

    fn begin(&mut self, index: usize, prompt: &[TokenLogprobs]) -> Option<Value> {
        let text = self.prompt(index)?.text.clone();
        let logprobs = self.logprobs(index, Some(prompt), &[]);
        Some(self.choice(index, &text, logprobs, None))
    }

    fn go_on(&mut self, index: usize, text: &str, tokens: &[Token]) -> Value {
        let logprobs = self.logprobs(index, None, tokens);
        self.choice(index, text, logprobs, None)
    }

    fn end(&mut self, index: usize, finish: Finish) -> Value {
        self.choice(index, "", Value::Null, Some(finish))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(prompt: Value) -> Result<Vec<Prompt>, ApiError> {
        prompts(&Fields::of(&json!({"prompt": prompt})).unwrap())
    }

    #[test]
    fn a_prompt_is_one_or_many_texts_or_ids() {
        let text = |text: &str| Prompt::Text(text.to_owned());
        assert_eq!(read(json!("a")), Ok(vec![text("a")]));
        assert_eq!(read(json!(["a", "b"])), Ok(vec![text("a"), text("b")]));
        assert_eq!(read(json!([1, 2])), Ok(vec![Prompt::Ids(vec![1, 2])]));
        let both = vec![Prompt::Ids(vec![1]), Prompt::Ids(vec![2, 3])];
        assert_eq!(read(json!([[1], [2, 3]])), Ok(both));
    }

    #[test]
    fn what_is_no_prompt_is_refused() {
        let many = json!(vec!["x"; MAX_ANSWERS + 1]);
        for prompt in [
            Value::Null,
            json!([]),
            json!({}),
            json!(1),
            json!([-1]),
            json!([1, "a"]),
            json!(["a", 1]),
            json!([1.5]),
            json!([1, 1u64 << 32]),
            json!([[1], ["a"]]),
            many,
        ] {
            let error = read(prompt).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some("prompt")));
        }
    }

    #[test]
    fn a_request_as_a_whole_is_looked_at() {
        let check = |body: Value, echo| {
            let fields = Fields::of(&body).unwrap();
            let params = Params::read(&fields, &["max_tokens"], Some(16), 100).unwrap();
            check(&fields, &params, echo, 64).map_err(|error| error.param.unwrap())
        };
        assert_eq!(check(json!({"n": 2, "best_of": 2}), false), Ok(()));
        assert_eq!(check(json!({"best_of": 2}), false), Err("best_of".into()));
        assert_eq!(check(json!({"max_tokens": 0}), true), Ok(()));
        assert_eq!(check(json!({"max_tokens": 0}), false), Err("max_tokens".into()));
        assert_eq!(check(json!({"n": 5}), false), Err("prompt".into()));
    }
}
