//! Types chosen for a budget: never exceeded, used well, and the same every time.

use std::path::Path;

use assert_cmd::Command;
use lapidary::convert::{convert, fit, Budget, ConvertError, Fitted, Options, Plan, Recipe};
use lapidary::kernels::{Isa, KvType};
use lapidary::model::Source;
use lapidary_formats::quant::QuantType;
use tempfile::TempDir;

use crate::fixtures::{held_out, micro, tiny};

fn open(path: &Path) -> Source {
    Source::open(path).unwrap_or_else(|e| panic!("{e}"))
}

fn fitted(source: &Source, budget: Budget) -> Fitted {
    fit(source, budget, None, None, Options::default(), &mut ()).unwrap_or_else(|e| panic!("{e}"))
}

/// Size of the file that a plan makes.
fn written(source: &Source, plan: &Plan) -> u64 {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out.gguf");
    let report = convert(source, &out, plan, Options::default(), &mut ()).unwrap();
    assert_eq!(report.file_bytes, std::fs::metadata(&out).unwrap().len());
    // It is a model like any other.
    assert_eq!(open(&out).tensors().len(), source.tensors().len());
    report.file_bytes
}

#[test]
fn a_file_is_as_large_as_it_may_be_and_no_larger() {
    for model in [tiny(), micro()] {
        let source = open(&model);
        let size = |recipe| written(&source, &Plan::of_recipe(&source, recipe));
        for limit in [size(Recipe::Q2_K), size(Recipe::Q4_K_M), size(Recipe::Q8_0)] {
            let fitted = fitted(&source, Budget::File(limit));
            let bytes = written(&source, &fitted.plan);
            // A kilobyte is for metadata that may come.
            assert!((0..=1024).contains(&(fitted.file_bytes - bytes)), "{bytes}, {fitted:?}");
            // What is left is less than the largest step, one matrix to its next type: of the
            // embedding, a bit or two for a third of all weights.
            assert!(bytes <= limit && bytes as f64 > 0.85 * limit as f64, "{bytes} of {limit}");
        }
    }
}

#[test]
fn more_room_never_does_more_damage() {
    let source = open(&tiny());
    let errors = |bits| {
        let fitted = fitted(&source, Budget::BitsPerWeight(bits));
        assert!(fitted.plan.totals(&source).bits_per_weight() <= bits);
        fitted.errors.iter().sum::<f64>()
    };
    let errors: Vec<f64> = [3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 8.0, 17.0].map(errors).to_vec();
    assert!(errors.windows(2).all(|pair| pair[0] > pair[1]), "{errors:?}");
    // Matrices take 16 bits, norms 32: then everything stays as it is.
    assert_eq!(errors.last(), Some(&0.0));
}

#[test]
fn memory_counts_the_cache_and_the_buffers() {
    let source = open(&tiny());
    let budget = |bytes| Budget::Memory { bytes, n_ctx: 256, kv: KvType::F16 };
    let besides = budget(0).memory(source.config(), 0).unwrap();
    let bytes = besides.total() + 4_000_000;
    let fitted = fitted(&source, budget(bytes));
    assert_eq!(fitted.limit, 4_000_000);
    let memory = budget(bytes).memory(source.config(), fitted.file_bytes).unwrap();
    assert_eq!(memory.total(), besides.total() + fitted.file_bytes);
    // To the step between two types of a tensor.
    assert!((3_600_000..=4_000_000).contains(&fitted.file_bytes), "{memory:?}");
}

#[test]
fn the_plan_does_not_depend_on_threads_or_instructions() {
    let source = open(&tiny());
    let types = |threads, isa| {
        let options = Options { threads: Some(threads), isa, ..Options::default() };
        let budget = Budget::BitsPerWeight(4.0);
        let fitted = fit(&source, budget, None, None, options, &mut ()).unwrap();
        (fitted.plan.types, fitted.errors)
    };
    let reference = types(1, Isa::SCALAR);
    for isa in Isa::available() {
        assert!(types(3, isa) == reference, "{}", isa.name());
    }
}

#[test]
fn a_budget_that_nothing_fits_is_refused() {
    let source = open(&tiny());
    for budget in [Budget::File(1_000_000), Budget::BitsPerWeight(1.0)] {
        let error = fit(&source, budget, None, None, Options::default(), &mut ()).unwrap_err();
        assert!(matches!(error, ConvertError::Budget { .. }), "{error}");
        assert!(error.to_string().contains("the smallest has"), "{error}");
    }
}

#[test]
fn norms_keep_their_type_and_rows_their_blocks() {
    let source = open(&micro());
    let fitted = fitted(&source, Budget::BitsPerWeight(5.0));
    for (spec, ty) in source.tensors().iter().zip(&fitted.plan.types) {
        assert!(spec.shape[0].is_multiple_of(ty.block_len()), "{}: {ty}", spec.name);
        assert_eq!(spec.shape.len() == 1, *ty == QuantType::F32, "{}: {ty}", spec.name);
    }
}

fn lapidary(args: &[&str]) -> assert_cmd::assert::Assert {
    Command::new(env!("CARGO_BIN_EXE_lapidary")).args(args).assert()
}

#[test]
fn the_command_prints_a_plan_and_writes_nothing() {
    let tiny = tiny();
    let plan = ["convert", tiny.to_str().unwrap(), "--size", "2.5MB", "--plan"];
    let text = lapidary(&plan).success();
    let text = String::from_utf8(text.get_output().stdout.clone()).unwrap();
    assert!(text.contains("attn_q") && text.contains("of 2.500 MB"), "{text}");
    let json = lapidary(&[&plan[..], &["--json"]].concat()).success();
    let json: serde_json::Value = serde_json::from_slice(&json.get_output().stdout).unwrap();
    let bytes = json["file_bytes"].as_u64().unwrap();
    assert!(bytes <= 2_500_000 && json["limit"] == 2_500_000);
    let tensors = json["tensors"].as_array().unwrap();
    let sum: u64 = tensors.iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!(json["totals"]["bytes"].as_u64(), Some(sum));
}

#[test]
fn what_is_said_of_importance_and_of_a_check_is_within_the_size() {
    let dir = TempDir::new().unwrap();
    let (tiny, out) = (tiny(), dir.path().join("out.gguf"));
    // Little text is enough for the keys.
    let text = dir.path().join("text.txt");
    std::fs::write(&text, &std::fs::read(held_out()).unwrap()[..10_000]).unwrap();
    let (tiny, text) = (tiny.to_str().unwrap(), text.to_str().unwrap());
    for size in ["1700000", "1700001", "2000000"] {
        let convert = ["convert", tiny, "-o", out.to_str().unwrap(), "--force", "--size", size];
        let more = ["--calibrate", text, "--check", text, "--effort", "fast"];
        lapidary(&[&convert[..], &more].concat()).success();
        assert!(std::fs::metadata(&out).unwrap().len() <= size.parse().unwrap());
    }
}

#[test]
fn the_command_keeps_to_the_memory_it_is_given() {
    let dir = TempDir::new().unwrap();
    let (tiny, out) = (tiny(), dir.path().join("out.gguf"));
    let out = out.to_str().unwrap();
    let budget = Budget::Memory { bytes: 0, n_ctx: 256, kv: KvType::F16 };
    let memory = |file| budget.memory(open(&tiny).config(), file).unwrap().total();
    let bytes = memory(4_000_000);
    let size = bytes.to_string();
    let fit = ["convert", tiny.to_str().unwrap(), "-o", out, "--fit", &size, "--ctx", "256"];
    let json = lapidary(&[&fit[..], &["--json"]].concat()).success();
    let json: serde_json::Value = serde_json::from_slice(&json.get_output().stdout).unwrap();
    let file = std::fs::metadata(out).unwrap().len();
    assert!((0..=1024).contains(&(json["plan"]["file_bytes"].as_u64().unwrap() - file)));
    assert!(memory(file) <= bytes);
    for wrong in [&["--bpw", "4"][..], &["-q", "Q4_K_M"], &["--size", "much"], &["--fit", "0"]] {
        lapidary(&[&fit[..], wrong].concat()).failure();
    }
    let error = lapidary(&["convert", tiny.to_str().unwrap(), "-o", out, "--bpw", "1", "--force"]);
    let error = String::from_utf8(error.failure().get_output().stderr.clone()).unwrap();
    assert!(error.contains("the smallest has") && error.lines().count() == 1, "{error}");
}
