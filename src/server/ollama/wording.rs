//! How answers are worded: an object, or a stream of them, a line each.

use std::time::{Duration, Instant};

use axum::response::{IntoResponse, Response};
use axum::Json;
use serde_json::{json, Value};

use crate::engine::{Finish, Token, TokenLogprobs};
use crate::server::generation::{Tally, WholeAnswer, Wording};
use crate::server::http::app::App;
use crate::server::http::error::ApiError;

/// Which endpoint words an answer.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `/api/chat`
    Chat,
    /// `/api/generate`
    Generate,
}

/// The answer to a request without a prompt.
pub fn loaded(app: &App, kind: Kind) -> Response {
    let mut reply = OllamaWording::new(app, kind).part("");
    reply["done"] = json!(true);
    reply["done_reason"] = json!("load");
    Json(reply).into_response()
}

/// How the answer to one request is worded.
pub struct OllamaWording {
    kind: Kind,
    model: String,
    /// When the request was read.
    start: Instant,
    finish: Option<Finish>,
}

impl OllamaWording {
    /// For an answer that begins now.
    pub fn new(app: &App, kind: Kind) -> Self {
        Self { kind, model: app.model.name.clone(), start: Instant::now(), finish: None }
    }

    /// An object with a part of the text.
    fn part(&self, text: &str) -> Value {
        let mut part = json!({
            "model": self.model,
            "created_at": jiff::Timestamp::now().to_string(),
            "done": false,
        });
        match self.kind {
            Kind::Chat => part["message"] = json!({"role": "assistant", "content": text}),
            Kind::Generate => part["response"] = json!(text),
        }
        part
    }

    /// An object with the last part of the text, and what the answer took, in nanoseconds.
    fn last(&self, text: &str, tally: &Tally) -> Value {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut last = self.part(text);
        last["done"] = json!(true);
        last["done_reason"] = json!(match self.finish {
            Some(Finish::Length) => "length",
            _ => "stop",
        });
        last["total_duration"] = json!(nanoseconds(self.start.elapsed()));
        last["load_duration"] = json!(0);
        last["prompt_eval_count"] = json!(tally.prompt());
        last["prompt_eval_duration"] = json!(nanoseconds(tally.prompt_time));
        last["eval_count"] = json!(tally.generated);
        last["eval_duration"] = json!(nanoseconds(tally.decode_time));
        last
    }
}

fn line(value: &Value) -> Vec<String> {
    vec![format!("{value}\n")]
}

impl Wording for OllamaWording {
    const CONTENT_TYPE: &'static str = "application/x-ndjson";
    // Clients take every line for an object.
    const KEEP_ALIVE: Option<&'static str> = None;

    fn whole(&mut self, answers: &[WholeAnswer], tally: &Tally) -> Value {
        let answer = answers.first();
        self.finish = answer.and_then(|answer| answer.finish);
        self.last(answer.map_or("", |answer| &answer.text), tally)
    }

    fn begin(&mut self, _: usize, _: &[TokenLogprobs], _: &Tally) -> Vec<String> {
        Vec::new()
    }

    fn text(&mut self, _: usize, text: &str, _: &[Token]) -> Vec<String> {
        line(&self.part(text))
    }

    fn end(&mut self, _: usize, finish: Finish, _: &Tally, _: bool) -> Vec<String> {
        self.finish = Some(finish);
        Vec::new()
    }

    fn finish(&mut self, tally: &Tally) -> Vec<String> {
        line(&self.last("", tally))
    }

    fn fail(&mut self, error: &ApiError) -> Vec<String> {
        line(&json!({"error": error.message}))
    }
}
