//! What the commands that run a model over a text before it is converted have in common.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use lapidary::convert::check_output;
use lapidary::model::Source;
use lapidary::tokenizer::Tokenizer;

use super::convert::with_advice;
use super::interrupt;
use super::options::{tokenizer, CpuArgs, ModelArg};

/// Tokens per chunk unless others are asked for, as in llama.cpp's tool.
pub const N_CTX: NonZeroUsize = NonZeroUsize::new(512).expect("it is not zero");

/// The options of `hessian` and `imatrix` alike.
#[derive(Args, Debug)]
pub struct CalibrationArgs {
    #[command(flatten)]
    pub model: ModelArg,
    /// Text file to run the model over, in UTF-8; at least 64,000 tokens of all kinds of text that
    /// the model will see; `default` is a mixed text that Lapidary has
    #[arg(short, long, value_name = "TEXT")]
    pub file: PathBuf,
    /// GGUF file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Tokens per chunk
    #[arg(short, long, alias = "ctx-size", default_value_t = N_CTX, value_name = "N")]
    pub ctx: NonZeroUsize,
    /// Evaluate only the first N chunks
    #[arg(long, value_name = "N")]
    pub chunks: Option<NonZeroUsize>,
    #[command(flatten)]
    pub cpu: CpuArgs,
    /// Replace the output, and FILE.part, if they exist
    #[arg(long)]
    pub force: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl CalibrationArgs {
    /// Installs the handlers of Ctrl-C, and opens the model and its tokenizer, after checking that the output
    /// may be written.
    pub fn open(&self) -> anyhow::Result<(Source, Tokenizer)> {
        interrupt::install()?;
        let source = self.model.open()?;
        let inputs = [self.file.as_path()];
        check_output(&self.output, self.force, Some(&source), &inputs).map_err(with_advice)?;
        let tokenizer = tokenizer(&source)?;
        Ok((source, tokenizer))
    }
}

/// The name by which a file says what text it was made with: without the directory, so that the same text
/// gives the same file wherever the text is.
pub fn dataset(text: &Path) -> String {
    text.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Does `work`, which tells how many chunks are done and how many there are, and learns whether to go on.
/// Shows this in a bar; `unit` says what is counted.
pub fn with_bar<T>(unit: &str, work: impl FnOnce(&mut dyn FnMut(usize, usize) -> bool) -> T) -> T {
    let style = format!("{{bar:30}} {{pos}}/{{len}} {unit}, {{eta}} left");
    let style = ProgressStyle::with_template(&style).expect("the template is valid");
    let bar = ProgressBar::new(0).with_style(style);
    let done = work(&mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        !interrupt::requested()
    });
    bar.finish_and_clear();
    done
}
