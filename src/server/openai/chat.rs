//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{json, Value};

use super::logprobs;
use super::params::Params;
use super::wording::{finish_reason, OpenAiWording, Shape};
use crate::chat::{Role, Turn};
use crate::engine::{Finish, Token, TokenLogprobs};
use crate::server::generation::{Generation, WholeAnswer};
use crate::server::http::app::App;
use crate::server::http::body::JsonBody;
use crate::server::http::error::ApiError;
use crate::server::http::fields::{wrong, Fields};
use crate::server::limits::{MAX_MESSAGES, MAX_TOP_LOGPROBS};
use crate::tokenizer::{Special, Tokenizer};

/// Answers a conversation.
pub async fn complete(State(app): State<Arc<App>>, body: JsonBody) -> Result<Response, ApiError> {
    app.prepare(body, prepare).await?.respond().await
}

fn prepare(app: &App, fields: &Fields) -> Result<Generation<OpenAiWording<Chat>>, ApiError> {
    let top = top_logprobs(fields)?;
    let lengths = ["max_completion_tokens", "max_tokens", "n_predict"];
    let mut params =
        Params::read(fields, &lengths, None, app.handle.n_vocab(), &app.defaults.sampling)?;
    if params.options.max_tokens == Some(0) {
        return Err(wrong("max_tokens", "at least 1"));
    }
    params.options.logprobs = top;
    let prompt = prompt(app, fields)?;
    let shape = Chat { tokenizer: Arc::clone(&app.tokenizer), logprobs: top.is_some() };
    let wording = OpenAiWording::new(app, &params, shape);
    Generation::submit(app, &[prompt], &params.options, params.stream, wording)
}

/// The ids of the conversation in `messages`, up to where the answer goes on.
pub fn prompt(app: &App, fields: &Fields) -> Result<Vec<u32>, ApiError> {
    let mut conversation = conversation(fields)?;
    if let Some(system) = app.defaults.system.as_ref() {
        if conversation[0].message.role != Role::System {
            conversation.insert(0, Turn::new(Role::System, system));
        }
    }
    let (turns, begun) = continued(fields, conversation)?;
    let prompt = (app.encode)(&turns);
    let mut prompt = prompt.map_err(|error| ApiError::field("messages", error.0))?;
    if let Some(begun) = begun {
        app.tokenizer.continue_segments([(begun.as_str(), Special::Plain)], &mut prompt);
    }
    Ok(prompt)
}

/// Takes a conversation apart into the messages that the answer follows, and the answer's beginning: an
/// assistant's message at the end is continued, unless vLLM's `continue_final_message` is false.
fn continued(
    fields: &Fields,
    mut turns: Vec<Turn>,
) -> Result<(Vec<Turn>, Option<String>), ApiError> {
    const CONTINUE: &str = "continue_final_message";
    let last_is_answer = turns.last().is_some_and(|turn| turn.message.role == Role::Assistant);
    let asked = fields.get(CONTINUE).map(|_| fields.flag(CONTINUE)).transpose()?;
    if asked == Some(true) && !last_is_answer {
        let message =
            format!("{CONTINUE} is for conversations that end with the assistant's message");
        return Err(ApiError::field(CONTINUE, message));
    }
    let continued = last_is_answer && asked != Some(false);
    let begins =
        fields.get("add_generation_prompt").is_none() || fields.flag("add_generation_prompt")?;
    match (continued, begins) {
        (true, _) => {
            let begun = turns.pop().map(|turn| turn.message.content);
            Ok((turns, begun))
        }
        (false, true) => Ok((turns, None)),
        (false, false) => {
            let message =
                "add_generation_prompt can be false where the assistant's message is continued";
            Err(ApiError::unsupported("add_generation_prompt", message))
        }
    }
}

/// The messages. System messages at the beginning become one message.
fn conversation(fields: &Fields) -> Result<Vec<Turn>, ApiError> {
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
            let text = format!("messages of the role {role} are not supported");
            Err(ApiError::unsupported(message.path("role"), text))
        }
        _ => Err(wrong(&message.path("role"), "system, developer, user or assistant")),
    }
}

/// A message's text: a string, or the texts of all its parts.
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

/// How many of the likeliest tokens are listed beside each token, if log-probabilities are asked for.
fn top_logprobs(fields: &Fields) -> Result<Option<usize>, ApiError> {
    let top = fields.integer("top_logprobs", 0..=MAX_TOP_LOGPROBS as i64)?;
    match (fields.flag("logprobs")?, top) {
        (true, top) => Ok(Some(top.unwrap_or(0) as usize)),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            Err(ApiError::field("top_logprobs", "top_logprobs are for answers with logprobs true"))
        }
    }
}

/// How chat completions are worded.
struct Chat {
    tokenizer: Arc<Tokenizer>,
    logprobs: bool,
}

impl Chat {
    fn logprobs(&self, tokens: &[Token]) -> Value {
        let known = tokens.iter().filter_map(|token| token.logprobs.as_ref());
        match self.logprobs {
            true => logprobs::chat(&self.tokenizer, known),
            false => Value::Null,
        }
    }
}

impl Shape for Chat {
    const ID: &'static str = "chatcmpl-";
    const WHOLE: &'static str = "chat.completion";
    const CHUNK: &'static str = "chat.completion.chunk";

    fn whole(&mut self, index: usize, answer: &WholeAnswer) -> Value {
        json!({
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": null},
            "logprobs": self.logprobs(&answer.tokens),
            "finish_reason": answer.finish.map(finish_reason),
        })
    }

    fn begin(&mut self, index: usize, _: &[TokenLogprobs]) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        Some(json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null}))
    }

    fn text(&mut self, index: usize, text: &str, tokens: &[Token]) -> Value {
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
        conversation(&Fields::of(&json!({"messages": messages})).unwrap())
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
            assert_eq!(error.kind.status(), 400);
            assert_eq!(error.field.as_deref(), Some(param));
        }
        let error = read(user(json!([{"type": "image_url"}]))).unwrap_err();
        assert!(error.message.contains("image_url"), "{}", error.message);
    }

    #[test]
    fn an_answer_that_is_begun_is_continued() {
        let read = |mut body: Value, roles: &[&str]| {
            let message = |role| json!({"role": role, "content": role});
            body["messages"] = roles.iter().map(message).collect();
            let fields = Fields::of(&body).unwrap();
            let (turns, begun) = continued(&fields, conversation(&fields)?)?;
            Ok::<_, ApiError>((turns.len(), begun))
        };
        let (question, begun) = (&["user"][..], &["user", "assistant"][..]);
        let answer = Some("assistant".to_owned());
        assert_eq!(read(json!({}), question), Ok((1, None)));
        assert_eq!(read(json!({}), begun), Ok((1, answer.clone())));
        assert_eq!(read(json!({"continue_final_message": false}), begun), Ok((2, None)));
        let vllm = json!({"continue_final_message": true, "add_generation_prompt": false});
        assert_eq!(read(vllm.clone(), begun), Ok((1, answer)));
        let field = |body, roles| read(body, roles).unwrap_err().field.unwrap();
        assert_eq!(field(vllm, question), "continue_final_message");
        let no_answer = json!({"add_generation_prompt": false});
        assert_eq!(field(no_answer, question), "add_generation_prompt");
        assert_eq!(field(json!({"continue_final_message": 1}), begun), "continue_final_message");
    }

    #[test]
    fn likeliest_tokens_go_with_log_probabilities() {
        let top = |body: Value| top_logprobs(&Fields::of(&body).unwrap());
        assert_eq!(top(json!({})), Ok(None));
        assert_eq!(top(json!({"logprobs": true})), Ok(Some(0)));
        assert_eq!(top(json!({"logprobs": true, "top_logprobs": 20})), Ok(Some(20)));
        for wrong in [json!({"top_logprobs": 1}), json!({"logprobs": true, "top_logprobs": 21})] {
            assert_eq!(top(wrong).unwrap_err().field.as_deref(), Some("top_logprobs"));
        }
        assert_eq!(top(json!({"logprobs": 1})).unwrap_err().field.as_deref(), Some("logprobs"));
    }
}
