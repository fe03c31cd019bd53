//! What people often name or ask for by mistake: one line that says what it is and what to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{json, Value};
use tempfile::TempDir;

use crate::directory::{copy_of, names};
use crate::fixtures::{held_out, tiny};

fn lapidary(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Expects one line of every command that reads a model, with its path and all of `parts`.
#[track_caller]
fn every_command_says(model: &Path, parts: &[&str]) {
    for (command, more) in [
        ("convert", &["-o", "never"][..]),
        ("imatrix", &["-o", "never", "-f", "none"]),
        ("run", &["-p", "And"]),
        ("run", &[]),
        ("serve", &["--port", "0"]),
        ("perplexity", &["-f", "none"]),
        ("bench", &[]),
        ("inspect", &[]),
        ("verify", &[]),
    ] {
        let output = lapidary(&[&[command, text(model)], more].concat());
        let line = stderr(&output);
        assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{command}: {line}");
        let expected = format!("lapidary: {}: ", model.display());
        assert!(line.starts_with(&expected), "{command}: {line}");
        assert!(parts.iter().all(|part| line.contains(part)), "{command}: {line}");
    }
}

#[test]
fn an_adapter() {
    let dir = copy_of(&tiny());
    for name in ["config.json", "model.safetensors"] {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    let config = dir.path().join("adapter_config.json");
    fs::write(&config, r#"{"peft_type": "LORA", "base_model_name_or_path": "google/gemma-2-2b"}"#)
        .unwrap();
    let weights = dir.path().join("adapter_model.safetensors");
    fs::write(&weights, "").unwrap();
    for model in [dir.path(), &weights] {
        every_command_says(model, &["is an adapter of google/gemma-2-2b", "merge it"]);
    }
    fs::copy(tiny().join("config.json"), dir.path().join("config.json")).unwrap();
    every_command_says(dir.path(), &["is an adapter of google/gemma-2-2b"]);
    // Malformed, hostile and missing names of the base.
    for (contents, part) in [
        ("{", "is an adapter of another model"),
        ("{}", "is an adapter of another model"),
        (r#"{"base_model_name_or_path": "a\u001b[2J\u202eb"}"#, r"of a\u{1b}[2J\u{202e}b"),
    ] {
        fs::write(&config, contents).unwrap();
        every_command_says(dir.path(), &[part]);
    }
    // What is left of training beside a merged model changes nothing.
    fs::copy(tiny().join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    assert!(lapidary(&["inspect", text(dir.path())]).status.success());
}

#[test]
fn pieces_of_a_file() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let whole = path("m.gguf");
    assert!(lapidary(&["convert", text(&tiny()), "-o", text(&whole)]).status.success());
    let bytes = fs::read(&whole).unwrap();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    for (names, command) in [
        (["a.gguf.part1of2", "a.gguf.part2of2"], "cat a.gguf.part1of2 a.gguf.part2of2 > a.gguf"),
        (["a.part1of2", "a.part2of2"], "cat a.part1of2 a.part2of2 > a.gguf"),
        (["a.gguf-split-a", "a.gguf-split-b"], "cat a.gguf-split-? > a.gguf"),
    ] {
        for (name, piece) in names.iter().zip([first, second]) {
            fs::write(path(name), piece).unwrap();
            every_command_says(&path(name), &["is a piece of a file; join them", command]);
        }
        #[cfg(unix)]
        {
            let mut shell = Command::new("sh");
            assert!(shell.args(["-c", command]).current_dir(&dir).status().unwrap().success());
            assert!(fs::read(path("a.gguf")).unwrap() == bytes);
        }
    }
    // The name alone is no reason to refuse a file that is whole.
    fs::rename(&whole, path("m.gguf.part1of2")).unwrap();
    assert!(lapidary(&["inspect", text(&path("m.gguf.part1of2"))]).status.success());
}

#[test]
fn a_file_of_a_checkpoint() {
    let dir = copy_of(&tiny());
    let directory =
        format!("is one file of a checkpoint; name its directory, {}", text(dir.path()));
    for name in ["model.safetensors", "config.json", "tokenizer.model"] {
        every_command_says(&dir.path().join(name), &[&directory]);
    }
    fs::remove_file(dir.path().join("config.json")).unwrap();
    every_command_says(&dir.path().join("model.safetensors"), &["has only weights"]);
}

/// The tiny model as huggingface_hub keeps it; gives the repository and the snapshot.
#[cfg(unix)]
fn hub_cache(dir: &TempDir) -> [PathBuf; 2] {
    let repository = dir.path().join("models--someone--gemma-2-tuned");
    let snapshot = repository.join("snapshots/1f9d1f9d1f9d1f9d1f9d1f9d1f9d1f9d1f9d1f9d");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir(repository.join("blobs")).unwrap();
    for (i, name) in names(&tiny()).iter().enumerate() {
        fs::copy(tiny().join(name), repository.join(format!("blobs/{i}"))).unwrap();
        std::os::unix::fs::symlink(format!("../../blobs/{i}"), snapshot.join(name)).unwrap();
    }
    // The repository's name counts where the model gives none.
    let config = snapshot.join("config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    json.as_object_mut().unwrap().remove("_name_or_path");
    fs::remove_file(&config).unwrap();
    fs::write(&config, json.to_string()).unwrap();
    [repository, snapshot]
}

#[test]
#[cfg(unix)]
fn a_cache_of_the_hub() {
    let dir = TempDir::new().unwrap();
    let [repository, snapshot] = hub_cache(&dir);
    for place in [&repository, &repository.join("snapshots")] {
        every_command_says(place, &["is a repository in a cache; name", text(&snapshot)]);
    }
    let out = dir.path().join("out.gguf");
    assert!(lapidary(&["convert", text(&snapshot), "-o", text(&out)]).status.success());
    for model in [&snapshot, &out] {
        let output = lapidary(&["inspect", text(model), "--json"]);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["model"]["name"], "gemma-2-tuned");
    }
}

#[test]
fn a_model_that_does_not_exist_comes_before_an_empty_prompt() {
    for args in [&["run", "nosuch"][..], &["run", "nosuch", "--chat"]] {
        let line = stderr(&lapidary(args));
        assert!(line.starts_with("lapidary: nosuch: "), "{line}");
    }
    let line = stderr(&lapidary(&["run", text(&tiny())]));
    assert!(line.contains("the prompt is empty"), "{line}");
}

#[test]
fn sizes_without_a_unit() {
    let tiny = tiny();
    for (option, command) in [("--fit", "convert"), ("--size", "convert"), ("--memory", "run")] {
        for number in ["18", "16.5"] {
            let output = lapidary(&[command, text(&tiny), option, number]);
            let stderr = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            let expected = format!("{number} bytes? Give a unit, such as {number}GB");
            assert!(stderr.contains(option) && stderr.contains(&expected), "{stderr}");
        }
    }
}

/// The message names the least that fits, and that does fit.
#[test]
fn a_budget_that_is_too_small() {
    let (tiny, dir) = (tiny(), TempDir::new().unwrap());
    let out = dir.path().join("out.gguf");
    for (option, parts) in [
        ("--fit", &["cannot fit in 2.000 MB", "KV cache, buffers and program", "--ctx"][..]),
        ("--size", &["as small as 1.000 MB", "the smallest has"]),
    ] {
        let size = if option == "--fit" { "2MB" } else { "1MB" };
        let convert = |size: &str| {
            lapidary(&["convert", text(&tiny), "-o", text(&out), "--force", option, size])
        };
        let refused = convert(size);
        let line = stderr(&refused);
        assert_eq!((refused.status.code(), line.lines().count()), (Some(1), 1), "{line}");
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        let least = line.split_once(&format!("{option} ")).unwrap().1.split(' ').next().unwrap();
        let fitting = convert(least);
        assert!(fitting.status.success(), "{least}: {}", stderr(&fitting));
        let number: u64 = least.strip_suffix("MB").unwrap().parse().unwrap();
        let refused = convert(&format!("{}MB", number - 1));
        assert_eq!(refused.status.code(), Some(1), "{least}: {}", stderr(&refused));
    }
}

#[test]
fn the_types_are_shown_once() {
    let (tiny, dir) = (tiny(), TempDir::new().unwrap());
    let out = dir.path().join("out.gguf");
    for types in [["-q", "Q4_K_M"], ["--size", "3MB"], ["--bpw", "5"], ["--fit", "100MB"]] {
        let convert = ["convert", text(&tiny), "-o", text(&out), "--force"];
        let output = lapidary(&[&convert[..], &types[..]].concat());
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(stdout.matches("bits per weight").count(), 1, "{stdout}");
        assert_eq!(stdout.matches("out.gguf: ").count(), 1, "{stdout}");
    }
}

#[test]
fn options_of_a_budget_do_not_go_with_a_recipe() {
    let tiny = tiny();
    for types in [&["-q", "Q4_K_M"][..], &["--size", "3MB"], &["--bpw", "5"], &[]] {
        for option in [["--ctx", "4096"], ["--kv", "q8_0"]] {
            let convert = ["convert", text(&tiny), "--plan"];
            let output = lapidary(&[&convert[..], types, &option].concat());
            let stderr = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(stderr.contains(option[0]) || stderr.contains("--fit"), "{stderr}");
        }
    }
    let fit = ["convert", text(&tiny), "--plan", "--fit", "90MB", "--ctx", "512", "--kv", "q8_0"];
    assert!(lapidary(&fit).status.success());
}

#[test]
fn nothing_to_resume_is_said() {
    let (tiny, dir) = (tiny(), TempDir::new().unwrap());
    let out = dir.path().join("out.gguf");
    let output = lapidary(&["convert", text(&tiny), "-o", text(&out), "--resume"]);
    let line = stderr(&output);
    assert!(output.status.success(), "{line}");
    assert!(line.starts_with(&format!("{}.part: does not exist", text(&out))), "{line}");
    assert!(line.contains("nothing to resume"), "{line}");
}

#[test]
fn a_check_on_the_text_of_the_calibration() {
    let (tiny, dir) = (tiny(), TempDir::new().unwrap());
    let path = |name: &str| dir.path().join(name);
    let all = fs::read_to_string(held_out()).unwrap();
    let (one, other) = all.split_at(all.char_indices().nth(8000).unwrap().0);
    fs::write(path("one"), one).unwrap();
    fs::write(path("copy"), one).unwrap();
    fs::write(path("other"), &other[..8000]).unwrap();
    let imatrix = ["imatrix", text(&tiny), "-f", text(&path("one")), "-o", text(&path("m"))]
        .map(str::to_owned);
    assert!(lapidary(&imatrix.each_ref().map(String::as_str)).status.success());
    for (option, of, check, warns) in [
        ("--calibrate", "one", "one", true),
        ("--calibrate", "one", "copy", true),
        ("--calibrate", "one", "other", false),
        ("--imatrix", "m", "one", true),
        ("--imatrix", "m", "other", false),
    ] {
        let (of, check, out) = (path(of), path(check), path("out.gguf"));
        let convert = ["convert", text(&tiny), "-o", text(&out), "--force"];
        let measured = [option, text(&of), "--check", text(&check)];
        let output = lapidary(&[&convert[..], &measured].concat());
        let stderr = stderr(&output);
        assert!(output.status.success(), "{stderr}");
        assert_eq!(stderr.contains("on one text"), warns, "{option} {of:?} {check:?}: {stderr}");
    }
}

#[test]
fn more_threads_than_make_sense() {
    let (tiny, dir) = (tiny(), TempDir::new().unwrap());
    let out = dir.path().join("out.gguf");
    let run = |threads: &str| {
        let prompt = ["-p", "And it came to pass", "-n", "4", "--temp", "0", "--threads", threads];
        lapidary(&[&["run", text(&tiny)], &prompt[..]].concat())
    };
    let (few, many) = (run("1"), run("1000"));
    assert_eq!(few.stdout, many.stdout);
    assert!(!stderr(&few).contains("--threads"), "{}", stderr(&few));
    let processors = std::thread::available_parallelism().unwrap().get();
    let said = format!("--threads 1000: {processors} processors can be used here, so ");
    for output in [
        many,
        lapidary(&["convert", text(&tiny), "-o", text(&out), "--threads", "1000"]),
        lapidary(&["verify", text(&tiny), "--threads", "1000"]),
    ] {
        assert!(output.status.success() && stderr(&output).contains(&said), "{output:?}");
    }
}

/// Ctrl-C in a stage where nothing is finished yet.
#[test]
#[cfg(target_os = "linux")]
fn an_interruption_is_said() {
    let (tiny, dir) = (tiny(), TempDir::new().unwrap());
    let (out, held_out) = (dir.path().join("out"), held_out());
    let (model, file, output) = (text(&tiny), text(&held_out), text(&out));
    for args in [
        &["convert", model, "-o", output, "--size", "2MB", "--effort", "best"][..],
        &["convert", model, "-o", output, "--calibrate", file],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
        command.args(args).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        crate::exit_codes::wait_for_handler(child.id(), 2);
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let line = stderr(&output);
        assert_eq!(output.status.code(), Some(130), "{args:?}: {line}");
        assert_eq!(line, "lapidary: cancelled before the first tensor was finished\n", "{args:?}");
    }
    assert_eq!(json!(names(dir.path())), json!([]));
}
