//! Calibration: a model is run over a text before it is converted. Here is the text that is taken when no
//! other is given: prose, languages, technical text, code and conversations, since rounding by what one
//! kind of text needs costs the others. Where it comes from is in `texts/SOURCES.md`.

mod collect;

pub use collect::{chunk_count, CollectError};

use serde::Deserialize;

use crate::chat::Message;

/// Tokens of a model's own that are taken in all, of every kind its share.
pub const TOKENS: usize = 1 << 16;

/// What separates documents.
const SEPARATOR: &str = "\n\n\n\n";

/// Documents of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its share of the tokens, out of 128.
    pub share: usize,
    text: &'static str,
    is_chat: bool,
}

/// One of them.
#[derive(Clone, Debug)]
pub enum Document {
    /// A text.
    Text(&'static str),
    /// A conversation.
    Chat(Vec<Message>),
}

/// All kinds.
pub const KINDS: [Kind; 5] = [
    Kind { share: 26, text: include_str!("texts/prose.txt"), is_chat: false },
    Kind { share: 32, text: include_str!("texts/languages.txt"), is_chat: false },
    Kind { share: 19, text: include_str!("texts/markdown.md"), is_chat: false },
    Kind { share: 26, text: include_str!("texts/code.txt"), is_chat: false },
    Kind { share: 25, text: include_str!("texts/chat.jsonl"), is_chat: true },
];

impl Kind {
    /// Its documents, in an order in which any first ones are mixed.
    pub fn documents(self) -> Box<dyn Iterator<Item = Document>> {
        match self.is_chat {
            false => Box::new(self.text.split(SEPARATOR).map(Document::Text)),
            true => Box::new(self.text.lines().map(|line| Document::Chat(conversation(line)))),
        }
    }
}

/// A line of the conversations.
#[derive(Deserialize)]
struct Line {
    messages: Vec<Message>,
}

fn conversation(line: &str) -> Vec<Message> {
    let line: Line = serde_json::from_str(line).expect("the conversations are JSON");
    line.messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Role;

    #[test]
    fn there_is_enough_of_every_kind() {
        assert_eq!(KINDS.iter().map(|kind| kind.share).sum::<usize>(), 128);
        for kind in KINDS {
            let mut bytes = 0;
            for document in kind.documents() {
                bytes += match document {
                    Document::Text(text) => text.len(),
                    Document::Chat(messages) => {
                        assert!(messages.len() >= 2 && messages[0].role == Role::User);
                        messages.iter().map(|message| message.content.len()).sum()
                    }
                };
            }
            // Gemma's vocabulary has four characters to a token of English, and fewer of others.
            assert!(bytes > kind.share * TOKENS / 128 * 4, "{bytes} of {}", kind.share);
        }
    }
}
