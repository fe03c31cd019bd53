//! Writes a GGUF file with random weights in the exact shape of Gemma 2 2B, 9B or 27B, to measure
//! memory and speed without a checkpoint of up to 54 GB:
//!
//!     cargo run --release --example random_gguf -- 27B -q Q4_K_M -o 27b.gguf [--tokenizer DIR]
//!
//! The tensor types are the recipe's. The same seed gives the same bytes everywhere. The model's text
//! is nonsense, but its logits are finite and it does not repeat one token forever. Sizes, memory and
//! speed are those of a trained model.

mod random;
mod size;
mod vocabulary;
mod weights;

use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{bail, Context};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use lapidary::convert::{model_header, ConvertError, Recipe, Target};
use lapidary::model::{tensors, Config};
use lapidary::tokenizer::Tokenizer;
use lapidary_formats::checkpoint::vocab_from_dir;
use lapidary_formats::gguf::{Header, Writer};
use lapidary_formats::vocab::Vocab;

use size::Size;
use weights::Weights;

/// Write a model with random weights in the shape of Gemma 2
#[derive(Parser, Debug)]
struct Args {
    /// 2B, 9B or 27B
    size: Size,
    /// A recipe of `lapidary convert`
    #[arg(short = 'q', long, value_name = "RECIPE", default_value = "Q4_K_M")]
    quant: Recipe,
    /// The GGUF file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// A directory with Gemma 2's tokenizer.model or tokenizer.json [default: a made-up vocabulary]
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Only so many of its layers, to measure what takes long or much space and is the same in each
    #[arg(long, value_name = "N", value_parser = layers)]
    layers: Option<usize>,
    /// Seed of the weights and of the made-up vocabulary
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Replace the output file if it exists
    #[arg(long)]
    force: bool,
}

/// Parses `--layers`.
fn layers(number: &str) -> Result<usize, &'static str> {
    number.parse().ok().filter(|n| *n > 0).ok_or("expected a number of at least 1")
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("random_gguf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let start = Instant::now();
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))?;
    let mut config = args.size.config();
    config.layers.truncate(args.layers.unwrap_or(config.layers.len()));
    let vocab = match &args.tokenizer {
        Some(dir) => {
            let vocab = vocab_from_dir(dir, config.n_vocab)?;
            Tokenizer::new(vocab).with_context(|| dir.display().to_string())?.vocab().clone()
        }
        None => vocabulary::vocabulary(config.n_vocab, args.seed),
    };
    let header = header(&config, args.quant, &vocab)?;
    write(&header, &config, args)?;
    let bytes: u64 = header.tensors().iter().map(|tensor| tensor.bytes).sum();
    println!(
        "{}: {} {}, {} bytes, of which tensors {bytes}, written in {:.1} s",
        args.output.display(),
        args.size.name(),
        args.quant,
        header.file_bytes(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The header of a file of `recipe`, with keys for the checksums.
fn header(config: &Config, recipe: Recipe, vocab: &Vocab) -> anyhow::Result<Header> {
    let stop_ids: Vec<u32> = vocab.eos.into_iter().chain(vocab.eot).collect();
    let mut header = model_header(config, recipe.file_type(), vocab, None, &stop_ids);
    for spec in tensors(config, false) {
        header.add_tensor(&spec.name, recipe.type_of(&spec, config, false), &spec.shape)?;
    }
    header.reserve_checksums();
    Ok(header)
}

/// Writes the file, and gives it its final name when it is complete and on the disk.
fn write(header: &Header, config: &Config, args: &Args) -> anyhow::Result<()> {
    let path: &Path = &args.output;
    let named = || path.display().to_string();
    let mut target = match Target::create(path, args.force, None, header.file_bytes()) {
        Err(error @ ConvertError::Exists { .. }) => bail!("{error}; --force replaces it"),
        target => target?,
    };
    target.begin(0)?;
    let bar = bar(header.file_bytes());
    let mut weights = Weights::new(args.seed);
    let mut writer =
        Writer::new(BufWriter::new(target.file()), header.clone()).with_context(named)?;
    for spec in tensors(config, false) {
        bar.set_message(spec.name.clone());
        let ty = args.quant.type_of(&spec, config, false);
        weights.for_each_chunk(&spec, ty, |chunk| {
            if INTERRUPTED.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            writer.write(chunk).with_context(named)?;
            bar.inc(chunk.len() as u64);
            Ok(())
        })?;
    }
    writer.write_checksums().with_context(named)?;
    writer.finish().with_context(named)?;
    bar.set_message("waiting for the disk");
    target.sync()?;
    target.commit()?;
    bar.finish_and_clear();
    Ok(())
}

/// A progress bar that counts bytes.
fn bar(bytes: u64) -> ProgressBar {
    let style = "{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left, {msg}";
    let style = ProgressStyle::with_template(style).expect("the template is valid");
    ProgressBar::new(bytes).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_have_the_published_number_of_bytes() {
        let vocab = vocabulary::vocabulary(size::VOCABULARY, 0);
        let published = [1_702_536_192, 5_755_000_832, 16_639_322_112u64];
        for (size, expected) in Size::ALL.into_iter().zip(published) {
            let header = header(&size.config(), Recipe::Q4_K_M, &vocab).unwrap();
            let bytes: u64 = header.tensors().iter().map(|tensor| tensor.bytes).sum();
            assert_eq!(bytes, expected, "{}", size.name());
        }
    }
}
