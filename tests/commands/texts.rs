//! Texts from files: their encoding. And what is said of a model's files when it is opened.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{json, Value};
use tempfile::TempDir;

use crate::directory::copy_of;
use crate::fixtures::{held_out, tiny};

const PROMPT: &str = "And it came to pass, when";

fn lapidary(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The JSON that a command prints.
fn printed(args: &[&str]) -> Value {
    let output = lapidary(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Editors on Windows begin every file with a byte order mark, which is not part of the text.
#[test]
fn byte_order_marks_are_not_read() {
    let dir = TempDir::new().unwrap();
    let marked = dir.path().join("marked.txt");
    fs::write(&marked, format!("\u{feff}{PROMPT}\n")).unwrap();
    let tiny = tiny();
    let run = |prompt: [&str; 2]| {
        let greedy = ["-n", "8", "--temp", "0", "--seed", "1"];
        let mut found = printed(&[&["run", path(&tiny)], &prompt[..], &greedy].concat());
        (found["text"].take(), found["prompt_tokens"].take())
    };
    let expected = run(["-p", PROMPT]);
    assert!(expected.0.is_string() && expected.1.is_number(), "{expected:?}");
    assert_eq!(run(["-f", path(&marked)]), expected);
    assert_eq!(run(["-p", &format!("\u{feff}{PROMPT}")]), expected);

    let text = fs::read_to_string(held_out()).unwrap();
    fs::write(&marked, format!("\u{feff}{text}")).unwrap();
    let perplexity = |file: &Path| {
        let found = printed(&["perplexity", path(&tiny), "-f", path(file), "--chunks", "2"]);
        found["perplexity"].as_f64().unwrap()
    };
    assert_eq!(perplexity(&marked), perplexity(&held_out()));
    let importance = |file: &Path| {
        let out = dir.path().join("importance.dat");
        let args = ["imatrix", path(&tiny), "-f", path(file), "-o", path(&out), "--chunks", "2"];
        assert!(lapidary(&[&args[..], &["--force"]].concat()).status.success());
        fs::read(out).unwrap()
    };
    let copy = dir.path().join("copy").join("marked.txt");
    fs::create_dir(copy.parent().unwrap()).unwrap();
    fs::write(&copy, text).unwrap();
    assert!(importance(&marked) == importance(&copy));
}

#[test]
fn other_encodings_are_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("text.txt");
    let (file, tiny) = (path(&file), tiny());
    let utf16 = |to_bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        format!("\u{feff}{PROMPT}").encode_utf16().flat_map(to_bytes).collect()
    };
    let cases = [
        (utf16(u16::to_le_bytes), "it is UTF-16: save it as UTF-8"),
        (utf16(u16::to_be_bytes), "it is UTF-16: save it as UTF-8"),
        (b"caf\xe9 ".repeat(100), "it is not UTF-8 from byte 3 on"),
    ];
    for (bytes, cause) in cases {
        fs::write(file, bytes).unwrap();
        let out = dir.path().join("out");
        for args in [
            vec!["run", path(&tiny), "-f", file],
            vec!["perplexity", path(&tiny), "-f", file],
            vec!["imatrix", path(&tiny), "-f", file, "-o", path(&out)],
        ] {
            let output = lapidary(&args);
            assert!(!output.status.success());
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(stderr.contains(&format!("{file}: {cause}")), "{stderr}");
        }
    }
}

/// Whoever opens a model is told once what is left out, whatever they do with it.
#[test]
fn notes_on_a_model_are_printed() {
    let dir = copy_of(&tiny());
    let change = |file: &str, key: &str, value: Value| {
        let file = dir.path().join(file);
        let mut object: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        object[key] = value;
        fs::write(file, object.to_string()).unwrap();
    };
    change("config.json", "quantization_config", json!({"quant_method": "bitsandbytes"}));
    change("config.json", "\u{1b}[2J", json!(1));
    change("generation_config.json", "eos_token_id", json!([1, 256_000]));
    fs::write(dir.path().join("added_tokens.json"), json!({"<image>": 2048}).to_string()).unwrap();
    let out = TempDir::new().unwrap();
    let out = out.path().join("out.gguf");
    let model = path(dir.path());
    let expected = [
        "quantization_config in config.json is ignored: the weights are not quantized",
        "keys of config.json that are not known are ignored: \\u{1b}[2J",
        "tokens without an id, or without a row in the embedding, are left out: eos_token_id 256000",
        "tokens without an id, or without a row in the embedding, are left out: <image>",
    ];
    for args in [
        vec!["run", model, "-p", "And", "-n", "1"],
        vec!["perplexity", model, "-f", path(&held_out()), "--chunks", "1"],
        vec!["convert", model, "-q", "Q8_0", "-o", path(&out)],
    ] {
        let output = lapidary(&args);
        assert!(output.status.success(), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        for note in expected {
            assert_eq!(
                stderr.matches(&format!("{model}: {note}\n")).count(),
                1,
                "{note}: {stderr}"
            );
        }
    }
}
