//! Texts from files: their encoding, and the text that a model is run over.

use std::path::Path;

use anyhow::{anyhow, bail, Context};
use lapidary::calibration::{self, Document};
use lapidary::chat::Turn;
use lapidary::model::Source;
use lapidary::tokenizer::{Special, Tokenizer};

use super::sandbox;
use super::template;

/// A text as tokens.
pub struct Text {
    /// The whole text, with BOS first if the model uses it.
    pub tokens: Vec<u32>,
    /// Replaces the first token of each chunk, if the model uses BOS.
    pub bos: Option<u32>,
}

/// The name that stands for the text that the program has itself.
const DEFAULT: &str = "default";

impl Text {
    /// The text to calibrate with: that of the file `path`, or the program's own if `path` is `default`.
    pub fn for_calibration(
        path: &Path,
        source: &Source,
        tokenizer: &Tokenizer,
    ) -> anyhow::Result<Self> {
        match path == Path::new(DEFAULT) {
            true => Self::own(source, tokenizer),
            false => Self::read(path, tokenizer),
        }
    }

    /// The program's own text, with conversations as the model's template writes them. Kinds follow each
    /// other in whole chunks of any usual length.
    fn own(source: &Source, tokenizer: &Tokenizer) -> anyhow::Result<Self> {
        let vocab = tokenizer.vocab();
        let template = template::of_model(source, tokenizer)?;
        let mut tokens = Vec::new();
        for kind in calibration::KINDS {
            let end = tokens.len() + kind.share * calibration::TOKENS / 128;
            for document in kind.documents() {
                if tokens.len() >= end {
                    break;
                }
                let ids = match document {
                    Document::Text(text) => tokenizer.encode_with_bos(text, Special::Plain),
                    Document::Chat(messages) => {
                        let turns = messages.into_iter().map(|message| Turn { message, ids: None });
                        sandbox::encode(&template, tokenizer, &turns.collect::<Vec<_>>())?
                    }
                };
                tokens.extend(ids);
            }
            tokens.truncate(end);
        }
        Ok(Self { tokens, bos: vocab.bos.filter(|_| vocab.add_bos) })
    }

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
