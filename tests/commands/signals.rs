//! What ends a run from outside: a file cut short while it is mapped, SIGTERM, SIGHUP.
#![cfg(unix)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::fixtures::{held_out, tiny};

fn lapidary(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The tiny model as a file of the test's own.
fn converted(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("tiny.gguf");
    let args = ["convert", text(&tiny()), "-o", text(&path), "-q", "F16"].map(str::to_owned);
    let output = lapidary(&args.each_ref().map(String::as_str)).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    path
}

/// A run that would go on for hours, once it has written something.
fn endless(model: &Path) -> Child {
    let prompt = ["-p", "And it came to pass", "-n", "-1", "--ctx", "8000000"];
    let mut child = lapidary(&["run", text(model)]).args(prompt).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}

/// What a process that was asked to end leaves behind.
fn ended(child: Child) -> (Output, String) {
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    (output, stderr)
}

#[test]
fn a_truncated_file_is_named() {
    let dir = TempDir::new().unwrap();
    let path = converted(&dir);
    let child = endless(&path);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    // All but the header and the beginning of the embedding.
    file.set_len(400_000).unwrap();
    let (output, stderr) = ended(child);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let line = stderr.lines().last().unwrap();
    let expected = format!("lapidary: {}: another program truncated it", path.display());
    assert!(line.starts_with(&expected), "{stderr}");
}

#[test]
fn a_replaced_file_is_read_as_it_was() {
    let dir = TempDir::new().unwrap();
    let path = converted(&dir);
    let read = |mut child: Child| {
        let mut text = vec![0; 2000];
        child.stdout.as_mut().unwrap().read_exact(&mut text).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        text
    };
    let greedy = || {
        let prompt = ["-p", "And it came to pass", "-n", "-1", "--ctx", "100000", "--temp", "0"];
        lapidary(&["run", text(&path)]).args(prompt).spawn().unwrap()
    };
    let expected = read(greedy());
    let mut child = greedy();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
    let other = dir.path().join("other.gguf");
    std::fs::write(&other, b"something else").unwrap();
    std::fs::rename(&other, &path).unwrap();
    // One byte was read above.
    assert_eq!(read(child)[..1999], expected[1..]);
}

#[test]
fn signals_end_a_run() {
    for (signal, name) in [(15, "TERM"), (1, "HUP"), (2, "INT")] {
        let child = endless(&tiny());
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
        let (output, stderr) = ended(child);
        assert_eq!(output.status.code(), Some(128 + signal), "{name}: {stderr}");
        assert!(stderr.contains("interrupted"), "{name}: {stderr}");
    }
}

#[test]
fn a_measurement_names_a_model_that_is_truncated() {
    let dir = TempDir::new().unwrap();
    let path = converted(&dir);
    let args =
        ["perplexity", text(&path), "-f", text(&held_out()), "--ctx", "64"].map(str::to_owned);
    let child = lapidary(&args.each_ref().map(String::as_str)).spawn().unwrap();
    // Where it is by now does not matter: its weights are read for every chunk.
    std::thread::sleep(std::time::Duration::from_millis(300));
    std::fs::File::options().write(true).open(&path).unwrap().set_len(400_000).unwrap();
    let (output, stderr) = ended(child);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("tiny.gguf"), "{stderr}");
}
