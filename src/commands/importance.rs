//! The options of `convert` that say how much columns count.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use lapidary::convert::Weighting;
use lapidary::imatrix::{collect, Options};
use lapidary::kernels::{Cpu, KvType};
use lapidary::model::{Model, Source};
use lapidary::tokenizer::{Special, Tokenizer};
use lapidary_formats::imatrix::{Flaw, Imatrix};

use super::interrupt;

/// Tokens of a chunk of the text for `--calibrate`, as llama.cpp's tool has it.
const N_CTX: NonZeroUsize = NonZeroUsize::new(512).expect("it is not zero");

/// Where the importance of columns comes from.
#[derive(Args, Debug)]
pub struct ImportanceArgs {
    /// Keep best what the model uses most: an importance matrix by `lapidary imatrix` or llama.cpp
    #[arg(long, value_name = "FILE", conflicts_with = "calibrate")]
    imatrix: Option<PathBuf>,
    /// The same, computed now: run the model over this text first
    #[arg(long, value_name = "TEXT")]
    calibrate: Option<PathBuf>,
}

impl ImportanceArgs {
    /// The importance of the columns of `source`, if it was asked for. What is missing or was
    /// mended is said on stderr.
    pub fn weighting(&self, source: &Source, cpu: Cpu) -> anyhow::Result<Option<Weighting>> {
        let (imatrix, of) = match (&self.imatrix, &self.calibrate) {
            (Some(file), _) => (Imatrix::open(file)?, file),
            (None, Some(text)) => (calibrate(source, text, cpu)?, text),
            (None, None) => return Ok(None),
        };
        let weighting = Weighting::new(source, &imatrix);
        warn(&weighting, of)?;
        Ok(Some(weighting))
    }
}

/// Runs the model over a text.
fn calibrate(source: &Source, text: &Path, cpu: Cpu) -> anyhow::Result<Imatrix> {
    let name = || text.display().to_string();
    let content = std::fs::read_to_string(text).with_context(name)?;
    let vocab = source.vocab()?;
    let tokenizer = Tokenizer::new(vocab).with_context(|| source.path().display().to_string())?;
    let tokens = tokenizer.encode_with_bos(&content, Special::Plain);
    let vocab = tokenizer.vocab();
    let options = Options {
        n_ctx: N_CTX,
        chunks: None,
        kv: KvType::F16,
        bos: vocab.bos.filter(|_| vocab.add_bos),
    };
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} chunks read, {eta} left");
    let bar = ProgressBar::new(0).with_style(style.expect("the template is valid"));
    let model = Model::on(cpu, source);
    let collected = collect(&model, &tokens, options, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        !interrupt::requested()
    });
    bar.finish_and_clear();
    interrupt::check()?;
    Ok(collected.with_context(name)?.imatrix)
}

/// Says what is wrong with some matrices' importance, a line for each kind of trouble.
fn warn(weighting: &Weighting, of: &Path) -> io::Result<()> {
    let (mut err, of) = (io::stderr(), of.display());
    let kind = |flaw: &Flaw| std::mem::discriminant(flaw);
    let mut said = Vec::new();
    for (name, flaw) in &weighting.flaws {
        if said.contains(&kind(flaw)) {
            continue;
        }
        said.push(kind(flaw));
        let n = weighting.flaws.iter().filter(|(_, other)| kind(other) == kind(flaw)).count();
        writeln!(err, "{of}: {n} matrices are cut without importance, such as {name}: {flaw}")?;
    }
    if let Some((name, _)) = weighting.repaired.first() {
        let columns: usize = weighting.repaired.iter().map(|(_, n)| n).sum();
        let n = weighting.repaired.len();
        writeln!(
            err,
            "{of}: {columns} columns of {n} matrices, such as {name}, are zero or no numbers, and \
             count little"
        )?;
    }
    Ok(())
}
