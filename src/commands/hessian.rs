//! `lapidary hessian`: collects second-order statistics of a model on a text.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{anyhow, bail, Context};
use clap::Args as ClapArgs;
use lapidary::calibration::CollectError;
use lapidary::convert::{
    finished_tensors, keep_unfinished, unfinished_path, ConvertError, Finished, Progress, Target,
};
use lapidary::hessian::{is_temporary, About, HessianFile, Options};
use lapidary::kernels::Cpu;
use lapidary::model::{Extent, Model, RowSource, Source};
use lapidary::tokenizer::Tokenizer;
use lapidary_formats::gguf::{Header, HEADER_CHECKSUM_KEY};

use super::calibration::{dataset, with_bar, CalibrationArgs, N_CTX};
use super::convert::{bar, report_nothing_to_resume, with_advice, Bar};
use super::json::json_line;
use super::size::{parse_size, size};
use super::terminal;
use super::text::Text;

/// Collect the second-order statistics that a conversion needs to keep the outputs of a model's matrices,
/// so that several files can be made of them
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    calibration: CalibrationArgs,
    /// Memory that the statistics of one matrix may take; columns are taken in parts if they need more
    #[arg(long, value_name = "SIZE", default_value = "1GB", value_parser = parse_size)]
    memory: u64,
    /// Collect the Fisher information of the matrices' outputs too, for `convert --effort max`, and for
    /// --size and --fit to choose types by: takes the model's gradients on up to 16,384 of the tokens
    #[arg(long)]
    fisher: bool,
    /// Continue an interrupted collection from FILE.part, after the last layer that is complete
    #[arg(long)]
    resume: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let Args { calibration: args, memory, fisher, resume } = args;
    let (source, tokenizer) = args.open()?;
    let part = unfinished_path(&args.output);
    if resume && !part.exists() {
        report_nothing_to_resume(&part, "the statistics are collected")?;
    }
    let collecting = Collecting {
        text: &args.file,
        n_ctx: args.ctx,
        chunks: args.chunks,
        memory,
        fisher,
        force: args.force,
        resume,
    };
    let collected = collecting.run(&source, &tokenizer, args.cpu.cpu()?, &args.output)?;
    let mut out = terminal::stdout();
    match args.json {
        true => writeln!(out, "{}", json_line(&collected.json(&args.output)))?,
        false => collected.print(&mut out, &args.output)?,
    }
    Ok(())
}

/// A file that has been written.
pub struct Collected {
    /// Its size.
    bytes: u64,
    /// The number of its tensors.
    tensors: usize,
    /// How many of them had been finished before.
    resumed: usize,
}

impl Collected {
    fn print(&self, out: &mut impl Write, output: &Path) -> io::Result<()> {
        writeln!(out, "{}: {}", output.display(), size(self.bytes))?;
        if self.resumed > 0 {
            let Self { resumed, tensors, .. } = self;
            writeln!(out, "{resumed} of {tensors} tensors had been finished before")?;
        }
        Ok(())
    }

    fn json(&self, output: &Path) -> serde_json::Value {
        serde_json::json!({
            "output": output.display().to_string(),
            "file_bytes": self.bytes,
            "resumed_tensors": self.resumed,
        })
    }
}

/// How to collect the statistics of a text.
pub struct Collecting<'a> {
    /// The text.
    pub text: &'a Path,
    /// Tokens per chunk.
    pub n_ctx: NonZeroUsize,
    /// How many chunks, at most.
    pub chunks: Option<NonZeroUsize>,
    /// Memory for the statistics of a matrix.
    pub memory: u64,
    /// Whether the Fisher information of outputs is collected too.
    pub fisher: bool,
    /// Whether a file that is there may be replaced.
    pub force: bool,
    /// Whether to go on with what was interrupted.
    pub resume: bool,
}

impl<'a> Collecting<'a> {
    /// Those of a whole text.
    pub fn all_of(text: &'a Path, memory: u64, fisher: bool) -> Self {
        Self { text, n_ctx: N_CTX, chunks: None, memory, fisher, force: false, resume: false }
    }

    /// Collects them in the file `output`.
    pub fn run(
        &self,
        source: &Source,
        tokenizer: &Tokenizer,
        cpu: Cpu,
        output: &Path,
    ) -> anyhow::Result<Collected> {
        let (text, about) = self.about(source, tokenizer)?;
        self.collect(&Model::on(cpu, source)?, source, &text, &about, output)
    }

    /// Opens the file `output` if it has them already. If not, collects them there for a conversion, which
    /// deletes them when it is done. A file that is there is replaced only if it was collected so.
    pub fn file(
        &self,
        source: &Source,
        tokenizer: &Tokenizer,
        cpu: &Cpu,
        output: &Path,
    ) -> anyhow::Result<HessianFile> {
        let (text, about) = self.about(source, tokenizer)?;
        let about = about.temporary();
        let open = || HessianFile::open(output, about.model());
        if let Some(file) = open().ok().filter(|file| file.is(&about)) {
            return Ok(file);
        }
        refuse_to_replace(output)?;
        self.collect(&Model::on(cpu.clone(), source)?, source, &text, &about, output)?;
        Ok(open()?)
    }

    /// The text, and what is going to be collected.
    fn about(&self, source: &Source, tokenizer: &Tokenizer) -> anyhow::Result<(Text, About)> {
        let text = Text::for_calibration(self.text, source, tokenizer)?;
        let options = Options {
            n_ctx: self.n_ctx,
            chunks: self.chunks,
            bos: text.bos,
            limit: Options::columns_within(self.memory),
            fisher: self.fisher,
        };
        let model = source.fingerprint(Extent::Sample)?;
        let about = About::new(model, dataset(self.text), &text.tokens, options);
        let about = about.with_context(|| self.text.display().to_string())?;
        Ok((text, about))
    }

    fn collect(
        &self,
        model: &Model<'_>,
        source: &Source,
        text: &Text,
        about: &About,
        output: &Path,
    ) -> anyhow::Result<Collected> {
        let mut header = about.header(model)?;
        // Until the file is complete, it says of what state of the source it is.
        header.set(HEADER_CHECKSUM_KEY, source.state());
        let target = Target::with_header(output, self.force, self.resume, Some(source), &header);
        let mut target = target.map_err(with_advice)?;
        about.report(model, &mut terminal::stderr())?;
        let stop = |target, error| Err(advice(keep_unfinished(target, &header, error)));
        let finished = match self.finished(&target, source, &header) {
            Ok(finished) => finished,
            Err(error) => return stop(target, error),
        };
        target.begin(finished.len).map_err(with_advice)?;
        let (tokens, file) = (&text.tokens, target.file());
        let done = with_bar("chunks in layers", |progress| {
            about.collect(model, tokens, header.clone(), file, finished.checksums, progress)
        });
        let resumed = match done {
            Ok(resumed) => resumed,
            Err(CollectError::Cancelled) => return stop(target, ConvertError::Cancelled),
            Err(CollectError::Store(error)) => {
                let path = output.to_owned();
                return stop(target, ConvertError::Write { path, error });
            }
            Err(error) => return Err(error).with_context(|| self.text.display().to_string()),
        };
        target.sync()?;
        let bytes = target.file().metadata()?.len();
        target.commit()?;
        Ok(Collected { bytes, tensors: header.tensors().len(), resumed })
    }

    /// What of the unfinished file is finished.
    fn finished(
        &self,
        target: &Target,
        source: &Source,
        header: &Header,
    ) -> Result<Finished, ConvertError> {
        if !self.resume {
            return Ok(Finished::default());
        }
        let mut bar = Bar(bar());
        bar.started(header.file_bytes());
        let bytes = |i: usize| header.tensors()[i].bytes;
        let finished = finished_tensors(target, source, header, &bytes, &mut bar);
        bar.0.finish_and_clear();
        finished
    }
}

/// Refuses to replace what is at `output`, or unfinished beside it, unless a conversion collected it for
/// itself.
fn refuse_to_replace(output: &Path) -> anyhow::Result<()> {
    let part = unfinished_path(output);
    let is_there = output.symlink_metadata().is_ok();
    let others = match (is_temporary(output), is_temporary(&part)) {
        (Some(false) | None, _) if is_there => output,
        (_, Some(false)) => &part,
        _ => return Ok(()),
    };
    bail!(
        "{}: is in the way of the statistics that this conversion would keep there for itself; rename \
         it, or name another output",
        others.display()
    )
}

/// Adds the option that helps to an error.
fn advice(error: ConvertError) -> anyhow::Error {
    match error {
        // A conversion could compare bytes.
        ConvertError::StateChanged { .. } => anyhow!("{error}; without --resume it is replaced"),
        error => with_advice(error),
    }
}
