//! Second-order rounding by `convert`, through the binary.

use std::fs;
use std::path::Path;
use std::process::Command;

use lapidary_formats::gguf::Gguf;
use serde_json::Value;

use crate::directory::names;
use crate::fixtures::{micro, tiny};
use crate::place::Place;

#[test]
fn second_order_rounding_lowers_the_divergence_of_other_text() {
    let place = Place::new(tiny());
    let (text, check) = (place.text("text", 0..50_000), place.text("check", 50_000..62_000));
    let (statistics, out) = (place.path("statistics"), place.path("out.gguf"));
    place.run("hessian", &["-f", &text, "-o", &statistics]);
    // 0.45, 0.41 and 0.42 of the divergence with importance alone.
    for (recipe, limit) in [("Q4_K_M", 0.6), ("Q3_K_M", 0.55), ("Q2_K", 0.55)] {
        let divergence = |how: [&str; 2]| {
            let args = ["-o", &out, "-q", recipe, "--check", &check, "--force", "--json"];
            let found = place.run("convert", &[&args[..], &how].concat());
            let found: Value = serde_json::from_str(&found).unwrap();
            assert!(found["rounded_by_importance"].is_array(), "{found}");
            found["check"]["kl_divergence"]["mean"].as_f64().unwrap()
        };
        let by_importance = divergence(["--calibrate", &text]);
        let second_order = divergence(["--hessian", &statistics]);
        let ratio = second_order / by_importance;
        assert!(ratio < limit, "{recipe}: {second_order} of {by_importance}: {ratio}");
    }
}

#[test]
fn rows_and_layers_that_make_up_for_others_lower_it_more() {
    let place = Place::new(tiny());
    let (text, check) = (place.text("text", 0..50_000), place.text("check", 50_000..62_000));
    let (statistics, fisher) = (place.path("statistics"), place.path("fisher"));
    let out = place.path("out.gguf");
    place.run("hessian", &["-f", &text, "-o", &statistics, "--chunks", "2"]);
    let max = ["-q", "Q2_K", "--effort", "max", "-o", &out];
    let said = place.fails(1, "convert", &[&max[..], &["--hessian", &statistics]].concat());
    assert!(said.contains("statistics: it has no Fisher information of outputs"), "{said}");
    place.run("hessian", &["-f", &text, "-o", &fisher, "--fisher"]);
    let divergence = |effort: &str| {
        let args = ["-o", &out, "-q", "Q2_K", "--effort", effort, "--hessian", &fisher];
        let more = ["--check", &check, "--force", "--json"];
        let found = place.run("convert", &[&args[..], &more].concat());
        let found: Value = serde_json::from_str(&found).unwrap();
        found["check"]["kl_divergence"]["mean"].as_f64().unwrap()
    };
    let (best, max) = (divergence("best"), divergence("max"));
    // 0.65; 0.71 if rows were not rounded again, and 0.76 if layers did not make up for those before them.
    assert!(max < 0.68 * best, "{max} of {best}: {}", max / best);
}

#[test]
fn calibrating_with_the_best_effort_is_the_two_steps() {
    let place = Place::new(tiny());
    let text = place.text("text", 0..16_000);
    let (statistics, two, one) = (place.path("statistics"), place.path("two"), place.path("one"));
    place.run("hessian", &["-f", &text, "-o", &statistics, "--threads", "1"]);
    let best = ["-q", "Q3_K_M", "--effort", "best"];
    let convert = |out: &str, more: &[&str]| {
        place.run("convert", &[&best[..], &["-o", out], more].concat());
        fs::read(out).unwrap()
    };
    let want = convert(&two, &["--hessian", &statistics, "--threads", "1"]);
    let again = ["--hessian", &statistics, "--force", "--threads", "3", "--isa", "scalar"];
    assert!(convert(&two, &again) == want);
    assert!(convert(&one, &["--calibrate", &text, "--threads", "2"]) == want);
    assert_eq!(names(place.dir.path()), ["one", "statistics", "text", "two"]);
    // The file says by what text it was rounded, and is whole.
    assert!(Gguf::open(&one).unwrap().get("lapidary.hessian").is_some());
    let verified = Command::new(env!("CARGO_BIN_EXE_lapidary")).args(["verify", &one]).output();
    assert!(verified.unwrap().status.success());
    // The same text to check with is warned of.
    let check = ["-o", &two, "--hessian", &statistics, "--force", "--check", &text];
    let output = place.command("convert", &check).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("calibrating and checking on one text"), "{stderr}");
    // Less effort is another file.
    let default = ["-q", "Q3_K_M", "-o", &two, "--hessian", &statistics, "--force"];
    place.run("convert", &default);
    assert!(place.bytes("two") != want);
}

#[test]
fn gradients_say_which_types_to_choose_for_a_size() {
    let place = Place::new(tiny());
    let (text, check) = (place.text("text", 0..50_000), place.text("check", 50_000..62_000));
    let (statistics, fisher) = (place.path("statistics"), place.path("fisher"));
    let out = place.path("out.gguf");
    place.run("hessian", &["-f", &text, "-o", &statistics]);
    place.run("hessian", &["-f", &text, "-o", &fisher, "--fisher"]);
    let fitted = |statistics: &str| -> Value {
        let args = ["-o", &out, "--size", "2.0MB", "--hessian", statistics, "--check", &check];
        let found = place.run("convert", &[&args[..], &["--force", "--json"]].concat());
        serde_json::from_str(&found).unwrap()
    };
    let (without, with) = (fitted(&statistics), fitted(&fisher));
    assert!(with["file_bytes"].as_u64().unwrap() <= 2_000_000);
    assert_ne!(with["plan"]["tensors"], without["plan"]["tensors"]);
    let divergence = |found: &Value| found["check"]["kl_divergence"]["mean"].as_f64().unwrap();
    let (without, with) = (divergence(&without), divergence(&with));
    assert!(with < 0.98 * without, "{with} of {without}: {}", with / without);
}

#[test]
fn the_text_of_the_program_itself_is_a_calibration() {
    let place = Place::new(micro());
    let (one, two) = (place.path("one"), place.path("two"));
    let convert = |out: &str, more: &[&str]| {
        let args = ["-o", out, "--calibrate", "default", "--json"];
        let report = place.run("convert", &[&args[..], more].concat());
        serde_json::from_str::<Value>(&report).unwrap()["rounded_by_importance"].clone()
    };
    let best = ["--effort", "best", "--threads"];
    let found = convert(&one, &[&best[..], &["1"]].concat());
    assert_eq!(convert(&two, &[&best[..], &["2"]].concat()), found);
    assert!(place.bytes("one") == place.bytes("two"));
    assert_eq!(names(place.dir.path()), ["one", "two"]);
    let keys = |out: &str| {
        let gguf = Gguf::open(Path::new(out)).unwrap();
        ["lapidary.imatrix", "lapidary.hessian"].map(|key| gguf.get(key).is_some())
    };
    assert_eq!(keys(&one), [true, true]);
    // With less effort it is an importance matrix, of the same text.
    assert_eq!(convert(&two, &["--force"]), Value::Array(Vec::new()));
    assert_eq!(keys(&two), [true, false]);
    assert!(place.bytes("one") != place.bytes("two"));
}

#[test]
fn the_most_effort_is_the_two_steps_with_gradients() {
    let place = Place::new(micro());
    let (text, fisher) = (place.text("text", 0..16_000), place.path("fisher"));
    let (out, two) = (place.path("out"), place.path("two"));
    place.run("hessian", &["-f", &text, "-o", &fisher, "--fisher", "--threads", "1"]);
    let max = ["--effort", "max", "-q", "Q3_K_M", "--force"];
    let convert = |out: &str, more: &[&str]| {
        place.run("convert", &[&max[..], &["-o", out], more].concat());
        fs::read(out).unwrap()
    };
    let want = convert(&two, &["--hessian", &fisher, "--threads", "1"]);
    let again = ["--hessian", &fisher, "--threads", "3", "--isa", "scalar"];
    assert!(convert(&two, &again) == want);
    assert!(convert(&out, &["--calibrate", &text, "--threads", "2"]) == want);
    assert_eq!(names(place.dir.path()), ["fisher", "out", "text", "two"]);
    // Gradients make another file than `best` does of the same statistics.
    place.run(
        "convert",
        &["--effort", "best", "-q", "Q3_K_M", "-o", &two, "--hessian", &fisher, "--force"],
    );
    assert!(place.bytes("two") != want);
}

/// Makes the sums of the products of every two columns say that each depends on all others.
fn correlated(sums: &mut [u8]) {
    // Sixteen columns side by side, with all columns up to the last of them.
    let panel = |p: usize| 8 * p * (p + 1);
    let n = 16 * (1..).find(|p| 64 * panel(*p) == sums.len()).unwrap();
    let place = |k: usize, i: usize| 64 * (panel(i / 16) + k) + 4 * (i % 16);
    let value = |sums: &[u8], at: usize| f32::from_le_bytes(sums[at..at + 4].try_into().unwrap());
    let square: Vec<f32> = (0..n).map(|i| value(sums, place(i, i))).collect();
    for i in 0..n {
        for k in (0..16 * (i / 16 + 1)).filter(|k| *k != i) {
            let sign = if (i + k).is_multiple_of(2) { 0.95 } else { -0.95 };
            let product = sign * (square[i] * square[k]).sqrt();
            sums[place(k, i)..][..4].copy_from_slice(&product.to_le_bytes());
        }
    }
}

#[test]
fn a_matrix_for_which_it_is_no_better_is_named() {
    let place = Place::new(tiny());
    let (text, statistics) = (place.text("text", 0..30_000), place.path("statistics"));
    place.run("hessian", &["-f", &text, "-o", &statistics]);
    let args = ["--hessian", &statistics, "-q", "Q3_K_M", "-o", &place.path("out"), "--force"];
    let name = "blk.1.attn_output.weight";
    let report = || -> Value {
        let report = place.run("convert", &[&args[..], &["--json"]].concat());
        serde_json::from_str(&report).unwrap()
    };
    assert_eq!(report()["rounded_by_importance"], Value::Array(Vec::new()));
    // Statistics of its inputs that do not hold for those that were held out.
    let gguf = Gguf::open(Path::new(&statistics)).unwrap();
    let (_, part) = gguf.place(gguf.tensor("blk.1.attn_out.0").unwrap().data).unwrap();
    drop(gguf);
    let mut bytes = place.bytes("statistics");
    correlated(&mut bytes[part]);
    fs::write(&statistics, bytes).unwrap();
    assert_eq!(report()["rounded_by_importance"], Value::Array(vec![name.into()]));
    let said = place.run("convert", &args);
    let line = format!("1 matrices, such as {name}, are rounded by importance alone");
    assert!(said.contains(&line), "{said}");
}
