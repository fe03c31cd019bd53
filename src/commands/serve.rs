//! `lapidary serve`: an HTTP server with OpenAI's API.

use std::env;
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{anyhow, bail, Context};
use axum::http::HeaderValue;
use axum::Router;
use clap::Args as ClapArgs;
use lapidary::chat::{ChatTemplate, Turn};
use lapidary::convert::Recipe;
use lapidary::engine::{Engine, EngineOptions, Handle};
use lapidary::memory::Load;
use lapidary::model::{Model, Source};
use lapidary::sampling::Sampler;
use lapidary::server::{
    self, ApiKey, App, Defaults, Encode, Entry, Log, ModelCard, Rules, TemplateError,
};
use lapidary::tokenizer::Tokenizer;
use lapidary_formats::checkpoint::directory_name;
use lapidary_formats::printable::Printable;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::oneshot;

use super::draft::{Draft, DraftArgs};
use super::interrupt::{self, Interrupted};
use super::memory::{file_bytes, MemoryArgs, MemoryPlan};
use super::options::{CpuArgs, ModelArg};
use super::sampling::SamplingArgs;
use super::sandbox;
use super::size::size;
use super::template::TemplateArg;
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
    /// Another name by which clients may call the server, such as that of a proxy or of a container's
    /// host; may be repeated. A server that only this machine can reach has the names localhost,
    /// *.localhost and host.docker.internal; if others can reach it, it has any name unless there is
    /// this option
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    allowed_host: Vec<String>,
    /// Web origin whose pages may use the server, such as https://chat.example or app://chat; may be
    /// repeated
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    cors: Vec<HeaderValue>,
    /// System message of conversations that have none
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Print a line for every request: time, method, path, status, and how long it took to begin the
    /// answer
    #[arg(long)]
    log: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    template: TemplateArg,
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

/// Parses `--cors`. Desktop programs and extensions have schemes of their own, such as `app` and
/// `chrome-extension`.
fn origin(origin: &str) -> Result<HeaderValue, String> {
    let of_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let plain = origin.split_once("://").is_some_and(|(scheme, host)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(of_scheme)
            && !host.is_empty()
            && !host.contains(['/', '*', ',', ' '])
    });
    let value = HeaderValue::from_str(origin).ok().filter(|_| plain);
    let expected = "expected a scheme, ://, a host and optionally a port: https://chat.example";
    value.ok_or_else(|| expected.to_owned())
}

/// Parses `--allowed-host`.
fn host_name(name: &str) -> Result<String, String> {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let is_name = !bare.is_empty() && !bare.contains(['/', '*', ',', ' ', '@']);
    // Only an IPv6 address has more than one colon; a single one is before a port.
    let has_port = bare.matches(':').count() == 1;
    match is_name && !has_port {
        true => Ok(bare.to_owned()),
        false => Err("expected a host's name without its port: box.example".to_owned()),
    }
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let keys = args.keys()?;
    let defaults = Defaults { sampling: args.sampling.config(None), system: args.system.clone() };
    // To refuse settings that no sampler takes.
    Sampler::new(defaults.sampling.clone())?;
    let source = args.model.open()?;
    let draft = args.draft.open()?;
    let cpu = args.cpu.cpu()?;
    let load = Load::Engine { parallel: args.parallel, requests: server::REQUESTS };
    let drafting = draft.as_ref().map(Draft::memory);
    let plan = args.memory.plan(&source, cpu.threads(), load, drafting)?;
    let name = source.path().display().to_string();
    let tokenizer = Arc::new(super::options::tokenizer(&source)?);
    let template = args.template.template(&source, &tokenizer);
    // The model's own may be unusable; one that was asked for is to be used.
    let template = if args.template.is_given() { Ok(template?) } else { template };
    if let Err(error) = &template {
        let error = format!("{error:#}");
        let error = Printable::new(&error).at_most(MAX_MESSAGE);
        writeln!(
            terminal::stderr(),
            "{error}; chats are refused, but texts are completed (--chat-template takes another)"
        )?;
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
    let (listeners, loopback) = runtime.block_on(args.listen())?;
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>();
    let addresses = addresses.context("cannot read the server's address")?;
    interrupt::install()?;

    let stop_ids = source.stop_ids(tokenizer.vocab());
    let options = EngineOptions { parallel: args.parallel, queue: args.queue, state: plan.options };
    let (mut engine, handle) = Engine::new(&model, &tokenizer, stop_ids.clone(), options);
    if let Some(draft) = &draft {
        let model = draft_model.as_ref();
        engine.set_speculation(draft.speculation(model, &source, plan.options, args.parallel));
    }
    let card = args.card(&source);
    report(&card, &plan, args.parallel)?;
    let app = Arc::new(App::new(
        handle.clone(),
        Arc::clone(&tokenizer),
        stop_ids,
        encode,
        card,
        defaults,
    ));
    index_for_json(&app);
    let is_open = keys.is_empty() && loopback.is_none();
    let rules = Rules { keys, loopback, hosts: args.allowed_host.clone() };
    let router = server::router(app, rules, args.cors.clone(), args.log.then(log));
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
        for address in addresses {
            writeln!(terminal::stderr(), "listening on http://{address}")?;
        }
        let failed = runtime.block_on(serve(listeners, router, &handle, ended));
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

/// Says what is served.
fn report(model: &ModelCard, plan: &MemoryPlan, parallel: usize) -> io::Result<()> {
    let (name, n_ctx, kv) =
        (Printable::new(&model.name), plan.options.n_ctx, plan.options.kv.name());
    let (file, memory) = (size(model.size), size(plan.memory.total()));
    writeln!(
        terminal::stderr(),
        "serving {name}, {file}: {parallel} answers at a time, each with a context of {n_ctx} tokens \
         (cache {kv}), in up to {memory} of memory"
    )
}

/// Prints a line for each request.
fn log() -> Log {
    Arc::new(|entry: &Entry| {
        let Entry { method, path, status, time } = entry;
        let (path, milliseconds) = (Printable::new(path).at_most(MAX_MESSAGE), time.as_millis());
        let now = jiff::Timestamp::now();
        // Nobody may be there to read it.
        let _ = writeln!(
            terminal::stderr(),
            "{now:.0} {method} {path} {} {milliseconds} ms",
            status.as_u16()
        );
    })
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
    listeners: Vec<TcpListener>,
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
    server::serve(listeners, router, stop).await;
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

    /// Opens the sockets: two for `localhost`, which clients may take for either loopback address, as
    /// far as the system has both. If only this machine can reach them, returns the host name that
    /// clients must use, too.
    async fn listen(&self) -> anyhow::Result<(Vec<TcpListener>, Option<String>)> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let context = || format!("cannot listen on {}:{}", self.host, self.port);
        if !host.eq_ignore_ascii_case("localhost") {
            let listener = TcpListener::bind((host, self.port)).await.with_context(context)?;
            let loopback = listener.local_addr()?.ip().is_loopback();
            return Ok((vec![listener], loopback.then(|| host.to_owned())));
        }
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await;
        let port = first.as_ref().ok().and_then(|first| Some(first.local_addr().ok()?.port()));
        let second = TcpListener::bind((Ipv6Addr::LOCALHOST, port.unwrap_or(self.port))).await;
        let listeners = match (first, second) {
            (Ok(first), Ok(second)) => vec![first, second],
            // Behind an address that is in use is another server, which clients would find.
            (Ok(_), Err(error)) | (Err(error), Ok(_)) if error.kind() == ErrorKind::AddrInUse => {
                return Err(error).with_context(context);
            }
            (Ok(only), Err(_)) | (Err(_), Ok(only)) => vec![only],
            (Err(error), Err(_)) => return Err(error).with_context(context),
        };
        Ok((listeners, Some(host.to_owned())))
    }

    /// What the API reports about the model.
    fn card(&self, source: &Source) -> ModelCard {
        let config = source.config();
        ModelCard {
            name: self.alias.clone().unwrap_or_else(|| default_name(source)),
            n_ctx_train: config.n_ctx_train,
            n_embd: config.n_embd,
            size: file_bytes(source),
            architecture: config.architecture.gguf_name(),
            parameters: source.tensors().iter().map(|spec| spec.values() as u64).sum(),
            file_type: file_type(source),
        }
    }
}

/// What the model's file calls its types; `unknown` for a checkpoint, or if it says nothing that is known.
fn file_type(source: &Source) -> String {
    let number = source.gguf().and_then(|gguf| gguf.u32("general.file_type").ok().flatten());
    let recipe = Recipe::all().find(|recipe| Some(recipe.file_type()) == number);
    recipe.map_or_else(|| "unknown".to_owned(), |recipe| recipe.to_string())
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
