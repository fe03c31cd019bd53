//! `convert` with importance, with a check at the end, and with a longer search, through the binary.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use lapidary_formats::gguf::Gguf;
use lapidary_formats::imatrix::{Entry, Imatrix};
use tempfile::TempDir;

use crate::fixtures::{held_out, micro, tiny};

fn lapidary(args: &[&str]) -> assert_cmd::assert::Assert {
    Command::new(env!("CARGO_BIN_EXE_lapidary")).args(args).assert()
}

/// A part of the held-out text, long enough for a few chunks.
fn text(dir: &TempDir, name: &str, part: std::ops::Range<usize>) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, &std::fs::read(held_out()).unwrap()[part]).unwrap();
    path
}

/// Converts the trained model to Q2_K with such options and checks it on another text: KL divergence.
fn divergence(dir: &TempDir, options: &[&str]) -> f64 {
    let check = text(dir, "check.txt", 20_000..40_000);
    let (tiny, out) = (tiny(), dir.path().join("out.gguf"));
    let (tiny, out) = (tiny.to_str().unwrap(), out.to_str().unwrap());
    let all = ["convert", tiny, "-o", out, "--force", "-q", "Q2_K", "--json", "--check"];
    let found = lapidary(&[&all[..], &[check.to_str().unwrap()], options].concat()).success();
    let found: serde_json::Value = serde_json::from_slice(&found.get_output().stdout).unwrap();
    let kl = found["check"]["kl_divergence"]["mean"].as_f64().unwrap();
    // What was found is in the file too.
    let gguf = Gguf::open(out).unwrap();
    let stored = gguf.get("lapidary.check.kl_divergence.mean").unwrap();
    assert!(format!("{stored:?}").contains(&format!("{kl:?}")), "{stored:?}, {kl}");
    // And the file is whole.
    lapidary(&["verify", out]).success();
    kl
}

#[test]
fn importance_and_longer_search_lower_the_divergence() {
    let dir = TempDir::new().unwrap();
    let calibrate = text(&dir, "calibrate.txt", 0..20_000);
    let calibrate = ["--calibrate", calibrate.to_str().unwrap()];
    let plain = divergence(&dir, &[]);
    let calibrated = divergence(&dir, &calibrate);
    let best = divergence(&dir, &[&calibrate[..], &["--effort", "best"]].concat());
    // 0.0184, 0.0170 and 0.0168 on more text: by a few per cent each time.
    assert!(calibrated < 0.97 * plain, "{calibrated}, {plain}");
    assert!(best < calibrated, "{best}, {calibrated}");
}

#[test]
fn calibrating_is_the_same_as_an_importance_matrix_from_a_file() {
    let dir = TempDir::new().unwrap();
    let calibrate = text(&dir, "calibrate.txt", 0..10_000);
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (tiny, calibrate) = (tiny(), calibrate.to_str().unwrap());
    let tiny = tiny.to_str().unwrap();
    let (a, b, imatrix) = (path("a.gguf"), path("b.gguf"), path("imatrix.gguf"));
    lapidary(&["imatrix", tiny, "-f", calibrate, "-o", &imatrix]).success();
    lapidary(&["convert", tiny, "-o", &a, "--imatrix", &imatrix]).success().stderr("");
    lapidary(&["convert", tiny, "-o", &b, "--calibrate", calibrate, "--threads", "1"]).success();
    assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap());
    // It is not the file without.
    lapidary(&["convert", tiny, "-o", &b, "--force"]).success();
    assert!(std::fs::read(&a).unwrap() != std::fs::read(&b).unwrap());
    assert!(Gguf::open(&a).unwrap().get("lapidary.imatrix").is_some());
    assert!(Gguf::open(&b).unwrap().get("lapidary.imatrix").is_none());
}

/// Writes an importance matrix with one entry.
fn imatrix(path: &Path, sums: Vec<f32>) {
    let mut imatrix = Imatrix { chunk_count: 1, chunk_size: 512, ..Imatrix::default() };
    imatrix.entries.insert("blk.0.attn_q.weight".to_owned(), Entry { sums, count: 512.0 });
    imatrix.write(std::fs::File::create(path).unwrap()).unwrap();
}

#[test]
fn a_flawed_importance_matrix_is_survived_and_reported() {
    let dir = TempDir::new().unwrap();
    let (file, out) = (dir.path().join("imatrix.gguf"), dir.path().join("out.gguf"));
    let micro = micro();
    let args = ["convert", micro.to_str().unwrap(), "-o", out.to_str().unwrap(), "--force"];
    let args = [&args[..], &["--imatrix", file.to_str().unwrap()]].concat();
    let stderr = || {
        let output = lapidary(&args).success();
        String::from_utf8(output.get_output().stderr.clone()).unwrap()
    };
    let mut sums = vec![1.0; 96];
    sums[3] = f32::NAN;
    sums[4] = 0.0;
    imatrix(&file, sums);
    let said = stderr();
    assert!(said.contains("no entry for it"), "{said}");
    assert!(said.contains("2 columns of 1 matrices, such as blk.0.attn_q.weight"), "{said}");
    imatrix(&file, vec![1.0; 7]);
    assert!(stderr().contains("7 columns for it, expected 96"));
    std::fs::write(&file, "no importance matrix").unwrap();
    let error = lapidary(&args).failure();
    let error = String::from_utf8(error.get_output().stderr.clone()).unwrap();
    assert!(error.contains("imatrix.gguf") && error.lines().count() == 1, "{error}");
}

#[test]
fn a_text_that_is_too_short_is_refused_before_the_work() {
    let dir = TempDir::new().unwrap();
    let (short, out) = (text(&dir, "short.txt", 0..100), dir.path().join("out.gguf"));
    let (tiny, short) = (tiny(), short.to_str().unwrap());
    for option in ["--check", "--calibrate"] {
        let args = ["convert", tiny.to_str().unwrap(), "-o", out.to_str().unwrap(), option, short];
        let error = lapidary(&args).failure();
        let error = String::from_utf8(error.get_output().stderr.clone()).unwrap();
        assert!(error.contains("short.txt") && error.contains("512"), "{option}: {error}");
        assert!(!out.exists());
    }
}
