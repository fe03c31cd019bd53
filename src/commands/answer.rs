//! An answer on its way to standard output.

use std::io::Write;

use anyhow::Context;
use lapidary::generate::{Answer, GenerateError, Limits, Session, Shift};

use super::interrupt;
use super::sandbox::TemplateFailed;

/// Has `session` go on from `prompt` for at most `max_tokens`, and writes the text to `out` as it comes,
/// until Ctrl-C is pressed. The result is the answer with its text.
pub fn write_answer(
    session: &mut Session<'_>,
    prompt: &[u32],
    max_tokens: Option<usize>,
    shift: &mut dyn Shift,
    out: &mut dyn Write,
) -> anyhow::Result<(Answer, String)> {
    let limits = Limits { max_tokens, cancelled: &interrupt::requested };
    let mut tokens = session.generate(prompt, limits, shift).map_err(explained)?;
    let mut text = String::new();
    for shown in &mut tokens {
        let new = shown.map_err(explained)?.text;
        if !new.is_empty() {
            out.write_all(new.as_bytes()).and_then(|()| out.flush()).context("standard output")?;
            text.push_str(&new);
        }
    }
    Ok((tokens.into_answer(), text))
}

/// The error that a person is told: of a shift, what it ended with.
fn explained(error: GenerateError) -> anyhow::Error {
    match error {
        GenerateError::Shift(error) => match error.downcast::<TemplateFailed>() {
            Ok(failed) => (*failed).into(),
            Err(error) => anyhow::anyhow!(error),
        },
        GenerateError::Model(error) => error.into(),
        error => error.into(),
    }
}

/// What ends the line of `text`, unless it has ended or there is none.
pub fn line_end(text: &str) -> &'static str {
    match text.chars().next_back() {
        None | Some('\n') => "",
        Some(_) => "\n",
    }
}
