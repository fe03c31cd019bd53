//! `lapidary run --chat` on a terminal: a conversation, one line a turn.

use std::io::{self, Write};

use anyhow::Context;
use lapidary::chat::{ChatTemplate, Role, Turn};
use lapidary::tokenizer::Tokenizer;
use rustyline::error::ReadlineError;
use rustyline::DefaultEditor;

use super::generate::{Answer, Session, Stop};
use super::prompt_cache::PromptCache;
use super::shift::Shift;
use super::{interrupt, sandbox};

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
    /// Whether the oldest turns are forgotten when the context is full.
    pub shift: bool,
    /// Where it is saved.
    pub cache: Option<&'s PromptCache>,
    /// What was said, but for the system's message.
    pub turns: Vec<Turn>,
}

impl Conversation<'_, '_> {
    /// Reads messages and answers them until the user leaves.
    pub fn run(mut self) -> anyhow::Result<()> {
        let mut editor = DefaultEditor::new().context("terminal")?;
        // Only now: a new editor takes SIGINT over, for the times when no line is edited as well.
        interrupt::install()?;
        writeln!(io::stderr(), "seed {}; /help shows the commands", self.seed)?;
        if !self.turns.is_empty() {
            let n = self.turns.len();
            writeln!(io::stderr(), "going on after {n} messages; /reset begins anew")?;
        }
        loop {
            let line = match editor.readline("> ") {
                Ok(line) => line,
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => break,
                Err(error) => return Err(error).context("terminal"),
            };
            let line = line.trim();
            match line {
                "" => continue,
                "/exit" => break,
                "/reset" => self.turns.clear(),
                "/help" => writeln!(io::stderr(), "{HELP}")?,
                _ if is_command(line) => writeln!(io::stderr(), "no command {line}\n{HELP}")?,
                message => {
                    // Only of use within this run: nothing is written to a file.
                    editor.add_history_entry(message).context("terminal")?;
                    self.turn(message, &mut io::stdout())?;
                }
            }
        }
        match self.cache {
            Some(cache) => cache.save(self.session, &self.turns),
            None => Ok(()),
        }
    }

    /// Answers one message and adds both to the turns; adds neither if there is no answer. Gives
    /// what was generated, if the message fits the context.
    fn turn(&mut self, text: &str, out: &mut dyn Write) -> anyhow::Result<Option<Answer>> {
        let before = self.turns.clone();
        self.turns.push(Turn::new(Role::User, text));
        let mut remembered = Remembered {
            template: &self.template,
            tokenizer: self.tokenizer,
            system: self.system.as_deref(),
            n_ctx: self.session.n_ctx(),
            turns: &mut self.turns,
        };
        let mut prompt = remembered.encode()?;
        if self.shift && prompt.len() >= remembered.n_ctx {
            prompt = remembered.forget(0)?;
        }
        if let Err(error) = self.session.check_length(&prompt) {
            self.turns = before;
            writeln!(io::stderr(), "{error}; /reset begins anew")?;
            return Ok(None);
        }
        // A Ctrl-C means the answer that is being written, and no other.
        interrupt::clear();
        let shift: &mut dyn Shift = if self.shift { &mut remembered } else { &mut () };
        let answer = self.session.answer(&prompt, self.limit, shift, out)?;
        answer.end_line(out)?;
        let forgotten = before.len() + 1 - self.turns.len();
        writeln!(io::stderr(), "{}", summary(&answer, forgotten))?;
        if answer.text.is_empty() {
            self.turns.pop();
        } else {
            self.turns.push(Turn::answer(&answer.text, answer.ids.clone()));
        }
        Ok(Some(answer))
    }
}

/// What a conversation is to a model: the system's message and turns, the last one the user's.
struct Remembered<'c> {
    template: &'c ChatTemplate,
    tokenizer: &'c Tokenizer,
    system: Option<&'c str>,
    n_ctx: usize,
    turns: &'c mut Vec<Turn>,
}

impl Remembered<'_> {
    /// The prompt.
    fn encode(&self) -> anyhow::Result<Vec<u32>> {
        let system = self.system.map(|text| Turn::new(Role::System, text));
        let turns: Vec<Turn> = system.into_iter().chain(self.turns.iter().cloned()).collect();
        sandbox::encode(self.template, self.tokenizer, &turns)
    }

    /// Forgets the oldest messages with their answers, until the prompt and `more` tokens fill half
    /// of the context or the last message alone is left; gives the prompt. Templates want whole
    /// turns, so nothing else is cut out.
    fn forget(&mut self, more: usize) -> anyhow::Result<Vec<u32>> {
        loop {
            let prompt = self.encode()?;
            if self.turns.len() <= 2 || prompt.len() + more <= self.n_ctx / 2 {
                return Ok(prompt);
            }
            self.turns.drain(..2);
        }
    }
}

impl Shift for Remembered<'_> {
    fn shift(&mut self, _: &[u32], generated: &[u32]) -> anyhow::Result<Option<Vec<u32>>> {
        let prompt = self.forget(generated.len())?;
        let room = self.n_ctx.saturating_sub(prompt.len());
        if room == 0 {
            return Ok(None);
        }
        // An answer that fills the context by itself loses its own beginning.
        let kept = if generated.len() <= room { generated.len() } else { room.div_ceil(2) };
        Ok(Some([&prompt, &generated[generated.len() - kept..]].concat()))
    }
}

/// Whether it looks like a command, and not like a message that begins with a path.
fn is_command(line: &str) -> bool {
    line.strip_prefix('/').is_some_and(|name| name.chars().all(char::is_alphabetic))
}

/// One line about an answer: how long it is, how fast it came, how many messages are `forgotten`, and
/// why it ended if not by itself.
fn summary(answer: &Answer, forgotten: usize) -> String {
    let speed = answer.decode_speed().map_or(String::new(), |s| format!(", {s:.1} tokens/s"));
    let end = match answer.stop {
        Stop::Model => "",
        Stop::Length => ", cut by -n",
        Stop::Context => ", cut: the context is full (--ctx, --context-shift); /reset begins anew",
        Stop::Interrupted => ", stopped",
    };
    let forgotten = match (forgotten, answer.shifts) {
        (0, 0) => String::new(),
        (0, _) => ", its beginning is forgotten".into(),
        (n, _) => format!(", the oldest {n} messages are forgotten"),
    };
    format!("[{} tokens{speed}{forgotten}{end}]", answer.ids.len())
}

#[cfg(test)]
mod tests;
