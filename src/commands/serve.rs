//! `lapidary serve`: an HTTP server with OpenAI's API.

use std::env;
use std::io::{self, Write};
use std::path::Path;
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
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::oneshot;

use super::interrupt::{self, Interrupted};
use super::memory::{file_bytes, MemoryArgs};
use super::options::{CpuArgs, ModelArg};
use super::run::chat_template;
use super::sandbox;

/// Threads that read and write requests: the model's are others.
const THREADS: usize = 2;

/// How often it is looked whether the server is asked to end.
const PAUSE: Duration = Duration::from_millis(50);

/// Where the key may stand, so that it is in no list of processes.
const KEY_VARIABLE: &str = "LAPIDARY_API_KEY";

/// Serve a model over HTTP, for clients of OpenAI's API
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Address to listen on; one that other machines reach should have a key
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 picks a free one
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,
    /// Answers that are made at a time; each has a context of its own
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = parallel)]
    parallel: usize,
    /// Requests that may wait for their turn; others are told to come again
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = queue)]
    queue: usize,
    /// A key that clients have to show, repeatable; better in the variable LAPIDARY_API_KEY, which
    /// other users of the machine do not see
    #[arg(long, value_name = "KEY", value_parser = key)]
    api_key: Vec<ApiKey>,
    /// What the model is called [default: its own name, or the file's]
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// An origin whose pages may use the server, such as https://chat.example, repeatable
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    cors: Vec<HeaderValue>,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    cpu: CpuArgs,
}

/// More answers at a time than any machine has memory for.
const MAX_PARALLEL: usize = 256;

/// More requests than there are connections for.
const MAX_QUEUE: usize = 4096;

/// Parses `--parallel`.
fn parallel(number: &str) -> Result<usize, String> {
    within(number, MAX_PARALLEL)
}

/// Parses `--queue`.
fn queue(number: &str) -> Result<usize, String> {
    within(number, MAX_QUEUE)
}

fn within(number: &str, most: usize) -> Result<usize, String> {
    let n = number.parse().ok().filter(|n| (1..=most).contains(n));
    n.ok_or_else(|| format!("it is a number from 1 to {most}"))
}

/// Parses `--api-key`.
fn key(key: &str) -> Result<ApiKey, String> {
    ApiKey::new(key).ok_or_else(|| "it has 1 to 512 characters of ASCII, and no spaces".to_owned())
}

/// Parses `--cors`.
fn origin(origin: &str) -> Result<HeaderValue, String> {
    let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let plain = rest.is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', ',', ' ']));
    let value = HeaderValue::from_str(origin).ok().filter(|_| plain);
    value.ok_or_else(|| "it is http:// or https://, a host, and perhaps a port".to_owned())
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let keys = args.keys()?;
    let source = args.model.open()?;
    let cpu = args.cpu.cpu()?;
    let load = Load::Engine { parallel: args.parallel };
    let plan = args.memory.plan(&source, cpu.threads(), load)?;
    let name = source.path().display().to_string();
    let tokenizer = Tokenizer::new(source.vocab()?).with_context(|| name.clone())?;
    let tokenizer = Arc::new(tokenizer);
    let encode = encode(chat_template(&source, &tokenizer)?, Arc::clone(&tokenizer));
    let model = Model::on(cpu, &source)?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("threads for the server")?;
    let (listener, loopback) = runtime.block_on(args.listen())?;
    let address = listener.local_addr().context("the server's address")?;
    interrupt::install()?;

    let stop_ids = source.stop_ids(tokenizer.vocab());
    let options = EngineOptions { parallel: args.parallel, queue: args.queue, state: plan.options };
    let (engine, handle) = Engine::new(&model, &tokenizer, stop_ids.clone(), options);
    let card = args.card(&source);
    let app = Arc::new(App::new(handle.clone(), Arc::clone(&tokenizer), stop_ids, encode, card));
    let is_open = keys.is_empty() && loopback.is_none();
    let rules = Rules { keys, loopback };
    let router = server::router(app, rules, args.cors.clone());
    if is_open {
        let advice = "whoever reaches this address may use the server: --api-key asks for a key";
        writeln!(io::stderr(), "{advice}")?;
    }
    let failed = thread::scope(|scope| {
        let (running, ended) = oneshot::channel();
        let engine = scope.spawn(move || {
            // Dropped in any case, of a panic as well.
            let _running: oneshot::Sender<()> = running;
            engine.run();
        });
        let shutdown = Shutdown(handle.clone());
        writeln!(io::stderr(), "listening on http://{address}")?;
        let failed = runtime.block_on(serve(listener, router, &handle, ended));
        drop(shutdown);
        // What a panic has to say it has said.
        Ok::<_, io::Error>(engine.join().is_err() || failed)
    })?;
    // A chat template that is being rendered has its own limits.
    runtime.shutdown_background();
    match failed {
        true => bail!("{name}: the model's thread has ended"),
        false => Err(Interrupted.into()),
    }
}

/// Answers requests until somebody asks for the end, or the engine has `ended`: whether it has.
async fn serve(
    listener: TcpListener,
    router: Router,
    handle: &Handle,
    ended: oneshot::Receiver<()>,
) -> bool {
    let mut failed = false;
    let stop = async {
        tokio::select! {
            () = requested() => {}
            _ = ended => failed = true,
        }
        // So that answers end, and with them their connections.
        handle.shutdown();
    };
    server::serve(listener, router, stop).await;
    failed
}

/// Ends the engine, however this scope is left.
struct Shutdown(Handle);

impl Drop for Shutdown {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

/// Comes back when somebody asks the server to end.
async fn requested() {
    while !interrupt::requested() {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Prompts of conversations by the model's own template.
fn encode(template: ChatTemplate, tokenizer: Arc<Tokenizer>) -> Encode {
    Arc::new(move |turns: &[Turn]| {
        sandbox::encode(&template, &tokenizer, turns)
            .map_err(|error| TemplateError(format!("{error:#}")))
    })
}

impl Args {
    /// The keys of the command line and of the environment.
    fn keys(&self) -> anyhow::Result<Vec<ApiKey>> {
        let mut keys = self.api_key.clone();
        if let Some(value) = env::var_os(KEY_VARIABLE).filter(|value| !value.is_empty()) {
            let value = value.to_str().map(key);
            keys.push(value.and_then(Result::ok).ok_or_else(|| {
                anyhow!("{KEY_VARIABLE}: it has 1 to 512 characters of ASCII, and no spaces")
            })?);
        }
        Ok(keys)
    }

    /// A socket, and the name that it is called by if only this machine reaches it.
    async fn listen(&self) -> anyhow::Result<(TcpListener, Option<String>)> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let listener = TcpListener::bind((host, self.port)).await;
        let listener = listener.with_context(|| format!("{}:{}", self.host, self.port))?;
        let loopback = listener.local_addr()?.ip().is_loopback();
        Ok((listener, loopback.then(|| host.to_owned())))
    }

    /// What the API says of the model.
    fn card(&self, source: &Source) -> ModelCard {
        let config = source.config();
        ModelCard {
            name: self.alias.clone().unwrap_or_else(|| own_name(source)),
            n_ctx_train: config.n_ctx_train,
            n_embd: config.n_embd,
            size: file_bytes(source),
        }
    }
}

/// What the file calls the model, or else the file's own name.
fn own_name(source: &Source) -> String {
    let named = source.gguf().and_then(|gguf| gguf.str("general.name").ok().flatten());
    let named = named.filter(|name| !name.is_empty()).map(str::to_owned);
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    named.or_else(|| stem(source.path())).unwrap_or_else(|| "model".to_owned())
}
