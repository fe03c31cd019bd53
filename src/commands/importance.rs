//! The options of `convert` that say how important each column of a matrix is.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use lapidary::convert::{unfinished_path, SecondOrder, Weighting};
use lapidary::hessian::{self, HessianFile};
use lapidary::kernels::Cpu;
use lapidary::model::{Extent, Model, RowSource, Source};
use lapidary::tokenizer::Tokenizer;
use lapidary_formats::imatrix::{Flaw, Imatrix};
use lapidary_formats::quant::Effort;

use super::calibration::N_CTX;
use super::hessian::Collecting;
use super::imatrix::collected;
use super::size::parse_size;
use super::terminal;
use super::text::Text;

/// Where the importance of the columns comes from.
#[derive(Args, Debug)]
pub struct ImportanceArgs {
    /// Use this importance matrix, made by `lapidary imatrix` or llama.cpp, to keep the weights
    /// that matter most more exact
    #[arg(long, value_name = "FILE", conflicts_with_all = ["calibrate", "hessian"])]
    imatrix: Option<PathBuf>,
    /// Use these statistics, made by `lapidary hessian`, to round so that the outputs of the matrices
    /// keep their values
    #[arg(long, value_name = "FILE", conflicts_with = "calibrate")]
    hessian: Option<PathBuf>,
    /// Run the model over this text first, and use the importance matrix that results, or with --effort
    /// best second-order statistics, as with --hessian; `default` is a mixed text that Lapidary has
    #[arg(long, value_name = "TEXT")]
    calibrate: Option<PathBuf>,
    /// With --calibrate and --effort best: memory that the statistics of one matrix may take; columns are
    /// taken in parts if they need more
    #[arg(long, value_name = "SIZE", default_value = "1GB", value_parser = parse_size)]
    #[arg(requires = "calibrate", conflicts_with_all = ["hessian", "imatrix"])]
    memory: u64,
}

/// What statistics are collected for.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The file to write, if any.
    pub output: Option<&'a Path>,
    /// Whether files that are there may be replaced.
    pub force: bool,
    /// Whether to go on with what was interrupted.
    pub resume: bool,
    /// How thoroughly to search.
    pub effort: Effort,
}

impl ImportanceArgs {
    /// The file that is read, if any.
    pub fn input(&self) -> Option<&Path> {
        self.imatrix.as_deref().or(self.calibrate.as_deref()).or(self.hessian.as_deref())
    }

    /// The statistics for second-order rounding, if options ask for them: those in a file, or with
    /// --calibrate and the best effort those that are collected for the output.
    pub fn second_order(
        &self,
        source: &Source,
        tokenizer: &Tokenizer,
        cpu: &Cpu,
        to: Destination<'_>,
    ) -> anyhow::Result<Option<SecondOrder>> {
        let Destination { output, force, resume, effort } = to;
        let file = match (&self.hessian, &self.calibrate, self.own_statistics(output, effort)) {
            (Some(path), ..) => HessianFile::open(path, &source.fingerprint(Extent::Sample)?)?,
            (None, Some(text), Some(path)) => {
                let fisher = effort == Effort::Max;
                let all = Collecting::all_of(text, self.memory, fisher);
                let collecting = Collecting { force, resume, ..all };
                collecting.file(source, tokenizer, cpu, &path)?
            }
            _ => return Ok(None),
        };
        Ok(Some(SecondOrder::new(file, effort)?))
    }

    /// Where the statistics are that are collected for `output` only, and deleted when it is complete.
    fn own_statistics(&self, output: Option<&Path>, effort: Effort) -> Option<PathBuf> {
        let output = output.filter(|_| self.calibrate.is_some() && effort >= Effort::Best)?;
        let mut path = output.as_os_str().to_owned();
        path.push(".hessian");
        Some(path.into())
    }

    /// Whether statistics for `output` only were collected, or begun to be.
    pub fn has_begun(&self, output: &Path, effort: Effort) -> bool {
        let own = self.own_statistics(Some(output), effort);
        own.is_some_and(|path| path.exists() || unfinished_path(&path).exists())
    }

    /// Deletes the statistics that were collected for `output` only. Those that somebody collected there with
    /// `lapidary hessian` stay.
    pub fn delete_own_statistics(&self, output: &Path, effort: Effort) -> anyhow::Result<()> {
        let path = self.own_statistics(Some(output), effort);
        match path.filter(|path| hessian::is_temporary(path) == Some(true)) {
            Some(path) => std::fs::remove_file(&path).with_context(|| path.display().to_string()),
            None => Ok(()),
        }
    }

    /// Whether the importance is measured on `text`: on the same contents, or according to the matrix or
    /// the statistics on a file of that name.
    pub fn is_measured_on(&self, text: &Path) -> bool {
        let contents = |path: &Path| std::fs::read(path).ok();
        let datasets = match (&self.calibrate, &self.imatrix, &self.hessian) {
            (Some(calibrate), ..) => {
                let calibrate = contents(calibrate);
                return calibrate.is_some_and(|calibrate| contents(text) == Some(calibrate));
            }
            (None, Some(file), _) => Imatrix::open(file).map_or(Vec::new(), |file| file.datasets),
            (None, None, Some(file)) => hessian::datasets(file),
            (None, None, None) => return false,
        };
        datasets.iter().any(|set| Path::new(set).file_name() == text.file_name())
    }

    /// The importance of the columns of `source`, if an option asks for it. Writes to stderr what
    /// was missing or had to be repaired.
    pub fn weighting(
        &self,
        source: &Source,
        tokenizer: &Tokenizer,
        second_order: Option<&SecondOrder>,
        cpu: Cpu,
    ) -> anyhow::Result<Option<Weighting>> {
        if let Some(second_order) = second_order {
            return Ok(Some(Weighting::new(source, &second_order.imatrix(source)?)));
        }
        let (imatrix, of) = match (&self.imatrix, &self.calibrate) {
            (Some(file), _) => (Imatrix::open(file)?, file),
            (None, Some(text)) => (calibrate(source, tokenizer, text, cpu)?, text),
            (None, None) => return Ok(None),
        };
        let weighting = Weighting::new(source, &imatrix);
        warn(&weighting, of)?;
        Ok(Some(weighting))
    }
}

/// Runs the model over a text and collects the importance matrix.
fn calibrate(
    source: &Source,
    tokenizer: &Tokenizer,
    text: &Path,
    cpu: Cpu,
) -> anyhow::Result<Imatrix> {
    let read = Text::for_calibration(text, source, tokenizer)?;
    Ok(collected(&Model::on(cpu, source)?, read, (N_CTX, None), text)?.imatrix)
}

/// Reports which matrices have no usable importance, with one line per kind of problem.
fn warn(weighting: &Weighting, of: &Path) -> io::Result<()> {
    let (mut err, of) = (terminal::stderr(), of.display());
    let kind = |flaw: &Flaw| std::mem::discriminant(flaw);
    let mut reported = Vec::new();
    for (name, flaw) in &weighting.flaws {
        if reported.contains(&kind(flaw)) {
            continue;
        }
        reported.push(kind(flaw));
        let n = weighting.flaws.iter().filter(|(_, other)| kind(other) == kind(flaw)).count();
        writeln!(
            err,
            "{of}: {n} matrices are quantized without importance, such as {name}: {flaw}"
        )?;
    }
    if let Some((name, _)) = weighting.repaired.first() {
        let columns: usize = weighting.repaired.iter().map(|(_, n)| n).sum();
        let n = weighting.repaired.len();
        writeln!(
            err,
            "{of}: {columns} columns of {n} matrices, such as {name}, have no usable importance: those \
             that are zero count as the least important ones, those that are not finite as average"
        )?;
    }
    Ok(())
}
