//! Parses what is typed in a conversation: messages of one or more lines, and commands.

use std::cell::Cell;

use anyhow::Context;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Editor, Helper};

/// Encloses a message of several lines.
const FENCE: &str = "\"\"\"";

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    Message(String),
    Command(Command),
    /// Looks like a command, but there is no such command.
    Unknown(String),
}

/// A command of the conversation. Files are named as they were typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Reset,
    Exit,
    Help,
    Retry,
    Undo,
    Stats,
    Save { file: String, overwrite: bool },
    Load { file: String },
}

/// Reads input from the terminal.
pub struct Reader {
    editor: Editor<Lines, DefaultHistory>,
}

impl Reader {
    pub fn new() -> anyhow::Result<Self> {
        let mut editor = Editor::new().context("cannot read from the terminal")?;
        editor.set_helper(Some(Lines::default()));
        Ok(Self { editor })
    }

    /// The next input that is not blank; `None` if the user leaves. Ctrl-C clears the line, or
    /// leaves if the line is empty.
    pub fn read(&mut self) -> anyhow::Result<Option<Input>> {
        loop {
            let text = match self.editor.readline("> ") {
                Ok(text) => text,
                Err(ReadlineError::Interrupted) if self.has_text() => continue,
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(None),
                Err(error) => return Err(error).context("cannot read from the terminal"),
            };
            let Some(input) = parse(&text) else { continue };
            // The history is kept for this run only and never written to a file.
            self.editor.add_history_entry(text).context("cannot read from the terminal")?;
            return Ok(Some(input));
        }
    }

    /// Whether the line that was edited last had any text.
    fn has_text(&self) -> bool {
        self.editor.helper().is_some_and(|lines| lines.has_text.get())
    }
}

/// Parses a text; `None` if it is blank.
fn parse(text: &str) -> Option<Input> {
    let text = text.trim();
    if let Some(fenced) = text.strip_prefix(FENCE).and_then(|text| text.strip_suffix(FENCE)) {
        let fenced = fenced.trim_matches('\n');
        return (!fenced.trim().is_empty()).then(|| Input::Message(fenced.to_owned()));
    }
    let (name, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let argument = argument.trim();
    let file = || argument.to_owned();
    let command = match (name, argument) {
        ("", _) => return None,
        ("/reset", "") => Command::Reset,
        ("/exit", "") => Command::Exit,
        ("/help", "") => Command::Help,
        ("/retry", "") => Command::Retry,
        ("/undo", "") => Command::Undo,
        ("/stats", "") => Command::Stats,
        ("/save", file) if !file.is_empty() => {
            Command::Save { file: file.to_owned(), overwrite: false }
        }
        ("/save!", file) if !file.is_empty() => {
            Command::Save { file: file.to_owned(), overwrite: true }
        }
        ("/load", path) if !path.is_empty() => Command::Load { file: file() },
        (name, "") if looks_like_a_command(name) => return Some(Input::Unknown(name.into())),
        _ => return Some(Input::Message(text.replace("\\\n", "\n"))),
    };
    Some(Input::Command(command))
}

/// Whether `name` looks like a command and not like the path with which a message begins.
fn looks_like_a_command(name: &str) -> bool {
    let letter = |c: char| c.is_alphabetic() || c == '!';
    name.strip_prefix('/').is_some_and(|name| name.chars().all(letter))
}

/// Whether more lines belong to the input: after a line that ends with `\`, and until the closing
/// fence.
fn is_incomplete(text: &str) -> bool {
    match text.trim_start().strip_prefix(FENCE) {
        Some(fenced) => !fenced.trim_end().ends_with(FENCE),
        None => text.ends_with('\\'),
    }
}

/// Tells the editor where a message ends, and keeps track of whether anything has been typed.
#[derive(Default)]
struct Lines {
    has_text: Cell<bool>,
}

impl Validator for Lines {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match is_incomplete(context.input()) {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

impl Hinter for Lines {
    type Hint = String;

    /// Called whenever the line changes. There are no hints; it only notes whether the line is
    /// empty.
    fn hint(&self, line: &str, _: usize, _: &rustyline::Context<'_>) -> Option<String> {
        self.has_text.set(!line.is_empty());
        None
    }
}

impl Completer for Lines {
    type Candidate = String;
}
impl Highlighter for Lines {}
impl Helper for Lines {}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Option<Input> {
        Some(Input::Message(text.into()))
    }

    #[test]
    fn messages_may_have_several_lines() {
        for (text, read) in [
            ("  And he said ", message("And he said")),
            ("one\\\ntwo\\\nthree", message("one\ntwo\nthree")),
            ("pasted\nlines\n", message("pasted\nlines")),
            ("\"\"\"\n  a\\\n\n/exit\n\"\"\"", message("  a\\\n\n/exit")),
            ("\"\"\"a\"\"\"", message("a")),
            ("\"\"\"", message("\"\"\"")),
            ("\"\"\"\"\"\"", None),
            (" \n ", None),
        ] {
            assert_eq!(parse(text), read, "{text:?}");
        }
        for more in ["a\\", "\"\"\"", "\"\"\"a\n", "\"\"\"a\n\\", " \"\"\"a\"\"\" b"] {
            assert!(is_incomplete(more), "{more:?}");
        }
        for whole in ["a", "a\\\nb", "\"\"\"a\n\"\"\"", "\"\"\"a\"\"\" ", "a \"\"\""] {
            assert!(!is_incomplete(whole), "{whole:?}");
        }
    }

    #[test]
    fn commands_are_distinguished_from_messages() {
        let file = || "my file.json".to_owned();
        let save = |overwrite| Command::Save { file: file(), overwrite };
        for (text, command) in [
            ("/stats ", Command::Stats),
            ("/save my file.json", save(false)),
            ("/save!  my file.json", save(true)),
            ("/load my file.json", Command::Load { file: file() }),
        ] {
            assert_eq!(parse(text), Some(Input::Command(command)), "{text}");
        }
        for unknown in ["/stat", "/save", "/load", "/", "/exit!"] {
            assert_eq!(parse(unknown), Some(Input::Unknown(unknown.into())), "{unknown}");
        }
        for text in ["/etc/hosts", "/tmp is full", "/exit now", "exit"] {
            assert_eq!(parse(text), message(text), "{text}");
        }
    }
}
