//! The prompt of a run.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{anyhow, bail, Context};
use lapidary::generate::PromptTooLong;

use super::text::{decode, MARK};

/// A text to continue or a message to answer; never empty.
pub struct Prompt {
    pub text: String,
    /// Where it came from, for messages.
    pub origin: String,
}

impl Prompt {
    /// A prompt given as text.
    pub fn new(mut text: String, origin: &str) -> anyhow::Result<Self> {
        if text.starts_with(MARK) {
            // A shell puts it there that reads the text from a file.
            text.drain(..MARK.len());
        }
        if text.is_empty() {
            bail!("{origin}: the prompt is empty");
        }
        Ok(Self { text, origin: origin.to_owned() })
    }

    /// Reads the prompt from a file.
    pub fn read_file(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let mut file = File::open(path).with_context(|| name.clone())?;
        Self::read(&mut file, &name)
    }

    /// Reads the prompt from standard input.
    pub fn read_stdin() -> anyhow::Result<Self> {
        Self::read(&mut io::stdin(), "standard input")
    }

    fn read(from: &mut dyn Read, origin: &str) -> anyhow::Result<Self> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).with_context(|| origin.to_owned())?;
        let mut text = decode(bytes, origin)?;
        // Editors and `echo` end a file with a newline that is rarely meant as part of the prompt.
        if text.ends_with('\n') {
            text.pop();
        }
        Self::new(text, origin)
    }
}

/// The error for a prompt that does not fit, with the option that helps.
pub fn too_long(error: PromptTooLong) -> anyhow::Error {
    anyhow!("{error}: use a larger --ctx")
}
