//! Renders Jinja templates under limits.

use std::error::Error;
use std::io;
use std::sync::OnceLock;

use minijinja::{context, Environment, ErrorKind};

use super::{syntax, ChatError, Message, Role};

/// Most instructions of one rendering; the official template takes about 40 per message.
const FUEL: u64 = 10_000_000;
/// Most bytes of a source; templates of models that call tools have some 20,000.
const MAX_SOURCE: usize = 1 << 20;
/// Most bytes that one rendering may write.
const MAX_RENDERED: usize = 16 << 20;
/// Deepest nesting of macro calls and the like.
const MAX_RECURSION: usize = 100;
/// Name of the environment's only template.
pub(super) const NAME: &str = "chat_template";

/// The message with which a template called `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// A chat template in Jinja, as found in `tokenizer_config.json` and in GGUF files.
///
/// It is rendered as by transformers
/// (<https://huggingface.co/docs/transformers/chat_templating>): with the whitespace rules of
/// `trim_blocks` and `lstrip_blocks`, `messages`, `add_generation_prompt`, `bos_token`,
/// `eos_token`, `raise_exception`, `strftime_now` and Python's methods on values.
///
/// A template comes with a model and is not trusted. It cannot read files, and its instructions,
/// recursion and output are limited. The memory for its intermediate values and their nesting are
/// not limited when it is rendered; that takes a process of its own, see
/// [`encode_turns_with`](Self::encode_turns_with). [`new`](Self::new) only parses it, which takes
/// little memory, time and stack, whatever the source is.
#[derive(Debug)]
pub struct ChatTemplate {
    /// Compiled when it is needed, since minijinja computes constant expressions then.
    environment: OnceLock<Environment<'static>>,
    source: String,
    /// The source as minijinja reads it.
    translated: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// The template in `source`, or [`GEMMA2_TEMPLATE`](super::GEMMA2_TEMPLATE) if there is none.
    /// `bos` and `eos` are the texts of those two pieces.
    ///
    /// # Errors
    /// If the source is not valid Jinja, or longer or more complex than any useful template.
    pub fn new(source: Option<&str>, bos: &str, eos: &str) -> Result<Self, ChatError> {
        let source = source.unwrap_or(super::GEMMA2_TEMPLATE).to_owned();
        let (len, limit) = (source.len(), MAX_SOURCE);
        if len > limit {
            return Err(ChatError::SourceTooLong { len, limit });
        }
        let (translated, environment) = (syntax::checked(&source)?, OnceLock::new());
        let (bos, eos) = (bos.to_owned(), eos.to_owned());
        Ok(Self { environment, source, translated, bos, eos })
    }

    /// The environment with the compiled template.
    fn environment(&self) -> Result<&Environment<'static>, ChatError> {
        if self.environment.get().is_none() {
            let source = self.translated.clone();
            let compiled = syntax::on_large_stack(|| environment(source))?;
            // If another thread was faster, it made the same.
            let _ = self.environment.set(compiled.map_err(ChatError::Syntax)?);
        }
        Ok(self.environment.get().expect("it has been set"))
    }

    /// The texts of the pieces that begin and end a sequence.
    pub fn bos_and_eos(&self) -> [&str; 2] {
        [&self.bos, &self.eos]
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation. With `add_generation_prompt` it ends where the model's answer
    /// begins.
    ///
    /// If the template refuses a conversation that begins with a system message and a user
    /// message, as Gemma's does, the two are passed as one user message, with a blank line between
    /// them (<https://github.com/ggml-org/llama.cpp/pull/5665>). If it still refuses, messages of one
    /// role that follow each other are passed as one, likewise.
    ///
    /// # Errors
    /// If the template refuses the conversation, fails, or exceeds a limit.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, ChatError> {
        let mut result = self.render_as_given(messages, add_generation_prompt);
        let mut messages = messages.to_vec();
        for change in [fold_system, join_equal_roles, fold_system] {
            if !matches!(result, Err(ChatError::Refused(_))) {
                break;
            }
            if let Some(changed) = change(&messages) {
                messages = changed;
                result = self.render_as_given(&messages, add_generation_prompt);
            }
        }
        result
    }

    fn render_as_given(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, ChatError> {
        let template = self.environment()?.get_template(NAME).map_err(ChatError::Syntax)?;
        let context = context! {
            messages,
            add_generation_prompt,
            bos_token => self.bos,
            eos_token => self.eos,
        };
        let mut text = Limited { bytes: Vec::new(), exceeded: false };
        let result = template.render_captured_to(context, &mut text).map(drop);
        match result {
            Ok(()) => Ok(String::from_utf8_lossy(&text.bytes).into_owned()),
            Err(_) if text.exceeded => Err(ChatError::TooLong { limit: MAX_RENDERED }),
            Err(error) => Err(match refusal(&error) {
                Some(message) => ChatError::Refused(message),
                None => ChatError::Render(error),
            }),
        }
    }
}

/// Compiles a template for an environment with the functions of transformers.
fn environment(source: String) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_template_owned(NAME, source)?;
    Ok(environment)
}

/// The time on this machine, in the format of C's `strftime`.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let time = jiff::fmt::strtime::format(format, &jiff::ZonedDateTime::now());
    time.map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    let error = minijinja::Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Refusal(message)))
}

/// The template's own message, if `raise_exception` caused the error.
fn refusal(error: &minijinja::Error) -> Option<String> {
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        if let Some(Refusal(message)) = error.downcast_ref() {
            return Some(message.clone());
        }
        cause = error.source();
    }
    None
}

/// The conversation with the system message joined to the first user message.
fn fold_system(messages: &[Message]) -> Option<Vec<Message>> {
    let [system, user, rest @ ..] = messages else { return None };
    if (system.role, user.role) != (Role::System, Role::User) {
        return None;
    }
    let content = format!("{}\n\n{}", system.content.trim(), user.content.trim());
    let mut folded = vec![Message { role: Role::User, content }];
    folded.extend_from_slice(rest);
    Some(folded)
}

/// The conversation with messages of one role that follow each other joined, if there are any.
fn join_equal_roles(messages: &[Message]) -> Option<Vec<Message>> {
    let mut joined: Vec<Message> = Vec::new();
    for message in messages {
        match joined.last_mut() {
            Some(last) if last.role == message.role => {
                last.content = format!("{}\n\n{}", last.content.trim(), message.content.trim());
            }
            _ => joined.push(message.clone()),
        }
    }
    (joined.len() < messages.len()).then_some(joined)
}

/// A writer that accepts at most [`MAX_RENDERED`] bytes.
struct Limited {
    bytes: Vec<u8>,
    exceeded: bool,
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_RENDERED {
            self.exceeded = true;
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
