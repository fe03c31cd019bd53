//! The `lapidary` command: parses the command line, runs one command and reports its error.
#![forbid(unsafe_code)]

mod commands;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::interrupt::Interrupted;
use commands::{
    bench, convert, demo, hessian, imatrix, inspect, perplexity, run, sandbox, serve, terminal,
    verify,
};
use lapidary::fault;
use lapidary_formats::printable::{is_control, Printable};

/// Cuts Gemma to size: converts checkpoints to k-quant GGUF files, runs them on the CPU and
/// measures what quantization cost
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Convert(convert::Args),
    Hessian(hessian::Args),
    Imatrix(imatrix::Args),
    Run(run::Args),
    Serve(serve::Args),
    Perplexity(perplexity::Args),
    Bench(bench::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Demo(demo::Args),
    #[command(hide = true, name = sandbox::COMMAND)]
    RenderChatTemplate,
}

fn main() -> ExitCode {
    let handlers = fault::report_truncated_files().and_then(|()| fault::report_large_files());
    if let Err(error) = handlers {
        return report(&error.into());
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return report_usage(&error),
    };
    let result = match cli.command {
        Command::Convert(args) => convert::run(args),
        Command::Hessian(args) => hessian::run(args),
        Command::Imatrix(args) => imatrix::run(args),
        Command::Run(args) => run::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Demo(args) => demo::run(args),
        Command::RenderChatTemplate => sandbox::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Reports a command line that cannot be parsed, or shows the help.
fn report_usage(error: &clap::Error) -> ExitCode {
    // It quotes arguments as they are, and some may be names of strangers' files.
    let is_hostile = |arg: OsString| arg.to_string_lossy().contains(is_control);
    match env::args_os().any(is_hostile) {
        true => drop(write!(terminal::stderr(), "{}", error.render())),
        false => drop(error.print()),
    }
    ExitCode::from(error.exit_code() as u8)
}

/// Longest message, in characters.
const MAX_MESSAGE: usize = 4000;

/// Reports an error in one line on stderr and returns the exit code.
fn report(error: &anyhow::Error) -> ExitCode {
    // The reader of the output closed it because it has seen enough, as in
    // `lapidary run … | head -1`.
    if error.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    if error.is::<Interrupted>() {
        return ExitCode::from(Interrupted::exit_code());
    }
    // Errors of libraries may have several lines and quote untrusted files. If stderr is closed,
    // nobody can be told.
    let message = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
    let message = Printable::new(&message).at_most(MAX_MESSAGE);
    let advice = match fault::file_size_limit_reached() {
        true => "; `ulimit -f` limits the size of files here",
        false => "",
    };
    let _ = writeln!(terminal::stderr(), "lapidary: {message}{advice}");
    ExitCode::FAILURE
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref().is_some_and(|e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe)
}
