//! `lapidary imatrix`: computes the importance matrix of a model on a text.

use std::io::{self, BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::Context;
use clap::Args as ClapArgs;
use lapidary::convert::Target;
use lapidary::imatrix::{collect, Collected, Options};
use lapidary::kernels::KvType;
use lapidary::model::Model;
use lapidary_formats::imatrix::Imatrix;

use super::calibration::{dataset, with_bar, CalibrationArgs};
use super::convert::with_advice;
use super::interrupt;
use super::json::json_line;
use super::size::size;
use super::terminal;
use super::text::Text;

/// Compute an importance matrix, which tells a conversion which columns matter most, in a file that
/// llama.cpp can read too
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    calibration: CalibrationArgs,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let args = args.calibration;
    let (source, tokenizer) = args.open()?;
    let text = Text::for_calibration(&args.file, &source, &tokenizer)?;
    // The output is opened before the work, which may take hours. The file has only a few
    // megabytes, so the free space is not checked.
    let target = Target::create(&args.output, args.force, Some(&source), 0);
    let mut target = target.map_err(with_advice)?;
    target.begin(0)?;
    let model = Model::on(args.cpu.cpu()?, &source)?;
    let mut collected = collected(&model, text, (args.ctx, args.chunks), &args.file)?;
    collected.imatrix.datasets.push(dataset(&args.file));
    let bytes = write(&collected.imatrix, target, &args.output)?;
    let warnings = Warnings::of(&collected.imatrix);
    let mut out = terminal::stdout();
    if args.json {
        writeln!(out, "{}", json_line(&json(&args, &collected, &warnings, bytes)))?;
    } else {
        print(&mut out, &args, &collected, bytes)?;
        warnings.print(&mut terminal::stderr(), &args.output)?;
    }
    Ok(())
}

/// Runs `model` over a text that was read from `file`, in at most `chunks` chunks of `n_ctx`
/// tokens, and shows the progress.
pub fn collected(
    model: &Model<'_>,
    text: Text,
    (n_ctx, chunks): (NonZeroUsize, Option<NonZeroUsize>),
    file: &Path,
) -> anyhow::Result<Collected> {
    let options = Options { n_ctx, chunks, kv: KvType::F16, bos: text.bos };
    let collected =
        with_bar("chunks read", |progress| collect(model, &text.tokens, options, progress));
    let collected = collected.with_context(|| file.display().to_string())?;
    interrupt::check()?;
    Ok(collected)
}

/// Writes the file, renames it to its final name and returns its size in bytes.
fn write(imatrix: &Imatrix, mut target: Target, path: &Path) -> anyhow::Result<u64> {
    let name = || path.display().to_string();
    imatrix.write(BufWriter::new(target.file())).with_context(name)?;
    target.sync()?;
    let bytes = target.file().metadata().with_context(name)?.len();
    interrupt::check()?;
    target.commit()?;
    Ok(bytes)
}

/// The matrices for which a quantizer will have to repair or ignore the importance.
#[derive(Default)]
struct Warnings {
    /// Matrices with columns that are zero or whose sums are not finite: name, number of such
    /// columns, number of all columns.
    repaired: Vec<(String, usize, usize)>,
    /// Matrices without usable importance, and why.
    flaws: Vec<(String, String)>,
}

impl Warnings {
    fn of(imatrix: &Imatrix) -> Self {
        let mut warnings = Self::default();
        for (name, entry) in &imatrix.entries {
            let cols = entry.sums.len();
            match imatrix.importance(name, cols) {
                Ok(found) if found.repaired == 0 => {}
                Ok(found) => warnings.repaired.push((name.clone(), found.repaired, cols)),
                Err(flaw) => warnings.flaws.push((name.clone(), flaw.to_string())),
            }
        }
        warnings
    }

    fn print(&self, out: &mut impl Write, path: &Path) -> io::Result<()> {
        let path = path.display();
        for (name, columns, cols) in &self.repaired {
            writeln!(out, "{path}: {name}: {columns} of {cols} columns are zero or not finite")?;
        }
        for (name, flaw) in &self.flaws {
            writeln!(out, "{path}: {name}: {flaw}")?;
        }
        Ok(())
    }
}

fn print(
    out: &mut impl Write,
    args: &CalibrationArgs,
    collected: &Collected,
    bytes: u64,
) -> io::Result<()> {
    let Collected { imatrix, tokens, seconds, .. } = collected;
    writeln!(
        out,
        "{}: {} matrices, {tokens} tokens in {} chunks of {}, {}, {seconds:.1} s",
        args.output.display(),
        imatrix.entries.len(),
        imatrix.chunk_count,
        imatrix.chunk_size,
        size(bytes)
    )
}

fn json(
    args: &CalibrationArgs,
    collected: &Collected,
    warnings: &Warnings,
    bytes: u64,
) -> serde_json::Value {
    let repaired = warnings.repaired.iter().map(|(name, columns, cols)| {
        serde_json::json!({ "matrix": name, "repaired": columns, "columns": cols })
    });
    let flaws = warnings
        .flaws
        .iter()
        .map(|(name, flaw)| serde_json::json!({ "matrix": name, "flaw": flaw }));
    serde_json::json!({
        "output": args.output.display().to_string(),
        "file_bytes": bytes,
        "matrices": collected.imatrix.entries.len(),
        "tokens": collected.tokens,
        "chunks": collected.imatrix.chunk_count,
        "chunk_size": collected.imatrix.chunk_size,
        "repaired": repaired.collect::<Vec<_>>(),
        "flaws": flaws.collect::<Vec<_>>(),
        "seconds": collected.seconds,
    })
}
