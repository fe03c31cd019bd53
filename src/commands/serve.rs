//! `lapidary serve`: an HTTP server with OpenAI's API.

use std::env;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{anyhow, bail, Context};
use axum::http::HeaderValue;
use axum::Router;
use clap::Args as ClapArgs;
use lapidary::chat::{ChatTemplate, Turn};
use lapidary::engine::{Engine, EngineOptions, Handle};
use lapidary::memory::Load;
use lapidary::model::{Model, Source};
use lapidary::server::{self, ApiKey, App, Encode, ModelCard, Rules, TemplateError};
use lapidary::tokenizer::Tokenizer;
use lapidary_formats::checkpoint::directory_name;
use lapidary_formats::printable::Printable;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::oneshot;

use super::draft::{Draft, DraftArgs};
use super::interrupt::{self, Interrupted};
use super::memory::{file_bytes, MemoryArgs};
use super::options::{CpuArgs, ModelArg};
use super::run::chat_template;
use super::sandbox;
use super::terminal;

/// Threads that read and write requests. The model runs on other threads.
const THREADS: usize = 2;

/// How often to check whether the server has been asked to stop.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Environment variable for the key. Unlike an argument, it does not show up in the list of
/// processes.
const KEY_VARIABLE: &str = "LAPIDARY_API_KEY";

/// What a key must look like, for messages.
const KEY_RULE: &str = "a key has 1 to 512 ASCII characters and no spaces";

/// Longest message about the chat template, in characters.
const MAX_MESSAGE: usize = 1000;

/// Serve a model over HTTP to clients of OpenAI's API
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Address to listen on; set --api-key if other machines can reach it
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 chooses a free port
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,
    /// Number of requests that are answered at the same time; each has a context of its own
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = parallel)]
    parallel: usize,
    /// Number of requests that may wait; further requests are refused with status 429
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = queue)]
    queue: usize,
    /// Key that clients must send; may be repeated. The environment variable LAPIDARY_API_KEY is
    /// safer, because other users of the machine cannot see it
    #[arg(long, value_name = "KEY", value_parser = key)]
    api_key: Vec<ApiKey>,
    /// Name of the model in the API [default: its name in the file, or the file's name]
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// Web origin whose pages may use the server, such as https://chat.example; may be repeated
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    cors: Vec<HeaderValue>,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    #[command(flatten)]
    draft: DraftArgs,
}

/// More than any machine has memory for.
const MAX_PARALLEL: usize = 256;

/// More than the server accepts connections.
const MAX_QUEUE: usize = 4096;

/// Parses `--parallel`.
fn parallel(number: &str) -> Result<usize, String> {
    within(number, MAX_PARALLEL)
}

/// Parses `--queue`.
fn queue(number: &str) -> Result<usize, String> {
    within(number, MAX_QUEUE)
}

fn within(number: &str, max: usize) -> Result<usize, String> {
    let n = number.parse().ok().filter(|n| (1..=max).contains(n));
    n.ok_or_else(|| format!("expected a number from 1 to {max}"))
}

/// Parses `--api-key`.
fn key(key: &str) -> Result<ApiKey, String> {
    ApiKey::new(key).ok_or_else(|| KEY_RULE.to_owned())
}

/// Parses `--cors`.
fn origin(origin: &str) -> Result<HeaderValue, String> {
    let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let plain = rest.is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', ',', ' ']));
    let value = HeaderValue::from_str(origin).ok().filter(|_| plain);
    value.ok_or_else(|| "expected http:// or https://, a host and optionally a port".to_owned())
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let keys = args.keys()?;
    let source = args.model.open()?;
    let draft = args.draft.open()?;
    let cpu = args.cpu.cpu()?;
    let load = Load::Engine { parallel: args.parallel };
    let drafting = draft.as_ref().map(Draft::memory);
    let plan = args.memory.plan(&source, cpu.threads(), load, drafting)?;
    let name = source.path().display().to_string();
    let tokenizer = Arc::new(super::options::tokenizer(&source)?);
    let template = chat_template(&source, &tokenizer);
    if let Err(error) = &template {
        let error = format!("{error:#}");
        let error = Printable::new(&error).at_most(MAX_MESSAGE);
        writeln!(terminal::stderr(), "{error}; chats are refused, but texts are completed")?;
    }
    let encode = encode(template, Arc::clone(&tokenizer));
    let draft_model = match &draft {
        Some(draft) => draft.model(&cpu, &source, &tokenizer)?,
        None => None,
    };
    let model = Model::on(cpu, &source)?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("cannot start the server's threads")?;
    let (listener, loopback) = runtime.block_on(args.listen())?;
    let address = listener.local_addr().context("cannot read the server's address")?;
    interrupt::install()?;

    let stop_ids = source.stop_ids(tokenizer.vocab());
    let options = EngineOptions { parallel: args.parallel, queue: args.queue, state: plan.options };
    let (mut engine, handle) = Engine::new(&model, &tokenizer, stop_ids.clone(), options);
    if let Some(draft) = &draft {
        let model = draft_model.as_ref();
        engine.set_speculation(draft.speculation(model, &source, plan.options, args.parallel));
    }
    let card = args.card(&source);
    let app = Arc::new(App::new(handle.clone(), Arc::clone(&tokenizer), stop_ids, encode, card));
    index_for_json(&app);
    let is_open = keys.is_empty() && loopback.is_none();
    let rules = Rules { keys, loopback };
    let router = server::router(app, rules, args.cors.clone());
    if is_open {
        let advice = "anyone who can reach this address can use the server; --api-key sets a key";
        writeln!(terminal::stderr(), "{advice}")?;
    }
    let failed = thread::scope(|scope| {
        let (running, ended) = oneshot::channel();
        let engine = scope.spawn(move || {
            // Dropping it reports that the engine has ended, also if it panicked.
            let _running: oneshot::Sender<()> = running;
            engine.run();
        });
        let shutdown = Shutdown(handle.clone());
        writeln!(terminal::stderr(), "listening on http://{address}")?;
        let failed = runtime.block_on(serve(listener, router, &handle, ended));
        drop(shutdown);
        // A panic has printed its own message.
        Ok::<_, io::Error>(engine.join().is_err() || failed)
    })?;
    // A chat template may still be rendering. It has its own time limit, so it is not waited for.
    runtime.shutdown_background();
    match failed {
        true => bail!("{name}: the thread that runs the model has ended"),
        false => Err(Interrupted.into()),
    }
}

/// Has the vocabulary indexed for answers that are JSON, which takes seconds, on a thread of its own. A
/// request that comes sooner waits for it.
fn index_for_json(app: &Arc<App>) {
    let app = Arc::clone(app);
    let thread = thread::Builder::new().name("grammars".into());
    // The error of a model that has no such answers is for those who ask for one. If there is no thread,
    // the first of them indexes the vocabulary.
    let _ = thread.spawn(move || app.grammars().is_ok());
}

/// Serves requests until the server is asked to stop or the engine has ended. Returns whether the
/// engine has ended.
async fn serve(
    listener: TcpListener,
    router: Router,
    handle: &Handle,
    ended: oneshot::Receiver<()>,
) -> bool {
    let mut failed = false;
    let stop = async {
        tokio::select! {
            () = stop_requested() => {}
            _ = ended => failed = true,
        }
        // This ends the answers that are still being generated, and so their connections.
        handle.shutdown();
    };
    server::serve(listener, router, stop).await;
    failed
}

/// Shuts the engine down when dropped, so that every way out of the scope does.
struct Shutdown(Handle);

impl Drop for Shutdown {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

/// Waits until the server is asked to stop.
async fn stop_requested() {
    while !interrupt::requested() {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Renders conversations with the model's chat template and encodes them. Without a usable template,
/// its error is what answers every conversation.
fn encode(template: anyhow::Result<ChatTemplate>, tokenizer: Arc<Tokenizer>) -> Encode {
    let shown = |error: &anyhow::Error| TemplateError(format!("{error:#}"));
    Arc::new(move |turns: &[Turn]| {
        let template = template.as_ref().map_err(shown)?;
        sandbox::encode(template, &tokenizer, turns).map_err(|error| shown(&error))
    })
}

impl Args {
    /// The keys from the command line and from the environment.
    fn keys(&self) -> anyhow::Result<Vec<ApiKey>> {
        let mut keys = self.api_key.clone();
        if let Some(value) = env::var_os(KEY_VARIABLE).filter(|value| !value.is_empty()) {
            let value = value.to_str().map(key);
            keys.push(
                value.and_then(Result::ok).ok_or_else(|| anyhow!("{KEY_VARIABLE}: {KEY_RULE}"))?,
            );
        }
        Ok(keys)
    }

    /// Opens the socket. If only this machine can reach it, returns the host name that clients must
    /// use, too.
    async fn listen(&self) -> anyhow::Result<(TcpListener, Option<String>)> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let listener = TcpListener::bind((host, self.port)).await;
        let listener =
            listener.with_context(|| format!("cannot listen on {}:{}", self.host, self.port))?;
        let loopback = listener.local_addr()?.ip().is_loopback();
        Ok((listener, loopback.then(|| host.to_owned())))
    }

    /// What the API reports about the model.
    fn card(&self, source: &Source) -> ModelCard {
        let config = source.config();
        ModelCard {
            name: self.alias.clone().unwrap_or_else(|| default_name(source)),
            n_ctx_train: config.n_ctx_train,
            n_embd: config.n_embd,
            size: file_bytes(source),
        }
    }
}

/// The model's name in the file, or the name of the file without its extension, or of the checkpoint.
fn default_name(source: &Source) -> String {
    let named = source.gguf().and_then(|gguf| gguf.str("general.name").ok().flatten());
    let named = named.filter(|name| !name.is_empty()).map(str::to_owned);
    let of_path = || match source.checkpoint() {
        Some(checkpoint) => {
            directory_name(source.path()).or_else(|| Some(checkpoint.config().name.clone()))
        }
        None => source.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()),
    };
    named.or_else(of_path).unwrap_or_else(|| "model".to_owned())
}
