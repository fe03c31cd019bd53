//! Renders conversations as the text, and encodes them as the token ids, that a model was trained to
//! continue.

mod encode;
mod error;
mod syntax;
mod template;

pub use error::ChatError;
pub use template::ChatTemplate;

use serde::{Deserialize, Serialize};

/// The template of Gemma 2's instruction-tuned checkpoints, byte for byte, with line feeds inside
/// its string literals
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

/// The template of models that were trained on ChatML
/// (<https://github.com/openai/openai-python/blob/v0.28.1/chatml.md>), as many fine-tunes have it.
pub const CHATML_TEMPLATE: &str = concat!(
    "{% for message in messages %}",
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
);

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The user.
    User,
    /// The model.
    #[serde(alias = "model")]
    Assistant,
}

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who wrote it.
    pub role: Role,
    /// Its text.
    pub content: String,
}

/// One turn of a conversation: a message and, if the model generated it here, its ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The message.
    #[serde(flatten)]
    pub message: Message,
    /// The generated ids, without the one that ended the answer. The tokenizer might encode the same
    /// text differently.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<u32>>,
}

impl Turn {
    /// A message that was not generated.
    pub fn new(role: Role, content: &str) -> Self {
        Self { message: Message { role, content: content.to_owned() }, ids: None }
    }

    /// An answer that the model generated as `ids`.
    pub fn answer(content: &str, ids: Vec<u32>) -> Self {
        Self { ids: Some(ids), ..Self::new(Role::Assistant, content) }
    }
}
