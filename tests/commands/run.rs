//! `lapidary run` on the small trained checkpoint: what it prints, how it stops.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use lapidary::model::Source;
use lapidary::tokenizer::{ControlPieces, Tokenizer};

use crate::fixtures::{micro, tests_dir, tiny};
use crate::goldens::{golden, ids};

const PROMPT: &str = "And it came to pass, when";

/// Greedy, so that the text depends on nothing but the model.
const GREEDY: [&str; 2] = ["--temp", "0"];

fn command(args: &[&str]) -> Command {
    command_on(&tiny(), args)
}

fn command_on(model: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("run").arg(model).args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    let output = command(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

fn text(args: &[&str]) -> String {
    String::from_utf8(run(args).stdout).unwrap()
}

fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_slice(&run(&[args, &["--json"]].concat()).stdout).unwrap()
}

/// Starts a run that would go on for long, and waits for its first output.
fn spawn(args: &[&str]) -> (Child, Vec<u8>) {
    let mut child = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    (child, first.to_vec())
}

#[test]
fn greedy_text_is_the_same_each_time_and_on_any_number_of_threads() {
    let greedy = |more: &[&str]| text(&[&["-p", PROMPT, "-n", "24"], &GREEDY[..], more].concat());
    let expected = greedy(&[]);
    assert!(expected.split_whitespace().count() > 5, "{expected:?}");
    assert_eq!(greedy(&["--seed", "7"]), expected);
    assert_eq!(greedy(&["--threads", "1"]), expected);
    assert_eq!(greedy(&["--threads", "3"]), expected);
}

#[test]
fn a_seed_makes_a_run_repeatable() {
    let drawn = json(&["-p", PROMPT, "-n", "24", "--temp", "1.5"]);
    let seed = drawn["seed"].as_u64().unwrap().to_string();
    let again = json(&["-p", PROMPT, "-n", "24", "--temp", "1.5", "--seed", &seed]);
    assert_eq!(drawn["text"], again["text"]);
}

#[test]
fn json_reports_the_text_and_statistics() {
    let args = [&["-p", PROMPT, "-n", "8"], &GREEDY[..]].concat();
    let found = json(&args);
    assert_eq!(
        format!("{}\n", found["text"].as_str().unwrap().trim_end_matches('\n')),
        text(&args)
    );
    assert_eq!(found["stop"], "length");
    assert_eq!(found["generated_tokens"], 8);
    assert!(found["prompt_tokens"].as_u64().unwrap() > 5);
    let seconds = &found["seconds"];
    for part in ["load", "first_token", "prompt", "decode"] {
        assert!(seconds[part].as_f64().unwrap() > 0.0, "{part}");
    }
    assert!(found["tokens_per_second"]["prompt"].as_f64().unwrap() > 0.0);
    assert!(found["tokens_per_second"]["decode"].as_f64().unwrap() > 0.0);
}

#[test]
fn statistics_go_to_stderr() {
    let output = run(&["-p", PROMPT, "-n", "4", "--seed", "42"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    for part in ["first token after", "tokens/s", "answer  4 tokens", "ended by -n", "seed    42"] {
        assert!(stderr.contains(part), "{part} is not in\n{stderr}");
    }
}

#[test]
fn no_tokens_are_generated_with_n_0() {
    let found = json(&["-p", PROMPT, "-n", "0"]);
    assert_eq!((&found["text"], &found["stop"]), (&"".into(), &"length".into()));
    assert!(found["seconds"]["first_token"].is_null());
}

#[test]
fn the_context_ends_a_text() {
    let args = [&["-p", PROMPT, "-n", "-1", "--ctx", "32"], &GREEDY[..]].concat();
    let found = json(&args);
    assert_eq!(found["stop"], "context");
    // The last token of all is picked and not evaluated.
    let tokens = |part: &str| found[part].as_u64().unwrap();
    assert_eq!(tokens("prompt_tokens") + tokens("generated_tokens"), 33);
    let stderr = String::from_utf8(run(&args).stderr).unwrap();
    assert!(stderr.contains("the context of 32 tokens is full"), "{stderr}");
}

#[test]
fn a_text_can_be_longer_than_its_context() {
    for ctx in ["9", "10", "32"] {
        let args = [&["-p", PROMPT, "-n", "100", "--ctx", ctx], &GREEDY[..]].concat();
        let shift = [&args[..], &["--context-shift"]].concat();
        let (found, cut) = (json(&shift), json(&args));
        assert_eq!((&found["stop"], &found["generated_tokens"]), (&"length".into(), &100.into()));
        assert!(found["shifts"].as_u64().unwrap() > 3, "{found}");
        assert_eq!((&cut["stop"], &cut["shifts"]), (&"context".into(), &0.into()));
        let text = |json: &serde_json::Value| json["text"].as_str().unwrap().to_owned();
        assert!(text(&found).starts_with(&text(&cut)));
        let stderr = String::from_utf8(run(&shift).stderr).unwrap();
        assert!(
            stderr.contains("the context was shifted") && stderr.contains("ended by -n"),
            "{stderr}"
        );
    }
}

/// The message stays, with all that the template writes around it.
#[test]
fn an_answer_can_be_longer_than_its_context() {
    // Greedy, the model would end its answer.
    let hot = ["--temp", "100", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", "3"];
    let args = [&["--chat", "-p", PROMPT, "-n", "60", "--ctx", "32", "--context-shift"], &hot[..]];
    let found = json(&args.concat());
    assert_eq!((&found["stop"], &found["generated_tokens"]), (&"length".into(), &60.into()));
    assert!(found["shifts"].as_u64().unwrap() > 2, "{found}");
    // One that fills the context leaves nothing to forget: the last token that there is is not read.
    let full = found["prompt_tokens"].to_string();
    let args = [&["--chat", "-p", PROMPT, "-n", "60", "--ctx", &full, "--context-shift"], &hot[..]];
    let found = json(&args.concat());
    assert_eq!((&found["stop"], &found["generated_tokens"]), (&"context".into(), &1.into()));
}

#[test]
fn a_context_longer_than_the_trained_one_is_reported() {
    let stderr =
        String::from_utf8(run(&["-p", PROMPT, "-n", "1", "--ctx", "2000"]).stderr).unwrap();
    assert!(stderr.contains("trained for 1024 tokens"), "{stderr}");
}

#[test]
fn prompts_from_standard_input_and_from_a_file_are_equal() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("prompt.txt");
    std::fs::write(&path, format!("{PROMPT}\n")).unwrap();
    let rest = [&["-n", "8"], &GREEDY[..]].concat();
    let expected = text(&[&["-p", PROMPT], &rest[..]].concat());
    assert_eq!(text(&[&["--file", path.to_str().unwrap()], &rest[..]].concat()), expected);
    for file in [&[][..], &["--file", "-"]] {
        let mut command = command(&[file, &rest[..]].concat());
        let output = command.stdin(std::fs::File::open(&path).unwrap()).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}

#[test]
fn control_tokens_are_recognized_unless_the_text_is_to_stay_text() {
    let prompt = "<start_of_turn>user\nAnd it came to pass<end_of_turn>\n<start_of_turn>model\n";
    let tokens = |more: &[&str]| {
        let found = json(&[&["-p", prompt, "-n", "0"], more].concat());
        found["prompt_tokens"].as_u64().unwrap()
    };
    let chat = json(&["-p", "And it came to pass", "-n", "0", "--chat"]);
    assert!(tokens(&["--no-parse-special"]) > tokens(&[]));
    assert_eq!(chat["prompt_tokens"].as_u64().unwrap(), tokens(&[]));
}

#[test]
fn another_chat_template_takes_the_place_of_the_models() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("template.jinja");
    std::fs::write(&path, "{{ messages[0].content }}").unwrap();
    let tokens = |more: &[&str]| {
        let found = json(&[&["-p", "And it came to pass", "-n", "0"], more].concat());
        found["prompt_tokens"].as_u64().unwrap()
    };
    let plain = tokens(&["--chat", "--chat-template", path.to_str().unwrap()]);
    assert_eq!(plain, tokens(&[]));
    let gemma = tokens(&["--chat", "--chat-template", "gemma"]);
    assert_eq!(gemma, tokens(&["--chat"]));
    // Its markers are no pieces of this vocabulary.
    assert!(tokens(&["--chat", "--chat-template", "chatml"]) > gemma);
    let output = command(&["-p", "x", "--chat-template", "gemma"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("--chat"), "{output:?}");
}

#[test]
fn an_answer_equals_that_of_transformers_and_ends_with_the_turn() {
    let expected = &golden("tiny.json")["chat_reply"];
    let message = expected["messages"][0]["content"].as_str().unwrap();
    let args = [&["--chat", "-p", message, "--kv", "f32"], &GREEDY[..]].concat();
    let found = json(&args);
    let (prompt, reply) = (ids(&expected["prompt_ids"]), ids(&expected["greedy_ids"]));
    let tokenizer = Tokenizer::new(Source::open(&tiny()).unwrap().vocab().unwrap()).unwrap();
    assert_eq!(found["prompt_tokens"], prompt.len());
    assert_eq!(found["text"], tokenizer.decode(&reply, ControlPieces::Omit));
    assert_eq!(found["stop"], "stop");
    // `<end_of_turn>` is not counted.
    assert_eq!(found["generated_tokens"], reply.len() - 1);
}

#[test]
fn a_system_message_is_part_of_the_prompt() {
    let tokens = |more: &[&str]| {
        let found = json(&[&["--chat", "-p", "And he said", "-n", "0"], more].concat());
        found["prompt_tokens"].as_u64().unwrap()
    };
    assert!(tokens(&["--system", "Be brief."]) > tokens(&[]));
}

#[test]
fn every_write_is_whole_characters() {
    // So hot that any token comes, those of single bytes among them.
    let hot = ["--temp", "100", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", "3"];
    let args = [&["-p", PROMPT, "-n", "300"], &hot[..]].concat();
    // Any model does, and this one is fast.
    let mut command = command_on(&micro(), &args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut stdout, mut all) = (child.stdout.take().unwrap(), String::new());
    let mut pieces = 0;
    // As large as a pipe's buffer: a read ends where a write ended.
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = stdout.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        all += std::str::from_utf8(&buffer[..n]).expect("a read of whole characters");
        pieces += 1;
    }
    assert!(child.wait().unwrap().success());
    assert!(pieces > 1 && !all.is_ascii(), "{pieces} pieces, {all:?}");
    let whole = command.arg("--json").stdout(Stdio::piped()).output().unwrap();
    let whole: serde_json::Value = serde_json::from_slice(&whole.stdout).unwrap();
    assert_eq!(all.trim_end(), whole["text"].as_str().unwrap().trim_end());
}

#[test]
fn a_closed_pipe_ends_the_run_quietly() {
    let (mut child, _) = spawn(&["-p", PROMPT, "-n", "-1"]);
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn ctrl_c_ends_the_line_and_prints_statistics() {
    let (child, first) = spawn(&["-p", PROMPT, "-n", "-1", "--ctx", "100000", "--temp", "1"]);
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let text = String::from_utf8([first, output.stdout].concat()).unwrap();
    assert!(text.ends_with('\n'));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("interrupted") && stderr.contains("seed"), "{stderr}");
}

#[test]
fn llama_cpps_option_names_are_accepted() {
    let ours = ["--ctx", "64", "--threads", "1", "--ubatch-size", "16", "-p", PROMPT, "-n", "6"];
    let expected = text(&[&ours[..], &GREEDY].concat());
    let theirs = ["-c", "64", "-t", "1", "--slice", "16", "-p", PROMPT, "--n-predict", "6"];
    let mut theirs_run = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    let output = theirs_run.args(["run", "-m"]).arg(tiny()).args(theirs).args(GREEDY).output();
    assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), expected);
    let both = command(&["-m", "other.gguf", "-p", PROMPT]).output().unwrap();
    assert_eq!(both.status.code(), Some(2), "one model is given twice");
    let none = Command::new(env!("CARGO_BIN_EXE_lapidary")).args(["run", "-p", "x"]).output();
    assert_eq!(none.unwrap().status.code(), Some(2), "no model is given");
}

#[test]
fn vision_tensors_that_are_left_out_are_reported() {
    let model = tests_dir("fixtures/micro-gemma3-conditional");
    let output = command_on(&model, &["-p", PROMPT, "-n", "2"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    let expected =
        "micro-gemma3-conditional: 23 vision tensors are left out: only text is supported";
    assert!(stderr.contains(expected), "{stderr}");
}
