//! A text that a model is run over.

use std::path::Path;

use anyhow::Context;
use lapidary::tokenizer::{Special, Tokenizer};

/// A text in a model's tokens.
pub struct Text {
    /// All of it, with BOS in front.
    pub tokens: Vec<u32>,
    /// What chunks of it begin with, if the model wants it.
    pub bos: Option<u32>,
}

impl Text {
    /// Reads the file `path`.
    pub fn read(path: &Path, tokenizer: &Tokenizer) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let vocab = tokenizer.vocab();
        Ok(Self {
            tokens: tokenizer.encode_with_bos(&text, Special::Plain),
            bos: vocab.bos.filter(|_| vocab.add_bos),
        })
    }
}
