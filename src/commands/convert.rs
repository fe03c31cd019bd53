//! `lapidary convert`: a checkpoint, or another GGUF file, to a GGUF file.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressStyle};
use lapidary::convert::{convert, ConvertError, Options, Progress, Recipe, Report};
use lapidary::model::Source;

use super::inspect::{print_totals, size, totals_json};
use super::interrupt::{self, Interrupted};

/// Convert a checkpoint to a quantized GGUF file
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// A checkpoint directory of Gemma 2, or a GGUF file to convert again
    source: PathBuf,
    /// The GGUF file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Recipe: F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q4_K_M, Q4_K_S, Q3_K_L, Q3_K_M, Q3_K_S
    /// or Q2_K
    #[arg(short, long, value_name = "RECIPE", default_value = "Q4_K_M")]
    quant: String,
    /// Threads [default: all cores]; the file does not depend on it
    #[arg(long, value_name = "N", value_parser = super::threads)]
    threads: Option<NonZeroUsize>,
    /// Replace the output if it is there already
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let recipe: Recipe = args.quant.parse()?;
    interrupt::install()?;
    let source = Source::open(&args.source)?;
    let threads = args.threads.map(NonZeroUsize::get);
    let options = Options { recipe, threads, force: args.force };
    let mut bar = Bar(bar());
    let result = convert(&source, &args.output, options, &mut bar);
    bar.0.finish_and_clear();
    let report = match result {
        Ok(report) => report,
        Err(ConvertError::Cancelled) => return Err(Interrupted.into()),
        Err(error @ ConvertError::Exists { .. }) => bail!("{error}; --force replaces it"),
        Err(error) => return Err(error.into()),
    };
    let mut out = io::stdout();
    if args.json {
        writeln!(out, "{}", json(&report, recipe, &args))?;
    } else {
        print(&mut out, &report, recipe, &args)?;
    }
    Ok(())
}

/// A bar on stderr, which `indicatif` hides where that is no terminal.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn started(&mut self, bytes: u64) {
        self.0.set_length(bytes);
        self.0.reset();
    }

    fn tensor(&mut self, name: &str) {
        self.0.set_message(name.to_owned());
    }

    fn advanced(&mut self, bytes_in: u64, _bytes_out: u64) {
        self.0.inc(bytes_in);
    }

    fn finished(&mut self) {
        self.0.set_message("waiting for the disk");
    }

    fn cancelled(&self) -> bool {
        interrupt::requested()
    }
}

fn bar() -> ProgressBar {
    let style = "{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left, {msg}";
    let style = ProgressStyle::with_template(style).expect("the template is valid");
    ProgressBar::new(0).with_style(style)
}

fn print(out: &mut impl Write, report: &Report, recipe: Recipe, args: &Args) -> io::Result<()> {
    print_totals(out, &report.totals)?;
    writeln!(
        out,
        "\n{}: {recipe}, {}, written in {:.1} s ({:.0} MB/s of weights read)",
        args.output.display(),
        size(report.file_bytes),
        report.seconds,
        report.megabytes_per_second()
    )?;
    if report.requantized > 0 {
        writeln!(
            out,
            "{} tensors were quantized already, and lost precision twice: \
             converting the original checkpoint gives a better file",
            report.requantized
        )?;
    }
    if report.untied {
        writeln!(
            out,
            "the model has a head of its own (output.weight), with which llama.cpp refuses a Gemma 2 \
             file: it runs here only"
        )?;
    }
    Ok(())
}

fn json(report: &Report, recipe: Recipe, args: &Args) -> serde_json::Value {
    serde_json::json!({
        "output": args.output.display().to_string(),
        "recipe": recipe.name(),
        "totals": totals_json(&report.totals),
        "file_bytes": report.file_bytes,
        "bytes_read": report.bytes_read,
        "requantized_tensors": report.requantized,
        "untied_head": report.untied,
        "seconds": report.seconds,
        "megabytes_per_second": report.megabytes_per_second(),
    })
}
