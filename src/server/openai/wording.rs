//! What chat completions and completions have in common on their way out: the object around the choices,
//! and the events of a stream.

use std::hash::{BuildHasher, Hasher, RandomState};

use serde_json::{json, Value};

use super::usage::{timings, usage};
use super::{error, params::Params};
use crate::engine::{Finish, Token, TokenLogprobs};
use crate::server::generation::{Tally, WholeAnswer, Wording};
use crate::server::http::app::{unix_time, App};
use crate::server::http::error::ApiError;
use crate::server::http::sse;

/// Tells clients that two answers come from the same program.
const FINGERPRINT: &str = concat!("lapidary-", env!("CARGO_PKG_VERSION"));

/// How an endpoint words its choices. OpenAI calls each answer to a request a choice.
pub trait Shape: Send + 'static {
    /// What the ids of its objects begin with.
    const ID: &'static str;
    /// The kind of object that has whole answers.
    const WHOLE: &'static str;
    /// The kind of object that has a part of a stream.
    const CHUNK: &'static str;

    /// A choice that is whole.
    fn whole(&mut self, index: usize, answer: &WholeAnswer) -> Value;
    /// The beginning of a choice in a stream, after its prompt was read.
    fn begin(&mut self, index: usize, prompt: &[TokenLogprobs]) -> Option<Value>;
    /// More of it.
    fn text(&mut self, index: usize, text: &str, tokens: &[Token]) -> Value;
    /// Its end.
    fn end(&mut self, index: usize, finish: Finish) -> Value;
}

/// `stop` or `length`.
pub fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// How OpenAI's endpoints word the answers to one request.
pub struct OpenAiWording<S> {
    shape: S,
    id: String,
    created: u64,
    model: String,
    /// Whether a stream says at its end what it took.
    include_usage: bool,
}

impl<S: Shape> OpenAiWording<S> {
    /// For the answers to a request that came now.
    pub fn new(app: &App, params: &Params, shape: S) -> Self {
        // Each `RandomState` has random keys.
        let random = || RandomState::new().build_hasher().finish();
        Self {
            shape,
            id: format!("{}{:016x}{:016x}", S::ID, random(), random()),
            created: unix_time(),
            model: app.model.name.clone(),
            include_usage: params.include_usage,
        }
    }

    fn object(&self, kind: &str, choices: &[Value]) -> Value {
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }

    /// A chunk that does not tell the usage.
    fn chunk(&self, choice: Value) -> Value {
        let mut chunk = self.object(S::CHUNK, &[choice]);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }
}

impl<S: Shape> Wording for OpenAiWording<S> {
    const CONTENT_TYPE: &'static str = sse::CONTENT_TYPE;
    const KEEP_ALIVE: Option<&'static str> = Some(sse::KEEP_ALIVE);

    fn whole(&mut self, answers: &[WholeAnswer], tally: &Tally) -> Value {
        let answers = answers.iter().enumerate();
        let choices: Vec<Value> = answers.map(|(i, answer)| self.shape.whole(i, answer)).collect();
        let mut body = self.object(S::WHOLE, &choices);
        body["usage"] = usage(tally);
        body["timings"] = timings(tally);
        body
    }

    fn begin(&mut self, index: usize, prompt: &[TokenLogprobs], _: &Tally) -> Vec<String> {
        let choice = self.shape.begin(index, prompt);
        choice.map(|choice| sse::json_event(&self.chunk(choice))).into_iter().collect()
    }

    fn text(&mut self, index: usize, text: &str, tokens: &[Token]) -> Vec<String> {
        let choice = self.shape.text(index, text, tokens);
        vec![sse::json_event(&self.chunk(choice))]
    }

    fn end(&mut self, index: usize, finish: Finish, tally: &Tally, last: bool) -> Vec<String> {
        let choice = self.shape.end(index, finish);
        let mut chunk = self.chunk(choice);
        if last {
            chunk["timings"] = timings(tally);
        }
        vec![sse::json_event(&chunk)]
    }

    fn finish(&mut self, tally: &Tally) -> Vec<String> {
        let mut events = Vec::new();
        if self.include_usage {
            let mut chunk = self.object(S::CHUNK, &[]);
            chunk["usage"] = usage(tally);
            chunk["timings"] = timings(tally);
            events.push(sse::json_event(&chunk));
        }
        events.push(sse::event("[DONE]"));
        events
    }

    fn fail(&mut self, error: &ApiError) -> Vec<String> {
        vec![sse::json_event(&error::body(error))]
    }
}
