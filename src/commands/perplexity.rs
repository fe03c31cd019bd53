//! `lapidary perplexity`: how well a model predicts a text, and how far it is from its original.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressStyle};
use lapidary::kernels::KvType;
use lapidary::model::{Model, ModelError, Source};
use lapidary::perplexity::{
    check_vocabularies, compare, measure, Divergence, Estimate, Options, Perplexity,
    PerplexityError,
};
use lapidary::tokenizer::Tokenizer;
use serde_json::{json, Value};

use super::interrupt;
use super::json::json_line;
use super::options::{open, CpuArgs, ModelArg};
use super::terminal;
use super::text::Text;

/// Measure the perplexity of a text, and with --reference how far the model is from its original
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Text file to measure on, in UTF-8
    #[arg(short, long, value_name = "TEXT")]
    file: PathBuf,
    /// Compare with this original model, a checkpoint directory or a GGUF file: KL divergence,
    /// ratio of the perplexities, share of equal top tokens
    #[arg(long, value_name = "ORIGINAL")]
    reference: Option<PathBuf>,
    /// Tokens per chunk
    #[arg(short, long, alias = "ctx-size", default_value_t = 512, value_name = "N")]
    ctx: usize,
    /// Evaluate only the first N chunks
    #[arg(long, value_name = "N")]
    chunks: Option<NonZeroUsize>,
    #[command(flatten)]
    cpu: CpuArgs,
    /// Type of the KV cache: f16, q8_0 or f32
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = super::options::kv_type)]
    kv: KvType,
    /// Type of the original's KV cache [default: the same as --kv]. Comparing a model with itself
    /// shows how much a smaller cache type costs
    #[arg(long, value_name = "TYPE", value_parser = super::options::kv_type, requires = "reference")]
    reference_kv: Option<KvType>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let source = args.model.open()?;
    let tokenizer = super::options::tokenizer(&source)?;
    let reference = args.reference.as_deref().map(|path| open_reference(path, &args, &tokenizer));
    let reference = reference.transpose()?;
    let Text { tokens, bos } = Text::read(&args.file, &tokenizer)?;
    let options = args.options(bos);
    interrupt::install()?;
    let cpu = args.cpu.cpu()?;
    let model = Model::on(cpu.clone(), &source)?;
    match &reference {
        None => run_one(&args, &model, &tokens, options),
        Some(reference) => {
            let reference = Model::on(cpu, reference)?;
            run_two(&args, [&model, &reference], &tokens, options)
        }
    }
}

/// Opens the original, and checks that it has the same vocabulary as the quantized model.
fn open_reference(path: &Path, args: &Args, tokenizer: &Tokenizer) -> anyhow::Result<Source> {
    let reference = open(path)?;
    check_vocabularies(tokenizer.vocab(), &reference.vocab()?)
        .with_context(|| format!("{} and {}", args.model.path().display(), path.display()))?;
    Ok(reference)
}

impl Args {
    fn options(&self, bos: Option<u32>) -> Options {
        let (n_ctx, chunks) = (self.ctx, self.chunks.map(NonZeroUsize::get));
        let reference_kv = self.reference_kv.unwrap_or(self.kv);
        Options { n_ctx, chunks, kv: self.kv, reference_kv, bos }
    }

    fn scored(&self, tokens: usize, chunks: usize, seconds: f64) -> String {
        format!("{tokens} tokens scored in {chunks} chunks of {}, {seconds:.1} s", self.ctx)
    }
}

/// Measures the perplexity of the model alone.
fn run_one(args: &Args, model: &Model<'_>, tokens: &[u32], options: Options) -> anyhow::Result<()> {
    let bar = progress_bar();
    let result = measure(model, tokens, options, |so_far, chunks| {
        advance(&bar, so_far.chunks, chunks, with_error(perplexity(so_far), 4));
        !interrupt::requested()
    });
    bar.finish_and_clear();
    let result = result.map_err(|error| with_file_name(error, &args.file))?;
    interrupt::check()?;
    let mut out = terminal::stdout();
    if args.json {
        writeln!(out, "{}", json_line(&one_json(&result)))?;
    } else {
        writeln!(out, "perplexity {}", with_error(perplexity(&result), 4))?;
        writeln!(out, "{}", args.scored(result.tokens, result.chunks, result.seconds))?;
    }
    Ok(())
}

/// Compares the model with its original.
fn run_two(
    args: &Args,
    [model, reference]: [&Model<'_>; 2],
    tokens: &[u32],
    options: Options,
) -> anyhow::Result<()> {
    let bar = progress_bar();
    let result = compare(model, reference, tokens, options, |so_far, chunks| {
        let kl = format!("KL divergence {}", with_error(so_far.kl.mean, 6));
        advance(&bar, so_far.chunks, chunks, kl);
        !interrupt::requested()
    });
    bar.finish_and_clear();
    let result = result.map_err(|error| with_file_name(error, &args.file))?;
    interrupt::check()?;
    let mut out = terminal::stdout();
    if args.json {
        writeln!(out, "{}", json_line(&two_json(&result)))?;
    } else {
        print(&mut out, &result)?;
        writeln!(out, "{}", args.scored(result.tokens, result.chunks, result.seconds))?;
    }
    Ok(())
}

/// Adds the name of the text file to the error, except to an error of a model, which names its own
/// file.
fn with_file_name(error: PerplexityError, text: &Path) -> anyhow::Error {
    match error {
        PerplexityError::Model(ModelError::NotFinite { .. }) => error.into(),
        error => anyhow::Error::new(error).context(text.display().to_string()),
    }
}

/// Prints how far a model is from its original.
pub fn print(out: &mut impl Write, d: &Divergence) -> io::Result<()> {
    let percent = |Estimate { value, standard_error }| Estimate {
        value: 100.0 * value,
        standard_error: 100.0 * standard_error,
    };
    let rows = [
        ("perplexity", with_error(d.quantized, 4)),
        ("of the reference", with_error(d.reference, 4)),
        ("ratio", with_error(d.ratio, 6)),
        ("KL divergence, mean", with_error(d.kl.mean, 6)),
        ("median", format!("{:.6}", d.kl.median)),
        ("99 %", format!("{:.6}", d.kl.percentile_99)),
        ("maximum", format!("{:.6}", d.kl.maximum)),
        ("same top token", format!("{} %", with_error(percent(d.same_top), 3))),
        ("right token's probability", {
            let change = with_error(percent(d.probability_change), 3);
            format!("{change} % on average, {:.3} % RMS", 100.0 * d.probability_change_rms)
        }),
    ];
    rows.iter().try_for_each(|(name, value)| writeln!(out, "{name:>25}  {value}"))
}

fn one_json(p: &Perplexity) -> Value {
    json!({
        "perplexity": p.perplexity,
        "standard_error": p.standard_error,
        "tokens": p.tokens,
        "chunks": p.chunks,
        "seconds": p.seconds,
    })
}

/// The comparison as JSON. The keys of [`one_json`] mean the same here.
pub fn two_json(d: &Divergence) -> Value {
    let estimate = |e: Estimate| json!({ "value": e.value, "standard_error": e.standard_error });
    let Estimate { value: reference, standard_error } = d.reference;
    json!({
        "perplexity": d.quantized.value,
        "standard_error": d.quantized.standard_error,
        "reference": { "perplexity": reference, "standard_error": standard_error },
        "ratio": estimate(d.ratio),
        "kl_divergence": {
            "mean": d.kl.mean.value,
            "standard_error": d.kl.mean.standard_error,
            "median": d.kl.median,
            "percentile_99": d.kl.percentile_99,
            "maximum": d.kl.maximum,
        },
        "same_top": estimate(d.same_top),
        "probability_change": {
            "mean": d.probability_change.value,
            "standard_error": d.probability_change.standard_error,
            "rms": d.probability_change_rms,
        },
        "tokens": d.tokens,
        "chunks": d.chunks,
        "seconds": d.seconds,
    })
}

fn perplexity(p: &Perplexity) -> Estimate {
    Estimate { value: p.perplexity, standard_error: p.standard_error }
}

fn with_error(e: Estimate, digits: usize) -> String {
    format!("{:.digits$} ± {:.digits$}", e.value, e.standard_error)
}

fn advance(bar: &ProgressBar, done: usize, chunks: usize, message: String) {
    bar.set_length(chunks as u64);
    bar.set_position(done as u64);
    bar.set_message(message);
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} chunks, {eta} left, {msg}");
    ProgressBar::new(0).with_style(style.expect("the template is valid"))
}
