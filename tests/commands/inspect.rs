//! `lapidary inspect`: what it prints for programs, and that people get the same numbers.

use std::path::Path;

use assert_cmd::Command;
use lapidary::convert::{convert, Options, Plan, Recipe};
use lapidary::model::Source;
use serde_json::{json, Value};
use tempfile::TempDir;

use crate::fixtures::{micro, tiny};

fn inspect(model: &Path, more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    let output = command.arg("inspect").arg(model).args(more).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn inspect_json(model: &Path, more: &[&str]) -> Value {
    let text = inspect(model, &[&["--json"], more].concat());
    serde_json::from_str(&text).unwrap()
}

/// The random model as Q4_K_M.
fn converted(dir: &TempDir) -> std::path::PathBuf {
    let out = dir.path().join("micro.gguf");
    let source = Source::open(&micro()).unwrap();
    let plan = Plan::of_recipe(&source, Recipe::Q4_K_M);
    convert(&source, &out, &plan, Options::default(), &mut ()).unwrap();
    out
}

#[test]
fn a_gguf_file_for_programs() {
    let dir = TempDir::new().unwrap();
    let path = converted(&dir);
    let found = inspect_json(&path, &[]);
    assert_eq!(found["format"], "gguf");
    assert_eq!(found["gguf_version"], 3);
    assert_eq!(found["path"], path.to_str().unwrap());
    assert_eq!(found["model"]["n_layer"], 3);
    assert_eq!(found["model"]["rms_eps"], 1e-6);
    assert_eq!(found["metadata"]["general.architecture"], "gemma2");
    assert_eq!(found["metadata"]["general.file_type"], 15);
    assert_eq!(found["metadata"]["tokenizer.ggml.add_space_prefix"], false);
    let tokens = &found["metadata"]["tokenizer.ggml.tokens"];
    assert_eq!([&tokens["type"], &tokens["length"]], [&json!("str"), &json!(2048)]);
    assert_eq!(tokens["first"].as_array().unwrap().len(), 4);

    let tensors = found["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 36);
    let expected = json!({
        "name": "token_embd.weight", "type": "Q5_0", "shape": [96, 2048], "bytes": 96 / 32 * 22 * 2048,
    });
    assert_eq!(tensors[0], expected);
    let bytes: u64 = tensors.iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
    let totals = &found["totals"];
    assert_eq!([&totals["bytes"], &totals["tensors"]], [&json!(bytes), &json!(36)]);
    let bits = bytes as f64 * 8.0 / totals["values"].as_f64().unwrap();
    assert_eq!(totals["bits_per_weight"], bits);
    let types: u64 =
        totals["types"].as_array().unwrap().iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!(types, bytes);
}

#[test]
fn memory_for_a_context() {
    let dir = TempDir::new().unwrap();
    let path = converted(&dir);
    let file = std::fs::metadata(&path).unwrap().len();
    let default = inspect_json(&path, &[]);
    assert_eq!(default["n_ctx"], 256);
    for n_ctx in [100, 256, 8192] {
        let found = inspect_json(&path, &["--ctx", &n_ctx.to_string()]);
        assert_eq!([&found["n_ctx"], &found["n_ubatch"]], [n_ctx, 512]);
        // Two layers of three keep a window of 64 and a ubatch of 512, in whole spans of 256.
        let positions = n_ctx as u64 + 2 * n_ctx.min(768) as u64;
        // Keys and values, 2 heads of 32 each.
        let values = 2 * 2 * 32 * positions;
        for (kv, bytes) in [("f16", 2.0), ("q8_0", 34.0 / 32.0), ("f32", 4.0)] {
            let memory = &found["memory"][kv];
            let part = |name: &str| memory[name].as_u64().unwrap();
            assert_eq!(part("file"), file);
            assert_eq!(part("kv_cache") as f64, values as f64 * bytes);
            let parts = ["file", "kv_cache", "buffers", "tokenizer", "program"].map(part);
            assert_eq!(part("total"), parts.iter().sum::<u64>());
            assert!(parts.iter().all(|bytes| *bytes > 0), "{memory}");
        }
    }
}

#[test]
fn a_checkpoint() {
    let found = inspect_json(&tiny(), &[]);
    assert_eq!(found["format"], "checkpoint");
    assert_eq!(found["gguf_version"], Value::Null);
    assert_eq!(found["metadata"], json!({}));
    assert_eq!(found["totals"]["bits_per_weight"], 16.0);
    let names = found["tensors"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap());
    assert!(names.into_iter().any(|name| name == "model.embed_tokens.weight"));
}

#[test]
fn for_people() {
    let dir = TempDir::new().unwrap();
    let path = converted(&dir);
    let text = inspect(&path, &["--ctx", "8192"]);
    for expected in [
        "GGUF version 3",
        "general.architecture",
        "str[2048]: <pad>, <eos>, <bos>, <unk>, …",
        "blk.2.ffn_down.weight",
        "Q8_0",
        "[160, 96]",
        "bits per weight",
        "a context of 8192 tokens, prompts in ubatches of 512",
        "q8_0 ",
    ] {
        assert!(text.contains(expected), "{text} lacks {expected}");
    }
    assert!(inspect(&micro(), &[]).contains("checkpoint"));
}

#[test]
fn an_absurd_context_is_refused() {
    for ctx in ["0", "-1", "18446744073709551615", "99999999"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
        command.arg("inspect").arg(micro()).arg(format!("--ctx={ctx}")).assert().code(2);
    }
}
