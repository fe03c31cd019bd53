//! `lapidary run --chat` on a terminal, typed at through a pseudo terminal.
#![cfg(unix)]

use std::path::Path;
use std::process::Command;

use rexpect::session::{spawn_command, PtySession};
use serde_json::{json, Value};
use tempfile::TempDir;

use crate::fixtures::tiny;

/// Milliseconds until what is waited for counts as not coming.
const PATIENCE: u64 = 60_000;

/// A conversation with the tiny model.
fn begin(dir: &TempDir, args: &[&str]) -> PtySession {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("run").arg(tiny()).args(["--chat", "--threads", "1"]).args(args);
    command.current_dir(dir.path()).env("TERM", "xterm");
    let mut session = spawn_command(command, Some(PATIENCE)).unwrap();
    session.exp_string("/help shows the commands").unwrap();
    session
}

/// Types something and Enter; waits for what answers it.
fn say(session: &mut PtySession, text: &str, answer: &str) -> String {
    session.exp_string("> ").unwrap();
    session.send(&format!("{text}\r")).unwrap();
    session.flush().unwrap();
    session.exp_regex(answer).unwrap_or_else(|e| panic!("{text:?}: {e}")).1
}

/// Sends a key that no Enter follows.
fn press(session: &mut PtySession, key: char) {
    session.send_control(key).unwrap();
}

/// Waits for the end of the program, which has to be a good one.
fn ended(session: &mut PtySession) {
    session.exp_eof().unwrap();
    let status = session.process().wait().unwrap();
    let status = format!("{status:?}");
    assert!(status.starts_with("Exited(") && status.ends_with(", 0)"), "{status}");
}

const ANSWERED: &str = r"\[\d+ tokens[^\]]*\]";

fn messages(file: &Path) -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// What the user said, of a saved conversation.
fn said(file: &Path) -> Vec<String> {
    let messages = messages(file);
    let user = messages.iter().filter(|message| message["role"] == "user");
    user.map(|message| message["content"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_conversation_is_held_saved_and_loaded() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("talk.json");
    let mut session = begin(&dir, &["--temp", "0", "-n", "6", "--system", "Be brief."]);
    say(&mut session, "And who art thou?", ANSWERED);
    say(
        &mut session,
        "/stats",
        r"context   \d+ of \d+ tokens\s+messages  2\s+speed     [\d.]+ tok",
    );
    session.exp_regex(r"memory    [\d.]+ MB resident").unwrap();
    say(&mut session, "/save talk.json", "2 messages saved");
    let saved = messages(&file);
    assert_eq!(saved[0], json!({"role": "system", "content": "Be brief."}));
    assert_eq!(saved[1], json!({"role": "user", "content": "And who art thou?"}));
    assert_eq!((&saved[2]["role"], saved.len()), (&json!("assistant"), 3));

    say(&mut session, "/undo", "0 messages are left");
    say(&mut session, "/save talk.json", "talk.json exists already; /save! talk.json");
    assert_eq!(messages(&file), saved);
    say(&mut session, "/load none.json", "none.json: .*No such file");
    say(&mut session, "/load talk.json", "continuing after 2 messages");
    say(&mut session, "/retry", ANSWERED);
    say(&mut session, "And whence comest thou?", ANSWERED);
    say(&mut session, "/save! talk.json", "4 messages saved");
    assert_eq!(messages(&file)[..3], saved);
    say(&mut session, "/sav", "unknown command /sav");
    say(&mut session, "/reset", "this is a new conversation");
    say(&mut session, "/retry", "there is no message");
    session.exp_string("> ").unwrap();
    session.send("/exit\r").unwrap();
    session.flush().unwrap();
    ended(&mut session);
}

#[test]
fn several_lines_can_be_one_message() {
    let dir = TempDir::new().unwrap();
    let mut session = begin(&dir, &["--temp", "0", "-n", "3"]);
    say(&mut session, "first\\\rsecond", ANSWERED);
    say(&mut session, "\"\"\"\rthe \\\r/exit\r\"\"\"", ANSWERED);
    say(&mut session, "\u{1b}[200~pasted\nlines\u{1b}[201~", ANSWERED);
    say(&mut session, "/save talk.json", "6 messages saved");
    let said = said(&dir.path().join("talk.json"));
    assert_eq!(said, ["first\nsecond", "the \\\n/exit", "pasted\nlines"]);
    session.exp_string("> ").unwrap();
    press(&mut session, 'd');
    ended(&mut session);
}

#[test]
fn ctrl_c_stops_an_answer_clears_a_line_and_quits_on_an_empty_line() {
    let dir = TempDir::new().unwrap();
    // So hot that all tokens are as likely; with this seed it takes thousands until one ends the answer.
    let hot = ["--temp", "1000", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", "4"];
    let mut session = begin(&dir, &[&hot[..], &["--ctx", "100000"]].concat());
    session.exp_string("> ").unwrap();
    session.send("And who art thou?\r").unwrap();
    session.flush().unwrap();
    // The terminal is the program's until it gives this back.
    session.exp_string("\u{1b}[?2004l").unwrap();
    session.exp_regex("(?s).{300}").unwrap();
    press(&mut session, 'c');
    session.exp_regex(r"\[\d+ tokens[^\]]*, stopped\]").unwrap();
    session.exp_string("> ").unwrap();
    session.send("what is not meant").unwrap();
    session.flush().unwrap();
    session.exp_string("meant").unwrap();
    press(&mut session, 'c');
    say(&mut session, "/save talk.json", "2 messages saved");
    assert_eq!(said(&dir.path().join("talk.json")), ["And who art thou?"]);
    session.exp_string("> ").unwrap();
    press(&mut session, 'c');
    ended(&mut session);
}
