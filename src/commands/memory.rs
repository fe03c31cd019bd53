//! The options that decide how much memory a run takes, the resulting memory plan, and the check
//! that it fits.

use std::io::{self, Write};

use anyhow::bail;
use clap::Args;
use lapidary::kernels::KvType;
use lapidary::machine::{limits, LimitKind};
use lapidary::memory::{Drafting, Load, Memory, MemoryRequest};
use lapidary::model::{Source, StateOptions};
use serde_json::json;

use super::size::{parse_size, size};
use super::terminal;

/// Longest default context, for models that were trained for more.
const MAX_DEFAULT_CTX: usize = 8192;

/// The options that decide how much memory a run takes.
#[derive(Args, Debug)]
pub struct MemoryArgs {
    /// Length of the context, prompt and answer together, in tokens [default: what the model was
    /// trained for, up to 8192]
    #[arg(short, long, alias = "ctx-size", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    ctx: Option<u32>,
    /// Type of the KV cache: f16, q8_0 or f32 [default: f16]
    #[arg(long, value_name = "TYPE", value_parser = super::options::kv_type)]
    kv: Option<KvType>,
    /// Most tokens of a prompt that are evaluated together; a smaller number takes less memory but
    /// more time [default: 512]
    #[arg(long = "ubatch-size", alias = "slice", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    n_ubatch: Option<u32>,
    /// Use at most this much memory, such as 18GB, including the mapped file: chooses --kv,
    /// --ubatch-size and, last of all, --ctx where they are not given, and prints the choice
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Start even if the memory of this machine or of the control group is too small
    #[arg(long)]
    force: bool,
}

/// The options of each sequence, and the memory that the run will take.
#[derive(Clone, Copy, Debug)]
pub struct MemoryPlan {
    pub options: StateOptions,
    pub memory: Memory,
}

impl MemoryArgs {
    /// Chooses the options that were not given and checks that the run, with its drafts if there are
    /// any, fits in memory.
    pub fn plan(
        &self,
        source: &Source,
        threads: usize,
        load: Load,
        drafting: Option<Drafting<'_>>,
    ) -> anyhow::Result<MemoryPlan> {
        let config = source.config();
        let needs = |options: &StateOptions| {
            let memory = Memory::new(config, file_bytes(source), *options, threads, load);
            let with = |drafting| memory.with_drafting(config, *options, load, drafting);
            drafting.map_or(memory, with)
        };
        let request = self.request(source)?;
        let model = source.path().display();
        let mut options = request.preferred();
        if let Some(bytes) = self.memory {
            let fitting = request.pick(|options| needs(options).total() <= bytes);
            let Some(picked) = fitting else {
                let least = request.smallest();
                print(&mut terminal::stderr(), &least, &[(least.kv, needs(&least))])?;
                let least = size(needs(&least).total());
                bail!("{model}: needs at least {least}, but --memory allows only {}", size(bytes));
            };
            options = picked;
            report_choice(&options, needs(&options).total())?;
        }
        let memory = needs(&options);
        for limit in limits().into_iter().filter(|_| !self.force) {
            let needed = match limit.kind {
                LimitKind::Resident => memory.total(),
                LimitKind::AddressSpace => memory.address_space(threads),
            };
            if needed > limit.bytes {
                print(&mut terminal::stderr(), &options, &[(options.kv, memory)])?;
                let (needed, bytes) = (size(needed), size(limit.bytes));
                let source = limit.source;
                bail!("{model}: needs {needed}, more than the {bytes} {source} (--memory chooses options that fit, --force starts anyway)");
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
                terminal::stderr(),
                "{name}: trained for {trained} tokens; longer texts may lose coherence"
            )?;
        }
        let n_ubatch = self.n_ubatch.map(|n| n as usize);
        Ok(MemoryRequest { n_ctx, may_shorten: self.ctx.is_none(), kv: self.kv, n_ubatch })
    }
}

impl MemoryPlan {
    /// The plan as JSON.
    pub fn json(&self) -> serde_json::Value {
        let MemoryPlan { options, memory } = self;
        let mut json = memory_json(memory);
        json["n_ctx"] = json!(options.n_ctx);
        json["kv"] = json!(options.kv.name());
        json["n_ubatch"] = json!(options.n_ubatch);
        json
    }
}

/// Size in bytes of the mapped GGUF file, or of a checkpoint's tensors.
pub fn file_bytes(source: &Source) -> u64 {
    match (source.gguf(), source.checkpoint()) {
        (Some(gguf), _) => gguf.file_bytes(),
        (_, Some(checkpoint)) => checkpoint.tensors().map(|t| t.data.len() as u64).sum(),
        _ => 0,
    }
}

/// Reports the chosen options.
fn report_choice(options: &StateOptions, total: u64) -> io::Result<()> {
    let StateOptions { n_ctx, kv, n_ubatch, .. } = options;
    writeln!(
        terminal::stderr(),
        "memory  {}: context {n_ctx}, cache {}, ubatches of {n_ubatch} tokens",
        size(total),
        kv.name()
    )
}

/// Prints a table of the memory by part, with one row for each type of the KV cache. `options`
/// holds what the rows have in common.
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

/// The parts and their sum as JSON, in bytes.
pub fn memory_json(memory: &Memory) -> serde_json::Value {
    let parts = memory.parts().into_iter().chain([("total", memory.total())]);
    parts
        .map(|(name, bytes)| (name.to_owned(), json!(bytes)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
