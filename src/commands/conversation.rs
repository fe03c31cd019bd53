//! `lapidary run --chat` on a terminal: holds a conversation.

mod input;
mod transcript;

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use lapidary::chat::{ChatTemplate, Role, Turn};
use lapidary::generate::{tokens_per_second, Answer, End, Finish, Session, Shift};
use lapidary::tokenizer::Tokenizer;

use super::answer::{line_end, write_answer};
use super::prompt::too_long;
use super::prompt_cache::PromptCache;
use super::sandbox::TemplateFailed;
use super::terminal;
use super::{interrupt, sandbox, size, stats};
use input::{Command, Input, Reader};

const HELP: &str = "\
/retry       answer the last message again
/undo        remove the last message and its answer
/reset       forget the conversation and start over
/save FILE   save the conversation to FILE, as JSON; /save! FILE replaces an existing file
/load FILE   continue the conversation in FILE
/stats       show the use of the context, the speed and the memory
/exit        quit (or Ctrl-D)
/help        show this help
Ctrl-C       stop an answer, or clear the line
A line that ends with \\ continues on the next one. Lines between two \"\"\" are one message.";

/// A conversation, with everything that is needed to continue it.
pub struct Conversation<'s, 'm> {
    pub session: &'s mut Session<'m>,
    pub tokenizer: &'m Tokenizer,
    pub template: ChatTemplate,
    /// How messages name the model.
    pub model: String,
    pub system: Option<String>,
    /// Most tokens of an answer; `None` for no limit.
    pub limit: Option<usize>,
    /// The seed of the session's sampler.
    pub seed: u64,
    /// Whether the oldest messages are forgotten when the context is full.
    pub shift: bool,
    /// Where the session is saved, if it is.
    pub cache: Option<&'s PromptCache>,
    /// The messages so far, without the system message.
    pub turns: Vec<Turn>,
    /// Tokens and time of decoding.
    pub decoded: Decoded,
}

/// Number of tokens that were decoded one by one, and the time for them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoded {
    /// Tokens per second of the last answer that decoded any.
    last: Option<f64>,
    tokens: usize,
    time: Duration,
}

impl Conversation<'_, '_> {
    /// Reads messages and answers them until the user leaves.
    pub fn run(mut self) -> anyhow::Result<()> {
        let ended = self.read_and_answer();
        match self.cache {
            Some(cache) => cache.save_after(self.session, &self.turns, ended),
            None => ended,
        }
    }

    fn read_and_answer(&mut self) -> anyhow::Result<()> {
        let mut reader = Reader::new()?;
        // This must come after `Reader::new`: a new editor replaces the SIGINT handler, also for
        // the time when no line is being edited.
        interrupt::install()?;
        writeln!(terminal::stderr(), "seed {}; /help shows the commands", self.seed)?;
        if !self.turns.is_empty() {
            let n = self.turns.len();
            writeln!(terminal::stderr(), "continuing after {n} messages; /reset starts over")?;
        }
        while let Some(input) = reader.read()? {
            match input {
                Input::Command(Command::Exit) => break,
                Input::Command(command) => self.execute(&command, &mut terminal::stdout())?,
                Input::Unknown(name) => {
                    writeln!(terminal::stderr(), "unknown command {name}\n{HELP}")?
                }
                Input::Message(text) => {
                    self.respond(&text, &mut terminal::stdout())?;
                }
            }
        }
        Ok(())
    }

    /// Runs a command. Problems with a command's file are reported on stderr; only errors of the
    /// terminal and of the model are returned.
    fn execute(&mut self, command: &Command, out: &mut dyn Write) -> anyhow::Result<()> {
        let reply = match command {
            Command::Exit => return Ok(()),
            Command::Help => HELP.to_owned(),
            Command::Stats => self.stats(),
            Command::Retry => return self.retry(out),
            Command::Reset => {
                self.turns.clear();
                "this is a new conversation".into()
            }
            Command::Undo => {
                // A loaded conversation may end with a message that has no answer.
                let answer = self.turns.pop_if(|turn| turn.message.role == Role::Assistant);
                match self.turns.pop().or(answer) {
                    Some(_) => format!("{} messages are left", self.turns.len()),
                    None => "there is no message to remove".into(),
                }
            }
            Command::Save { file, overwrite } => {
                let system = self.system.as_deref();
                match transcript::save(Path::new(file), system, &self.turns, *overwrite) {
                    Ok(()) => format!("{} messages saved", self.turns.len()),
                    Err(error) => format!("{error:#}"),
                }
            }
            Command::Load { file } => match transcript::load(Path::new(file)) {
                Ok((system, turns)) => {
                    self.system = system;
                    self.turns = turns;
                    let unanswered = self.turns.len() % 2 == 1;
                    let hint = if unanswered { "; /retry answers the last one" } else { "" };
                    format!("continuing after {} messages{hint}", self.turns.len())
                }
                Err(error) => format!("{error:#}"),
            },
        };
        Ok(writeln!(terminal::stderr(), "{reply}")?)
    }

    /// Answers the last message again. Keeps the old answer if there is no new one.
    fn retry(&mut self, out: &mut dyn Write) -> anyhow::Result<()> {
        let before = self.turns.clone();
        self.turns.pop_if(|turn| turn.message.role == Role::Assistant);
        let Some(last) = self.turns.pop() else {
            return Ok(writeln!(terminal::stderr(), "there is no message to answer")?);
        };
        if self.respond(&last.message.content, out)?.is_none() {
            self.turns = before;
        }
        Ok(())
    }

    /// The text of `/stats`.
    fn stats(&self) -> String {
        let (held, n_ctx) = (self.session.ids().len(), self.session.n_ctx());
        let Decoded { last, tokens, time } = self.decoded;
        let rate = |speed: Option<f64>| speed.map_or("none".into(), |s| format!("{s:.1} tokens/s"));
        let memory = stats::resident().map_or("unknown".into(), size::size);
        format!(
            "context   {held} of {n_ctx} tokens\nmessages  {}\nspeed     {} in the last answer, {} \
             overall\nmemory    {memory} resident",
            self.turns.len(),
            rate(last),
            rate(tokens_per_second(tokens, time)),
        )
    }

    /// Answers a message and adds both to the turns. Returns the answer, or `None` if the message
    /// does not fit the context or the template; then the turns stay as they were.
    fn respond(&mut self, text: &str, out: &mut dyn Write) -> anyhow::Result<Option<Answer>> {
        // From here on, Ctrl-C stops this answer. An earlier one no longer counts.
        interrupt::clear();
        let before = self.turns.clone();
        self.turns.push(Turn::new(Role::User, text));
        match self.answer(out) {
            Ok(Some((answer, text))) => {
                write!(out, "{}", line_end(&text))?;
                let forgotten = before.len() + 1 - self.turns.len();
                writeln!(terminal::stderr(), "{}", summary(&answer, forgotten))?;
                self.add(&answer, &text);
                Ok(Some(answer))
            }
            Ok(None) => {
                self.turns = before;
                Ok(None)
            }
            Err(error) => {
                self.turns = before;
                if !error.is::<TemplateFailed>() {
                    return Err(error);
                }
                writeln!(terminal::stderr(), "{error:#}")?;
                Ok(None)
            }
        }
    }

    /// Answers the last of the turns. Returns `None` if the turns do not fit the context.
    fn answer(&mut self, out: &mut dyn Write) -> anyhow::Result<Option<(Answer, String)>> {
        let mut history = History {
            template: &self.template,
            tokenizer: self.tokenizer,
            model: &self.model,
            system: self.system.as_deref(),
            n_ctx: self.session.n_ctx(),
            turns: &mut self.turns,
        };
        let mut prompt = history.encode()?;
        if self.shift && prompt.len() >= history.n_ctx {
            prompt = history.forget(0)?;
        }
        if let Err(error) = self.session.check_length(&prompt) {
            writeln!(terminal::stderr(), "{}, or start over with /reset", too_long(error))?;
            return Ok(None);
        }
        let shift: &mut dyn Shift = if self.shift { &mut history } else { &mut () };
        write_answer(self.session, &prompt, self.limit, shift, out).map(Some)
    }

    /// Adds an answer to the turns. If it is empty, removes its message instead.
    fn add(&mut self, answer: &Answer, text: &str) {
        self.decoded.last = answer.decode_speed().or(self.decoded.last);
        self.decoded.tokens += answer.decoded;
        self.decoded.time += answer.decode_time;
        match text {
            "" => {
                self.turns.pop();
            }
            // The answer is longer than any context, so not all of its ids were kept. It is stored
            // as text, which is encoded again if it is ever needed.
            text if answer.tokens > answer.ids.len() => {
                self.turns.push(Turn::new(Role::Assistant, text));
            }
            text => self.turns.push(Turn::answer(text, answer.ids.clone())),
        }
    }
}

/// The conversation as the prompt sees it: the system message and the turns, with the user's last.
struct History<'c> {
    template: &'c ChatTemplate,
    tokenizer: &'c Tokenizer,
    model: &'c str,
    system: Option<&'c str>,
    n_ctx: usize,
    turns: &'c mut Vec<Turn>,
}

impl History<'_> {
    /// The prompt, as token ids.
    fn encode(&self) -> Result<Vec<u32>, TemplateFailed> {
        let system = self.system.map(|text| Turn::new(Role::System, text));
        let turns: Vec<Turn> = system.into_iter().chain(self.turns.iter().cloned()).collect();
        sandbox::encode(self.template, self.tokenizer, &turns)
            .map_err(|error| TemplateFailed { model: self.model.to_owned(), error })
    }

    /// Forgets the oldest messages and their answers until the prompt and `more` tokens take at
    /// most half of the context, or until only the last message is left. Returns the prompt. Only
    /// whole pairs of message and answer are removed, because chat templates require them.
    fn forget(&mut self, more: usize) -> Result<Vec<u32>, TemplateFailed> {
        loop {
            let prompt = self.encode()?;
            if self.turns.len() <= 2 || prompt.len() + more <= self.n_ctx / 2 {
                return Ok(prompt);
            }
            self.turns.drain(..2);
        }
    }
}

impl Shift for History<'_> {
    fn shift(
        &mut self,
        _: &[u32],
        generated: &[u32],
    ) -> Result<Option<Vec<u32>>, Box<dyn Error + Send + Sync>> {
        let prompt = self.forget(generated.len())?;
        let room = self.n_ctx.saturating_sub(prompt.len());
        if room == 0 {
            return Ok(None);
        }
        // If the answer alone is too long for the rest of the context, its beginning is dropped.
        let kept = if generated.len() <= room { generated.len() } else { room.div_ceil(2) };
        Ok(Some([&prompt, &generated[generated.len() - kept..]].concat()))
    }
}

/// One line about an answer: its length, its speed, how many messages were `forgotten`, and why it
/// ended if the model did not end it.
fn summary(answer: &Answer, forgotten: usize) -> String {
    let speed = answer.decode_speed().map_or(String::new(), |s| format!(", {s:.1} tokens/s"));
    let end = match answer.end {
        Some(End::Finished(Finish::Stop)) => "",
        Some(End::Finished(Finish::Length)) => ", ended by -n",
        Some(End::ContextFull) => {
            "; the context is full: use a larger --ctx or --context-shift, or start over with /reset"
        }
        Some(End::Cancelled) | None => ", stopped",
    };
    let forgotten = match (forgotten, answer.shifts) {
        (0, 0) => String::new(),
        (0, _) => ", its beginning has been forgotten".into(),
        (n, _) => format!(", the oldest {n} messages have been forgotten"),
    };
    format!("[{} tokens{speed}{forgotten}{end}]", answer.tokens)
}

#[cfg(test)]
mod tests;
