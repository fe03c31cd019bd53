//! Writes an answer to an output while it is generated.

use std::io::Write;

use anyhow::Context;
use lapidary::generate::{Answer, GenerateError, Limits, Session, Shift};

use super::interrupt;
use super::sandbox::TemplateFailed;

/// Generates at most `max_tokens` tokens after `prompt`, until Ctrl-C is pressed, and writes the
/// text to `out` as it arrives. Returns the answer and its text.
pub fn write_answer(
    session: &mut Session<'_>,
    prompt: &[u32],
    max_tokens: Option<usize>,
    shift: &mut dyn Shift,
    out: &mut dyn Write,
) -> anyhow::Result<(Answer, String)> {
    let limits = Limits { max_tokens, cancelled: &interrupt::requested };
    let mut tokens = session.generate(prompt, limits, shift).map_err(generate_error)?;
    let mut text = String::new();
    for shown in &mut tokens {
        let new = shown.map_err(generate_error)?.text;
        if !new.is_empty() {
            out.write_all(new.as_bytes()).and_then(|()| out.flush()).context("standard output")?;
            text.push_str(&new);
        }
    }
    Ok((tokens.into_answer(), text))
}

/// The error to show. For an error in a context shift, that is the shift's own error.
fn generate_error(error: GenerateError) -> anyhow::Error {
    match error {
        GenerateError::Shift(error) => match error.downcast::<TemplateFailed>() {
            Ok(failed) => (*failed).into(),
            Err(error) => anyhow::anyhow!(error),
        },
        error => error.into(),
    }
}

/// The line break that `text` still needs: none if it is empty or already ends with one.
pub fn line_end(text: &str) -> &'static str {
    match text.chars().next_back() {
        None | Some('\n') => "",
        Some(_) => "\n",
    }
}
