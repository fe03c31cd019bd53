//! `lapidary verify`: checks whether a model's file is intact.

use std::io::{self, Write};
use std::num::NonZeroUsize;

use anyhow::bail;
use clap::Args as ClapArgs;
use lapidary::verify::{verify, Contents, Finding, Problem, Verified, VerifyError};
use serde_json::json;

use super::convert::{bar, Bar};
use super::interrupt::{self, Interrupted};
use super::json::json_line;
use super::options::ModelArg;
use super::size::size;
use super::terminal;

/// Check a model's file, or one of second-order statistics: its structure, its checksums and all its
/// values
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Number of threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = super::options::threads)]
    threads: Option<NonZeroUsize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command. Fails if anything is wrong with the file.
pub fn run(args: Args) -> anyhow::Result<()> {
    interrupt::install()?;
    let threads = super::options::capped(args.threads)?;
    let mut bar = Bar(bar());
    let result = verify(args.model.path(), threads.map(NonZeroUsize::get), &mut bar);
    bar.0.finish_and_clear();
    let verified = match result {
        Err(VerifyError::Cancelled) => return Err(Interrupted.into()),
        result => result?,
    };
    let mut out = terminal::stdout();
    match args.json {
        true => writeln!(out, "{}", json_line(&report(&verified, &args)))?,
        false => print(&mut out, &verified, &args)?,
    }
    match verified.findings.len() {
        0 => Ok(()),
        1 => bail!("{}: 1 problem found", args.model.path().display()),
        n => bail!("{}: {n} problems found", args.model.path().display()),
    }
}

fn print(out: &mut impl Write, verified: &Verified, args: &Args) -> io::Result<()> {
    for finding in &verified.findings {
        writeln!(out, "{finding}")?;
    }
    if verified.contents == Contents::Hessian {
        let path = args.model.path().display();
        writeln!(out, "{path}: second-order statistics, for `lapidary convert --hessian`")?;
    }
    let (tensors, bytes) = (verified.tensors, size(verified.bytes));
    writeln!(out, "{}: checked {tensors} tensors, {bytes}", args.model.path().display())?;
    match verified.no_checksums {
        Some(why) => writeln!(out, "checksums {why}: changed bytes cannot be detected")?,
        None => writeln!(out, "{} checksums compared", verified.checksums)?,
    }
    if verified.findings.is_empty() {
        writeln!(out, "no problems found")?;
    }
    Ok(())
}

fn report(verified: &Verified, args: &Args) -> serde_json::Value {
    json!({
        "path": args.model.path().display().to_string(),
        "contents": match verified.contents {
            Contents::Model => "model",
            Contents::Hessian => "hessian",
        },
        "ok": verified.findings.is_empty(),
        "tensors": verified.tensors,
        "bytes": verified.bytes,
        "checksums": verified.checksums,
        "findings": verified.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

fn finding(finding: &Finding) -> serde_json::Value {
    let kind = match finding.problem {
        Problem::Checksum { .. } => "checksum",
        Problem::Header => "header",
        Problem::NotFinite { .. } => "not_finite",
        Problem::Model(_) => "model",
    };
    let (rows, first, block) = match finding.problem {
        Problem::NotFinite { rows, first, block, .. } => (Some(rows), Some(first), Some(block)),
        _ => (None, None, None),
    };
    json!({
        "path": finding.path.display().to_string(),
        "tensor": finding.tensor,
        "kind": kind,
        "rows": rows,
        "first_row": first,
        "first_block": block,
        "message": finding.problem.to_string(),
    })
}
