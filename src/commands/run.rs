//! `lapidary run`: continues a text, answers a message, or holds a conversation.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{bail, Context};
use clap::Args as ClapArgs;
use lapidary::chat::{Role, Turn};
use lapidary::generate::{End, OldestHalf, Session, Shift};
use lapidary::memory::Load;
use lapidary::model::{Model, Source};
use lapidary::sampling::Sampler;
use lapidary::tokenizer::{Special, Tokenizer};

use super::answer::{line_end, write_answer};
use super::conversation::{Conversation, Decoded};
use super::draft::{Draft, DraftArgs};
use super::interrupt::{self, Interrupted};
use super::json::json_line;
use super::memory::MemoryArgs;
use super::options::{CpuArgs, ModelArg};
use super::prompt::{too_long, Prompt};
use super::prompt_cache::SessionArgs;
use super::sampling::SamplingArgs;
use super::sandbox;
use super::stats::Stats;
use super::template::TemplateArg;
use super::terminal;

/// Default limit on the tokens of a text that nothing else ends.
const DEFAULT_LENGTH: usize = 256;

/// Continue a text, answer a message (--chat), or hold a conversation (--chat on a terminal)
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The prompt [default: read from standard input]
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    prompt: Option<String>,
    /// File with the prompt, in UTF-8; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Treat the prompt as a user's message and answer it; on a terminal, without a prompt, hold a
    /// conversation
    #[arg(long)]
    chat: bool,
    /// System message: instructions to the model before the first message
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    #[command(flatten)]
    template: TemplateArg,
    /// Treat control tokens in the prompt, such as <start_of_turn>, as text and not as control
    /// tokens; with --chat they are text in any case
    #[arg(long)]
    no_parse_special: bool,
    /// Generate at most N tokens; -1 for as many as the context holds [default: 256, or -1 with
    /// --chat]
    #[arg(short, alias = "n-predict", value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i64).range(-1..))]
    n: Option<i64>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Seed of the random numbers; the same seed gives the same text [default: random, and printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    draft: DraftArgs,
    /// Print one JSON object at the end instead of the text
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let start = Instant::now();
    if args.template.is_given() && !args.chat {
        bail!("--chat-template is for conversations: add --chat");
    }
    let sampler = Sampler::new(args.sampling.config(args.seed))?;
    let seed = sampler.seed();
    // Before the prompt, for which standard input may have to be read.
    let source = args.model.open()?;
    let draft = args.draft.open()?;
    let prompt = args.prompt()?;
    let cpu = args.cpu.cpu()?;
    let drafting = draft.as_ref().map(Draft::memory);
    let plan = args.memory.plan(&source, cpu.threads(), Load::One, drafting)?;
    let tokenizer = super::options::tokenizer(&source)?;
    let draft_model = match &draft {
        Some(draft) => draft.model(&cpu, &source, &tokenizer)?,
        None => None,
    };
    let model = Model::on(cpu, &source)?;
    let stop_ids = source.stop_ids(tokenizer.vocab());
    let n_ctx = plan.options.n_ctx;
    let mut session = Session::new(&model, &tokenizer, stop_ids, sampler, plan.options);
    if let Some(draft) = &draft {
        session.set_speculation(draft.speculation(draft_model.as_ref(), &source, plan.options, 1));
    }
    let cache = args.session.prompt_cache(&source)?;
    let turns = match &cache {
        Some(cache) => cache.restore(&mut session)?,
        None => Vec::new(),
    };
    let loaded = Instant::now();

    let limit = args.limit();
    let Some(prompt) = prompt else {
        let template = args.template.template(&source, &tokenizer)?;
        let conversation = Conversation {
            session: &mut session,
            tokenizer: &tokenizer,
            template,
            model: name(&source),
            system: args.system,
            limit,
            seed,
            shift: args.session.context_shift,
            cache: cache.as_ref(),
            turns,
            decoded: Decoded::default(),
        };
        return conversation.run();
    };
    let ids = args.encode(&prompt.text, &source, &tokenizer)?;
    session.check_length(&ids).map_err(too_long).with_context(|| prompt.origin.clone())?;
    interrupt::install()?;
    let mut oldest_half = OldestHalf { keep: args.keep(&ids, &tokenizer, n_ctx) };
    let shift: &mut dyn Shift = if args.session.context_shift { &mut oldest_half } else { &mut () };
    let mut answered = || -> anyhow::Result<Option<End>> {
        let out: &mut dyn Write = if args.json { &mut io::sink() } else { &mut terminal::stdout() };
        let (answer, text) = write_answer(&mut session, &ids, limit, shift, out)?;
        let stats = Stats { answer: &answer, text: &text, seed, start, loaded, plan };
        if args.json {
            writeln!(terminal::stdout(), "{}", json_line(&stats.json()))?;
        } else {
            write!(terminal::stdout(), "{}", line_end(&text))?;
            stats.print()?;
        }
        Ok(answer.end)
    };
    let end = answered();
    let end = match cache {
        Some(cache) => cache.save_after(&session, &[], end)?,
        None => end?,
    };
    match end {
        Some(End::Cancelled) => Err(Interrupted.into()),
        _ => Ok(()),
    }
}

impl Args {
    /// The prompt, or `None` for a conversation.
    fn prompt(&self) -> anyhow::Result<Option<Prompt>> {
        let terminal = io::stdin().is_terminal();
        match (&self.prompt, &self.file) {
            (Some(text), _) => Prompt::new(text.clone(), "-p").map(Some),
            (None, Some(path)) if path != Path::new("-") => Prompt::read_file(path).map(Some),
            (None, None) if terminal && self.chat => {
                if self.json || !terminal::stdout().is_terminal() {
                    bail!("a conversation needs a terminal and no --json; give a message with -p or --file");
                }
                Ok(None)
            }
            (None, None) if terminal => {
                bail!("there is no prompt: give it with -p or --file, or pipe it in")
            }
            (None, _) => Prompt::read_stdin().map(Some),
        }
    }

    /// Encodes the prompt: as a user's message with --chat, otherwise as a text to continue.
    fn encode(
        &self,
        text: &str,
        source: &Source,
        tokenizer: &Tokenizer,
    ) -> anyhow::Result<Vec<u32>> {
        if self.chat {
            let system = self.system.as_deref().map(|text| Turn::new(Role::System, text));
            let turns: Vec<_> = system.into_iter().chain([Turn::new(Role::User, text)]).collect();
            let template = self.template.template(source, tokenizer)?;
            return sandbox::encode(&template, tokenizer, &turns).with_context(|| name(source));
        }
        let special = if self.no_parse_special { Special::Plain } else { Special::Trusted };
        Ok(tokenizer.encode_with_bos(text, special))
    }

    /// How many tokens of the prompt are kept when the context is full. With --chat, the whole
    /// prompt; otherwise only BOS, and only if the context has room for more than that.
    fn keep(&self, prompt: &[u32], tokenizer: &Tokenizer, n_ctx: usize) -> usize {
        let bos = tokenizer.vocab().bos;
        match self.chat {
            true => prompt.len(),
            false => usize::from(n_ctx > 1 && bos.is_some() && prompt.first().copied() == bos),
        }
    }

    /// Most tokens to generate; `None` for no limit. The model decides where an answer ends.
    fn limit(&self) -> Option<usize> {
        match self.n {
            Some(n) => usize::try_from(n).ok(),
            None if self.chat => None,
            None => Some(DEFAULT_LENGTH),
        }
    }
}

/// How messages name the model.
fn name(source: &Source) -> String {
    source.path().display().to_string()
}
