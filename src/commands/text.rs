//! Texts from files: their encoding, and the text that a model is run over.

use std::path::Path;

use anyhow::{anyhow, bail, Context};
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
        let origin = path.display().to_string();
        let bytes = std::fs::read(path).with_context(|| origin.clone())?;
        let text = decode(bytes, &origin)?;
        let vocab = tokenizer.vocab();
        Ok(Self {
            tokens: tokenizer.encode_with_bos(&text, Special::Plain),
            bos: vocab.bos.filter(|_| vocab.add_bos),
        })
    }
}

/// The text in `bytes`, which came from `origin`, without the byte order mark with which some editors
/// on Windows begin every file.
pub fn decode(mut bytes: Vec<u8>, origin: &str) -> anyhow::Result<String> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        bail!("{origin}: it is UTF-16: save it as UTF-8");
    }
    if bytes.starts_with(MARK.as_bytes()) {
        bytes.drain(..MARK.len());
    }
    String::from_utf8(bytes).map_err(|e| {
        anyhow!("{origin}: it is not UTF-8 from byte {} on", e.utf8_error().valid_up_to())
    })
}

/// The byte order mark.
pub const MARK: &str = "\u{feff}";
