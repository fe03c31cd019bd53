//! Conversions that must fail: one clear reason, and nothing left behind but the beginning of what
//! can be gone on with.

use std::fs;
use std::path::{Path, PathBuf};

use lapidary::convert::{convert, ConvertError, Options, Plan, Recipe};
use lapidary::model::Source;
use tempfile::TempDir;

use crate::directory::{copy_of, names};
use crate::fixtures::{micro, tiny};
use crate::stop::StopAt;

/// Whether the output may be replaced.
const KEEP: bool = false;
const FORCE: bool = true;

fn to(out: &Path, model: &Path, force: bool) -> Result<(), ConvertError> {
    with(out, model, Recipe::Q8_0, force)
}

fn with(out: &Path, model: &Path, recipe: Recipe, force: bool) -> Result<(), ConvertError> {
    let source = Source::open(model).unwrap();
    let options = Options { force, ..Options::default() };
    convert(&source, out, &Plan::of_recipe(&source, recipe), options, &mut ()).map(drop)
}

/// Expects an error that names `out` and says `cause`.
#[track_caller]
fn fails(out: &Path, model: &Path, force: bool, cause: &str) {
    let error = to(out, model, force).unwrap_err().to_string();
    assert!(error.starts_with(out.to_str().unwrap()), "{error}");
    assert!(error.contains(cause), "{error}");
}

#[test]
fn an_existing_file_is_replaced_only_by_force() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out.gguf");
    fs::write(&out, "precious").unwrap();
    fails(&out, &micro(), KEEP, "exists already");
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    to(&out, &micro(), FORCE).unwrap();
    Source::open(&out).unwrap();
    assert_eq!(names(dir.path()), ["out.gguf"]);
}

#[test]
fn the_source_is_never_replaced() {
    let dir = TempDir::new().unwrap();
    let model = dir.path().join("model.gguf");
    to(&model, &micro(), KEEP).unwrap();
    let before = fs::read(&model).unwrap();
    fails(&model, &model, FORCE, "being read");
    let detour = dir.path().join("..").join(dir.path().file_name().unwrap()).join("model.gguf");
    fails(&detour, &model, FORCE, "being read");
    assert!(fs::read(&model).unwrap() == before);

    let checkpoint = copy_of(&micro());
    let config = checkpoint.path().join("config.json");
    fails(&config, checkpoint.path(), FORCE, "being read");
    let beside = checkpoint.path().join("model.gguf");
    to(&beside, checkpoint.path(), FORCE).unwrap();
    to(&beside, checkpoint.path(), FORCE).unwrap();
}

#[test]
fn places_where_no_file_can_be() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("file"), "").unwrap();
    fails(&path("missing/out.gguf"), &micro(), KEEP, "No such file or directory");
    fails(&path("file/out.gguf"), &micro(), KEEP, "Not a directory");
    fails(dir.path(), &micro(), FORCE, "is a directory");
    fails(Path::new(".."), &micro(), FORCE, "is not a file name");
    assert_eq!(names(dir.path()), ["file"]);
}

#[test]
#[cfg(unix)]
fn a_device_is_not_replaced() {
    fails(Path::new("/dev/null"), &micro(), FORCE, "is not a regular file");
}

#[test]
#[cfg(unix)]
fn the_file_gets_the_permissions_that_any_new_file_gets() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("any"), "").unwrap();
    to(&path("out.gguf"), &micro(), KEEP).unwrap();
    let mode = |name| fs::metadata(path(name)).unwrap().permissions().mode();
    assert_eq!(mode("out.gguf"), mode("any"));
}

/// Converts the random model to F32 where files may have `blocks` blocks of 512 bytes (POSIX's
/// unit), and expects the write to fail; gives what is said.
#[cfg(unix)]
fn convert_on_a_full_disk(out: &Path, blocks: u32) -> String {
    // Without the trap the system ends the process instead of failing the write.
    let script = r#"trap '' XFSZ; ulimit -f "$3"; exec "$0" convert "$1" -o "$2" -q F32"#;
    let output = std::process::Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_lapidary")])
        .args([&micro(), out])
        .arg(blocks.to_string())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(out.to_str().unwrap()) && stderr.contains("too large"), "{stderr}");
    assert_eq!(stderr.matches('\n').count(), 1, "{stderr}");
    stderr
}

/// A disk that runs full, as far as a limit on the size of files can play it: the write fails
/// halfway.
#[test]
#[cfg(unix)]
fn a_write_that_fails_leaves_the_tensors_that_are_finished() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    with(&path("whole"), &micro(), Recipe::F32, KEEP).unwrap();
    // 100 kB are less than the first tensor, 1.2 MB less than half of them all; shells that count
    // in kilobytes still stop before the end.
    let stderr = convert_on_a_full_disk(&path("out.gguf"), 200);
    assert!(!stderr.contains("--resume"), "{stderr}");
    assert_eq!(names(dir.path()), ["whole"]);
    let stderr = convert_on_a_full_disk(&path("out.gguf"), 2400);
    assert!(stderr.contains("out.gguf.part: --resume continues from there"), "{stderr}");
    assert_eq!(names(dir.path()), ["out.gguf.part", "whole"]);

    let resume = Options { resume: true, ..Options::default() };
    let source = Source::open(&micro()).unwrap();
    let plan = Plan::of_recipe(&source, Recipe::F32);
    let report = convert(&source, &path("out.gguf"), &plan, resume, &mut ()).unwrap();
    assert!(report.resumed > 0);
    assert!(fs::read(path("out.gguf")).unwrap() == fs::read(path("whole")).unwrap());
    assert_eq!(names(dir.path()), ["out.gguf", "whole"]);
}

#[test]
fn a_conversion_that_is_cancelled_before_a_tensor_is_finished_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let source = Source::open(&micro()).unwrap();
    let mut stop = StopAt::new(0);
    let (out, plan) = (dir.path().join("out.gguf"), Plan::of_recipe(&source, Recipe::Q8_0));
    let result = convert(&source, &out, &plan, Options::default(), &mut stop);
    assert!(matches!(result, Err(ConvertError::Cancelled)), "{result:?}");
    assert_eq!(stop.asked.get(), 1);
    assert_eq!(names(dir.path()), [""; 0]);
}

/// A copy of the trained checkpoint with `value`, as BF16, in one place of the tensor `name`.
fn with_value(name: &str, value: u16) -> TempDir {
    let source = Source::open(&tiny()).unwrap();
    let view = source.checkpoint().unwrap().tensor(name).unwrap();
    assert_eq!(view.ty.name(), "BF16");
    let shard = Path::new("model.safetensors");
    let mut bytes = fs::read(tiny().join(shard)).unwrap();
    let at = bytes.windows(view.data.len()).position(|window| window == view.data).unwrap();
    bytes[at + 6..at + 8].copy_from_slice(&value.to_le_bytes());
    let dir = copy_of(&tiny());
    fs::write(dir.path().join(shard), bytes).unwrap();
    dir
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name() {
    let (nan, infinity) = (0x7fc0, 0xff80);
    let broken = [
        ("model.layers.1.self_attn.k_proj.weight", nan),
        ("model.layers.3.mlp.down_proj.weight", infinity),
        ("model.layers.2.input_layernorm.weight", nan),
    ];
    for (name, value) in broken {
        let model = with_value(name, value);
        let out = model.path().join("out.gguf");
        // A tensor that is copied is looked at too.
        for recipe in [Recipe::Q4_K_M, Recipe::BF16] {
            let error = with(&out, model.path(), recipe, KEEP).unwrap_err();
            let error = error.to_string();
            let expected = format!("tensor `{name}` has values that are NaN or infinite");
            assert!(error.ends_with(&expected), "{error}");
            assert_eq!(names(model.path()), names(&tiny()));
        }
    }
}

#[test]
fn weights_beyond_half_precision_are_refused_where_it_is_asked_for() {
    // 2¹⁶, the first power of two that a half cannot hold.
    let name = "model.layers.1.mlp.up_proj.weight";
    let model = with_value(name, 0x4780);
    let out: PathBuf = model.path().join("out.gguf");
    let to = |recipe| with(&out, model.path(), recipe, KEEP);
    let error = to(Recipe::F16).unwrap_err().to_string();
    assert!(error.contains(name) && error.contains("65536") && error.contains("F16"), "{error}");
    assert_eq!(names(model.path()), names(&tiny()));
    to(Recipe::BF16).unwrap();
}

/// `run` would refuse the new file, so that the work would be in vain.
#[test]
fn tokenizers_that_cannot_be_used_are_refused_before_the_work() {
    let dir = TempDir::new().unwrap();
    let model = dir.path().join("model.gguf");
    to(&model, &micro(), KEEP).unwrap();
    let sound = fs::read(&model).unwrap();
    let at = sound.windows(6).position(|window| window == b"<0x41>").unwrap();
    for (text, cause) in
        [(b"<0x42>", "\"<0x42>\""), (b"<0xZZ>", "stands for a byte but is spelled")]
    {
        let mut damaged = sound.clone();
        damaged[at..at + 6].copy_from_slice(text);
        fs::write(&model, damaged).unwrap();
        let error = to(&dir.path().join("out.gguf"), &model, KEEP).unwrap_err();
        assert!(matches!(error, ConvertError::Tokenizer { .. }), "{error}");
        assert!(error.to_string().contains(cause), "{error}");
        assert_eq!(names(dir.path()), ["model.gguf"]);
    }
}
