//! Renders untrusted chat templates, each in a process of its own. A template is a program. Its
//! intermediate values can take any amount of memory and time, and only a separate process can be
//! stopped reliably.

use std::env;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Context};
use lapidary::chat::{ChatTemplate, Message, Role, Turn, GEMMA2_TEMPLATE};
use lapidary::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most memory of a rendering, in bytes. Gemma's template takes some kilobytes.
const MAX_MEMORY: u64 = 1 << 30;

/// Most time on a processor of a rendering, in seconds. Gemma's template takes less than a
/// millisecond.
const MAX_CPU_TIME: u64 = 5;

/// Longest time of a rendering. It is longer than [`MAX_CPU_TIME`], because a busy machine gives a
/// process only part of its time.
const MAX_TIME: Duration = Duration::from_secs(60);

/// How often to check whether the rendering is done.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// What the process is asked to render.
#[derive(Serialize, Deserialize)]
struct Request {
    source: String,
    bos: String,
    eos: String,
    messages: Vec<Message>,
}

/// The rendered text, or the template's error.
type Reply = Result<String, String>;

/// The chat template cannot render the conversation. It may still render other messages.
#[derive(Debug, Error)]
#[error("{model}: {error:#}")]
pub struct TemplateFailed {
    /// The model's path.
    pub model: String,
    /// What is wrong with its template.
    pub error: anyhow::Error,
}

/// The ids of a conversation up to where the model's answer begins, as
/// [`ChatTemplate::encode_turns`] gives them.
pub fn encode(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    turns: &[Turn],
) -> anyhow::Result<Vec<u32>> {
    // Gemma's own template is known and needs no sandbox.
    if template.source() == GEMMA2_TEMPLATE {
        return Ok(template.encode_turns(tokenizer, turns, true)?);
    }
    template.encode_turns_with(tokenizer, turns, |marked| render(template, marked))
}

/// Finds out whether a template can render a conversation of one message.
///
/// # Errors
/// What is wrong with it.
pub fn try_out(source: &str) -> anyhow::Result<()> {
    let template = ChatTemplate::new(Some(source), "", "")?;
    if source != GEMMA2_TEMPLATE {
        render(&template, &[Turn::new(Role::User, "Hello").message])?;
    }
    Ok(())
}

/// Renders the template in a separate process.
fn render(template: &ChatTemplate, messages: &[Message]) -> anyhow::Result<String> {
    let [bos, eos] = template.bos_and_eos().map(str::to_owned);
    let request =
        Request { source: template.source().to_owned(), bos, eos, messages: messages.to_owned() };
    let request = serde_json::to_vec(&request)?;
    let (status, reply) = ask(&request).context("cannot run a process for the chat template")?;
    match serde_json::from_slice::<Reply>(&reply) {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => Err(anyhow!(error)),
        Err(_) if status.is_none_or(out_of_cpu_time) => {
            bail!("the chat template took longer than {MAX_CPU_TIME} s")
        }
        Err(_) => {
            bail!(
                "the process of the chat template failed; it may use up to {} MB",
                MAX_MEMORY >> 20
            )
        }
    }
}

/// Sends the request to a new process of this program. Returns its output and its exit status,
/// which is `None` if it took too long.
fn ask(request: &[u8]) -> io::Result<(Option<ExitStatus>, Vec<u8>)> {
    let mut child = Command::new(program()?)
        .arg(COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // However it ends, its messages are not for the user.
        .stderr(Stdio::null())
        .spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (mut stdin, mut stdout) = stdin.zip(stdout).expect("both are pipes");
    let reader = thread::spawn(move || {
        let mut reply = Vec::new();
        stdout.read_to_end(&mut reply).map(|_| reply)
    });
    // If the process has already ended, its status says more than this error.
    let _ = stdin.write_all(request);
    drop(stdin);
    let status = wait(&mut child)?;
    let reply = reader.join().unwrap_or_else(|_| Ok(Vec::new()))?;
    Ok((status, reply))
}

/// The program that runs, also after its file was replaced, by an update for example: Linux has a link to
/// the file itself, whatever has its name by now.
fn program() -> io::Result<PathBuf> {
    let own = Path::new("/proc/self/exe");
    match cfg!(target_os = "linux") && own.exists() {
        true => Ok(own.to_owned()),
        false => env::current_exe(),
    }
}

/// Whether the process used all its time on the processor.
#[cfg(unix)]
fn out_of_cpu_time(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGXCPU)
}

/// There is no such limit here.
#[cfg(not(unix))]
fn out_of_cpu_time(_: ExitStatus) -> bool {
    false
}

/// Waits for the process until the time limit, then kills it. Returns `None` if it was killed.
fn wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    while start.elapsed() < MAX_TIME {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(POLL_INTERVAL);
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// The hidden subcommand that the process runs.
pub const COMMAND: &str = "render-chat-template";

/// The work of the process: reads a request from standard input and writes the reply to standard
/// output.
pub fn run() -> anyhow::Result<()> {
    #[cfg(unix)]
    {
        rlimit::setrlimit(rlimit::Resource::AS, MAX_MEMORY, MAX_MEMORY)?;
        rlimit::setrlimit(rlimit::Resource::CPU, MAX_CPU_TIME, MAX_CPU_TIME + 1)?;
    }
    let Request { source, bos, eos, messages } = serde_json::from_reader(io::stdin().lock())?;
    let rendered = ChatTemplate::new(Some(&source), &bos, &eos)
        .and_then(|template| template.render(&messages, true));
    let reply: Reply = rendered.map_err(|error| error.to_string());
    // A pipe to another process of this program.
    #[allow(clippy::disallowed_methods)]
    serde_json::to_writer(io::stdout().lock(), &reply)?;
    Ok(())
}
