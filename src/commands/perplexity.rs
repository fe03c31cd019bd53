//! `lapidary perplexity`: how well a model predicts a text.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressStyle};
use lapidary::kernels::KvType;
use lapidary::model::{Model, Source};
use lapidary::perplexity::{measure, Options, Perplexity};
use lapidary::tokenizer::{Special, Tokenizer};

use super::CpuArgs;

/// Measure the perplexity of a text
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// A GGUF file, or a checkpoint directory to measure the original
    model: PathBuf,
    /// The text, UTF-8
    #[arg(short, long, value_name = "TEXT")]
    file: PathBuf,
    /// Tokens per chunk
    #[arg(long, default_value_t = 512, value_name = "N")]
    ctx: usize,
    /// Measure only the first N chunks
    #[arg(long, value_name = "N")]
    chunks: Option<NonZeroUsize>,
    #[command(flatten)]
    cpu: CpuArgs,
    /// What the key/value cache holds
    #[arg(long, default_value = "f16", value_parser = super::kv_type)]
    kv: KvType,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let text =
        std::fs::read_to_string(&args.file).with_context(|| args.file.display().to_string())?;
    let source = Source::open(&args.model)?;
    let tokenizer =
        Tokenizer::new(source.vocab()?).with_context(|| args.model.display().to_string())?;
    let tokens = tokenizer.encode_with_bos(&text, Special::Plain);
    let model = Model::on(args.cpu.cpu()?, &source);
    let vocab = tokenizer.vocab();
    let options = Options {
        n_ctx: args.ctx,
        chunks: args.chunks.map(NonZeroUsize::get),
        kv: args.kv,
        bos: vocab.bos.filter(|_| vocab.add_bos),
    };
    let bar = progress_bar();
    let result = measure(&model, &tokens, options, |so_far, chunks| {
        bar.set_length(chunks as u64);
        bar.set_position(so_far.chunks as u64);
        bar.set_message(estimate(so_far));
        true
    });
    bar.finish_and_clear();
    let result = result.with_context(|| args.file.display().to_string())?;
    let mut out = io::stdout();
    if args.json {
        writeln!(out, "{}", json(&result))?;
    } else {
        writeln!(out, "perplexity {}", estimate(&result))?;
        writeln!(
            out,
            "{} tokens scored in {} chunks of {}, {:.1} s",
            result.tokens, result.chunks, args.ctx, result.seconds
        )?;
    }
    Ok(())
}

fn estimate(p: &Perplexity) -> String {
    format!("{:.4} ± {:.4}", p.perplexity, p.standard_error)
}

fn json(p: &Perplexity) -> serde_json::Value {
    serde_json::json!({
        "perplexity": p.perplexity,
        "standard_error": p.standard_error,
        "tokens": p.tokens,
        "chunks": p.chunks,
        "seconds": p.seconds,
    })
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} chunks, {eta} left, {msg}");
    ProgressBar::new(0).with_style(style.expect("the template is valid"))
}
