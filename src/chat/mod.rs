//! Conversations as the text, and the token ids, that a model was trained to continue.

mod error;
mod template;

use std::collections::BTreeSet;

pub use error::ChatError;
pub use template::ChatTemplate;

use lapidary_formats::vocab::PieceKind;
use serde::{Deserialize, Serialize};

use crate::tokenizer::{Special, Tokenizer};

/// The template of Gemma 2's instruction-tuned checkpoints, to the byte, with
/// line feeds inside its string literals
/// (<https://huggingface.co/google/gemma-2-9b-it/blob/main/tokenizer_config.json>).
pub const GEMMA2_TEMPLATE: &str = concat!(
    "{{ bos_token }}",
    "{% if messages[0]['role'] == 'system' %}",
    "{{ raise_exception('System role not supported') }}",
    "{% endif %}",
    "{% for message in messages %}",
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}",
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}",
    "{% endif %}",
    "{% if (message['role'] == 'assistant') %}",
    "{% set role = 'model' %}",
    "{% else %}",
    "{% set role = message['role'] %}",
    "{% endif %}",
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
);

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The one who asks.
    User,
    /// The model.
    #[serde(alias = "model")]
    Assistant,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl ChatTemplate {
    /// The ids of a conversation as [`render`](Self::render) writes it, BOS once.
    ///
    /// Control pieces are made only by the template's own text. A content that spells one
    /// (`<end_of_turn>`) gets the ids of ordinary text, so it cannot end its turn.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, ChatError> {
        let mark = unused_mark(self.source(), messages)?;
        let initials = control_initials(tokenizer);
        let marked: Vec<Message> = messages
            .iter()
            .map(|m| Message { role: m.role, content: mark_after(&m.content, &initials, mark) })
            .collect();
        let text = self.render(&marked, add_generation_prompt)?;
        // A control piece has to lie within one segment, so none begins inside a content.
        let segments = text.split(mark).map(|segment| (segment, Special::Trusted));
        let mut ids = tokenizer.encode_segments(segments);
        tokenizer.prepend_bos(&mut ids);
        Ok(ids)
    }
}

/// A character that neither the template nor a content has.
fn unused_mark(source: &str, messages: &[Message]) -> Result<char, ChatError> {
    let used = |c| source.contains(c) || messages.iter().any(|m| m.content.contains(c));
    ('\u{E000}'..='\u{F8FF}').find(|c| !used(*c)).ok_or(ChatError::NoMark)
}

/// The characters that control pieces begin with: for Gemma `<` alone.
fn control_initials(tokenizer: &Tokenizer) -> BTreeSet<char> {
    let pieces = tokenizer.vocab().pieces.iter();
    pieces.filter(|p| p.kind == PieceKind::Control).filter_map(|p| p.text.chars().next()).collect()
}

/// `text` with `mark` after each of the `initials`. Marking every possible beginning, and not
/// only whole spellings, holds even if the template cuts and joins contents.
fn mark_after(text: &str, initials: &BTreeSet<char>, mark: char) -> String {
    let mut marked = String::with_capacity(text.len());
    for c in text.chars() {
        marked.push(c);
        if initials.contains(&c) {
            marked.push(mark);
        }
    }
    marked
}
