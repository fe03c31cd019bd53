//! Chat templates of strangers, each rendered in a process of its own. A template is a program: what
//! it builds on the way to its text may take all memory and all time, and only a process can be ended.

use std::env;
use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Context};
use lapidary::chat::{ChatTemplate, Message, Turn, GEMMA2_TEMPLATE};
use lapidary::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most memory that a template may take, in bytes; Gemma's takes some kilobytes.
const MAX_MEMORY: u64 = 1 << 30;

/// The most time; Gemma's takes less than a millisecond.
const MAX_TIME: Duration = Duration::from_secs(5);

/// How often it is looked whether it is done.
const PAUSE: Duration = Duration::from_millis(1);

/// What is to be rendered.
#[derive(Serialize, Deserialize)]
struct Request {
    source: String,
    bos: String,
    eos: String,
    messages: Vec<Message>,
}

/// The text, or why there is none.
type Reply = Result<String, String>;

/// A chat template that cannot make a prompt of the conversation. Other messages may do.
#[derive(Debug, Error)]
#[error("{model}: {error:#}")]
pub struct TemplateFailed {
    /// The model's path.
    pub model: String,
    /// What is wrong with its template.
    pub error: anyhow::Error,
}

/// The ids of a conversation, up to where the model answers, as [`ChatTemplate::encode_turns`] gives
/// them.
pub fn encode(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    turns: &[Turn],
) -> anyhow::Result<Vec<u32>> {
    // Nobody has to be kept from what is known.
    if template.source() == GEMMA2_TEMPLATE {
        return Ok(template.encode_turns(tokenizer, turns, true)?);
    }
    template.encode_turns_with(tokenizer, turns, |marked| render(template, marked))
}

/// Has a process render the template.
fn render(template: &ChatTemplate, messages: &[Message]) -> anyhow::Result<String> {
    let [bos, eos] = template.bos_and_eos().map(str::to_owned);
    let request =
        Request { source: template.source().to_owned(), bos, eos, messages: messages.to_owned() };
    let request = serde_json::to_vec(&request)?;
    let (status, reply) = ask(&request).context("a process for the chat template")?;
    match serde_json::from_slice::<Reply>(&reply) {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => Err(anyhow!(error)),
        Err(_) if status.is_none() => {
            bail!("the chat template takes more than {} s", MAX_TIME.as_secs())
        }
        Err(_) => {
            bail!("the chat template ended its process, which may take {} MB", MAX_MEMORY >> 20)
        }
    }
}

/// Gives the request to a process of this program's own; its exit status, unless it took too long, and
/// what it wrote.
fn ask(request: &[u8]) -> io::Result<(Option<ExitStatus>, Vec<u8>)> {
    let mut child = Command::new(env::current_exe()?)
        .arg(COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // It may end in all ways there are.
        .stderr(Stdio::null())
        .spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (mut stdin, mut stdout) = stdin.zip(stdout).expect("both are pipes");
    let reader = thread::spawn(move || {
        let mut reply = Vec::new();
        stdout.read_to_end(&mut reply).map(|_| reply)
    });
    // If it has ended already, its status says more.
    let _ = stdin.write_all(request);
    drop(stdin);
    let status = wait(&mut child)?;
    let reply = reader.join().unwrap_or_else(|_| Ok(Vec::new()))?;
    Ok((status, reply))
}

/// Waits for the process, but not forever.
fn wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    while start.elapsed() < MAX_TIME {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(PAUSE);
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// What the process is called with.
pub const COMMAND: &str = "render-chat-template";

/// What the process does: reads a request from standard input and writes the reply to standard output.
pub fn run() -> anyhow::Result<()> {
    #[cfg(unix)]
    rlimit::setrlimit(rlimit::Resource::AS, MAX_MEMORY, MAX_MEMORY)?;
    let Request { source, bos, eos, messages } = serde_json::from_reader(io::stdin().lock())?;
    let rendered = ChatTemplate::new(Some(&source), &bos, &eos)
        .and_then(|template| template.render(&messages, true));
    let reply: Reply = rendered.map_err(|error| error.to_string());
    serde_json::to_writer(io::stdout().lock(), &reply)?;
    Ok(())
}
