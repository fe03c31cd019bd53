//! `lapidary bench`: what it prints, for programs and for people, and what it refuses.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use lapidary::convert::{convert, Options, Plan, Recipe};
use lapidary::model::Source;
use serde_json::Value;
use tempfile::TempDir;

use crate::fixtures::{micro, tiny};

fn bench(model: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("bench").arg(model).args(more);
    command
}

/// What a run that succeeds prints, on stdout and on stderr.
fn output(model: &Path, more: &[&str]) -> (String, String) {
    let output = bench(model, more).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|s| String::from_utf8(s).unwrap());
    assert!(output.status.success(), "{stderr}");
    (stdout, stderr)
}

fn bench_json(model: &Path, more: &[&str]) -> Value {
    let (stdout, stderr) = output(model, &[&["--json", "--threads=2"], more].concat());
    assert_eq!(stderr, "");
    serde_json::from_str(&stdout).unwrap()
}

/// The names of the tests, in order.
fn names(found: &Value) -> Vec<&str> {
    let results = found["results"].as_array().unwrap();
    results.iter().map(|result| result["test"].as_str().unwrap()).collect()
}

fn converted(dir: &TempDir, checkpoint: &Path) -> PathBuf {
    let out = dir.path().join("model.gguf");
    let source = Source::open(checkpoint).unwrap();
    let plan = Plan::of_recipe(&source, Recipe::Q4_K_M);
    convert(&source, &out, &plan, Options::default(), &mut ()).unwrap();
    out
}

/// The bytes of a file's matrices, but for the tensor named.
fn matrix_bytes(path: &Path, but: &str) -> u64 {
    let source = Source::open(path).unwrap();
    let tensors = source.gguf().unwrap().tensors();
    let matrices = tensors.filter(|t| t.shape.len() == 2 && t.name != but);
    matrices.map(|t| t.data.len() as u64).sum()
}

/// Sequences that are decoded together count together, and read the weights once.
#[test]
fn each_number_of_streams_gets_its_own_tests() {
    let dir = TempDir::new().unwrap();
    let path = converted(&dir, &micro());
    let lists =
        ["-p", "3", "-n", "2", "--streams", "1,3", "--ctx-depth", "0,5", "--ubatch-size", "4"];
    let found = bench_json(&path, &[lists.as_slice(), &["-r", "1"]].concat());
    assert_eq!(names(&found), ["pp3", "tg2", "tg2x3", "pp3@d5", "tg2@d5", "tg2x3@d5"]);
    let weights = found["weight_bytes"].as_f64().unwrap();
    for result in found["results"].as_array().unwrap() {
        let speed = result["tokens_per_second"].as_f64().unwrap();
        if let Some(gb) = result["gb_per_s"].as_f64() {
            let streams = if result["test"].as_str().unwrap().contains('x') { 3.0 } else { 1.0 };
            let expected = speed / streams * weights / 1e9;
            assert!((gb / expected - 1.0).abs() < 1e-9, "{result}");
        }
    }
}

#[test]
fn for_programs() {
    let dir = TempDir::new().unwrap();
    let path = converted(&dir, &tiny());
    let found = bench_json(&path, &["-p", "16", "-n", "4", "-r", "2", "--kv", "f32"]);
    assert_eq!(found["model"], path.to_str().unwrap());
    assert_eq!(found["threads"], 2);
    assert_eq!(found["kv"], "f32");
    assert_eq!(found["weight_bytes"], matrix_bytes(&path, ""));
    let stream = found["stream_gb_per_s"].as_f64().unwrap();
    assert!(stream > 0.0);
    assert_eq!(names(&found), ["pp16", "tg4"]);
    for result in found["results"].as_array().unwrap() {
        assert!(result["tokens_per_second"].as_f64().unwrap() > 0.0);
        assert!(result["stddev"].as_f64().unwrap() >= 0.0);
        assert_eq!(result["repetitions"], 2);
    }
    let [prompt, decode] = [0, 1].map(|i| &found["results"][i]);
    assert_eq!([&prompt["gb_per_s"], &prompt["share_of_stream"]], [&Value::Null; 2]);
    let (gb, bytes) = (decode["gb_per_s"].as_f64().unwrap(), matrix_bytes(&path, "") as f64);
    let expected = decode["tokens_per_second"].as_f64().unwrap() * bytes / 1e9;
    assert!((gb / expected - 1.0).abs() < 1e-9, "{gb} {expected}");
    let share = decode["share_of_stream"].as_f64().unwrap();
    assert!((share / (gb / stream) - 1.0).abs() < 1e-9, "{share} {gb} {stream}");
}

#[test]
fn an_embedding_that_is_not_the_output_matrix_is_not_counted() {
    let dir = TempDir::new().unwrap();
    let path = converted(&dir, &micro());
    assert!(Source::open(&path).unwrap().is_untied());
    let found = bench_json(&path, &["-p0", "-n1", "-r1"]);
    assert_eq!(found["weight_bytes"], matrix_bytes(&path, "token_embd.weight"));
    assert_eq!(found["results"][0]["stddev"], 0.0);
}

#[test]
fn lists_make_several_tests() {
    let dir = TempDir::new().unwrap();
    let path = converted(&dir, &tiny());
    let named = |more: &[&str]| {
        let found = bench_json(&path, &[&["-r1"], more].concat());
        names(&found).join(" ")
    };
    assert_eq!(named(&["-p", "8,3", "-n", "2,1"]), "pp8 pp3 tg2 tg1");
    assert_eq!(named(&["-p", "0", "-n", "2"]), "tg2");
    assert_eq!(named(&["-p", "4", "-n", "0"]), "pp4");
    assert_eq!(named(&["-p", "0,4", "-n", "1", "--ctx-depth", "20"]), "pp4@d20 tg1@d20");
    let depths = named(&["-p", "4", "-n", "1", "--ctx-depth", "20,0,20"]);
    assert_eq!(depths, "pp4 tg1 pp4@d20 tg1@d20");
}

#[test]
fn for_people() {
    let dir = TempDir::new().unwrap();
    let path = converted(&dir, &tiny());
    let (stdout, stderr) = output(&path, &["-p8", "-n2", "-r1", "--ctx-depth=6", "--threads=1"]);
    assert_eq!(stderr, "");
    assert!(stdout.starts_with(path.to_str().unwrap()), "{stdout}");
    for expected in ["threads: 1", "read bandwidth: ", "tokens/s", "±", "GB/s"] {
        assert!(stdout.contains(expected), "{stdout} lacks {expected}");
    }
    let rows: Vec<Vec<&str>> = stdout.lines().map(|l| l.split_whitespace().collect()).collect();
    let row = |name: &str| rows.iter().find(|row| row.first() == Some(&name)).unwrap();
    assert_eq!(row("pp8@d6").len(), 3);
    assert_eq!(row("tg2@d6").len(), 8);
}

#[test]
fn a_context_longer_than_the_trained_one_is_reported() {
    let dir = TempDir::new().unwrap();
    let path = converted(&dir, &micro());
    let trained = Source::open(&path).unwrap().config().n_ctx_train;
    let tokens = (trained - 1).to_string();
    let depth = |depth: &'static str| ["-p", &tokens, "-n1", "-r1", "--ctx-depth", depth];
    assert_eq!(output(&path, &depth("1")).1, "");
    let (stdout, stderr) = output(&path, &depth("2"));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(&format!("trained for {trained} tokens")), "{stderr}");
    assert!(stdout.contains(&format!("pp{tokens}@d2")), "{stdout}");
}

#[test]
fn nothing_to_measure() {
    for (p, n) in [("0", "0"), ("0,0", "0")] {
        let output = bench(&tiny(), &["-p", p, "-n", n]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*output.stdout), (Some(1), b"".as_slice()), "{stderr}");
        assert_eq!(stderr, "lapidary: there is nothing to measure: -p and -n are both 0\n");
    }
}

#[test]
fn a_wrong_command_line_is_explained_by_usage() {
    let wrong: [&[&str]; 6] = [
        &["-r", "0"],
        &["-p", "x"],
        &["-p=-1"],
        &["-n", "1,"],
        &["--ctx-depth", "99999999"],
        &["--threads", "0"],
    ];
    for args in wrong {
        bench(&tiny(), args).assert().code(2).stdout("");
    }
}

#[test]
fn a_missing_model() {
    let path = Path::new("/nowhere/model.gguf");
    let output = bench(path, &[]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("/nowhere/model.gguf: No such file or directory"), "{stderr}");
}
