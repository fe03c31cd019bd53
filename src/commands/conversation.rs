//! `lapidary run --chat` on a terminal: a conversation, one line a turn.

use std::io::{self, Write};

use anyhow::Context;
use lapidary::chat::{ChatTemplate, Message, Role};
use lapidary::tokenizer::Tokenizer;
use rustyline::error::ReadlineError;
use rustyline::DefaultEditor;

use super::generate::{Answer, Session, Stop};
use super::interrupt;

const HELP: &str = "\
/reset  forget the conversation
/exit   leave (or Ctrl-D)
/help   show this
Ctrl-C  stop an answer";

/// A conversation and what it takes to go on with it.
pub struct Conversation<'s, 'm> {
    pub session: &'s mut Session<'m>,
    pub tokenizer: &'m Tokenizer,
    pub template: ChatTemplate,
    pub system: Option<String>,
    /// The most tokens of an answer.
    pub limit: Option<usize>,
    /// Of the session's sampler.
    pub seed: u64,
}

impl Conversation<'_, '_> {
    /// Reads messages and answers them until the user leaves.
    pub fn run(mut self) -> anyhow::Result<()> {
        let mut editor = DefaultEditor::new().context("terminal")?;
        // Only now: a new editor takes SIGINT over, for the times when no line is edited as well.
        interrupt::install()?;
        let mut messages = opening(self.system.as_deref());
        writeln!(io::stderr(), "seed {}; /help shows the commands", self.seed)?;
        loop {
            let line = match editor.readline("> ") {
                Ok(line) => line,
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(()),
                Err(error) => return Err(error).context("terminal"),
            };
            let line = line.trim();
            match line {
                "" => continue,
                "/exit" => return Ok(()),
                "/reset" => messages = opening(self.system.as_deref()),
                "/help" => writeln!(io::stderr(), "{HELP}")?,
                _ if is_command(line) => writeln!(io::stderr(), "no command {line}\n{HELP}")?,
                message => {
                    // Only of use within this run: nothing is written to a file.
                    editor.add_history_entry(message).context("terminal")?;
                    self.turn(&mut messages, message)?;
                }
            }
        }
    }

    /// Answers one message and adds both to `messages`; adds neither if there is no answer.
    fn turn(&mut self, messages: &mut Vec<Message>, text: &str) -> anyhow::Result<()> {
        messages.push(message(Role::User, text));
        let prompt = self.template.encode(self.tokenizer, messages, true)?;
        if let Err(error) = self.session.check_length(&prompt) {
            messages.pop();
            writeln!(io::stderr(), "{error}; /reset begins anew")?;
            return Ok(());
        }
        // A Ctrl-C means the answer that is being written, and no other.
        interrupt::clear();
        let answer = self.session.answer(&prompt, self.limit, &mut io::stdout())?;
        answer.end_line(&mut io::stdout())?;
        writeln!(io::stderr(), "{}", summary(&answer))?;
        if answer.text.is_empty() {
            messages.pop();
        } else {
            messages.push(message(Role::Assistant, &answer.text));
        }
        Ok(())
    }
}

/// The messages that stand before the first one of the user.
pub fn opening(system: Option<&str>) -> Vec<Message> {
    system.map(|text| message(Role::System, text)).into_iter().collect()
}

/// What one side says.
pub fn message(role: Role, text: &str) -> Message {
    Message { role, content: text.to_owned() }
}

/// Whether it looks like a command, and not like a message that begins with a path.
fn is_command(line: &str) -> bool {
    line.strip_prefix('/').is_some_and(|name| name.chars().all(char::is_alphabetic))
}

/// One line about an answer: how long it is, how fast it came, and why it ended if not by itself.
fn summary(answer: &Answer) -> String {
    let speed = answer.decode_speed().map_or(String::new(), |s| format!(", {s:.1} tokens/s"));
    let end = match answer.stop {
        Stop::Model => "",
        Stop::Length => ", cut by -n",
        Stop::Context => ", cut: the context is full (--ctx); /reset begins anew",
        Stop::Interrupted => ", stopped",
    };
    format!("[{} tokens{speed}{end}]", answer.generated)
}
