//! `lapidary run --chat` on a terminal: a conversation.

mod input;
mod transcript;

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use lapidary::chat::{ChatTemplate, Role, Turn};
use lapidary::generate::{tokens_per_second, Answer, End, Finish, Session, Shift};
use lapidary::tokenizer::Tokenizer;

use super::answer::{line_end, write_answer};
use super::prompt_cache::PromptCache;
use super::run::too_long;
use super::sandbox::TemplateFailed;
use super::{interrupt, sandbox, size, stats};
use input::{Command, Input, Reader};

const HELP: &str = "\
/retry       have the last message answered again
/undo        take the last message and its answer back
/reset       forget the conversation
/save FILE   write the conversation to FILE, as JSON; /save! FILE over what is there
/load FILE   go on with the conversation in FILE
/stats       show what the conversation takes
/exit        leave (or Ctrl-D)
/help        show this
Ctrl-C       stop an answer, or clear the line
A line that ends with \\ goes on in the next one; so does all between two \"\"\".";

/// A conversation and what it takes to go on with it.
pub struct Conversation<'s, 'm> {
    pub session: &'s mut Session<'m>,
    pub tokenizer: &'m Tokenizer,
    pub template: ChatTemplate,
    /// What messages call the model.
    pub model: String,
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
    /// What decoding took.
    pub decoded: Decoded,
}

/// Evaluations of single tokens, and their time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoded {
    /// Tokens of each second of the last answer that had any.
    last: Option<f64>,
    tokens: usize,
    time: Duration,
}

impl Conversation<'_, '_> {
    /// Reads messages and answers them until the user leaves.
    pub fn run(mut self) -> anyhow::Result<()> {
        let talked = self.talk();
        match self.cache {
            Some(cache) => cache.save_after(self.session, &self.turns, talked),
            None => talked,
        }
    }

    fn talk(&mut self) -> anyhow::Result<()> {
        let mut reader = Reader::new()?;
        // Only now: a new editor takes SIGINT over, for the times when no line is edited as well.
        interrupt::install()?;
        writeln!(io::stderr(), "seed {}; /help shows the commands", self.seed)?;
        if !self.turns.is_empty() {
            let n = self.turns.len();
            writeln!(io::stderr(), "going on after {n} messages; /reset begins anew")?;
        }
        while let Some(input) = reader.read()? {
            match input {
                Input::Command(Command::Exit) => break,
                Input::Command(command) => self.obey(&command, &mut io::stdout())?,
                Input::Unknown(name) => writeln!(io::stderr(), "no command {name}\n{HELP}")?,
                Input::Message(text) => {
                    self.turn(&text, &mut io::stdout())?;
                }
            }
        }
        Ok(())
    }

    /// Does what a command says. Errors are those of the terminal and the model alone.
    fn obey(&mut self, command: &Command, out: &mut dyn Write) -> anyhow::Result<()> {
        let said = match command {
            Command::Exit => return Ok(()),
            Command::Help => HELP.to_owned(),
            Command::Stats => self.stats(),
            Command::Retry => return self.retry(out),
            Command::Reset => {
                self.turns.clear();
                "the conversation begins anew".into()
            }
            Command::Undo => {
                // At the end there may be a message without an answer, out of a file.
                let answer = self.turns.pop_if(|turn| turn.message.role == Role::Assistant);
                match self.turns.pop().or(answer) {
                    Some(_) => format!("{} messages are left", self.turns.len()),
                    None => "there is nothing to take back".into(),
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
                    let hint = if unanswered { "; /retry answers the last" } else { "" };
                    format!("going on after {} messages{hint}", self.turns.len())
                }
                Err(error) => format!("{error:#}"),
            },
        };
        Ok(writeln!(io::stderr(), "{said}")?)
    }

    /// Answers the last message again.
    fn retry(&mut self, out: &mut dyn Write) -> anyhow::Result<()> {
        let before = self.turns.clone();
        self.turns.pop_if(|turn| turn.message.role == Role::Assistant);
        let Some(last) = self.turns.pop() else {
            return Ok(writeln!(io::stderr(), "there is no message to answer")?);
        };
        if self.turn(&last.message.content, out)?.is_none() {
            self.turns = before;
        }
        Ok(())
    }

    /// What the conversation takes.
    fn stats(&self) -> String {
        let (held, n_ctx) = (self.session.ids().len(), self.session.n_ctx());
        let Decoded { last, tokens, time } = self.decoded;
        let rate = |speed: Option<f64>| speed.map_or("none".into(), |s| format!("{s:.1} tokens/s"));
        let memory = stats::resident().map_or("unknown".into(), size::size);
        format!(
            "context   {held} of {n_ctx} tokens\nmessages  {}\nspeed     {} in the last answer, {} in \
             all\nmemory    {memory} resident",
            self.turns.len(),
            rate(last),
            rate(tokens_per_second(tokens, time)),
        )
    }

    /// Answers one message and adds both to the turns; adds neither if there is no answer. Gives
    /// what was generated, if the message fits the context and the template.
    fn turn(&mut self, text: &str, out: &mut dyn Write) -> anyhow::Result<Option<Answer>> {
        // A Ctrl-C means the answer that is being made, and no other.
        interrupt::clear();
        let before = self.turns.clone();
        self.turns.push(Turn::new(Role::User, text));
        match self.answer(out) {
            Ok(Some((answer, text))) => {
                write!(out, "{}", line_end(&text))?;
                let forgotten = before.len() + 1 - self.turns.len();
                writeln!(io::stderr(), "{}", summary(&answer, forgotten))?;
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
                writeln!(io::stderr(), "{error:#}")?;
                Ok(None)
            }
        }
    }

    /// Answers the last of the turns, if they fit the context.
    fn answer(&mut self, out: &mut dyn Write) -> anyhow::Result<Option<(Answer, String)>> {
        let mut remembered = Remembered {
            template: &self.template,
            tokenizer: self.tokenizer,
            model: &self.model,
            system: self.system.as_deref(),
            n_ctx: self.session.n_ctx(),
            turns: &mut self.turns,
        };
        let mut prompt = remembered.encode()?;
        if self.shift && prompt.len() >= remembered.n_ctx {
            prompt = remembered.forget(0)?;
        }
        if let Err(error) = self.session.check_length(&prompt) {
            writeln!(io::stderr(), "{}; /reset begins anew", too_long(error))?;
            return Ok(None);
        }
        let shift: &mut dyn Shift = if self.shift { &mut remembered } else { &mut () };
        write_answer(self.session, &prompt, self.limit, shift, out).map(Some)
    }

    /// Adds an answer to the turns, or takes the message back that has none.
    fn add(&mut self, answer: &Answer, text: &str) {
        self.decoded.last = answer.decode_speed().or(self.decoded.last);
        self.decoded.tokens += answer.decoded;
        self.decoded.time += answer.decode_time;
        match text {
            "" => {
                self.turns.pop();
            }
            // One that is longer than any context is spelt anew, if it is ever read again.
            text if answer.tokens > answer.ids.len() => {
                self.turns.push(Turn::new(Role::Assistant, text));
            }
            text => self.turns.push(Turn::answer(text, answer.ids.clone())),
        }
    }
}

/// What a conversation is to a model: the system's message and turns, the last one the user's.
struct Remembered<'c> {
    template: &'c ChatTemplate,
    tokenizer: &'c Tokenizer,
    model: &'c str,
    system: Option<&'c str>,
    n_ctx: usize,
    turns: &'c mut Vec<Turn>,
}

impl Remembered<'_> {
    /// The prompt.
    fn encode(&self) -> Result<Vec<u32>, TemplateFailed> {
        let system = self.system.map(|text| Turn::new(Role::System, text));
        let turns: Vec<Turn> = system.into_iter().chain(self.turns.iter().cloned()).collect();
        sandbox::encode(self.template, self.tokenizer, &turns)
            .map_err(|error| TemplateFailed { model: self.model.to_owned(), error })
    }

    /// Forgets the oldest messages with their answers, until the prompt and `more` tokens fill half
    /// of the context or the last message alone is left; gives the prompt. Templates want whole
    /// turns, so nothing else is cut out.
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

impl Shift for Remembered<'_> {
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
        // An answer that fills the context by itself loses its own beginning.
        let kept = if generated.len() <= room { generated.len() } else { room.div_ceil(2) };
        Ok(Some([&prompt, &generated[generated.len() - kept..]].concat()))
    }
}

/// One line about an answer: how long it is, how fast it came, how many messages are `forgotten`, and
/// why it ended if not by itself.
fn summary(answer: &Answer, forgotten: usize) -> String {
    let speed = answer.decode_speed().map_or(String::new(), |s| format!(", {s:.1} tokens/s"));
    let end = match answer.end {
        Some(End::Finished(Finish::Stop)) => "",
        Some(End::Finished(Finish::Length)) => ", ended by -n",
        Some(End::ContextFull) => {
            ", ended: the context is full (--ctx, --context-shift); /reset begins anew"
        }
        Some(End::Cancelled) | None => ", stopped",
    };
    let forgotten = match (forgotten, answer.shifts) {
        (0, 0) => String::new(),
        (0, _) => ", its beginning is forgotten".into(),
        (n, _) => format!(", the oldest {n} messages are forgotten"),
    };
    format!("[{} tokens{speed}{forgotten}{end}]", answer.tokens)
}

#[cfg(test)]
mod tests;
