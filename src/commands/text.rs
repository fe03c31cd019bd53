//! The text file that a model is run over.

use std::path::Path;

use anyhow::Context;
use lapidary::tokenizer::{Special, Tokenizer};

/// A text as tokens.
pub struct Text {
    /// The whole text, with BOS first if the model uses it.
    pub tokens: Vec<u32>,
    /// Replaces the first token of each chunk, if the model uses BOS.
    pub bos: Option<u32>,
}

impl Text {
    /// Reads and encodes the file `path`.
    pub fn read(path: &Path, tokenizer: &Tokenizer) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let vocab = tokenizer.vocab();
        Ok(Self {
            tokens: tokenizer.encode_with_bos(&text, Special::Plain),
            bos: vocab.bos.filter(|_| vocab.add_bos),
        })
    }
}
