//! Texts that would steer a terminal: of a model, and in names. A terminal gets them escaped.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lapidary_formats::printable::is_control;
use rexpect::session::spawn_command;
use serde_json::Value;
use tempfile::TempDir;

use crate::directory::names;
use crate::fixtures::{held_out, tiny};

/// Milliseconds until what is waited for counts as not coming.
const PATIENCE: u64 = 60_000;

/// What a hostile model says instead of common words of the same length: set the clipboard, clear
/// the screen, write from right to left, go back to the beginning of the line.
const WORDS: [(&str, &str); 4] = [
    ("▁the", "\u{1b}]52;\u{7}"),
    ("▁and", "\u{9b}2J\u{9b}"),
    ("▁of", "\u{202e}\r\r"),
    ("▁to", "\u{1b}[2Jx"),
];

fn lapidary(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(args);
    command
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The tiny model with other pieces.
fn hostile_model(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("model.gguf");
    let output = lapidary(&["convert", text(&tiny()), "-o", text(&path), "-q", "F16"]).output();
    assert!(output.unwrap().status.success());
    let mut bytes = fs::read(&path).unwrap();
    for (word, hostile) in WORDS {
        assert_eq!(word.len(), hostile.len());
        let piece = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        let at = bytes.windows(8 + word.len()).position(|window| window == piece(word)).unwrap();
        bytes[at..at + 8 + word.len()].copy_from_slice(&piece(hostile));
    }
    fs::write(&path, bytes).unwrap();
    path
}

/// Everything that a command writes to a terminal.
fn on_a_terminal(mut command: Command) -> String {
    command.env("TERM", "xterm");
    spawn_command(command, Some(PATIENCE)).unwrap().exp_eof().unwrap()
}

/// Expects no character that steers a terminal, but line ends.
#[track_caller]
fn assert_harmless(shown: &str) {
    let shown = shown.replace("\r\n", "\n");
    let found = shown.chars().find(|c| is_control(*c) && !matches!(c, '\n' | '\t'));
    assert_eq!(found, None, "{shown:?}");
}

#[test]
fn a_model_does_not_steer_the_terminal() {
    let dir = TempDir::new().unwrap();
    let model = hostile_model(&dir);
    let prompt = ["-p", "And it came to pass in those days", "-n", "100", "--temp", "0"];
    for more in [&[][..], &["--chat"]] {
        let args = [&["run", text(&model)], &prompt[..], more].concat();
        let piped = String::from_utf8(lapidary(&args).output().unwrap().stdout).unwrap();
        assert!(WORDS.iter().any(|(_, hostile)| piped.contains(hostile)), "{piped:?}");
        let shown = on_a_terminal(lapidary(&args));
        assert_harmless(&shown);
        let escaped = WORDS.map(|(_, hostile)| hostile.escape_debug().to_string());
        assert!(escaped.iter().any(|hostile| shown.contains(hostile)), "{shown}");
    }
}

#[test]
fn a_conversation_does_not_steer_the_terminal() {
    let dir = TempDir::new().unwrap();
    let model = hostile_model(&dir);
    let args = ["run", text(&model), "--chat", "--temp", "0", "-n", "60"];
    let mut session = spawn_command(lapidary(&args), Some(PATIENCE)).unwrap();
    session.exp_string("> ").unwrap();
    session.send("And it came to pass in those days\r").unwrap();
    session.flush().unwrap();
    // The line editor gives the terminal back.
    session.exp_string("\u{1b}[?2004l").unwrap();
    let answer = session.exp_string("[60 tokens").unwrap();
    assert!(answer.contains("\\u{"), "{answer:?}");
    assert_harmless(answer.trim_start_matches('\r'));
}

/// A directory whose name steers a terminal, with the tiny model in it. The model gets its name.
fn hostile_directory(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("a\u{1b}]0;b\u{7}c\u{202e}d\u{9b}2J\u{7f}e");
    fs::create_dir(&path).unwrap();
    for name in names(&tiny()) {
        fs::copy(tiny().join(&name), path.join(&name)).unwrap();
    }
    path
}

/// Every command that reads a model, with names that steer a terminal.
fn commands(model: &Path) -> Vec<Command> {
    let (text, out) = (model.join("text\u{9b}2J"), model.join("out\u{202e}.gguf"));
    fs::copy(held_out(), &text).unwrap();
    let command = |args: &[&str], paths: &[&Path]| {
        let mut command = lapidary(&args[..1]);
        command.arg(model).args(&args[1..]).args(paths);
        command
    };
    vec![
        command(&["convert", "-q", "Q2_K", "--force", "-o"], &[&out]),
        command(&["imatrix", "--chunks", "1", "--force", "-o"], &[&out, Path::new("-f"), &text]),
        command(&["run", "-p", "And", "-n", "2"], &[]),
        command(&["perplexity", "--chunks", "1", "-f"], &[&text]),
        command(&["perplexity", "--chunks", "1", "-f"], &[&text, Path::new("--reference"), model]),
        command(&["bench", "-p", "8", "-n", "2", "-r", "1"], &[]),
        command(&["inspect"], &[]),
        command(&["verify"], &[]),
        command(&["convert", "--plan"], &[]),
    ]
}

#[test]
fn json_escapes_what_steers_a_terminal() {
    let dir = TempDir::new().unwrap();
    let model = hostile_directory(&dir);
    let mut hostile = 0;
    for mut command in commands(&model) {
        let output = command.arg("--json").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(!stdout.trim_end_matches('\n').contains(is_control), "{stdout:?}");
        hostile += usize::from(stdout.contains("\\u202e") && stdout.contains("\\u009b2J"));
        let json: Value = serde_json::from_str(&stdout).unwrap();
        if let Some(path) = json.get("path") {
            assert_eq!(path, text(&model));
        }
    }
    // Convert, imatrix, inspect, verify: those that print names.
    assert!(hostile >= 4, "{hostile}");
}

#[test]
fn names_do_not_steer_the_terminal() {
    let dir = TempDir::new().unwrap();
    let model = hostile_directory(&dir);
    let missing = model.join("missing\u{1b}[2J");
    let mut all = commands(&model);
    for (name, more) in [
        ("convert", &["-o", "out"][..]),
        ("imatrix", &["-o", "out", "-f", "text"]),
        ("run", &["-p", "And"]),
        ("perplexity", &["-f", "text"]),
        ("bench", &[]),
        ("inspect", &[]),
        ("verify", &[]),
        // As where a shell puts in the names of several files.
        ("inspect", &["\u{9b}2J\u{202e}", "--\u{1b}]0;b\u{7}"]),
    ] {
        let mut command = lapidary(&[name]);
        command.arg(&missing).args(more);
        all.push(command);
    }
    for command in all {
        let shown = on_a_terminal(command);
        // Progress is drawn with control sequences of the program's own.
        for steers in ["\u{202e}", "\u{9b}", "\u{1b}]", "\u{7}", "\u{7f}", "\u{1b}[2J"] {
            assert!(!shown.contains(steers), "{shown:?}");
        }
    }
}
