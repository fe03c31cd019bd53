//! `POST /v1/completions`, OpenAI's older endpoint: it continues texts, and tells how likely they are.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{json, Value};

use super::logprobs::Legacy;
use super::params::{special, Params};
use super::wording::{finish_reason, OpenAiWording, Shape};
use crate::engine::{Finish, Token, TokenLogprobs};
use crate::server::generation::{Generation, WholeAnswer};
use crate::server::http::app::App;
use crate::server::http::body::JsonBody;
use crate::server::http::error::ApiError;
use crate::server::http::fields::{token_ids, wrong, Fields};
use crate::server::limits::{MAX_ANSWERS, MAX_TOP_LOGPROBS};
use crate::tokenizer::{ControlPieces, Special, Tokenizer};

/// OpenAI's default for the length of an answer, in tokens.
const DEFAULT_LENGTH: usize = 16;

/// A prompt as the request has it.
#[derive(Clone, Debug, PartialEq)]
enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

/// Continues texts.
pub async fn complete(State(app): State<Arc<App>>, body: JsonBody) -> Result<Response, ApiError> {
    app.prepare(body, prepare).await?.respond().await
}

fn prepare(app: &App, fields: &Fields) -> Result<Generation<OpenAiWording<Text>>, ApiError> {
    let prompts = prompts(fields)?;
    let echo = fields.flag("echo")?;
    let top = fields.integer("logprobs", 0..=MAX_TOP_LOGPROBS as i64)?.map(|top| top as usize);
    let lengths = ["max_tokens", "max_completion_tokens", "n_predict"];
    let mut params = Params::read(
        fields,
        &lengths,
        Some(DEFAULT_LENGTH),
        app.handle.n_vocab(),
        &app.defaults.sampling,
    )?;
    check(&params, echo, prompts.len())?;
    params.options.logprobs = top;
    params.options.prompt_logprobs = echo && top.is_some();
    let (special, n) = (special(fields)?, params.options.n);
    let prompts = prompts.into_iter().map(|prompt| encode(prompt, &app.tokenizer, special));
    let (prompts, echoes): (Vec<_>, Vec<_>) = prompts.unzip();
    let shape = Text {
        tokenizer: Arc::clone(&app.tokenizer),
        logprobs: top.is_some(),
        echo: echo.then_some(echoes),
        n,
        offsets: vec![0; prompts.len() * n],
    };
    let wording = OpenAiWording::new(app, &params, shape);
    Generation::submit(app, &prompts, &params.options, params.stream, wording)
}

/// Checks fields that make sense only together.
fn check(params: &Params, echo: bool, prompts: usize) -> Result<(), ApiError> {
    if params.options.max_tokens == Some(0) && !echo {
        let message = "max_tokens has to be at least 1 without echo";
        return Err(ApiError::field("max_tokens", message));
    }
    if prompts * params.options.n > MAX_ANSWERS {
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
        return Ok(vec![Prompt::Ids(token_ids(list).ok_or_else(error)?)]);
    }
    if list.len() > MAX_ANSWERS {
        let message = format!("a request is given at most {MAX_ANSWERS} answers");
        return Err(ApiError::field("prompt", message));
    }
    let prompt = |value: &Value| match value {
        Value::String(text) => Some(Prompt::Text(text.clone())),
        Value::Array(list) => token_ids(list).map(Prompt::Ids),
        _ => None,
    };
    list.iter().map(|value| prompt(value).ok_or_else(error)).collect()
}

/// What is repeated of a prompt before its answers.
struct Echo {
    text: String,
    /// Its first token, whose probability is not known.
    first: Option<u32>,
}

/// The ids of a prompt, and what is repeated of it. BOS is put before a text, and ids stay as they are.
fn encode(prompt: Prompt, tokenizer: &Tokenizer, special: Special) -> (Vec<u32>, Echo) {
    let (ids, text) = match prompt {
        Prompt::Text(text) => {
            let ids = tokenizer.encode_with_bos(&text, special);
            // As in answers, control tokens have no text.
            let text = match special {
                Special::Plain => text,
                Special::Trusted => tokenizer.decode(&ids, ControlPieces::Omit),
            };
            (ids, text)
        }
        Prompt::Ids(ids) => {
            let text = tokenizer.decode(&ids, ControlPieces::Omit);
            (ids, text)
        }
    };
    let first = ids.first().copied();
    (ids, Echo { text, first })
}

/// How completions are worded.
struct Text {
    tokenizer: Arc<Tokenizer>,
    logprobs: bool,
    /// For each prompt, if they are repeated.
    echo: Option<Vec<Echo>>,
    /// Answers to each prompt.
    n: usize,
    /// Characters of each answer so far.
    offsets: Vec<usize>,
}

impl Text {
    fn echo(&self, index: usize) -> Option<&Echo> {
        self.echo.as_ref().map(|echoes| &echoes[index / self.n])
    }

    /// The log-probabilities of tokens, and before them those of a prompt that is repeated. `prompt` has
    /// all its tokens but the first.
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
        let first = self.echo(index).and_then(|echo| echo.first);
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

impl Shape for Text {
    const ID: &'static str = "cmpl-";
    const WHOLE: &'static str = "text_completion";
    const CHUNK: &'static str = "text_completion";

    fn whole(&mut self, index: usize, answer: &WholeAnswer) -> Value {
        let echoed = self.echo(index).map_or("", |echo| &echo.text);
        let text = format!("{echoed}{}", answer.text);
        let logprobs = self.logprobs(index, Some(&answer.prompt), &answer.tokens);
        self.choice(index, &text, logprobs, answer.finish)
    }

    fn begin(&mut self, index: usize, prompt: &[TokenLogprobs]) -> Option<Value> {
        let text = self.echo(index)?.text.clone();
        let logprobs = self.logprobs(index, Some(prompt), &[]);
        Some(self.choice(index, &text, logprobs, None))
    }

    fn text(&mut self, index: usize, text: &str, tokens: &[Token]) -> Value {
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
    use crate::sampling::SamplerConfig;

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
            assert_eq!(error.kind.status(), 400);
            assert_eq!(error.field.as_deref(), Some("prompt"));
        }
    }

    #[test]
    fn a_request_as_a_whole_is_looked_at() {
        let check = |body: Value, echo| {
            let fields = Fields::of(&body).unwrap();
            let params =
                Params::read(&fields, &["max_tokens"], Some(16), 100, &SamplerConfig::default())
                    .unwrap();
            check(&params, echo, 64).map_err(|error| error.field.unwrap())
        };
        assert_eq!(check(json!({"n": 2, "best_of": 2}), false), Ok(()));
        assert_eq!(check(json!({"max_tokens": 0}), true), Ok(()));
        assert_eq!(check(json!({"max_tokens": 0}), false), Err("max_tokens".into()));
        assert_eq!(check(json!({"n": 5}), false), Err("prompt".into()));
    }
}
