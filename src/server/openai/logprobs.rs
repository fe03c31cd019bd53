//! Log-probabilities of tokens, in the two forms that OpenAI's API has.

use serde_json::{json, Map, Value};

use crate::engine::TokenLogprobs;
use crate::tokenizer::{ControlPieces, Tokenizer};

/// A token's text. A token that is a part of a character is written as bytes, as OpenAI does:
/// `bytes:\xe2`.
fn spelling(tokenizer: &Tokenizer, id: u32) -> String {
    match String::from_utf8(tokenizer.piece_bytes(id, ControlPieces::Show)) {
        Ok(text) => text,
        Err(error) => {
            let bytes = error.as_bytes().iter().map(|byte| format!("\\x{byte:02x}"));
            format!("bytes:{}", bytes.collect::<String>())
        }
    }
}

/// JSON has no infinities: the logarithm of 0 becomes the lowest number.
fn finite(logprob: f32) -> f32 {
    logprob.max(f32::MIN)
}

/// The `logprobs` of chat completions.
pub fn chat<'t>(
    tokenizer: &Tokenizer,
    tokens: impl IntoIterator<Item = &'t TokenLogprobs>,
) -> Value {
    let token = |id, logprob| {
        json!({
            "token": spelling(tokenizer, id),
            "logprob": finite(logprob),
            "bytes": tokenizer.piece_bytes(id, ControlPieces::Show),
        })
    };
    let content = tokens.into_iter().map(|t| {
        let mut content = token(t.id, t.logprob);
        content["top_logprobs"] = t.top.iter().map(|(id, logprob)| token(*id, *logprob)).collect();
        content
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}

/// The `logprobs` of completions, to which tokens are added.
#[derive(Debug, Default)]
pub struct Legacy {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<Value>>,
    text_offset: Vec<usize>,
}

impl Legacy {
    /// Adds the first token of a text, whose probability is not known.
    pub fn push_first(&mut self, tokenizer: &Tokenizer, id: u32, offset: &mut usize) {
        self.place(tokenizer, id, offset);
        self.token_logprobs.push(None);
        self.top_logprobs.push(None);
    }

    /// Adds a token. `offset`: where it begins in its choice's text, in characters; moved to where the
    /// next token begins.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: &TokenLogprobs, offset: &mut usize) {
        self.place(tokenizer, token.id, offset);
        self.token_logprobs.push(Some(finite(token.logprob)));
        // The token itself is always listed, even if it is not among the likeliest.
        let named = token.top.iter().copied().chain([(token.id, token.logprob)]);
        let mut top = Map::new();
        for (id, logprob) in named {
            // Of two tokens with the same text the likelier one counts.
            top.entry(spelling(tokenizer, id)).or_insert_with(|| json!(finite(logprob)));
        }
        self.top_logprobs.push(Some(top.into()));
    }

    fn place(&mut self, tokenizer: &Tokenizer, id: u32, offset: &mut usize) {
        self.tokens.push(spelling(tokenizer, id));
        self.text_offset.push(*offset);
        // A token may be a part of a character, so characters are counted by their first bytes. A
        // control token has no text.
        let bytes = tokenizer.piece_bytes(id, ControlPieces::Omit);
        *offset += bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
    }

    /// The JSON.
    pub fn json(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        })
    }
}
