//! `lapidary demo`: converts, measures and runs a small model that is built into the program.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context};
use clap::Args as ClapArgs;
use lapidary::convert::{convert, Options as ConvertOptions, Plan, Progress, Recipe, Totals};
use lapidary::generate::{End, Session};
use lapidary::kernels::KvType;
use lapidary::model::{Model, Source, StateOptions};
use lapidary::perplexity::{measure, Options, Perplexity};
use lapidary::sampling::{Sampler, SamplerConfig};
use lapidary::tokenizer::{Special, Tokenizer};
use tempfile::TempDir;

use super::answer::write_answer;
use super::bundled;
use super::interrupt::{self, Interrupted};
use super::terminal;

const RECIPES: [Recipe; 6] =
    [Recipe::Q8_0, Recipe::Q6_K, Recipe::Q5_K_M, Recipe::Q4_K_M, Recipe::Q3_K_M, Recipe::Q2_K];

/// The recipe of the file that generates the sample text.
const SAMPLE_RECIPE: Recipe = Recipe::Q4_K_M;
const SAMPLE_PROMPT: &str = "And it came to pass in those days, that the king";
const SAMPLE_TOKENS: usize = 100;
const SAMPLE_SEED: u64 = 1;

/// Tokens per chunk, and number of chunks: enough to tell the recipes apart.
const N_CTX: usize = 512;
const CHUNKS: usize = 8;

/// Convert, measure and run a small model that is built into the program
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Keep the files in this new or empty directory [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    interrupt::install()?;
    match args.dir {
        Some(dir) => {
            prepare_directory(&dir)?;
            demo(&dir)?;
            writeln!(terminal::stdout(), "\nThe files are in {}.", dir.display())?;
        }
        None => {
            let dir = TempDir::with_prefix("lapidary-demo-")
                .context("cannot create a temporary directory")?;
            demo(dir.path())?;
        }
    }
    Ok(())
}

/// Creates `dir` if needed. It must be empty, so that nothing is overwritten.
fn prepare_directory(dir: &Path) -> anyhow::Result<()> {
    let name = || dir.display().to_string();
    std::fs::create_dir_all(dir).with_context(name)?;
    if dir.read_dir().with_context(name)?.next().is_some() {
        bail!("{}: the directory is not empty; name a new or an empty one", dir.display());
    }
    Ok(())
}

fn demo(dir: &Path) -> anyhow::Result<()> {
    let checkpoint = dir.join("tiny-gemma2");
    bundled::write_checkpoint(&checkpoint).with_context(|| checkpoint.display().to_string())?;
    let mut out = terminal::stdout();
    writeln!(out, "A Gemma 2 model with 3.7 million parameters, trained on the King James Bible.")?;
    writeln!(out, "Perplexity on held-out chapters, {CHUNKS} chunks of {N_CTX} tokens:\n")?;
    writeln!(out, "recipe        size  bits/weight    perplexity       change")?;
    let original = Measured::new(&checkpoint)?;
    writeln!(out, "{}", original.row("original", None))?;
    for recipe in RECIPES {
        let file = file_of(dir, recipe);
        quantize(&checkpoint, &file, recipe)?;
        let measured = Measured::new(&file)?;
        writeln!(out, "{}", measured.row(recipe.name(), Some(&original)))?;
    }
    writeln!(
        out,
        "\nThe {} file continues a prompt, with seed {SAMPLE_SEED}:\n",
        SAMPLE_RECIPE.name()
    )?;
    sample(&file_of(dir, SAMPLE_RECIPE))?;
    writeln!(out, "\nNext, with a Gemma checkpoint in the directory gemma-2-2b-it:")?;
    writeln!(out, "  lapidary convert gemma-2-2b-it -o gemma-2-2b-it-Q4_K_M.gguf")?;
    writeln!(out, "  lapidary run gemma-2-2b-it-Q4_K_M.gguf --chat")?;
    Ok(())
}

fn file_of(dir: &Path, recipe: Recipe) -> PathBuf {
    dir.join(format!("tiny-gemma2-{}.gguf", recipe.name()))
}

fn quantize(checkpoint: &Path, file: &Path, recipe: Recipe) -> anyhow::Result<()> {
    let source = Source::open(checkpoint)?;
    let plan = Plan::of_recipe(&source, recipe);
    match convert(&source, file, &plan, ConvertOptions::default(), &mut UntilInterrupted) {
        Err(_) if interrupt::requested() => Err(Interrupted.into()),
        result => Ok(result.map(drop)?),
    }
}

/// Cancels a conversion on Ctrl-C and reports nothing.
struct UntilInterrupted;

impl Progress for UntilInterrupted {
    fn cancelled(&self) -> bool {
        interrupt::requested()
    }
}

/// Size and perplexity of a model.
struct Measured {
    totals: Totals,
    perplexity: Perplexity,
}

impl Measured {
    fn new(path: &Path) -> anyhow::Result<Self> {
        let source = Source::open(path)?;
        let tokenizer = Tokenizer::new(source.vocab()?)?;
        let vocab = tokenizer.vocab();
        let options = Options {
            n_ctx: N_CTX,
            chunks: Some(CHUNKS),
            kv: KvType::F16,
            reference_kv: KvType::F16,
            bos: vocab.bos.filter(|_| vocab.add_bos),
        };
        let tokens = tokenizer.encode_with_bos(bundled::HELD_OUT, Special::Plain);
        let model = Model::load(&source, None)?;
        let perplexity = measure(&model, &tokens, options, |_, _| !interrupt::requested())?;
        interrupt::check()?;
        let tensors = source.tensors().iter().map(|spec| source.tensor(spec));
        let totals = Totals::new(tensors.map(|t| (t.ty, t.len() as u64, t.data.len() as u64)));
        Ok(Self { totals, perplexity })
    }

    /// The model's line of the table.
    fn row(&self, name: &str, original: Option<&Self>) -> String {
        let megabytes = self.totals.bytes() as f64 / 1e6;
        let bits = self.totals.bits_per_weight();
        let Perplexity { perplexity, standard_error, .. } = self.perplexity;
        let change = original.map_or(String::new(), |original| {
            format!("{:+9.2} %", (perplexity / original.perplexity.perplexity - 1.0) * 100.0)
        });
        let size = format!("{name:<9} {megabytes:5.2} MB {bits:12.2}");
        format!("{size} {perplexity:8.3} ± {standard_error:.3}{change}")
    }
}

/// Prints the text that the model generates after the prompt.
fn sample(path: &Path) -> anyhow::Result<()> {
    let source = Source::open(path)?;
    let tokenizer = Tokenizer::new(source.vocab()?)?;
    let stop_ids = source.stop_ids(tokenizer.vocab());
    let model = Model::load(&source, None)?;
    let sampler =
        Sampler::new(SamplerConfig { seed: Some(SAMPLE_SEED), ..SamplerConfig::default() })?;
    let n_ctx = model.config().n_ctx_train;
    let mut session =
        Session::new(&model, &tokenizer, stop_ids, sampler, StateOptions::new(n_ctx, KvType::F16));
    let prompt = tokenizer.encode_with_bos(SAMPLE_PROMPT, Special::Plain);
    let mut out = terminal::stdout();
    write!(out, "{SAMPLE_PROMPT}")?;
    let (answer, _) = write_answer(&mut session, &prompt, Some(SAMPLE_TOKENS), &mut (), &mut out)?;
    writeln!(out)?;
    if answer.end == Some(End::Cancelled) {
        return Err(Interrupted.into());
    }
    Ok(())
}
