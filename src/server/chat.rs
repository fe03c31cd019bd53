//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{json, Value};

use super::answer::{finish_reason, Job, Shape, Whole};
use super::app::App;
use super::body::JsonBody;
use super::error::ApiError;
use super::fields::{wrong, Fields};
use super::logprobs;
use super::params::{refuse, Params, MAX_TOP_LOGPROBS};
use super::tally::Tally;
use crate::chat::{Role, Turn};
use crate::engine::{Finish, Request, Token, TokenLogprobs};
use crate::tokenizer::Tokenizer;

/// The most messages of a conversation.
const MAX_MESSAGES: usize = 4096;

/// Fields that would change the answer, and are not known here.
const UNSUPPORTED: [&str; 10] = [
    "tools",
    "functions",
    "tool_choice",
    "function_call",
    "audio",
    "grammar",
    "guided_json",
    "guided_regex",
    "prediction",
    "web_search_options",
];

/// Answers a conversation.
pub async fn complete(State(app): State<Arc<App>>, body: JsonBody) -> Result<Response, ApiError> {
    app.prepare(body, prepare).await?.respond().await
}

fn prepare(app: &App, fields: &Fields) -> Result<Job<ChatShape>, ApiError> {
    refuse(fields, &UNSUPPORTED)?;
    let turns = turns(fields)?;
    let top = top_logprobs(fields)?;
    let lengths = ["max_completion_tokens", "max_tokens", "n_predict"];
    let params = Params::read(fields, &lengths, None, app.handle.n_vocab())?;
    if params.max_tokens == Some(0) {
        return Err(wrong("max_tokens", "at least 1"));
    }
    let prompt = (app.encode)(&turns).map_err(|error| ApiError::field("messages", error.0))?;
    app.check_length(&prompt)?;
    app.check_answers(params.n)?;
    let constraint = app.constraint(&params.format)?;
    let requests = (0..params.n).map(|choice| {
        Ok(Request {
            prompt: prompt.clone(),
            max_tokens: params.max_tokens,
            sampler: params.sampler(choice)?,
            constraint: constraint.clone(),
            stop: params.stop.clone(),
            ignore_eos: params.ignore_eos,
            logprobs: top,
            prompt_logprobs: false,
        })
    });
    let answers = app.handle.submit(requests.collect::<Result<_, ApiError>>()?)?;
    Ok(Job {
        answers,
        tally: Tally::new(vec![prompt.len()], params.n),
        shape: ChatShape { tokenizer: Arc::clone(&app.tokenizer), logprobs: top.is_some() },
        model: app.model.name.clone(),
        stream: params.stream,
        include_usage: params.include_usage,
    })
}

/// The messages. What is said to the model before the first of the user's is one message.
fn turns(fields: &Fields) -> Result<Vec<Turn>, ApiError> {
    let messages = fields.array("messages")?;
    let messages = messages.filter(|m| !m.is_empty() && m.len() <= MAX_MESSAGES);
    let what = format!("a list of 1 to {MAX_MESSAGES} messages");
    let messages = messages.ok_or_else(|| wrong("messages", &what))?;
    let mut turns: Vec<Turn> = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let at = format!("messages[{index}]");
        let message = Fields::of_part(message, &at)?;
        let (role, content) = (role(&message)?, content(&message)?);
        match turns.as_mut_slice() {
            [only] if (only.message.role, role) == (Role::System, Role::System) => {
                only.message.content.push_str("\n\n");
                only.message.content.push_str(&content);
            }
            _ => turns.push(Turn::new(role, &content)),
        }
    }
    Ok(turns)
}

fn role(message: &Fields) -> Result<Role, ApiError> {
    match message.text("role")? {
        Some("system" | "developer") => Ok(Role::System),
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        Some(role @ ("tool" | "function")) => {
            let message_text = format!("messages of the role {role} are not supported");
            Err(ApiError::unsupported(message.path("role"), message_text))
        }
        _ => Err(wrong(&message.path("role"), "system, developer, user or assistant")),
    }
}

/// A message's text: one, or all of its parts.
fn content(message: &Fields) -> Result<String, ApiError> {
    if let Some(name) = ["tool_calls", "function_call"].iter().find(|f| message.get(f).is_some()) {
        let text = format!("{name} are not supported");
        return Err(ApiError::unsupported(message.path(name), text));
    }
    let at = message.path("content");
    match message.get("content") {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let mut content = String::new();
            for (index, part) in parts.iter().enumerate() {
                content.push_str(part_text(part, &format!("{at}[{index}]"))?);
            }
            Ok(content)
        }
        _ => Err(wrong(&at, "a string or a list of text parts")),
    }
}

fn part_text<'a>(part: &'a Value, at: &str) -> Result<&'a str, ApiError> {
    let part = Fields::of_part(part, at)?;
    match part.text("type")? {
        Some("text") => part.text("text")?.ok_or_else(|| wrong(&part.path("text"), "a string")),
        Some(other) => {
            let shown: String = other.chars().take(40).collect();
            let text = format!("content of type {shown:?} is not supported: the model reads text");
            Err(ApiError::unsupported(part.path("type"), text))
        }
        None => Err(wrong(&part.path("type"), "text")),
    }
}

/// How many of the likeliest tokens are named beside each, if log-probabilities are asked for.
fn top_logprobs(fields: &Fields) -> Result<Option<usize>, ApiError> {
    let top = fields.integer("top_logprobs", 0..=MAX_TOP_LOGPROBS)?;
    match (fields.flag("logprobs")?, top) {
        (true, top) => Ok(Some(top.unwrap_or(0) as usize)),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            Err(ApiError::field("top_logprobs", "top_logprobs are for answers with logprobs true"))
        }
    }
}

/// How chat completions are worded.
struct ChatShape {
    tokenizer: Arc<Tokenizer>,
    logprobs: bool,
}

impl ChatShape {
    fn logprobs(&self, tokens: &[Token]) -> Value {
        let known = tokens.iter().filter_map(|token| token.logprobs.as_ref());
        match self.logprobs {
            true => logprobs::chat(&self.tokenizer, known),
            false => Value::Null,
        }
    }
}

impl Shape for ChatShape {
    const ID: &'static str = "chatcmpl-";
    const WHOLE: &'static str = "chat.completion";
    const CHUNK: &'static str = "chat.completion.chunk";

    fn whole(&mut self, index: usize, choice: &Whole) -> Value {
        json!({
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": null},
            "logprobs": self.logprobs(&choice.tokens),
            "finish_reason": choice.finish.map(finish_reason),
        })
    }

    fn begin(&mut self, index: usize, _: &[TokenLogprobs]) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        Some(json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null}))
    }

    fn go_on(&mut self, index: usize, text: &str, tokens: &[Token]) -> Value {
        json!({
            "index": index,
            "delta": {"content": text},
            "logprobs": self.logprobs(tokens),
            "finish_reason": null,
        })
    }

    fn end(&mut self, index: usize, finish: Finish) -> Value {
        json!({
            "index": index,
            "delta": {},
            "logprobs": null,
            "finish_reason": finish_reason(finish),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(messages: Value) -> Result<Vec<Turn>, ApiError> {
        turns(&Fields::of(&json!({"messages": messages})).unwrap())
    }

    #[test]
    fn messages_are_texts_or_parts_of_texts() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let found = read(json!([
            {"role": "system", "content": "be"},
            {"role": "developer", "content": "brief"},
            {"role": "user", "content": parts, "name": "x"},
            {"role": "assistant", "content": "c", "tool_calls": null},
        ]));
        let expected = [
            Turn::new(Role::System, "be\n\nbrief"),
            Turn::new(Role::User, "ab"),
            Turn::new(Role::Assistant, "c"),
        ];
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn what_is_no_message_is_named_by_its_place() {
        let user = |content: Value| json!([{"role": "user", "content": content}]);
        for (messages, param) in [
            (json!([]), "messages"),
            (json!("hello"), "messages"),
            (Value::Null, "messages"),
            (json!(["hello"]), "messages[0]"),
            (json!([{"content": "x"}]), "messages[0].role"),
            (json!([{"role": "tool", "content": "x"}]), "messages[0].role"),
            (json!([{"role": "root", "content": "x"}]), "messages[0].role"),
            (user(Value::Null), "messages[0].content"),
            (user(json!(1)), "messages[0].content"),
            (user(json!(["x"])), "messages[0].content[0]"),
            (user(json!([{"type": "text"}])), "messages[0].content[0].text"),
            (user(json!([{"text": "x"}])), "messages[0].content[0].type"),
            (user(json!([{"type": "image_url", "image_url": {}}])), "messages[0].content[0].type"),
            (
                json!([{"role": "assistant", "content": "x", "tool_calls": []}]),
                "messages[0].tool_calls",
            ),
        ] {
            let error = read(messages).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)));
        }
        let error = read(user(json!([{"type": "image_url"}]))).unwrap_err();
        assert!(error.message.contains("image_url"), "{}", error.message);
    }

    #[test]
    fn likeliest_tokens_go_with_log_probabilities() {
        let top = |body: Value| top_logprobs(&Fields::of(&body).unwrap());
        assert_eq!(top(json!({})), Ok(None));
        assert_eq!(top(json!({"logprobs": true})), Ok(Some(0)));
        assert_eq!(top(json!({"logprobs": true, "top_logprobs": 20})), Ok(Some(20)));
        for wrong in [json!({"top_logprobs": 1}), json!({"logprobs": true, "top_logprobs": 21})] {
            assert_eq!(top(wrong).unwrap_err().param.as_deref(), Some("top_logprobs"));
        }
        assert_eq!(top(json!({"logprobs": 1})).unwrap_err().param.as_deref(), Some("logprobs"));
    }
}
