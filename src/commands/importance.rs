//! The options of `convert` that say how much columns count.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use lapidary::convert::Weighting;
use lapidary::kernels::Cpu;
use lapidary::model::{Model, Source};
use lapidary::tokenizer::Tokenizer;
use lapidary_formats::imatrix::{Flaw, Imatrix};

use super::imatrix::collected;
use super::text::Text;

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
    let vocab = source.vocab()?;
    let tokenizer = Tokenizer::new(vocab).with_context(|| source.path().display().to_string())?;
    let read = Text::read(text, &tokenizer)?;
    Ok(collected(&Model::on(cpu, source)?, read, (N_CTX, None), text)?.imatrix)
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
            "{of}: {columns} columns of {n} matrices, such as {name}, are zero or no numbers: they count \
             as the least or as the mean"
        )?;
    }
    Ok(())
}
