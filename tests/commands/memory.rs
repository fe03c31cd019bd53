//! `lapidary run` where memory is short: what it picks, and what it refuses.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

use crate::fixtures::tiny;

/// `lapidary run` on the tiny model, and what it says on stderr.
fn run(options: &[&str]) -> (assert_cmd::assert::Assert, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("run").arg(tiny()).args(["-p", "And David", "-n", "4", "--temp", "0", "--json"]);
    told(command.args(options))
}

fn told(command: &mut Command) -> (assert_cmd::assert::Assert, String) {
    let assert = command.assert();
    let stderr = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    (assert, stderr)
}

fn json(assert: assert_cmd::assert::Assert) -> Value {
    serde_json::from_slice(&assert.success().get_output().stdout).unwrap()
}

/// What `inspect` says that a cache of `kv` comes to.
fn total(ctx: usize, kv: &str, n_ubatch: usize) -> u64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("inspect").arg(tiny()).args(["--json", "--kv", kv]);
    command.args(["--ctx", &ctx.to_string(), "--ubatch-size", &n_ubatch.to_string()]);
    let found = json(command.assert());
    assert_eq!(found["memory"].as_object().unwrap().len(), 1);
    found["memory"][kv]["total"].as_u64().unwrap()
}

#[test]
fn options_are_chosen_to_fit_the_given_memory_and_reported() {
    let whole = json(run(&[]).0);
    // The model's own context.
    let options = |json: &Value| {
        let memory = &json["memory"];
        let number = |name: &str| memory[name].as_u64().unwrap() as usize;
        (number("n_ctx"), memory["kv"].as_str().unwrap().to_owned(), number("n_ubatch"))
    };
    assert_eq!(options(&whole), (1024, "f16".to_owned(), 512));
    let text = whole["text"].as_str().unwrap();
    for (ctx, kv, n_ubatch) in [(4096, "f16", 512), (4096, "q8_0", 512), (4096, "q8_0", 64)] {
        let bytes = total(ctx, kv, n_ubatch);
        let ctx_option = ctx.to_string();
        let (assert, stderr) = run(&["--ctx", &ctx_option, "--memory", &bytes.to_string()]);
        let picked = json(assert);
        assert_eq!(options(&picked), (ctx, kv.to_owned(), n_ubatch));
        assert_eq!(picked["memory"]["total"], bytes);
        for word in ["memory ", "context 4096", kv, &format!("ubatches of {n_ubatch} ")] {
            assert!(stderr.contains(word), "{stderr} lacks {word}");
        }
        // Eight bits are enough for this.
        assert_eq!(picked["text"], text);
    }
}

#[test]
fn too_little_given_memory_is_refused_with_a_table() {
    let least = total(4096, "q8_0", 32);
    let (assert, stderr) = run(&["--ctx", "4096", "--memory", &(least - 1).to_string()]);
    assert.code(1).stdout("");
    let lines: Vec<&str> = stderr.lines().collect();
    let lines = &lines[lines.len() - 4..];
    assert!(
        lines[0].contains("context of 4096") && lines[0].contains("ubatches of 32"),
        "{stderr}"
    );
    let parts = ["cache", "file", "buffers", "tokenizer", "program", "total"];
    assert!(parts.iter().all(|part| lines[1].contains(part)), "{stderr}");
    assert!(lines[2].trim_start().starts_with("q8_0"), "{stderr}");
    assert!(lines[3].contains("tiny-gemma2: needs ") && lines[3].contains("--memory"), "{stderr}");
    for wrong in ["0", "many", "-1"] {
        run(&["--memory", wrong]).0.code(2);
    }
}

/// `options` for the tiny model in a shell whose address space is bounded.
#[cfg(target_os = "linux")]
fn run_in(kilobytes: u64, options: &[&str]) -> (assert_cmd::assert::Assert, String) {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {kilobytes}; exec \"$@\""), "sh"]);
    command.arg(Path::new(env!("CARGO_BIN_EXE_lapidary"))).arg("run").arg(tiny());
    command.args(["-p", "And David", "-n", "4", "--threads", "1", "--json"]);
    told(command.args(options))
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_that_exceeds_the_address_space_is_refused_before_it_starts() {
    // In f32, keys and values of a layer are 512 bytes a position.
    let long = ["--ctx", "4000000", "--kv", "f32"];
    let (assert, stderr) = run_in(1_000_000, &long);
    assert.code(1).stdout("");
    let last = stderr.lines().last().unwrap();
    assert!(last.contains("tiny-gemma2: needs ") && last.contains("1.024 GB of address"), "{last}");
    assert!(stderr.contains("  f32 ") && stderr.contains("context of 4000000"), "{stderr}");
    // Memory is taken as positions come, so that a few of them fit all the same.
    json(run_in(1_000_000, &[&long[..], &["--force"]].concat()).0);
    json(run_in(1_000_000, &["--ctx", "4096"]).0);
}
