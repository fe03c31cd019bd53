//! What a sequence may take: the options, what they come to, and whether it fits.

use std::io::{self, Write};

use anyhow::bail;
use clap::Args;
use lapidary::kernels::KvType;
use lapidary::machine::{limits, LimitKind};
use lapidary::memory::{Load, Memory, MemoryRequest};
use lapidary::model::{Source, StateOptions};
use serde_json::json;

use super::size::{parse_size, size};

/// Longest context by default, for models that would take more.
const MAX_DEFAULT_CTX: usize = 8192;

/// What a sequence may take.
#[derive(Args, Debug)]
pub struct MemoryArgs {
    /// Tokens of prompt and answer together [default: what the model was trained for, up to 8192]
    #[arg(short, long, alias = "ctx-size", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    ctx: Option<u32>,
    /// What the key/value cache holds: f16, q8_0 or f32 [default: f16]
    #[arg(long, value_name = "TYPE", value_parser = super::options::kv_type)]
    kv: Option<KvType>,
    /// Tokens of a prompt that are evaluated together: fewer take less memory, and longer
    /// [default: 512]
    #[arg(long = "ubatch-size", alias = "slice", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    n_ubatch: Option<u32>,
    /// Stay under this much memory, such as 18GB, the mapped file included: picks what --kv, --ubatch-size
    /// and, last, --ctx leave open, and says what
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Begin even if it does not fit the memory of this machine, or of the control group
    #[arg(long)]
    force: bool,
}

/// What a sequence gets, and what it will take.
#[derive(Clone, Copy, Debug)]
pub struct MemoryPlan {
    pub options: StateOptions,
    pub memory: Memory,
}

impl MemoryArgs {
    /// Picks what was left open, and looks whether it fits what is to be done at a time.
    pub fn plan(&self, source: &Source, threads: usize, load: Load) -> anyhow::Result<MemoryPlan> {
        let needs = |options: &StateOptions| {
            Memory::new(source.config(), file_bytes(source), *options, threads, load)
        };
        let request = self.request(source)?;
        let model = source.path().display();
        let mut options = request.whole();
        if let Some(bytes) = self.memory {
            let fitting = request.pick(|options| needs(options).total() <= bytes);
            let Some(picked) = fitting else {
                let least = request.least();
                print(&mut io::stderr(), &least, &[(least.kv, needs(&least))])?;
                let least = size(needs(&least).total());
                bail!(
                    "{model}: it takes {least} at the least, and --memory allows {}",
                    size(bytes)
                );
            };
            options = picked;
            say(&options, needs(&options).total())?;
        }
        let memory = needs(&options);
        for limit in limits().into_iter().filter(|_| !self.force) {
            let needed = match limit.kind {
                LimitKind::Resident => memory.total(),
                LimitKind::AddressSpace => memory.address_space(threads),
            };
            if needed > limit.bytes {
                print(&mut io::stderr(), &options, &[(options.kv, memory)])?;
                let (needed, bytes) = (size(needed), size(limit.bytes));
                let source = limit.source;
                bail!("{model}: it takes {needed}, more than the {bytes} {source} (--memory picks what fits, --force begins all the same)");
            }
        }
        Ok(MemoryPlan { options, memory })
    }

    fn request(&self, source: &Source) -> anyhow::Result<MemoryRequest> {
        let trained = source.config().n_ctx_train;
        let n_ctx = self.ctx.map_or(trained.min(MAX_DEFAULT_CTX), |n| n as usize);
        if n_ctx > trained {
            let name = source.path().display();
            writeln!(
                io::stderr(),
                "{name}: trained for {trained} tokens; past them it may ramble"
            )?;
        }
        let n_ubatch = self.n_ubatch.map(|n| n as usize);
        Ok(MemoryRequest { n_ctx, shorter: self.ctx.is_none(), kv: self.kv, n_ubatch })
    }
}

impl MemoryPlan {
    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        let MemoryPlan { options, memory } = self;
        let mut json = memory_json(memory);
        json["n_ctx"] = json!(options.n_ctx);
        json["kv"] = json!(options.kv.name());
        json["n_ubatch"] = json!(options.n_ubatch);
        json
    }
}

/// Bytes of the file that a run maps, or of a checkpoint's tensors.
pub fn file_bytes(source: &Source) -> u64 {
    match (source.gguf(), source.checkpoint()) {
        (Some(gguf), _) => gguf.file_bytes(),
        (_, Some(checkpoint)) => checkpoint.tensors().map(|t| t.data.len() as u64).sum(),
        _ => 0,
    }
}

/// Says what was picked.
fn say(options: &StateOptions, total: u64) -> io::Result<()> {
    let StateOptions { n_ctx, kv, n_ubatch, .. } = options;
    writeln!(
        io::stderr(),
        "memory  {}: context {n_ctx}, cache {}, ubatches of {n_ubatch} tokens",
        size(total),
        kv.name()
    )
}

/// A table of what each kind of cache comes to, by part. `options` says what they have in common.
pub fn print(
    out: &mut impl Write,
    options: &StateOptions,
    rows: &[(KvType, Memory)],
) -> io::Result<()> {
    let StateOptions { n_ctx, n_ubatch, .. } = options;
    writeln!(out, "Memory for a context of {n_ctx} tokens, prompts in ubatches of {n_ubatch}")?;
    writeln!(
        out,
        "  cache {:>11} {:>11} {:>11} {:>11} {:>11} {:>11}",
        "file", "cache", "buffers", "tokenizer", "program", "total"
    )?;
    for (kv, memory) in rows {
        write!(out, "  {:<5}", kv.name())?;
        let parts = memory.parts().map(|(_, bytes)| bytes);
        for bytes in parts.into_iter().chain([memory.total()]) {
            write!(out, " {:>11}", size(bytes))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The parts and their sum, in bytes.
pub fn memory_json(memory: &Memory) -> serde_json::Value {
    let parts = memory.parts().into_iter().chain([("total", memory.total())]);
    parts
        .map(|(name, bytes)| (name.to_owned(), json!(bytes)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
