//! Options that several commands share.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use lapidary::kernels::{processors, Cpu, Isa, KvType};
use lapidary::model::{Note, Source};
use lapidary::tokenizer::Tokenizer;

use super::terminal;

/// The model that a command reads.
#[derive(Args, Debug)]
pub struct ModelArg {
    /// GGUF file or checkpoint directory
    #[arg(value_name = "MODEL", required_unless_present = "model_option")]
    model: Option<PathBuf>,
    /// The same, under llama.cpp's name
    #[arg(
        short,
        long = "model",
        id = "model_option",
        value_name = "MODEL",
        conflicts_with = "model"
    )]
    model_option: Option<PathBuf>,
}

impl ModelArg {
    /// The model's path.
    pub fn path(&self) -> &Path {
        self.model.as_deref().or(self.model_option.as_deref()).unwrap_or(Path::new(""))
    }

    /// Opens the model, and says what its user should know of its files.
    pub fn open(&self) -> anyhow::Result<Source> {
        open(self.path())
    }
}

/// Opens a model, and says what its user should know of its files.
pub fn open(path: &Path) -> anyhow::Result<Source> {
    let source = Source::open(path)?;
    source.notes().iter().try_for_each(|note| say(&source, note))?;
    Ok(source)
}

/// The model's tokenizer. Says what of its files is not used.
pub fn tokenizer(source: &Source) -> anyhow::Result<Tokenizer> {
    let vocab = source.vocab()?;
    if !vocab.left_out.is_empty() {
        say(source, &Note::WithoutRow(vocab.left_out.clone()))?;
    }
    if vocab.add_eos {
        say(source, &Note::AddEos)?;
    }
    Tokenizer::new(vocab).with_context(|| source.path().display().to_string())
}

fn say(source: &Source, note: &Note) -> io::Result<()> {
    writeln!(terminal::stderr(), "{}: {note}", source.path().display())
}

/// Parses `--kv`.
pub fn kv_type(name: &str) -> Result<KvType, String> {
    KvType::ALL.into_iter().find(|kv| kv.name() == name).ok_or_else(|| {
        let names = KvType::ALL.map(KvType::name);
        format!("expected one of {}", names.join(", "))
    })
}

/// Largest number of threads. It is more than any machine has cores; many more would take minutes
/// to start and use up the memory.
const MAX_THREADS: usize = 1024;

/// How many threads may share a processor. Every step waits for its slowest thread, so many more
/// than there are processors take minutes for a token.
const THREADS_PER_PROCESSOR: usize = 4;

/// The number of threads that is started for `--threads`. Says so where it is less.
pub fn capped(threads: Option<NonZeroUsize>) -> io::Result<Option<NonZeroUsize>> {
    let processors = processors();
    let most = processors.saturating_mul(NonZeroUsize::new(THREADS_PER_PROCESSOR).expect("not 0"));
    if let Some(asked) = threads.filter(|threads| *threads > most) {
        writeln!(
            terminal::stderr(),
            "--threads {asked}: {processors} processors can be used here, so {most} threads are started"
        )?;
        return Ok(Some(most));
    }
    Ok(threads)
}

/// Parses `--threads`.
pub fn threads(number: &str) -> Result<NonZeroUsize, String> {
    match number.parse() {
        Ok(threads) if usize::from(threads) <= MAX_THREADS => Ok(threads),
        _ => Err(format!("expected a number from 1 to {MAX_THREADS}")),
    }
}

/// What the kernels run on.
#[derive(Args, Debug)]
pub struct CpuArgs {
    /// Number of threads [default: one per physical core]
    #[arg(short, long, value_name = "N", value_parser = threads)]
    threads: Option<NonZeroUsize>,
    /// Instruction set to use; `scalar` is the reference [default: the best of this machine]
    #[arg(long, value_name = "SET", value_parser = isa)]
    isa: Option<Isa>,
}

impl CpuArgs {
    /// Starts the threads.
    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        Ok(Cpu::new(capped(self.threads)?, self.isa.unwrap_or_default())?)
    }
}

/// Parses `--isa`.
pub fn isa(name: &str) -> Result<Isa, String> {
    let available = Isa::available();
    available.iter().copied().find(|isa| isa.name() == name).ok_or_else(|| {
        let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
        format!("this machine supports {}", names.join(", "))
    })
}
