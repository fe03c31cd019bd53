//! `lapidary convert`: converts a checkpoint, or another GGUF file, to a GGUF file.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::anyhow;
use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressStyle};
use lapidary::convert::{
    check_output, convert_and_check, unfinished_path, Check, ConvertError, Options, Progress,
    Report,
};
use lapidary::kernels::{Cpu, Isa};
use lapidary::model::Source;
use lapidary_formats::printable::Printable;
use lapidary_formats::quant::Effort;

use super::budget::TypeArgs;
use super::check::Checker;
use super::importance::{Destination, ImportanceArgs};
use super::inspect::{print_totals, totals_json};
use super::interrupt::{self, Interrupted};
use super::json::json_line;
use super::perplexity::{print as print_divergence, two_json};
use super::sandbox;
use super::size::{size, size_up};
use super::terminal;

/// Convert a checkpoint to a quantized GGUF file
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Checkpoint directory of a Gemma model, or GGUF file to requantize
    source: PathBuf,
    /// GGUF file to write
    #[arg(short, long, value_name = "FILE", required_unless_present = "plan")]
    output: Option<PathBuf>,
    #[command(flatten)]
    types: TypeArgs,
    #[command(flatten)]
    importance: ImportanceArgs,
    /// How thoroughly to search for codes and scales: fast, default, best or max; `max` needs
    /// second-order statistics
    #[arg(long, value_name = "EFFORT", default_value = "default", value_parser = effort)]
    effort: Effort,
    /// Measure on this text how far the new file is from its source, and store the result in the
    /// file's metadata
    #[arg(long, value_name = "TEXT")]
    check: Option<PathBuf>,
    /// Number of threads; the file does not depend on it [default: all cores]
    #[arg(long, value_name = "N", value_parser = super::options::threads)]
    threads: Option<NonZeroUsize>,
    /// Instruction set to use; the file does not depend on it [default: the best of this machine]
    #[arg(long, value_name = "SET", value_parser = super::options::isa)]
    isa: Option<Isa>,
    /// Replace the output, and FILE.part, if they exist
    #[arg(long)]
    force: bool,
    /// Continue an interrupted conversion from FILE.part, or what --calibrate collects for it
    #[arg(long)]
    resume: bool,
    /// Read every byte of the source before and after the conversion, to be sure that it has not
    /// changed meanwhile, nor since the conversion that --resume continues
    #[arg(long)]
    verify_source: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    interrupt::install()?;
    let source = super::options::open(&args.source)?;
    let threads = super::options::capped(args.threads)?;
    let isa = args.isa.unwrap_or_default();
    let (force, resume, verify_source) = (args.force, args.resume, args.verify_source);
    let options =
        Options { threads: threads.map(NonZeroUsize::get), isa, force, resume, verify_source };
    if let Some(output) = args.output() {
        // Now, and not only when the types are chosen, which may take hours.
        let inputs: Vec<&Path> = args.importance.input().into_iter().chain(args.check()).collect();
        check_output(output, args.force, Some(&source), &inputs).map_err(with_advice)?;
    }
    let cpu = Cpu::new(threads, isa)?;
    // Before the long work, since `run` will need a usable tokenizer in the new file.
    let tokenizer = super::options::tokenizer(&source)?;
    report_template(&source)?;
    args.report_resume()?;
    args.report_same_text()?;
    let mut bar = Bar(bar());
    let to = Destination { output: args.output(), force, resume, effort: args.effort };
    let second_order = args.importance.second_order(&source, &tokenizer, &cpu, to)?;
    let weighting =
        args.importance.weighting(&source, &tokenizer, second_order.as_ref(), cpu.clone());
    let weighting = weighting.map_err(|error| match error.is::<Interrupted>() {
        true => cancelled(),
        false => error,
    })?;
    let second_order = second_order.map(Arc::new);
    let chosen = args.types.choose(&source, weighting, second_order, options, &mut bar);
    let mut chosen = chosen.map_err(with_advice)?;
    chosen.plan.effort = args.effort;
    let mut out = terminal::stdout();
    let Some(output) = args.output() else {
        bar.0.finish_and_clear();
        return match args.json {
            true => Ok(writeln!(out, "{}", json_line(&chosen.json(&source)))?),
            false => Ok(chosen.print(&mut out, &source)?),
        };
    };
    if !args.json && chosen.is_fitted() {
        bar.0.suspend(|| chosen.print(&mut out, &source))?;
        writeln!(out)?;
    }
    let checker = args.check().map(|text| Checker::new(&source, &tokenizer, text, cpu));
    let mut checker = checker.transpose()?;
    let mut check = checker.as_mut().map(|checker| |part: &Path| checker.measure(part));
    let check = check.as_mut().map(|check| check as Check);
    let result = convert_and_check(&source, output, &chosen.plan, options, check, &mut bar);
    bar.0.finish_and_clear();
    let report = result.map_err(with_advice)?;
    args.importance.delete_own_statistics(output, args.effort)?;
    let found = checker.and_then(|checker| checker.found);
    let name = &chosen.plan.name;
    if args.json {
        let mut json = json(&report, name, output);
        json["plan"] = chosen.json(&source);
        json["check"] = found.as_ref().map(two_json).into();
        writeln!(out, "{}", json_line(&json))?;
    } else {
        // Of types chosen for a budget, the totals have been printed before the work.
        print(&mut out, &report, name, output, !chosen.is_fitted())?;
        if let Some(found) = &found {
            writeln!(out)?;
            print_divergence(&mut out, found)?;
        }
    }
    Ok(())
}

impl Args {
    /// The file to write, unless only the plan is to be printed.
    fn output(&self) -> Option<&Path> {
        self.output.as_deref().filter(|_| !self.types.only_plan())
    }

    /// Says so where --resume finds nothing.
    fn report_resume(&self) -> io::Result<()> {
        let Some(output) = self.output().filter(|_| self.resume) else { return Ok(()) };
        let part = unfinished_path(output);
        if part.exists() || self.importance.has_begun(output, self.effort) {
            return Ok(());
        }
        report_nothing_to_resume(&part, "the conversion begins")
    }

    /// Warns of a check on the text that also said what to keep.
    fn report_same_text(&self) -> io::Result<()> {
        if let Some(text) = self.check().filter(|text| self.importance.is_measured_on(text)) {
            let path = text.display();
            writeln!(
                terminal::stderr(),
                "{path}: calibrating and checking on one text makes the file look better than it is; \
                 check on another text"
            )?;
        }
        Ok(())
    }

    /// The text for the check.
    fn check(&self) -> Option<&Path> {
        self.check.as_deref()
    }
}

/// Says that there is no unfinished file `part`, and what happens anew.
pub(super) fn report_nothing_to_resume(part: &Path, what: &str) -> io::Result<()> {
    let part = part.display();
    writeln!(
        terminal::stderr(),
        "{part}: does not exist, so there is nothing to resume: {what} anew"
    )
}

/// Reports a chat template that does not work. The new file will have it all the same, because it
/// does not matter to texts, and another program may understand it.
fn report_template(source: &Source) -> anyhow::Result<()> {
    let tried = source.chat_template()?.map(|template| sandbox::try_out(&template));
    if let Some(Err(error)) = tried {
        let (path, error) = (source.path().display(), format!("{error:#}"));
        let error = Printable::new(&error).at_most(1000);
        writeln!(
            terminal::stderr(),
            "{path}: {error}; the new file will have this template: it can complete texts, but \
             Lapidary cannot chat with it"
        )?;
    }
    Ok(())
}

/// The error of a conversion that was asked to stop when it had nothing to resume. Says so.
fn cancelled() -> anyhow::Error {
    // If stderr is closed, nobody can be told.
    let _ =
        writeln!(terminal::stderr(), "lapidary: cancelled before the first tensor was finished");
    Interrupted.into()
}

/// Adds the option that helps to an error.
pub(super) fn with_advice(error: ConvertError) -> anyhow::Error {
    match &error {
        ConvertError::Cancelled => cancelled(),
        ConvertError::Memory { path, budget, besides, smallest } => {
            let least = size_up(besides.saturating_add(*smallest));
            anyhow!(
                "{}: a run cannot fit in {}: the KV cache, buffers and program take {}, and the \
                 smallest file {}; --fit {least} is the least (a shorter --ctx or --kv q8_0 takes less)",
                path.display(),
                size(*budget),
                size(*besides),
                size(*smallest)
            )
        }
        ConvertError::Budget { path, limit, smallest } => anyhow!(
            "{}: no file can be as small as {}: the smallest has {}; --size {} is the least",
            path.display(),
            size(*limit),
            size(*smallest),
            size_up(*smallest)
        ),
        ConvertError::Unfinished { cause, .. } => {
            let message = format!("{error}: --resume continues from there");
            if !matches!(**cause, ConvertError::Cancelled) && !interrupt::requested() {
                return anyhow!(message);
            }
            // If stderr is closed, nobody can be told.
            let _ = writeln!(terminal::stderr(), "lapidary: {message}");
            Interrupted.into()
        }
        ConvertError::Exists { .. } | ConvertError::InTheWay { finished: false, .. } => {
            anyhow!("{error}; --force replaces it")
        }
        ConvertError::InTheWay { finished: true, .. } => anyhow!(
            "{error}; --resume gives it its name if this conversion wrote it, --force replaces it"
        ),
        ConvertError::OtherConversion { .. } => {
            anyhow!("{error}; --force instead of --resume replaces it")
        }
        ConvertError::StateChanged { .. } => anyhow!(
            "{error}; without --resume it is replaced, and with --verify-source from the beginning the \
             bytes are compared instead"
        ),
        _ => error.into(),
    }
}

/// Parses `--effort`.
fn effort(name: &str) -> Result<Effort, String> {
    match name {
        "fast" => Ok(Effort::Fast),
        "default" => Ok(Effort::Default),
        "best" => Ok(Effort::Best),
        "max" => Ok(Effort::Max),
        _ => Err("expected fast, default, best or max".to_owned()),
    }
}

/// A progress bar on stderr. `indicatif` hides it if stderr is not a terminal.
pub(super) struct Bar(pub(super) ProgressBar);

impl Progress for Bar {
    fn measuring(&mut self, values: u64) {
        self.0.set_length(values);
        self.0.reset();
    }

    fn started(&mut self, bytes: u64) {
        self.0.set_length(bytes);
        self.0.reset();
    }

    fn tensor(&mut self, name: &str) {
        self.0.set_message(Printable::new(name).to_string());
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

/// A progress bar that counts bytes.
pub(super) fn bar() -> ProgressBar {
    let style = "{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left, {msg}";
    let style = ProgressStyle::with_template(style).expect("the template is valid");
    ProgressBar::new(0).with_style(style)
}

fn print(
    out: &mut impl Write,
    report: &Report,
    name: &str,
    output: &Path,
    with_totals: bool,
) -> io::Result<()> {
    if with_totals {
        print_totals(out, &report.totals)?;
        writeln!(out)?;
    }
    writeln!(
        out,
        "{}: {name}, {}, written in {:.1} s ({:.0} MB/s of weights read)",
        output.display(),
        size(report.file_bytes),
        report.seconds,
        report.megabytes_per_second()
    )?;
    if report.resumed > 0 {
        let (resumed, tensors) = (report.resumed, report.totals.tensors());
        writeln!(out, "{resumed} of {tensors} tensors had been finished before")?;
    }
    if report.requantized > 0 {
        writeln!(
            out,
            "{} tensors were quantized already and have lost precision twice; \
             converting the original checkpoint gives a better file",
            report.requantized
        )?;
    }
    if let [first, ..] = report.by_importance.as_slice() {
        writeln!(
            out,
            "{} matrices, such as {first}, are rounded by importance alone: second-order rounding was no \
             better on the text that was held out",
            report.by_importance.len()
        )?;
    }
    if let Some(difference) = &report.llama_cpp {
        writeln!(out, "llama.cpp {difference}")?;
    }
    Ok(())
}

fn json(report: &Report, name: &str, output: &Path) -> serde_json::Value {
    serde_json::json!({
        "output": output.display().to_string(),
        "recipe": name,
        "totals": totals_json(&report.totals),
        "file_bytes": report.file_bytes,
        "bytes_read": report.bytes_read,
        "resumed_tensors": report.resumed,
        "requantized_tensors": report.requantized,
        "rounded_by_importance": report.by_importance,
        "untied": report.untied,
        "llama_cpp": report.llama_cpp,
        "seconds": report.seconds,
        "megabytes_per_second": report.megabytes_per_second(),
    })
}
