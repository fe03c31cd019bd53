//! Every command and every ordinary fault: what the shell sees, and what a person reads.
//!
//! 0: done, also where whoever read the output has seen enough. 1: a fault, in one line that names it.
//! 2: a command line that makes no sense. 128 and a signal's number: asked to end.
#![cfg(unix)]

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::fixtures::{held_out, tests_dir, tiny};

/// A command's name; its arguments with the model as `MODEL`, an output as `OUT`, a text as `TEXT`.
type Case = (&'static str, &'static [&'static str]);

/// Every command that reads a model, on its way to finishing soon.
const COMMANDS: [Case; 7] = [
    ("convert", &["MODEL", "-o", "OUT", "-q", "Q8_0", "--force"]),
    ("imatrix", &["MODEL", "-f", "TEXT", "-o", "OUT", "--force", "--chunks", "1"]),
    ("run", &["MODEL", "-p", "And", "-n", "4"]),
    ("perplexity", &["MODEL", "-f", "TEXT", "--chunks", "1"]),
    ("bench", &["MODEL", "-p", "8", "-n", "2", "-r", "1"]),
    ("inspect", &["MODEL"]),
    ("verify", &["MODEL"]),
];

/// The same, for as long as anybody waits.
const LONG: [Case; 6] = [
    ("convert", &["MODEL", "-o", "OUT", "--size", "2MB", "--effort", "best", "--force"]),
    ("imatrix", &["MODEL", "-f", "TEXT", "-o", "OUT", "--force", "--ctx", "16"]),
    ("run", &["MODEL", "-p", "And", "-n", "-1", "--ctx", "8000000"]),
    ("perplexity", &["MODEL", "-f", "TEXT", "--ctx", "16"]),
    ("bench", &["MODEL", "-r", "100000"]),
    ("demo", &[]),
];

fn command((name, args): Case, model: &Path, text: &Path, dir: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg(name).stdin(Stdio::null());
    for arg in args {
        match *arg {
            "MODEL" => command.arg(model),
            "TEXT" => command.arg(text),
            "OUT" => command.arg(dir.path().join("out")),
            arg => command.arg(arg),
        };
    }
    command
}

/// What went wrong, in one line; `code` is what the shell sees.
fn fault(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    let lines: Vec<&str> = stderr.lines().filter(|line| line.starts_with("lapidary: ")).collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    lines[0].to_owned()
}

#[test]
fn every_command_succeeds() {
    let dir = TempDir::new().unwrap();
    for case in COMMANDS {
        let output = command(case, &tiny(), &held_out(), &dir).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{} {output:?}", case.0);
    }
}

#[test]
fn an_invalid_command_line() {
    let dir = TempDir::new().unwrap();
    for case in COMMANDS.into_iter().chain([("demo", &[][..])]) {
        let output = command(case, &tiny(), &held_out(), &dir).arg("--no-such").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", case.0);
        assert!(stderr.contains("--no-such") && stderr.contains("Usage"), "{stderr}");
    }
}

#[test]
fn a_model_that_does_not_exist_or_cannot_be_read() {
    let dir = TempDir::new().unwrap();
    let empty = dir.path().join("empty.gguf");
    File::create(&empty).unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let nowhere = dir.path().join("nowhere.gguf");
    let below_a_file = empty.join("model.gguf");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&link, &link).unwrap();
    for (model, cause) in [
        (&nowhere, "No such file"),
        (&below_a_file, "Not a directory"),
        (&empty, "empty"),
        (&pipe, "not a regular file"),
        (&link, "symbolic links"),
        (&dir.path().to_owned(), "config.json"),
    ] {
        for case in COMMANDS {
            let line = fault(&command(case, model, &held_out(), &dir).output().unwrap(), 1);
            assert!(line.contains(&model.display().to_string()), "{}: {line}", case.0);
            assert!(line.contains(cause), "{}: {line} lacks {cause}", case.0);
        }
    }
}

#[test]
fn a_text_that_does_not_exist_or_cannot_be_read() {
    let dir = TempDir::new().unwrap();
    let binary = tests_dir("fixtures/tiny-gemma2/model.safetensors");
    for (text, cause) in [
        (dir.path().join("nothing.txt"), "No such file"),
        (dir.path().to_owned(), "directory"),
        (binary, "UTF-8"),
    ] {
        for case in COMMANDS.into_iter().filter(|(_, args)| args.contains(&"TEXT")) {
            let line = fault(&command(case, &tiny(), &text, &dir).output().unwrap(), 1);
            assert!(line.contains(&text.display().to_string()), "{}: {line}", case.0);
            assert!(line.contains(cause), "{}: {line} lacks {cause}", case.0);
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_the_output() {
    let dir = TempDir::new().unwrap();
    for case in COMMANDS {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = command(case, &tiny(), &held_out(), &dir).stdout(full).output().unwrap();
        let line = fault(&output, 1);
        assert!(line.contains("No space left"), "{}: {line}", case.0);
    }
}

#[test]
fn a_closed_pipe() {
    let dir = TempDir::new().unwrap();
    for case in COMMANDS {
        let mut command = command(case, &tiny(), &held_out(), &dir);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{}: {stderr}", case.0);
        assert!(!stderr.contains("lapidary: "), "{}: {stderr}", case.0);
    }
}

/// Waits until the process has a handler for `signal`.
#[cfg(target_os = "linux")]
pub fn wait_for_handler(process: u32, signal: u32) {
    let caught = || {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal - 1) & 1 == 1
    };
    while !caught() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_that_asks_to_stop() {
    for (signal, name) in [(2, "INT"), (15, "TERM")] {
        for case in LONG {
            let dir = TempDir::new().unwrap();
            let mut command = command(case, &tiny(), &held_out(), &dir);
            let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            wait_for_handler(child.id(), signal);
            let id = child.id().to_string();
            assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(128 + signal as i32), "{}: {stderr}", case.0);
            // Nothing half done under a name that counts.
            assert!(!dir.path().join("out").exists(), "{}: {stderr}", case.0);
        }
    }
}
